"""Find the paths of cgroups by their ids, in a walk through the cgroup file system that takes several calls."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

WALK_AGAIN_S = 2.0
"""How long to wait after a walk in which a directory could not be read, before the next walk begins."""


class CgroupTree:
    """The cgroups below a mount point of cgroup2. Its paths are relative to the mount point."""

    def __init__(self, mount: Path | str, clock: Callable[[], float] = time.monotonic) -> None:
        self._mount, self._clock = os.fsencode(mount), clock
        self._paths: dict[int, str] = {}
        """The paths of the last complete walk, and those that the current walk has found."""
        self._walk: _Walk | None = None
        self._next_walk_s = 0.0

    def successor(self) -> CgroupTree:
        """Return a new object that knows the same paths, for use while a call of this one does not return."""
        tree = CgroupTree(os.fsdecode(self._mount), self._clock)
        tree._paths = dict(self._paths)
        return tree

    def known(self, ids: tuple[int, ...]) -> dict[int, str | None]:
        """Return the paths that are known already. Does not read the file system."""
        return {i: self._paths[i] for i in ids if i in self._paths}

    def look_up(self, ids: tuple[int, ...], deadline: float) -> dict[int, str | None]:
        """Return the paths that are known or found until the deadline. The next call continues the walk.

        A cgroup that no longer exists is None. That is known only after a walk in which every directory was read.
        Raises OSError at the end of a walk in which that was not so.
        """
        if all(i in self._paths for i in ids) or (self._walk is None and self._clock() < self._next_walk_s):
            return self.known(ids)
        walk = self._walk = self._walk or _Walk(self._mount, frozenset(ids))
        for inode, path in walk.directories:
            self._paths[inode] = walk.paths[inode] = path
            if time.monotonic() >= deadline:
                return self.known(ids)
        self._walk, self._paths = None, walk.paths
        if walk.error:
            self._next_walk_s = self._clock() + WALK_AGAIN_S
            raise walk.error
        # Ids requested later do not count: their cgroups may be in directories that were read before.
        gone = walk.ids - self._paths.keys()
        return {i: self._paths.get(i) for i in ids if i in self._paths or i in gone}


class _Walk:
    """One walk. `ids` are those that were requested when it began."""

    def __init__(self, top: bytes, ids: frozenset[int]) -> None:
        self.ids, self.paths = ids, dict[int, str]()
        self.error: OSError | None = None
        """Why a directory could not be read. One that no longer exists is no error."""
        self.directories = self._directories(top)

    def _directories(self, top: bytes) -> Iterator[tuple[int, str]]:
        """Yield (inode, path relative to `top`) of every directory that can be read."""
        try:
            yield os.stat(top).st_ino, "/"
        except OSError as error:
            self._failed(error)
            return
        queue = [b""]
        while queue:
            parent = queue.pop()
            try:
                with os.scandir(top + (parent or b"/")) as entries:
                    children = [(e.inode(), parent + b"/" + e.name) for e in entries if e.is_dir(follow_symlinks=False)]
            except OSError as error:
                self._failed(error)
                continue
            for inode, path in children:
                yield inode, path.decode(errors="replace")
            queue += (path for _, path in children)

    def _failed(self, error: OSError) -> None:
        if not isinstance(error, FileNotFoundError):
            self.error = error
