"""Publish snapshots to sinks.

Each sink has a bounded mailbox and a supervised task of its own. The daemon runs each task in a thread of its own, so
that no sink delays another one or the harvest, even if it blocks.
"""

from __future__ import annotations

import asyncio
import logging
import random
import threading
import time
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TypeVar

from ebpfmon.errors import SinkError, SinkGoneError, describe
from ebpfmon.model import Sink, SinkSettings, Snapshot, tag_of
from ebpfmon.pipeline.schedule import TOLERANCE_S
from ebpfmon.pipeline.selection import ChartFilter, join_snapshots

T = TypeVar("T")
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
    """A bounded queue that never blocks the writer. When it is full, it drops the oldest snapshot and counts it.

    The writer and the reader may be in different threads.
    """

    def __init__(self, statistics: SinkStatistics, size: int = MAILBOX_SNAPSHOTS) -> None:
        self._snapshots: deque[Snapshot] = deque()
        self._statistics, self._size = statistics, size
        self._lock = threading.Lock()
        self._waiting: asyncio.Future[None] | None = None
        self._closed = False

    def put(self, snapshot: Snapshot) -> None:
        """Add the newest snapshot."""
        with self._lock:
            if len(self._snapshots) == self._size:
                self._snapshots.popleft()
                self._statistics.dropped += 1
            self._snapshots.append(snapshot)
            self._update()

    def close(self) -> None:
        """Mark the end. `take` returns the snapshots that are left, and then None."""
        with self._lock:
            self._closed = True
            self._update()

    async def take(self) -> Snapshot | None:
        """Wait for a snapshot and return the oldest one, or None once the mailbox is closed and empty."""
        while True:
            with self._lock:
                if self._snapshots:
                    snapshot = self._snapshots.popleft()
                    self._update()
                    return snapshot
                if self._closed:
                    return None
                waiting = self._waiting = asyncio.get_running_loop().create_future()
            await waiting

    def put_back(self, snapshot: Snapshot) -> None:
        """Put back a snapshot that could not be delivered, as the oldest one. If the mailbox is full, it is dropped."""
        with self._lock:
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
        waiting, self._waiting = self._waiting, None
        if waiting:
            with suppress(RuntimeError):  # the reader's event loop is closed
                waiting.get_loop().call_soon_threadsafe(_wake, waiting)


def _wake(waiting: asyncio.Future[None]) -> None:
    if not waiting.done():
        waiting.set_result(None)


