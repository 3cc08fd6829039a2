"""A clock that a test turns by hand."""

from __future__ import annotations

import asyncio


class FakeClock:
    """Both clocks of the daemon, which move only when told to.

    `wait` takes no real time: it moves them on by what was asked for, or to `early_s` before that.
    """

    def __init__(self, start_s: float = 1000.0, early_s: float = 0.0) -> None:
        self.now_s, self.up_s, self.early_s = start_s, 50.0, early_s
        self.waits: list[float] = []

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self.now_s, self.up_s = self.now_s + seconds, self.up_s + seconds

    def time(self) -> float:
        """Return the seconds since 1970."""
        return self.now_s

    def monotonic_ns(self) -> int:
        """Return the nanoseconds since some moment."""
        return round(self.up_s * 1e9)

    async def wait(self, seconds: float, stop: asyncio.Event) -> None:
        """Wait until so many seconds have passed."""
        assert seconds > 0, "a wait that is none spins"
        assert len(self.waits) < 100_000, "the scheduler spins"
        self.waits.append(seconds)
        early = self.early_s if seconds > 2 * self.early_s else 0.0
        # a timer ends a little after its time at best
        self.advance(seconds - early if early else seconds + 1e-6)
        await asyncio.sleep(0)
