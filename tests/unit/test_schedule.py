"""Ticks are on whole seconds, without drift, and late ones are counted."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ebpfmon.pipeline.schedule import SystemClock, Tick, ticks
from tests.unit.support import FakeClock

Busy = Callable[[int], None]


def collect(clock: FakeClock, count: int, *, interval_s: int = 1, busy: Busy = lambda n: None) -> list[Tick]:
    """Return `count` ticks. The consumer calls `busy(number of the tick)` in each, which may move the clock."""

    async def run() -> list[Tick]:
        stop, seen = asyncio.Event(), list[Tick]()
        async for tick in ticks(interval_s, clock, stop):
            seen.append(tick)
            if len(seen) == count:
                stop.set()
            busy(len(seen))
        return seen

    return asyncio.run(run())


@pytest.mark.parametrize("interval_s", [1, 2, 7])
@pytest.mark.parametrize("early_s", [0.0, 0.0004, 0.01])
def test_a_thousand_ticks_are_on_multiples_of_the_interval(interval_s: int, early_s: float) -> None:
    clock = FakeClock(1000.3, early_s)
    moments: list[float] = []

    def work(_: int) -> None:
        moments.append(clock.now_s)
        clock.advance(0.0123)

    seen = collect(clock, 1000, interval_s=interval_s, busy=work)
    first = (1000 // interval_s + 1) * interval_s
    assert [tick.due_s for tick in seen] == [first + n * interval_s for n in range(1000)]
    assert not any(tick.skipped for tick in seen)
    lateness = [now - tick.due_s for now, tick in zip(moments, seen, strict=True)]
    assert min(lateness) >= 0
    assert max(lateness) < 0.001


def test_the_first_tick_waits_for_a_whole_second() -> None:
    clock = FakeClock(1000.75)
    assert collect(clock, 1) == [Tick(1001, 0)]
    assert clock.waits == pytest.approx([0.25])


def test_a_busy_consumer_gets_one_tick_with_the_number_of_skipped_ones() -> None:
    clock = FakeClock(1000.5)
    seen = collect(clock, 4, busy=lambda n: clock.advance(3.4 if n == 1 else 0.1))
    assert seen == [Tick(1001, 0), Tick(1004, 2), Tick(1005, 0), Tick(1006, 0)]
    assert [tick.late_ticks for tick in seen] == [0, 3, 0, 0]


@given(st.lists(st.floats(0, 5), min_size=1, max_size=30), st.integers(1, 3))
def test_ticks_and_skipped_ticks_add_up_to_all_due_ticks(busy_s: list[float], interval_s: int) -> None:
    clock = FakeClock(1000.5)
    seen = collect(clock, len(busy_s) + 1, interval_s=interval_s, busy=lambda n: clock.advance(([*busy_s, 0])[n - 1]))
    gaps = [(b.due_s - a.due_s) // interval_s - 1 for a, b in itertools.pairwise(seen)]
    assert [tick.skipped for tick in seen[1:]] == gaps


@pytest.mark.parametrize("jump_s", [3600.0, 0.7, 86400.25])
def test_setting_the_clock_forward_skips_no_tick(jump_s: float) -> None:
    clock = FakeClock(1000.5)

    def set_forward(n: int) -> None:
        clock.advance(0.1)
        if n == 2:
            clock.now_s += jump_s

    seen = collect(clock, 5, busy=set_forward)
    assert not any(tick.skipped for tick in seen)
    assert seen[-1].due_s >= int(1002 + jump_s)


@pytest.mark.parametrize("jump_s", [3600.0, 2.5, 1.2])
def test_after_setting_the_clock_back_ticks_continue_from_the_new_time(jump_s: float) -> None:
    clock = FakeClock(5000.5)

    def set_back(n: int) -> None:
        if n == 3:
            clock.now_s -= jump_s

    seen = collect(clock, 6, busy=set_back)
    assert max(clock.waits) < 3, "it must not wait for the old time"
    assert [b.due_s - a.due_s for a, b in itertools.pairwise(seen[3:])] == [1, 1]


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
