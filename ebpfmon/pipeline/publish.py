"""Publish snapshots: one bounded mailbox and one supervised task per sink, so that no sink delays another or the
harvest."""

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
from ebpfmon.pipeline.selection import ChartFilter, joined
from ebpfmon.text import escaped

log = logging.getLogger(__name__)

MAILBOX_SNAPSHOTS = 8
FIRST_DELAY_S, LAST_DELAY_S = 0.5, 60.0


@dataclass(slots=True)
class SinkStatistics:
    """What became of a sink's snapshots since the start."""

    sent: int = 0
    dropped: int = 0
    errors: int = 0
    queue_length: int = 0
    succeeded_s: float = field(default_factory=time.monotonic, compare=False)
    """When it last delivered a snapshot, or was made (time.monotonic)."""


class Mailbox:
    """A queue that never makes its writer wait: when it is full, it drops its oldest snapshot and counts that."""

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
        """Say that nothing more will come."""
        self._closed = True
        self._update()

    async def take(self) -> Snapshot | None:
        """Return the oldest snapshot, or None when the mailbox is closed and empty."""
        while not self._snapshots:
            if self._closed:
                return None
            self._changed.clear()
            await self._changed.wait()
        snapshot = self._snapshots.popleft()
        self._update()
        return snapshot

    def put_back(self, snapshot: Snapshot) -> None:
        """Return a snapshot that could not be delivered. It is the oldest again, and is dropped if the mailbox is
        full."""
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
    """Keep one sink open and fed. What it raises is counted and logged, and it is opened again after a while."""

    def __init__(self, settings: SinkSettings) -> None:
        self.name = settings.name or tag_of(settings)
        self.statistics = SinkStatistics()
        self.mailbox = Mailbox(self.statistics)
        self.settings = settings
        self.open_attempted = asyncio.Event()
        """Set when the sink has been opened, or that has failed."""
        self._charts = ChartFilter(settings.charts)
        self._pending: Snapshot | None = None
        self._last: int | None = None
        self._delay_s = FIRST_DELAY_S
        self._failing = False

    def put(self, snapshot: Snapshot) -> None:
        """Take in the newest snapshot: the charts that the sink chose, as part of an interval of the sink's own
        length."""
        snapshot = self._charts.of(snapshot)
        self._pending = joined(self._pending, snapshot) if self._pending else snapshot
        interval = self.settings.interval
        now = int(snapshot.time_s // interval) if interval else None
        if now is None or now != self._last:  # on multiples of its interval, whatever came late or not at all
            self._last = now
            self._flush()

    def close(self) -> None:
        """Say that nothing more will come, and deliver what is pending."""
        self._flush()
        self.mailbox.close()

    def _flush(self) -> None:
        if self._pending:
            self.mailbox.put(self._pending)
        self._pending = None

    async def run(self) -> None:
        """Run until the mailbox is closed and empty, or the sink is gone for good."""
        while True:
            try:
                async with self._opened() as sink:
                    await self._feed(sink)
                return
            except SinkGoneError as gone:
                log.info("sink '%s' has ended: %s", self.name, gone)
                return
            except (Exception, SystemExit) as error:  # a sink may raise anything, and the daemon goes on
                self._failed(error)
                if self.mailbox.closed:
                    return
            await asyncio.sleep(self._delay_s * random.uniform(0.5, 1.5))
            self._delay_s = min(self._delay_s * 2, LAST_DELAY_S)

    @asynccontextmanager
    async def _opened(self) -> AsyncIterator[Sink]:
        """Open the sink, and close it within its time limit. An error of the work inside is raised, not one of
        closing."""
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
        """Raise SinkError if the work inside takes too long."""
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
            except BaseException:
                self.mailbox.put_back(snapshot)
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
        if not self._failing:  # one line for each change of state
            self._failing = True
            why = str(error) if isinstance(error, EbpfmonError) else f"{type(error).__name__}: {escaped(str(error))}"
            log.warning("sink '%s' does not work, it will be tried again: %s", self.name, why)


class Publisher:
    """Hand snapshots to all sinks."""

    def __init__(self, sinks: list[SinkTask]) -> None:
        self.sinks = sinks

    def publish(self, snapshot: Snapshot) -> None:
        """Hand a snapshot to every sink. Never waits."""
        for sink in self.sinks:
            sink.put(snapshot)

    def close(self) -> None:
        """Say that nothing more will come: each sink ends when it has delivered what it has."""
        for sink in self.sinks:
            sink.close()
