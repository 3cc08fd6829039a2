"""Install the systemd unit and the first settings, and find the installers for other programs (`ebpfmon install`)."""

from __future__ import annotations

import importlib.metadata
import os
import re
from pathlib import Path
from typing import Protocol

from ebpfmon.atomic import replace_file
from ebpfmon.errors import SettingsError

SHIPPED = Path(__file__).with_name("files")
"""The directory of the unit and the settings that come with ebpfmon."""
UNIT = Path("etc/systemd/system/ebpfmon.service")
SETTINGS = Path("etc/ebpfmon/ebpfmon.toml")
_EXECUTABLE = "@EXECUTABLE@"
_PLAIN = re.compile(r"/[\w./+@:=~-]+")  # systemd gives a meaning to other characters


class Installer(Protocol):
    """The function that an entry point of the group `ebpfmon.install` names, for `ebpfmon install NAME`.

    It installs below `prefix`, and says on stdout what it does, or would do with `dry_run`. Raises SettingsError.
    """

    def __call__(self, prefix: Path, directory: Path | None, *, dry_run: bool) -> object:
        """Install."""


def installer(name: str) -> Installer:
    """Return the installer of that name. Raises SettingsError if there is none, or if it cannot be imported."""
    found = importlib.metadata.entry_points(group="ebpfmon.install")
    if name not in found.names:
        raise SettingsError(f"install '{name}': expected one of {', '.join(sorted({*found.names, 'systemd'}))}")
    try:
        loaded: Installer = found[name].load()
    except Exception as error:  # a third-party module may raise anything
        raise SettingsError(f"install '{name}': {type(error).__name__}: {error}") from None
    return loaded


def install_systemd(prefix: Path, executable: str, dry_run: bool) -> list[str]:
    """Write the unit that runs `executable` (an absolute path) below `prefix`, and the settings if there are none.

    Returns lines that say what was done, or with `dry_run` what would be done, and what to do next. Raises
    SettingsError.
    """
    if not os.access(executable, os.X_OK) or not os.path.isfile(executable):
        raise SettingsError(f"install systemd: '{executable}': no such program: install ebpfmon with pip first")
    if not _PLAIN.fullmatch(executable):
        raise SettingsError(
            f"install systemd: '{executable}': systemd would read that otherwise: install ebpfmon where the path is "
            "absolute, and of letters, digits and ._/+@:=~- alone"
        )
    unit = (SHIPPED / UNIT.name).read_text().replace(_EXECUTABLE, executable)
    done = [_write(prefix / UNIT, unit, dry_run, replace=True)]
    done.append(_write(prefix / SETTINGS, (SHIPPED / SETTINGS.name).read_text(), dry_run, replace=False))
    if shut := _shut(executable):
        done.append(f"beware: '{shut}' lets in its owner alone, so the service, which is not all that root is, not")
    done.append("then: systemctl daemon-reload; systemctl enable --now ebpfmon; systemctl status ebpfmon")
    return done


def _write(path: Path, text: str, dry_run: bool, *, replace: bool) -> str:
    try:
        there = path.read_text(errors="replace") if path.exists() else None
        if there == text:
            return f"{path}: is as it should be"
        if there is not None and not replace:
            return f"{path}: is there, and is left alone"
        what = "new" if there is None else "replaced"
        if dry_run:
            return f"would write {path}: is {what}"
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, text)
    except OSError as error:
        remedy = ": run as root (sudo)" if isinstance(error, PermissionError) else ""
        raise SettingsError(f"install systemd: write '{path}': {error.strerror}{remedy}") from None
    return f"{path}: is {what}"


def _shut(executable: str) -> Path | None:
    """Return a directory on the way to a program that root cannot enter without its capabilities, or None."""
    ways = [parent for path in (Path(executable), Path(executable).resolve()) for parent in path.parents]
    for directory in ways:
        found = directory.stat()
        if found.st_uid and not found.st_mode & 0o001:
            return directory
    return None
