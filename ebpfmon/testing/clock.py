"""A clock that a test controls."""

from __future__ import annotations

import asyncio


class FakeClock:
    """The two clocks of the daemon. Both stand still until a test or a wait moves them.

    `wait` takes no real time. It moves the clocks forward by the time to wait, minus `early_s`, and records the wait in
    `waits`.
    """

    def __init__(self, start_s: float = 1000.0, early_s: float = 0.0) -> None:
        self.now_s, self.up_s, self.early_s = start_s, 50.0, early_s
        self.waits: list[float] = []

    def advance(self, seconds: float) -> None:
        """Move both clocks forward."""
        self.now_s, self.up_s = self.now_s + seconds, self.up_s + seconds

    def set_time(self, seconds: float) -> None:
        """Set the wall clock this many seconds forward, or back if negative. The other clock does not notice."""
        self.now_s += seconds

    def time(self) -> float:
        """Return the seconds since 1970-01-01 UTC."""
        return self.now_s

    def monotonic_ns(self) -> int:
        """Return nanoseconds that never go backwards."""
        return round(self.up_s * 1e9)

    async def wait(self, seconds: float, stop: asyncio.Event) -> None:
        """Move both clocks forward instead of waiting."""
        assert seconds > 0, "the wait must be longer than 0, or the scheduler spins"
        assert len(self.waits) < 100_000, "the scheduler spins"
        self.waits.append(seconds)
        early = self.early_s if seconds > 2 * self.early_s else 0.0
        # A real timer always expires a little late.
        self.advance(seconds - early if early else seconds + 1e-6)
        await asyncio.sleep(0)
