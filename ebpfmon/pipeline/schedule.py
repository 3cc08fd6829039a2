"""Tick on whole seconds of the clock, without drift. Late ticks are counted, and never queued."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Protocol

LATE_S = 0.1
"""A tick that comes later than this counts as late."""
TOLERANCE_S = 0.01
"""Two ticks that would be closer than this are one, because clocks are never read at exactly the same moment."""


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

    `skipped` is the number of ticks that were skipped before it, and `late_s` how late it is. `next_due_ns` is when the
    next tick is due (`Clock.monotonic_ns`).
    """

    skipped: int
    late_s: float
    next_due_ns: int

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

    Each tick reads the wall clock once, to find out how long it is until the next multiple. From then on only the
    monotonic clock counts, so two ticks are never more than an interval and TOLERANCE_S apart. If the wall clock is set
    in between, one interval is shorter, and the ticks after it are on multiples again.

    If the consumer is still busy when a tick is due, that tick is skipped, and the next one counts it.
    """
    interval_ns, tolerance_ns = interval_s * 1_000_000_000, round(TOLERANCE_S * 1e9)
    due_ns = _next_multiple_ns(interval_s, clock)
    while not stop.is_set():
        now_ns = clock.monotonic_ns()
        if now_ns < due_ns:
            await clock.wait((due_ns - now_ns) / 1e9, stop)
            continue
        skipped = (now_ns - due_ns + tolerance_ns) // interval_ns
        last_ns = due_ns + skipped * interval_ns
        due_ns = _next_multiple_ns(interval_s, clock)
        if due_ns - last_ns <= tolerance_ns:  # The last tick was this one's, a little early.
            due_ns += interval_ns
        yield Tick(skipped, max(now_ns - last_ns, 0) / 1e9, due_ns)


def _next_multiple_ns(interval_s: int, clock: Clock) -> int:
    """Return when, on the monotonic clock, the wall clock will show the next multiple of the interval."""
    # The wall clock is read first: if this thread has to wait in between, the tick comes a little late, and not early.
    left_s = interval_s - clock.time() % interval_s
    return clock.monotonic_ns() + round(left_s * 1e9)
