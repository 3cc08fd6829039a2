"""`ebpfmon install netdata`: puts `ebpfmon.plugin`, which runs the relay, where Netdata looks for its plugins."""

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

from ebpfmon import SettingsError, replace_file
from ebpfmon_sinks.plugins_d import relay

NAME = "ebpfmon.plugin"
DIRECTORIES = (
    "usr/libexec/netdata/plugins.d",
    "usr/lib/netdata/plugins.d",
    "opt/netdata/usr/libexec/netdata/plugins.d",
)
"""Where packages of Netdata have their plugins, below the root; the last are its own static builds."""
USER = "netdata"
NEXT = (
    'then: [[sinks]] type = "plugins_d" in ebpfmon\'s settings; Netdata finds a new plugin within a minute, and runs '
    "one that it has given up only after it was restarted"
)
_PYTHONS = (sys.executable, "/usr/bin/python3")
_LONGEST_FIRST_LINE = 127  # that the kernel reads of a script, before Linux 5.1
_TRY_S = 20.0


@dataclass(frozen=True, slots=True)
class Step:
    """A file that is to be there, with this text and mode. `what` says it to people."""

    what: str
    path: Path
    text: str
    mode: int
    is_done: bool = False


def plan(prefix: Path = Path("/"), directory: Path | None = None, pythons: Sequence[str] = _PYTHONS) -> list[Step]:
    """Return what is to be done below `prefix`, and change nothing. `directory`: where Netdata's plugins are;
    None takes one of DIRECTORIES.

    Raises SettingsError where there is no such directory, and where Netdata's user could not run the relay.
    """
    path = _directory(prefix, directory) / NAME
    package = Path(relay.__file__).parents[2]
    text = _script(_python(pythons, package), package)
    is_done = path.is_file() and path.read_text(errors="replace") == text and bool(path.stat().st_mode & 0o001)
    what = "is as it should be" if is_done else "is replaced" if path.exists() else "is new"
    return [Step(f"{path}: {what}", path, text, 0o755, is_done)]


def install(
    prefix: Path = Path("/"),
    directory: Path | None = None,
    *,
    dry_run: bool = False,
    say: Callable[[str], object] = print,
) -> list[Step]:
    """Do what `plan` says, and say it. Raises SettingsError."""
    steps = plan(prefix, directory)
    for step in steps:
        say(f"would write {step.what}" if dry_run and not step.is_done else step.what)
        if dry_run:
            say(step.text.rstrip("\n"))
        elif not step.is_done:
            _write(step)
    say(NEXT)
    return steps


def _directory(prefix: Path, directory: Path | None) -> Path:
    if directory:
        if not directory.is_dir():
            raise SettingsError(f"install netdata: '{directory}': no such directory")
        return directory
    for found in (prefix / name for name in DIRECTORIES):
        if found.is_dir():
            return found
    tried = ", ".join(f"'{prefix / name}'" for name in DIRECTORIES)
    raise SettingsError(
        f"install netdata: none of {tried} is there: is Netdata installed? name its plugin directory with --directory"
    )


def _script(python: str, package: Path) -> str:
    # without site-packages and the user's environment (-IS) it is smaller, and starts sooner
    return (
        f"#!{python} -IS\n"
        f"import os, sys; sys.path.append({str(package)!r})  # made by `ebpfmon install netdata`\n"
        f"from ebpfmon_sinks.plugins_d.relay import main; sys.exit(main(sys.argv[1:], os.environ))\n"
    )


def _python(pythons: Sequence[str], package: Path) -> str:
    """Return the first Python with which Netdata's user can run the relay."""
    refused = []
    for python in dict.fromkeys(pythons):
        why = _refusal(python, package)
        if not why:
            return python
        refused.append(f"{python}: {why}")
    raise SettingsError(
        f"install netdata: user '{USER}' could not run ebpfmon's relay: {'; '.join(refused)}: install ebpfmon and "
        "Python where everybody may read them"
    )


def _refusal(python: str, package: Path) -> str:
    """Return why Netdata's user cannot run the relay with this Python; empty if it can. This tries it."""
    if " " in python or len(f"#!{python} -IS") > _LONGEST_FIRST_LINE:
        return "its path is too long, or has a blank in it"
    code = f"import sys; sys.path.append({str(package)!r}); import ebpfmon_sinks.plugins_d.relay"
    identity: dict[str, Any] = {}
    if os.geteuid() == 0:
        with suppress(KeyError):
            found = pwd.getpwnam(USER)
            identity = {"user": found.pw_uid, "group": found.pw_gid, "extra_groups": []}
    try:
        done = subprocess.run(
            [python, "-IS", "-c", code], **identity, cwd="/", capture_output=True, text=True, errors="replace",
            timeout=_TRY_S,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError) as error:
        return str(error)
    return done.stderr.strip().rpartition("\n")[2] or f"exit status {done.returncode}" if done.returncode else ""


def _write(step: Step) -> None:
    """Replace the file in one step, because Netdata may read it at any moment."""
    try:
        replace_file(step.path, step.text, step.mode)
    except OSError as error:
        raise SettingsError(f"install netdata: write '{step.path}': {error.strerror}") from None
