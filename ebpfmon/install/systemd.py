"""Install the systemd unit and the first settings file, and find the installers for other programs."""

from __future__ import annotations

import importlib.metadata
import os
import re
from pathlib import Path
from typing import Protocol

from ebpfmon.atomic import replace_file
from ebpfmon.errors import SettingsError, describe
from ebpfmon.files import read_text

SHIPPED = Path(__file__).with_name("files")
"""The directory with the unit and the settings file that come with ebpfmon."""
UNIT = Path("etc/systemd/system/ebpfmon.service")
SETTINGS = Path("etc/ebpfmon/ebpfmon.toml")
_EXECUTABLE = "@EXECUTABLE@"
_PLAIN = re.compile(r"/[\w./+@:=~-]+")  # other characters have a meaning in a unit


class Installer(Protocol):
    """The function of an entry point in the group `ebpfmon.install`. `ebpfmon install NAME` calls it.

    It installs below `prefix`, and prints what it does. With `dry_run` it only prints what it would do. Raises
    SettingsError.
    """

    def __call__(self, prefix: Path, directory: Path | None, *, dry_run: bool) -> object:
        """Install."""


def installer(name: str) -> Installer:
    """Return the installer of this name. Raises SettingsError if there is none, or if it cannot be imported."""
    entry_points = importlib.metadata.entry_points(group="ebpfmon.install")
    if name not in entry_points.names:
        raise SettingsError(f"install '{name}': expected one of {', '.join(sorted({*entry_points.names, 'systemd'}))}")
    try:
        install: Installer = entry_points[name].load()
    except BaseException as error:  # a third-party module may raise anything
        raise SettingsError(f"install '{name}': {describe(error)}") from None
    return install


def install_systemd(prefix: Path, executable: str, dry_run: bool) -> list[str]:
    """Write a unit that runs `executable` (an absolute path), and the settings file if there is none, below `prefix`.

    Returns lines that say what was done and what to do next. With `dry_run` nothing is written, and they say what would
    be done. Raises SettingsError.
    """
    if not os.access(executable, os.X_OK) or not os.path.isfile(executable):
        raise SettingsError(f"install systemd: no program '{executable}'; install ebpfmon with pip first")
    if not _PLAIN.fullmatch(executable):
        raise SettingsError(
            f"install systemd: systemd cannot run '{executable}'; install ebpfmon at an absolute path that has only "
            "letters, digits and ._/+@:=~-"
        )
    unit = (SHIPPED / UNIT.name).read_text().replace(_EXECUTABLE, executable)
    done = [_write(prefix / UNIT, unit, dry_run, replace=True)]
    done.append(_write(prefix / SETTINGS, (SHIPPED / SETTINGS.name).read_text(), dry_run, replace=False))
    if directory := _private_directory(executable):
        done.append(
            f"warning: only its owner may enter '{directory}', so the service, which runs without root's capabilities, "
            "cannot start; install ebpfmon elsewhere"
        )
    done.append("next: systemctl daemon-reload; systemctl enable --now ebpfmon; systemctl status ebpfmon")
    return done


def _write(path: Path, text: str, dry_run: bool, *, replace: bool) -> str:
    try:
        current = _current(path)
        if current == text:
            return f"unchanged: {path}"
        if current is not None and not replace:
            return f"kept: {path}"
        action = "created" if current is None else "replaced"
        if dry_run:
            return f"would be {action}: {path}"
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, text)
    except OSError as error:
        remedy = "; run as root (sudo)" if isinstance(error, PermissionError) else ""
        raise SettingsError(f"install systemd: cannot write '{path}': {error.strerror}{remedy}") from None
    return f"{action}: {path}"


def _current(path: Path) -> str | None:
    """Return the text of a file, or None if there is no such file. Raises OSError."""
    try:
        return read_text(path, errors="replace")
    except FileNotFoundError:
        return None


def _private_directory(executable: str) -> Path | None:
    """Return a directory in the path of a program that root cannot enter without capabilities, or None."""
    directories = [parent for path in (Path(executable), Path(executable).resolve()) for parent in path.parents]
    for directory in directories:
        status = directory.stat()
        if status.st_uid and not status.st_mode & 0o001:
            return directory
    return None
