"""Tick on whole seconds of the clock, without drift. Late ticks are counted, and never queued."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Protocol

LATE_S = 0.1
"""A tick that comes later than this counts as late."""


class Clock(Protocol):
    """A source of time. Tests pass in one that they control."""

    def time(self) -> float:
        """Return seconds since the epoch."""

    def monotonic_ns(self) -> int:
        """Return the nanoseconds of a clock that never jumps."""

    async def wait(self, seconds: float, stop: asyncio.Event) -> None:
        """Wait for this many seconds, or until `stop` is set."""


class SystemClock:
    """The machine's clocks."""

    def time(self) -> float:
        """Return seconds since the epoch."""
        return time.time()

    def monotonic_ns(self) -> int:
        """Return CLOCK_MONOTONIC in nanoseconds."""
        return time.monotonic_ns()

    async def wait(self, seconds: float, stop: asyncio.Event) -> None:
        """Wait for this many seconds, or until `stop` is set."""
        try:
            async with asyncio.timeout(seconds):
                await stop.wait()
        except TimeoutError:
            pass


@dataclass(frozen=True, slots=True)
class Tick:
    """One tick.

    `due_s` is the second since the epoch at which it was due, `skipped` the number of ticks that were skipped before
    it, and `late_s` how late it is.
    """

    due_s: int
    skipped: int
    late_s: float = field(default=0.0, compare=False)

    @property
    def late_ticks(self) -> int:
        """The number of ticks that were late or skipped."""
        return self.skipped + (self.late_s > LATE_S)


@dataclass(frozen=True, slots=True)
class TimeInterval:
    """The end of an interval, in seconds since the epoch, and its length."""

    time_s: float
    elapsed_s: float

    @property
    def start_s(self) -> float:
        """The beginning of the interval. Series that first appear in it have this start."""
        return self.time_s - self.elapsed_s


async def ticks(interval_s: int, clock: Clock, stop: asyncio.Event) -> AsyncIterator[Tick]:
    """Yield a tick at every multiple of the interval, until `stop` is set.

    If the consumer is still busy when a tick is due, that tick is skipped, and the next one counts it. If the clock is
    set back, ticks continue from the new time.
    """
    last = math.floor(clock.time() / interval_s)
    last_due_ns: int | None = None
    while not stop.is_set():
        now = clock.time()
        current = math.floor(now / interval_s)
        if current <= last:
            # If a timer fired slightly early, this second has had its tick already. If the difference is greater, the
            # clock was set back, so start again from the new time.
            last = last if last - current <= 1 else current
            await clock.wait((last + 1) * interval_s - now, stop)
            continue
        # Count skipped ticks by the monotonic clock, because setting the clock forward skips none.
        due_ns = clock.monotonic_ns() - int((now - current * interval_s) * 1e9)
        passed = 1 if last_due_ns is None else round((due_ns - last_due_ns) / (interval_s * 1_000_000_000))
        last, last_due_ns = current, due_ns
        yield Tick(current * interval_s, max(passed - 1, 0), now - current * interval_s)
