"""Plugins that are single files of a folder: `NAME.py`, its compiled objects beside it in `objects/MACHINE/`.

What stands there runs with the daemon's rights, so nobody else may be able to change it: the file that is checked is
the one that is read, by its descriptor, and Python keeps no compiled copy of it in the folder.
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

from ebpfmon.errors import PluginError

MODULES = "ebpfmon_plugins_dir_"
"""How the names of their modules begin: none is a name that anybody else could have."""
_LARGEST_BYTES = 1 << 20
_OTHERS_MAY_WRITE = stat.S_IWGRP | stat.S_IWOTH


@dataclass(frozen=True, slots=True)
class File:
    """A plugin in a folder."""

    path: Path

    @property
    def name(self) -> str:
        """The plugin's."""
        return self.path.stem

    def load(self) -> ModuleType:
        """Import it. Raises PluginError if others may change it or its objects, and whatever it raises."""
        if not self.name.isidentifier():
            raise PluginError(f"'{self.path}': a plugin's name has letters, digits and _: rename the file")
        source = _read(self.path)
        for path in _objects(self.path.parent):
            require_trusted(path)
        name = MODULES + self.name
        spec = importlib.util.spec_from_file_location(name, self.path, loader=_Source(name, str(self.path), source))
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module  # its classes are looked up there, and so are its objects
        try:
            spec.loader.exec_module(module)
        except BaseException:
            sys.modules.pop(name, None)
            raise
        return module


class _Source(importlib.machinery.SourceFileLoader):
    """Runs a text that was read already, and neither reads nor writes a compiled copy of it."""

    def __init__(self, name: str, path: str, source: bytes) -> None:
        super().__init__(name, path)
        self._source = source

    def path_stats(self, path: str) -> Mapping[str, object]:
        raise OSError("there is no compiled copy")

    def get_data(self, path: str) -> bytes:
        return self._source


def files(folder: Path) -> Iterator[File]:
    """Return the plugins of a folder, by name. Raise PluginError if it does not exist, or others may write to it."""
    if not folder.is_absolute():
        raise PluginError(f"'{folder}': expected an absolute path")
    require_trusted(folder)
    try:
        names = sorted(os.listdir(folder))
    except OSError as error:
        raise PluginError(f"'{folder}': {error.strerror}") from None
    for name in names:
        if name.endswith(".py") and not name.startswith(("_", ".")):
            yield File(folder / name)


def require_trusted(path: Path) -> None:
    """Raise PluginError if anybody but root and this process's user could change what is at a path: by writing to it,
    or to a folder on the way, where a file may be put in another's place (not where that is sticky, as /tmp is)."""
    try:
        real = Path(os.path.realpath(path, strict=True))
        for place in (real, *real.parents):
            _check(place, os.stat(place), is_parent=place != real)
    except OSError as error:
        raise PluginError(f"'{path}': {error.strerror}") from None


def _check(path: Path, found: os.stat_result, *, is_parent: bool = False) -> None:
    ours = {0, os.geteuid()}
    mode = stat.S_IMODE(found.st_mode)
    sticky = is_parent and mode & stat.S_ISVTX
    if found.st_uid in ours and (not mode & _OTHERS_MAY_WRITE or sticky):
        return
    owner = str(found.st_uid)
    with suppress(KeyError):
        owner = pwd.getpwuid(found.st_uid).pw_name
    remedy = [f"chown root '{path}'"] * (found.st_uid not in ours) + [f"chmod go-w '{path}'"] * (
        bool(mode & _OTHERS_MAY_WRITE)
    )
    raise PluginError(
        f"'{path}' is {owner}'s, mode {mode:04o}: others could put code there that runs as ebpfmon's user: "
        + " && ".join(remedy)
    )


def _read(path: Path) -> bytes:
    require_trusted(path)
    try:
        with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK | os.O_CLOEXEC)) as file:
            found = os.fstat(file.fileno())
            if not stat.S_ISREG(found.st_mode):
                raise PluginError(f"'{path}' is not a file")
            _check(path, found)
            text = file.read(_LARGEST_BYTES + 1)
    except OSError as error:
        raise PluginError(f"'{path}': {error.strerror}") from None
    if len(text) > _LARGEST_BYTES:
        raise PluginError(f"'{path}': larger than {_LARGEST_BYTES >> 20} MB: make a package of it")
    return text


def _objects(folder: Path) -> Iterator[Path]:
    """Yield the folders and files in which a probe's object is looked for."""
    for path in (folder / "objects", folder / "objects" / os.uname().machine):
        if path.exists():
            yield path
    yield from sorted((folder / "objects" / os.uname().machine).glob("*"))
