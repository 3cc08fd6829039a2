"""Make each form of a snapshot (JSON, metrics) once, in a thread, and only when a client asks for it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Hashable
from concurrent.futures import Executor

from ebpfmon import Snapshot

_KEPT = 32  # forms of up to half a megabyte; clients can word a request in any number of ways


class Forms:
    """Bytes by key, made when they are first asked for."""

    def __init__(self, executor: Executor) -> None:
        self._executor = executor
        self._made: dict[Hashable, asyncio.Future[bytes]] = {}

    async def get(self, key: Hashable, make: Callable[[], bytes]) -> bytes:
        """Return what `make` returns, or raise what it raises. It is not called again for the same key."""
        made = self._made.get(key)
        if made is None:
            made = asyncio.get_running_loop().run_in_executor(self._executor, make)
            if len(self._made) < _KEPT:
                self._made[key] = made
        return await asyncio.shield(made)  # other clients may wait for the same form


class Moment:
    """One snapshot, its number, the time when it came (time.monotonic), and its forms."""

    def __init__(self, snapshot: Snapshot, number: int, executor: Executor) -> None:
        self.snapshot, self.number = snapshot, number
        self.received_s = time.monotonic()
        self.forms = Forms(executor)
