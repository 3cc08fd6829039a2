"""Load plugins that are single files in a folder: `NAME.py`, with compiled objects in `objects/MACHINE/` beside it.

These files run with the daemon's privileges, so no other user may be able to change them. Permissions are checked on
the descriptor through which the file is read, and Python writes no compiled copy into the folder.
"""

from __future__ import annotations

import importlib.machinery
import importlib.util
import os
import pwd
import stat
import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from ebpfmon.errors import PluginError, SettingsError
from ebpfmon.files import open_regular, read_bytes

MODULE_PREFIX = "ebpfmon_plugins_dir_"
"""The prefix of the plugins' module names. It keeps them apart from installed modules."""
_OTHERS_MAY_WRITE = stat.S_IWGRP | stat.S_IWOTH


@dataclass(frozen=True, slots=True)
class File:
    """A plugin that is a file in a folder."""

    path: Path

    @property
    def name(self) -> str:
        """The name of the plugin."""
        return self.path.stem

    def load(self) -> ModuleType:
        """Import the plugin and return its module.

        Raises PluginError if other users can change the file or its objects, and whatever the plugin raises.
        """
        if not self.name.isidentifier():
            raise PluginError(
                f"'{self.path}': the name of a plugin may have only letters, digits and _; rename the file"
            )
        source = _read(self.path)
        for path in _objects(self.path.parent):
            require_trusted(path)
        name = MODULE_PREFIX + self.name
        spec = importlib.util.spec_from_file_location(name, self.path, loader=_Source(name, str(self.path), source))
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module  # msgspec and `locate` look the module up there
        try:
            spec.loader.exec_module(module)
        except BaseException:
            sys.modules.pop(name, None)
            raise
        return module


class _Source(importlib.machinery.SourceFileLoader):
    """Import a source that has been read already, without reading or writing a compiled copy."""

    def __init__(self, name: str, path: str, source: bytes) -> None:
        super().__init__(name, path)
        self._source = source

    def path_stats(self, path: str) -> Mapping[str, object]:
        raise OSError("compiled copies are not used")

    def get_data(self, path: str) -> bytes:
        return self._source


def files(folder: Path) -> Iterator[File]:
    """Yield the plugins in a folder, sorted by name.

    Raises SettingsError if the folder cannot be read, and PluginError if others can write to it.
    Files whose name begins with `_` or `.` are not plugins.
    """
    if not folder.is_absolute():
        raise SettingsError(f"'{folder}': expected an absolute path")
    try:
        names = sorted(os.listdir(folder))
    except OSError as error:
        raise SettingsError(f"'{folder}': {error.strerror}") from None
    except ValueError:
        raise SettingsError(f"'{folder}': its name contains a NUL character") from None
    require_trusted(folder)
    for name in names:
        if name.endswith(".py") and not name.startswith(("_", ".")):
            yield File(folder / name)


def require_trusted(path: Path) -> None:
    """Raise PluginError if any user except root and this process's user could change what is at a path.

    Others could write to it, or could replace it or one of its parent directories if they can write to the directory
    above. In a sticky directory, such as /tmp, they cannot replace it.
    """
    try:
        real = Path(os.path.realpath(path, strict=True))
        for checked in (real, *real.parents):
            _check(checked, os.stat(checked), is_parent=checked != real)
    except OSError as error:
        raise PluginError(f"'{path}': {error.strerror}") from None


def _check(path: Path, status: os.stat_result, *, is_parent: bool = False) -> None:
    trusted = {0, os.geteuid()}
    mode = stat.S_IMODE(status.st_mode)
    sticky = is_parent and mode & stat.S_ISVTX
    if status.st_uid in trusted and (not mode & _OTHERS_MAY_WRITE or sticky):
        return
    owner = str(status.st_uid)
    with suppress(KeyError):
        owner = pwd.getpwuid(status.st_uid).pw_name
    remedies = []
    if status.st_uid not in trusted:
        remedies.append(f"chown root '{path}'")
    if mode & _OTHERS_MAY_WRITE:
        remedies.append(f"chmod go-w '{path}'")
    raise PluginError(
        f"'{path}' (owner {owner}, mode {mode:04o}) can be changed by other users, whose code would run as ebpfmon's "
        f"user; run {' && '.join(remedies)}"
    )


def _read(path: Path) -> bytes:
    require_trusted(path)
    try:
        with open_regular(path) as file:
            _check(path, os.fstat(file.fileno()))
            return read_bytes(file)
    except OSError as error:
        raise PluginError(f"'{path}': {error.strerror}") from None


def _objects(folder: Path) -> Iterator[Path]:
    """Yield the directories and files of the compiled objects for this machine."""
    machine = folder / "objects" / os.uname().machine
    for path in (machine.parent, machine):
        if path.exists():
            yield path
    yield from sorted(machine.glob("*"))
