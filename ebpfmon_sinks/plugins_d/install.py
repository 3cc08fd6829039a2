"""`ebpfmon install netdata`: write `ebpfmon.plugin`, which runs the relay, to Netdata's plugins directory."""

from __future__ import annotations

import os
import pwd
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ebpfmon import SettingsError, printable, replace_file
from ebpfmon_sinks.plugins_d import relay

NAME = "ebpfmon.plugin"
DIRECTORIES = (
    "usr/libexec/netdata/plugins.d",
    "usr/lib/netdata/plugins.d",
    "opt/netdata/usr/libexec/netdata/plugins.d",
)
"""Plugins directories of Netdata's packages, below the root. The last one is that of its static builds."""
USER = "netdata"
NEXT = (
    'next: add [[sinks]] with type = "plugins_d" to ebpfmon\'s settings. Netdata finds a new plugin within a minute; '
    "if it gave up on the plugin earlier, restart Netdata."
)
_PYTHONS = (sys.executable, "/usr/bin/python3")
_MAX_FIRST_LINE_BYTES = 127  # bytes that the kernel reads of a script's first line before Linux 5.1
_IMPORT_TIMEOUT_S = 20.0


@dataclass(frozen=True, slots=True)
class Step:
    """A file to write, with its text and mode. `action` says what happens to it: created, replaced or unchanged."""

    action: str
    path: Path
    text: str
    mode: int
    is_done: bool = False


def plan(prefix: Path = Path("/"), directory: Path | None = None, pythons: Sequence[str] = _PYTHONS) -> list[Step]:
    """Return the steps of the installation, without doing them.

    `directory` is Netdata's plugins directory. If it is None, the first of DIRECTORIES that exists below `prefix` is
    used. Raises SettingsError if there is no such directory, or if Netdata's user could not run the relay.
    """
    path = _directory(prefix, directory) / NAME
    package = Path(relay.__file__).parents[2]
    text = _script(_python(pythons, package), package)
    is_done = _is_done(path, text)
    action = "unchanged" if is_done else "replaced" if os.path.exists(path) else "created"
    return [Step(action, path, text, 0o755, is_done)]


def install(
    prefix: Path = Path("/"),
    directory: Path | None = None,
    *,
    dry_run: bool = False,
    write_line: Callable[[str], object] = print,
) -> list[Step]:
    """Do what `plan` says, and print it. With `dry_run` only print it. Raises SettingsError."""
    steps = plan(prefix, directory)
    for step in steps:
        write_line(printable(f"{'would be ' if dry_run and not step.is_done else ''}{step.action}: {step.path}"))
        if dry_run:
            for line in step.text.splitlines():
                write_line(printable(line))
        elif not step.is_done:
            _write(step)
    write_line(NEXT)
    return steps


def _is_done(path: Path, text: str) -> bool:
    """Return whether a file has this text already and others may run it. Raises SettingsError."""
    try:
        # os.path, because the methods of Path raise errors for names that are too long
        return os.path.isfile(path) and path.read_text(errors="replace") == text and bool(path.stat().st_mode & 0o001)
    except OSError as error:
        raise SettingsError(f"install netdata: cannot read '{path}': {error.strerror}") from None


def _directory(prefix: Path, directory: Path | None) -> Path:
    if directory:
        if not os.path.isdir(directory):
            raise SettingsError(f"install netdata: no directory '{directory}'")
        return directory
    for candidate in (prefix / name for name in DIRECTORIES):
        if os.path.isdir(candidate):
            return candidate
    tried = ", ".join(f"'{prefix / name}'" for name in DIRECTORIES)
    raise SettingsError(
        f"install netdata: found none of {tried}; install Netdata, or give its plugins directory with --directory"
    )


def _script(python: str, package: Path) -> str:
    # -IS leaves out site-packages and the user's environment, so that the relay is smaller and starts sooner.
    return (
        f"#!{python} -IS\n"
        f"import os, sys; sys.path.append({str(package)!r})  # written by `ebpfmon install netdata`\n"
        f"from ebpfmon_sinks.plugins_d.relay import main; sys.exit(main(sys.argv[1:], os.environ))\n"
    )


def _python(pythons: Sequence[str], package: Path) -> str:
    """Return the first Python that lets Netdata's user run the relay."""
    refusals = []
    for python in dict.fromkeys(pythons):
        reason = _refusal(python, package)
        if not reason:
            return python
        refusals.append(f"{python}: {reason}")
    raise SettingsError(
        f"install netdata: user '{USER}' cannot run ebpfmon's relay: {', '.join(refusals)}; install ebpfmon and Python "
        "where every user may read them"
    )


def _refusal(python: str, package: Path) -> str:
    """Try to import the relay as Netdata's user. Return why that failed, or an empty string if it worked."""
    if " " in python or len(f"#!{python} -IS") > _MAX_FIRST_LINE_BYTES:
        return "its path is too long, or has a space in it"
    code = f"import sys; sys.path.append({str(package)!r}); import ebpfmon_sinks.plugins_d.relay"
    identity: dict[str, Any] = {}
    if os.geteuid() == 0:
        with suppress(KeyError):
            account = pwd.getpwnam(USER)
            identity = {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}
    try:
        done = subprocess.run(
            [python, "-IS", "-c", code], **identity, cwd="/", capture_output=True, text=True, errors="replace",
            timeout=_IMPORT_TIMEOUT_S,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError) as error:
        return str(error)
    return done.stderr.strip().rpartition("\n")[2] or f"exit status {done.returncode}" if done.returncode else ""


def _write(step: Step) -> None:
    """Replace the file atomically, because Netdata may read it at any moment."""
    try:
        replace_file(step.path, step.text, step.mode)
    except OSError as error:
        raise SettingsError(f"install netdata: cannot write '{step.path}': {error.strerror}") from None
