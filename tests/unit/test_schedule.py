"""Ticks are on whole seconds, without drift, and late ones are counted."""

from __future__ import annotations

import asyncio
import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ebpfmon.pipeline.schedule import TOLERANCE_S, SystemClock, Tick, ticks
from tests.unit.support import FakeClock

Busy = Callable[[int], None]


@dataclass(frozen=True)
class Seen:
    """A tick, and what the two clocks showed when it came."""

    tick: Tick
    wall_s: float
    up_s: float

    @property
    def second(self) -> int:
        return math.floor(self.wall_s)


def collect(clock: FakeClock, count: int, *, interval_s: int = 1, busy: Busy = lambda n: None) -> list[Seen]:
    """Return `count` ticks. The consumer calls `busy(number of the tick)` in each, which may move the clocks."""

    async def run() -> list[Seen]:
        stop, seen = asyncio.Event(), list[Seen]()
        async for tick in ticks(interval_s, clock, stop):
            seen.append(Seen(tick, clock.now_s, clock.up_s))
            if len(seen) == count:
                stop.set()
            busy(len(seen))
        return seen

    return asyncio.run(run())


def gaps(seen: list[Seen]) -> list[float]:
    """Return the time between ticks by the monotonic clock."""
    return [b.up_s - a.up_s for a, b in itertools.pairwise(seen)]


