"""A snapshot with what was made of it: each form of it once, in a thread, and only when somebody asks."""

from __future__ import annotations

import asyncio
import gzip
import time
from collections.abc import Callable, Hashable
from concurrent.futures import Executor

from ebpfmon import Snapshot

_KEPT = 32  # forms of up to half a megabyte: what is asked for may be worded in any number of ways


class Forms:
    """Bytes by key, made when they are first asked for."""

    def __init__(self, executor: Executor) -> None:
        self._executor = executor
        self._made: dict[Hashable, asyncio.Future[bytes]] = {}

    async def get(self, key: Hashable, make: Callable[[], bytes], *, zipped: bool = False) -> bytes:
        """What `make` makes, gzipped if so wanted. Raises what it raises."""
        plain = await self._get(key, make)
        return await self._get((key, "gzip"), lambda: gzip.compress(plain, 4, mtime=0)) if zipped else plain

    async def _get(self, key: Hashable, make: Callable[[], bytes]) -> bytes:
        made = self._made.get(key)
        if made is None:
            made = asyncio.get_running_loop().run_in_executor(self._executor, make)
            if len(self._made) < _KEPT:
                self._made[key] = made
        return await asyncio.shield(made)  # others may wait for it as well


class Moment:
    """One snapshot, its number, when it came, and its forms."""

    def __init__(self, snapshot: Snapshot, number: int, executor: Executor) -> None:
        self.snapshot, self.number = snapshot, number
        self.came_s = time.monotonic()
        self.forms = Forms(executor)
