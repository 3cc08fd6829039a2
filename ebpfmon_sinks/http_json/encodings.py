"""Encode a snapshot in a thread when a client first asks for an encoding, and at most once for each."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Hashable
from concurrent.futures import Executor

from ebpfmon import Snapshot

_MAX_CACHED = 32  # of up to half a megabyte each; clients can ask for any number of different encodings


class Encodings:
    """A cache of encoded bytes by key."""

    def __init__(self, executor: Executor) -> None:
        self._executor = executor
        self._encodings: dict[Hashable, asyncio.Future[bytes]] = {}

    async def get(self, key: Hashable, make: Callable[[], bytes]) -> bytes:
        """Return what `make` returns, or raise what it raises. Later calls with the same key return the same bytes."""
        encoding = self._encodings.get(key)
        if encoding is None:
            encoding = asyncio.get_running_loop().run_in_executor(self._executor, make)
            if len(self._encodings) < _MAX_CACHED:
                self._encodings[key] = encoding
        return await asyncio.shield(encoding)  # other clients may wait for the same bytes


class NumberedSnapshot:
    """A snapshot with its number, the time when it was received (time.monotonic), and its encodings."""

    def __init__(self, snapshot: Snapshot, number: int, executor: Executor) -> None:
        self.snapshot, self.number = snapshot, number
        self.received_s = time.monotonic()
        self.encodings = Encodings(executor)
