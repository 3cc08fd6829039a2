"""One bounded mailbox and one supervised task per sink: none is in another's way, or in the harvest's."""

from __future__ import annotations

import asyncio
import logging
import random
from collections import deque
from dataclasses import dataclass

from ebpfmon.errors import EbpfmonError, SinkGoneError
from ebpfmon.model import SinkSettings, Snapshot, tag_of

log = logging.getLogger(__name__)

MAILBOX_SNAPSHOTS = 8
FIRST_DELAY_S, LAST_DELAY_S = 0.5, 60.0


@dataclass(slots=True)
class SinkStatistics:
    """What became of a sink's snapshots, since the start."""

    sent: int = 0
    dropped: int = 0
    errors: int = 0
    queue_length: int = 0


class Mailbox:
    """A queue that never makes its writer wait: when full it loses its oldest snapshot, and counts it."""

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
        """Nothing more will come."""
        self._closed = True
        self._update()

    async def first(self) -> Snapshot | None:
        """The oldest snapshot, which stays until `done` is called; None when the mailbox is closed and empty."""
        while not self._snapshots:
            if self._closed:
                return None
            self._changed.clear()
            await self._changed.wait()
        return self._snapshots[0]

    def done(self, snapshot: Snapshot) -> None:
        """It was delivered. It may have been pushed out in the meantime."""
        if self._snapshots and self._snapshots[0] is snapshot:
            self._snapshots.popleft()
        self._update()

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._closed

    def _update(self) -> None:
        self._statistics.queue_length = len(self._snapshots)
        self._changed.set()


class SinkTask:
    """Keeps one sink open and fed. What it raises is counted and logged, and it is opened again after a while."""

    def __init__(self, settings: SinkSettings) -> None:
        self.name = settings.name or tag_of(settings)
        self.statistics = SinkStatistics()
        self.mailbox = Mailbox(self.statistics)
        self._settings = settings
        self._delay_s = FIRST_DELAY_S
        self._failing = False

    async def run(self) -> None:
        """Until the mailbox is closed and empty, or the sink is gone for good."""
        while True:
            try:
                async with self._settings.open() as sink:
                    while snapshot := await self.mailbox.first():
                        async with asyncio.timeout(self._settings.send_timeout_s):
                            await sink.send(snapshot)
                        self.mailbox.done(snapshot)
                        self._succeeded()
                return
            except SinkGoneError as gone:
                log.info("sink '%s' has ended: %s", self.name, gone)
                return
            except Exception as error:  # a sink may raise anything, and must hurt nobody
                self._failed(error)
                if self.mailbox.closed:
                    return
            await asyncio.sleep(self._delay_s * random.uniform(0.5, 1.5))
            self._delay_s = min(self._delay_s * 2, LAST_DELAY_S)

    def _succeeded(self) -> None:
        self.statistics.sent += 1
        self._delay_s = FIRST_DELAY_S
        if self._failing:
            self._failing = False
            log.warning("sink '%s' works again", self.name)

    def _failed(self, error: Exception) -> None:
        self.statistics.errors += 1
        if not self._failing:  # one line for each change of state
            self._failing = True
            why = str(error) if isinstance(error, EbpfmonError) else f"{type(error).__name__}: {error}"
            log.warning("sink '%s' does not work, it will be tried again: %s", self.name, why)


class Fanout:
    """All sinks."""

    def __init__(self, sinks: list[SinkTask]) -> None:
        self.sinks = sinks

    def publish(self, snapshot: Snapshot) -> None:
        """Hand a snapshot to every sink; never waits."""
        for sink in self.sinks:
            sink.mailbox.put(snapshot)

    def close(self) -> None:
        """Nothing more will come: each sink ends when it has delivered what it has."""
        for sink in self.sinks:
            sink.mailbox.close()
