"""Publish snapshots to sinks.

Each sink has a bounded mailbox and a supervised task of its own, so that no sink delays another one or the harvest.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

from ebpfmon.errors import EbpfmonError, SinkError, SinkGoneError
from ebpfmon.model import Sink, SinkSettings, Snapshot, tag_of
from ebpfmon.pipeline.schedule import TOLERANCE_S
from ebpfmon.pipeline.selection import ChartFilter, join_snapshots
from ebpfmon.text import escaped

log = logging.getLogger(__name__)

MAILBOX_SNAPSHOTS = 8
"""How many snapshots a sink may have to catch up with."""
FIRST_DELAY_S, LAST_DELAY_S = 0.5, 60.0
"""The delays before a failed sink is opened again: the first one, and the longest."""


@dataclass(slots=True)
class SinkStatistics:
    """Counts of a sink's snapshots and errors since the start."""

    sent: int = 0
    dropped: int = 0
    errors: int = 0
    queue_length: int = 0
    succeeded_s: float = field(default_factory=time.monotonic, compare=False)
    """When the sink last delivered a snapshot, or else when it was created (time.monotonic)."""


class Mailbox:
    """A bounded queue that never blocks the writer. When it is full, it drops the oldest snapshot and counts it."""

    def __init__(self, statistics: SinkStatistics, size: int = MAILBOX_SNAPSHOTS) -> None:
        self._snapshots: deque[Snapshot] = deque()
        self._statistics, self._size = statistics, size
        self._changed = asyncio.Event()
        self._closed = False

    def put(self, snapshot: Snapshot) -> None:
        """Add the newest snapshot."""
        if len(self._snapshots) == self._size:
            self._snapshots.popleft()
            self._statistics.dropped += 1
        self._snapshots.append(snapshot)
        self._update()

    def close(self) -> None:
        """Mark the end. `take` returns the snapshots that are left, and then None."""
        self._closed = True
        self._update()

    async def take(self) -> Snapshot | None:
        """Wait for a snapshot and return the oldest one, or None once the mailbox is closed and empty."""
        while not self._snapshots:
            if self._closed:
                return None
            self._changed.clear()
            await self._changed.wait()
        snapshot = self._snapshots.popleft()
        self._update()
        return snapshot

    def put_back(self, snapshot: Snapshot) -> None:
        """Put back a snapshot that could not be delivered, as the oldest one. If the mailbox is full, it is dropped."""
        if len(self._snapshots) == self._size:
            self._statistics.dropped += 1
        else:
            self._snapshots.appendleft(snapshot)
        self._update()

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._closed

    def _update(self) -> None:
        self._statistics.queue_length = len(self._snapshots)
        self._changed.set()


class SinkTask:
    """Keeps one sink open and delivers snapshots to it.

    Errors that the sink raises are counted and logged. The sink is opened again after a delay that grows up to a
    minute.
    """

    def __init__(self, settings: SinkSettings) -> None:
        self.name = settings.name or tag_of(settings)
        self.statistics = SinkStatistics()
        self.mailbox = Mailbox(self.statistics)
        self.settings = settings
        self.open_attempted = asyncio.Event()
        """Set once opening the sink has succeeded or failed."""
        self._charts = ChartFilter(settings.charts)
        self._pending: Snapshot | None = None
        self._last_slot: int | None = None
        self._delay_s = FIRST_DELAY_S
        self._failing = False

    def put(self, snapshot: Snapshot) -> None:
        """Add the newest snapshot to the current interval of the sink, with the charts that the sink chose."""
        snapshot = self._charts.apply(snapshot)
        self._pending = join_snapshots(self._pending, snapshot) if self._pending else snapshot
        interval = self.settings.interval
        # Intervals end on multiples of their length, even if a tick was late or skipped. If the clock is set back, the
        # next multiple may never come, so an interval also ends once it has its length.
        slot = int((snapshot.time_s + TOLERANCE_S) // interval) if interval else None
        if slot is None or slot != self._last_slot or self._pending.elapsed_s >= interval - TOLERANCE_S:
            self._last_slot = slot
            self._flush()

    def close(self) -> None:
        """Deliver the pending snapshot and close the mailbox."""
        self._flush()
        self.mailbox.close()

    def _flush(self) -> None:
        if self._pending:
            self.mailbox.put(self._pending)
        self._pending = None

    async def run(self) -> None:
        """Deliver snapshots until the mailbox is closed and empty, or until the sink's reader has gone for good."""
        while True:
            try:
                async with self._opened() as sink:
                    await self._feed(sink)
                return
            except SinkGoneError as error:
                log.info("sink '%s' has ended: %s", self.name, error)
                return
            except (Exception, SystemExit) as error:  # A sink may raise anything; the daemon must keep running.
                self._failed(error)
                if self.mailbox.closed:
                    return
            await asyncio.sleep(self._delay_s * random.uniform(0.5, 1.5))
            self._delay_s = min(self._delay_s * 2, LAST_DELAY_S)

    @asynccontextmanager
    async def _opened(self) -> AsyncIterator[Sink]:
        """Open the sink on entry and close it on exit, each within its time limit.

        An error in the body takes precedence over an error on closing.
        """
        try:
            sink = self.settings.open()
            async with self._limited():
                entered = await sink.__aenter__()
        finally:
            self.open_attempted.set()
        try:
            yield entered
        except BaseException as error:
            with suppress(Exception):
                async with self._limited():
                    await sink.__aexit__(type(error), error, error.__traceback__)
            raise
        async with self._limited():
            await sink.__aexit__(None, None, None)

    @asynccontextmanager
    async def _limited(self) -> AsyncIterator[None]:
        """Raise SinkError if the body takes longer than the sink's time limit."""
        try:
            async with asyncio.timeout(self.settings.send_timeout_s) as limit:
                yield
        except TimeoutError as error:
            if limit.expired():
                raise SinkError(f"it took longer than {self.settings.send_timeout_s} s") from error
            raise

    async def _feed(self, sink: Sink) -> None:
        while snapshot := await self.mailbox.take():
            try:
                async with self._limited():
                    await sink.send(snapshot)
            except BaseException as error:
                undelivered = error.undelivered if isinstance(error, SinkError) else None
                self.mailbox.put_back(undelivered or snapshot)
                raise
            self._succeeded()

    def _succeeded(self) -> None:
        self.statistics.sent += 1
        self.statistics.succeeded_s = time.monotonic()
        self._delay_s = FIRST_DELAY_S
        if self._failing:
            self._failing = False
            log.warning("sink '%s' works again", self.name)

    def _failed(self, error: Exception | SystemExit) -> None:
        self.statistics.errors += 1
        if not self._failing:  # Log changes of state only.
            self._failing = True
            reason = str(error) if isinstance(error, EbpfmonError) else f"{type(error).__name__}: {escaped(str(error))}"
            log.warning("sink '%s' has failed and will be tried again: %s", self.name, reason)


class Publisher:
    """Hands snapshots to all sinks."""

    def __init__(self, sinks: list[SinkTask]) -> None:
        self.sinks = sinks

    def publish(self, snapshot: Snapshot) -> None:
        """Hand a snapshot to every sink, without waiting."""
        for sink in self.sinks:
            sink.put(snapshot)

    def close(self) -> None:
        """Close all mailboxes. Each sink ends once it has delivered the snapshots that are left."""
        for sink in self.sinks:
            sink.close()