@pytest.mark.parametrize("interval_s", [1, 2, 7])
@pytest.mark.parametrize("early_s", [0.0, 0.0004, 0.01])
def test_a_thousand_ticks_are_on_multiples_of_the_interval(interval_s: int, early_s: float) -> None:
    clock = FakeClock(1000.3, early_s)
    seen = collect(clock, 1000, interval_s=interval_s, busy=lambda n: clock.advance(0.0123))
    first = (1000 // interval_s + 1) * interval_s
    assert [one.second for one in seen] == [first + n * interval_s for n in range(1000)]
    assert not any(one.tick.skipped for one in seen)
    assert max(one.wall_s - one.second for one in seen) < 0.001


def test_the_first_tick_waits_for_a_whole_second() -> None:
    clock = FakeClock(1000.75)
    (one,) = collect(clock, 1)
    assert (one.second, one.tick.skipped) == (1001, 0)
    assert clock.waits == pytest.approx([0.25])


def test_a_busy_consumer_gets_one_tick_with_the_number_of_skipped_ones() -> None:
    clock = FakeClock(1000.5)
    seen = collect(clock, 4, busy=lambda n: clock.advance(3.4 if n == 1 else 0.1))
    assert [(one.second, one.tick.skipped) for one in seen] == [(1001, 0), (1004, 2), (1005, 0), (1006, 0)]
    assert [one.tick.late_ticks for one in seen] == [0, 3, 0, 0]


@given(st.lists(st.floats(0, 5), min_size=1, max_size=30), st.integers(1, 3))
def test_ticks_and_skipped_ticks_add_up_to_all_due_ticks(busy_s: list[float], interval_s: int) -> None:
    clock = FakeClock(1000.5)
    seen = collect(clock, len(busy_s) + 1, interval_s=interval_s, busy=lambda n: clock.advance(([*busy_s, 0])[n - 1]))
    due = [math.floor(one.wall_s + TOLERANCE_S) // interval_s for one in seen]
    assert [one.tick.skipped for one in seen[1:]] == [b - a - 1 for a, b in itertools.pairwise(due)]


@pytest.mark.parametrize("jump_s", [3600.0, 0.7, 86400.25, 5.0, 1e-9])
def test_setting_the_clock_forward_skips_no_tick(jump_s: float) -> None:
    clock = FakeClock(1000.5)

    def set_forward(n: int) -> None:
        clock.advance(0.1)
        if n == 2:
            clock.set_time(jump_s)

    seen = collect(clock, 5, busy=set_forward)
    assert not any(one.tick.late_ticks for one in seen)
    assert max(gaps(seen)) < 1.001
    assert seen[-1].second >= int(1002 + jump_s)


@pytest.mark.parametrize("jump_s", [3600.0, 6.0, 5.0, 2.5, 1.2, 0.3, 0.0005])
@pytest.mark.parametrize("interval_s", [1, 5, 60])
def test_setting_the_clock_back_delays_no_tick_and_the_ticks_after_it_are_on_multiples_again(
    jump_s: float, interval_s: int
) -> None:
    clock = FakeClock(5000.5)

    def set_back(n: int) -> None:
        if n == 3:
            clock.set_time(-jump_s)

    seen = collect(clock, 7, interval_s=interval_s, busy=set_back)
    assert max(gaps(seen)) < interval_s + TOLERANCE_S + 0.001
    assert not any(one.tick.late_ticks for one in seen)
    assert [one.wall_s % interval_s < 0.001 for one in seen[4:]] == [True, True, True]


def test_a_clock_that_is_set_back_at_every_tick_silences_nothing() -> None:
    clock = FakeClock(5000.5)
    seen = collect(clock, 60, interval_s=60, busy=lambda n: clock.set_time(-61))
    assert max(gaps(seen)) < 60 + TOLERANCE_S + 0.001


def test_after_a_suspend_there_is_no_burst_of_ticks_and_none_was_skipped() -> None:
    clock = FakeClock(5000.5)  # CLOCK_MONOTONIC stands still while the machine is suspended
    seen = collect(clock, 6, busy=lambda n: clock.set_time(8 * 3600.4) if n == 3 else None)
    assert not any(one.tick.late_ticks for one in seen)
    assert min(gaps(seen)[3:]) > 0.5


def test_after_a_pause_of_the_virtual_machine_one_tick_counts_all_that_were_skipped() -> None:
    clock = FakeClock(5000.5)
    seen = collect(clock, 6, busy=lambda n: clock.advance(8 * 3600) if n == 3 else None)
    assert [one.tick.skipped for one in seen] == [0, 0, 0, 8 * 3600 - 1, 0, 0]
    assert gaps(seen)[3:] == pytest.approx([1, 1], abs=0.001)


def step(random: Random) -> float:
    """Return by how much a clock is set: usually not at all, a little, or by seconds, hours or days."""
    scale = random.choice((0, 0, 1e-6, 0.02, 1, 10, 7200, 1e6))
    return random.choice((random.uniform(-scale, scale), scale, -scale))


class RestlessClock(FakeClock):
    """A clock that is set while the scheduler waits. A wait may also end early, or late, as on a busy machine."""

    def __init__(self, start_s: float, random: Random, max_late_s: float = 0.0) -> None:
        super().__init__(start_s)
        self._random, self._max_late_s = random, max_late_s

    async def wait(self, seconds: float, stop: asyncio.Event) -> None:
        passed_s = self._random.uniform(0, seconds)
        self.advance(passed_s)
        self.set_time(step(self._random))
        if self._random.random() < 0.9:
            await super().wait(max(seconds - passed_s, 1e-9), stop)
            self.advance(self._random.uniform(0, self._max_late_s))


@given(st.randoms(use_true_random=True), st.integers(1, 5) | st.integers(1, 3600), st.sampled_from((0.0, 0.05)))
def test_however_the_clock_is_set_ticks_are_never_more_than_an_interval_apart(
    random: Random, interval_s: int, max_late_s: float
) -> None:
    clock = RestlessClock(random.uniform(1e6, 4e9), random, max_late_s)
    seen = collect(clock, 50, interval_s=interval_s, busy=lambda n: clock.set_time(step(random)))
    assert max(gaps(seen)) <= interval_s + TOLERANCE_S + max_late_s + 0.001
    # After a late tick the next one comes in less than an interval, at its own time.
    assert min(gaps(seen)) > TOLERANCE_S - max_late_s - 0.001
    assert not any(one.tick.skipped for one in seen), "the consumer was never busy"
    assert all(one.tick.late_s <= max_late_s + 0.001 for one in seen)


@given(st.randoms(use_true_random=True), st.integers(1, 10))
def test_skipped_ticks_are_counted_by_the_monotonic_clock_however_the_clock_is_set(
    random: Random, interval_s: int
) -> None:
    clock = RestlessClock(1e9, random)

    def busy(n: int) -> None:
        clock.set_time(step(random))
        clock.advance(random.choice((0, random.uniform(0, 30))))
        clock.set_time(step(random))

    seen = collect(clock, 50, interval_s=interval_s, busy=busy)
    for before, after in itertools.pairwise(seen):
        overdue_s = after.up_s - before.tick.next_due_ns / 1e9
        skipped = after.tick.skipped
        assert skipped * interval_s - TOLERANCE_S - 0.001 <= overdue_s < (skipped + 1) * interval_s
        assert after.tick.late_s == pytest.approx(max(overdue_s - skipped * interval_s, 0), abs=1e-6)


@pytest.mark.parametrize("step_s", [0.0, 6.0, -6.0, -3600.0])
def test_a_tick_says_by_when_the_next_one_is_due(step_s: float) -> None:
    clock = FakeClock(5000.5)
    seen = collect(clock, 10, interval_s=5, busy=lambda n: clock.set_time(step_s))
    due_s = [one.tick.next_due_ns / 1e9 for one in seen]
    assert [one.up_s for one in seen[1:]] == pytest.approx(due_s[:-1], abs=0.001)


def test_stop_ends_the_wait_for_the_next_tick() -> None:
    async def run() -> list[Tick]:
        stop, seen = asyncio.Event(), list[Tick]()
        asyncio.get_running_loop().call_soon(stop.set)
        async with asyncio.timeout(5):  # The next tick may be an hour away.
            async for tick in ticks(3600, SystemClock(), stop):
                seen.append(tick)
        return seen

    assert len(asyncio.run(run())) <= 1


def test_the_system_clock_waits_for_the_given_time() -> None:
    async def run() -> int:
        clock, stop = SystemClock(), asyncio.Event()
        start = clock.monotonic_ns()
        await clock.wait(0.03, stop)
        return clock.monotonic_ns() - start

    assert 29_000_000 <= asyncio.run(run()) < 5_000_000_000
