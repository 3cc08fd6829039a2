"""Encode a snapshot as JSON or metrics at most once per form, in a thread, when a client first asks for it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Hashable
from concurrent.futures import Executor

from ebpfmon import Snapshot

_KEPT = 32  # forms of up to half a megabyte; a limit, because clients can ask for any number of different forms


class Forms:
    """A cache of encoded forms by key."""

    def __init__(self, executor: Executor) -> None:
        self._executor = executor
        self._forms: dict[Hashable, asyncio.Future[bytes]] = {}

    async def get(self, key: Hashable, make: Callable[[], bytes]) -> bytes:
        """Return what `make` returns, or raise what it raises. Later calls with the same key return the same bytes."""
        form = self._forms.get(key)
        if form is None:
            form = asyncio.get_running_loop().run_in_executor(self._executor, make)
            if len(self._forms) < _KEPT:
                self._forms[key] = form
        return await asyncio.shield(form)  # other clients may wait for the same form


class Moment:
    """A snapshot with its number, the time when it was received (time.monotonic), and its encoded forms."""

    def __init__(self, snapshot: Snapshot, number: int, executor: Executor) -> None:
        self.snapshot, self.number = snapshot, number
        self.received_s = time.monotonic()
        self.forms = Forms(executor)