class SinkTask:
    """Keeps one sink open and delivers snapshots to it.

    Errors that the sink raises are counted and logged. The sink is opened again after a delay that grows up to a
    minute.
    """

    def __init__(self, settings: SinkSettings, remedy: Callable[[BaseException], str] = lambda error: "") -> None:
        """Create the task. `remedy` returns what to do about an error, after "; ", or an empty string."""
        self._remedy = remedy
        self.name = settings.name or tag_of(settings)
        self.statistics = SinkStatistics()
        self.mailbox = Mailbox(self.statistics)
        self.settings = settings
        self.open_attempted = asyncio.Event()
        """Set once opening the sink has succeeded or failed."""
        self.reason = ""
        """Why the sink has failed most recently."""
        self._charts = ChartFilter(settings.charts)
        self._pending: Snapshot | None = None
        self._last_slot: int | None = None
        self._delay_s = FIRST_DELAY_S
        self._failing = self._cancelled = self._sending = False
        self._task: asyncio.Task[None] | None = None

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

    @property
    def is_failing(self) -> bool:
        """Whether the last attempt to open the sink or to deliver a snapshot has failed."""
        return self._failing

    @property
    def undelivered(self) -> int:
        """The number of snapshots that wait to be delivered, including the one that is being sent."""
        return self.statistics.queue_length + self._sending

    def cancel(self) -> None:
        """Make `run` end soon, even if snapshots are left. Call this in the event loop that runs it."""
        self._cancelled = True
        if self._task:
            self._task.cancel()

    async def run(self) -> None:
        """Deliver snapshots until the mailbox is closed and empty, or until the sink's reader has gone for good.

        A sink may raise anything, even CancelledError if a task of a library was cancelled. Nothing but `cancel` and
        the two reasons above ends this.
        """
        self._task = asyncio.current_task()
        while not self._cancelled:
            try:
                await self._deliver()
                return
            except SinkGoneError as error:
                log.info("sink '%s' has ended: %s", self.name, describe(error))
                return
            except BaseException as error:
                if _is_destroyed(error):
                    raise
                if self._cancelled:
                    return
                self.failed(error)
                if self.mailbox.closed:
                    return
            try:
                await asyncio.sleep(self._delay_s * random.uniform(0.5, 1.5))
            except asyncio.CancelledError:
                continue
            self._delay_s = min(self._delay_s * 2, LAST_DELAY_S)

    async def _deliver(self) -> None:
        """Open the sink, deliver snapshots, and close it. An error while it is closed hides no earlier error."""
        try:
            opened = self.settings.open()
            sink = await self._limited(opened.__aenter__())
        finally:
            self.open_attempted.set()
        try:
            await self._feed(sink)
        except BaseException as error:
            if _is_destroyed(error):
                raise
            with suppress(BaseException):
                await self._limited(opened.__aexit__(type(error), error, error.__traceback__))
            raise
        await self._limited(opened.__aexit__(None, None, None))

    async def _limited(self, step: Awaitable[T]) -> T:
        """Return the result of a step. Raises SinkError if it takes longer than the sink's time limit."""
        try:
            async with asyncio.timeout(self.settings.send_timeout_s) as limit:
                return await step
        except TimeoutError as error:
            if limit.expired():
                raise SinkError(f"it took longer than {self.settings.send_timeout_s} s") from error
            raise

    async def _feed(self, sink: Sink) -> None:
        while snapshot := await self.mailbox.take():
            self._sending = True
            try:
                await self._limited(sink.send(snapshot))
            except BaseException as error:
                rest = _undelivered(error)
                if rest is not None and not rest.charts:
                    self.statistics.sent += 1  # the connection broke after the whole snapshot had arrived
                else:
                    self.mailbox.put_back(rest or snapshot)
                raise
            finally:
                self._sending = False
            self._succeeded()

    def _succeeded(self) -> None:
        self.statistics.sent += 1
        self.statistics.succeeded_s = time.monotonic()
        self._delay_s = FIRST_DELAY_S
        if self._failing:
            self._failing = False
            log.warning("sink '%s' works again", self.name)

    def failed(self, error: BaseException) -> None:
        """Count an error of the sink, and log it if the sink has worked until now and is not about to end."""
        self.statistics.errors += 1
        self.statistics.dropped += min(_dropped(error), self.statistics.sent)
        self.reason = f"{describe(error)}{self._remedy(error)}"
        if not (self._failing or self.mailbox.closed):  # at the end, the daemon says what is lost, and why
            log.warning("sink '%s' has failed and will be tried again: %s", self.name, self.reason)
        self._failing = True


def _undelivered(error: BaseException) -> Snapshot | None:
    """Return the part of a snapshot that has not arrived, if a sink's error says so.

    Third-party code may set the attribute to anything, or not at all. The whole snapshot is then sent again.
    """
    with suppress(BaseException):
        if isinstance(error, SinkError) and isinstance(error.undelivered, Snapshot):
            return error.undelivered
    return None


def _dropped(error: BaseException) -> int:
    """Return how many earlier snapshots are lost according to a sink's error, or 0 if it has no valid number."""
    with suppress(BaseException):
        if isinstance(error, SinkError) and type(error.dropped) is int:
            return max(error.dropped, 0)
    return 0


def _is_destroyed(error: BaseException) -> bool:
    """Return whether an error ends a coroutine that is destroyed, rather than being raised by a sink."""
    return isinstance(error, GeneratorExit) and asyncio._get_running_loop() is None


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
