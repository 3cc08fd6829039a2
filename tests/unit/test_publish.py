"""Publishing: no sink affects another one."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import ClassVar, Self

import pytest

from ebpfmon import Dimension, SinkError, SinkGoneError, SinkSettings, Snapshot
from ebpfmon.pipeline.publish import LAST_DELAY_S, MAILBOX_SNAPSHOTS, Mailbox, Publisher, SinkStatistics, SinkTask
from tests.unit.support import chart, data, snapshot

Send = Callable[[Snapshot], Awaitable[None]]
SNAPSHOTS = [snapshot(str(n)) for n in range(12)]
SINKS: dict[str, FakeSink] = {}  # The sinks by name. Opening a sink again returns the same object.


class FakeSettings(SinkSettings, tag="fake", frozen=True):
    send_timeout_s: ClassVar[float | None] = 0.05

    def open(self) -> FakeSink:
        return SINKS[self.name]


async def _at_once() -> None:
    pass


class FakeSink:
    def __init__(self, send: Send) -> None:
        self._send, self.opened, self.closed = send, 0, 0
        self.left = asyncio.Event()
        self.leave: Callable[[], Awaitable[None]] = _at_once

    async def __aenter__(self) -> Self:
        self.opened += 1
        return self

    async def __aexit__(self, *_: object) -> None:
        self.closed += 1
        self.left.set()
        await self.leave()

    async def send(self, snapshot: Snapshot) -> None:
        await self._send(snapshot)


def sink_task(send: Send, name: str = "") -> tuple[SinkTask, FakeSink]:
    SINKS[name] = FakeSink(send)
    return SinkTask(FakeSettings(name=name)), SINKS[name]


@pytest.fixture
def delays(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The delays between attempts. They take no time, and random numbers are replaced by their mean."""
    made, sleep = list[float](), asyncio.sleep

    async def pause(seconds: float) -> None:
        made.append(seconds)
        await sleep(0)

    monkeypatch.setattr("asyncio.sleep", pause)
    monkeypatch.setattr("random.uniform", lambda low, high: (low + high) / 2)
    return made


def deliver(task: SinkTask, *snapshots: Snapshot) -> None:
    """Run the task with these snapshots until it ends."""

    async def run() -> None:
        async with asyncio.timeout(10):
            running = asyncio.create_task(task.run())
            for given in snapshots:
                task.mailbox.put(given)
            while task.mailbox.closed is False and not running.done() and task.statistics.queue_length:
                await asyncio.wait([running], timeout=0.001)
            task.mailbox.close()
            await running

    asyncio.run(run())


def test_a_full_mailbox_drops_its_oldest_snapshot_and_counts_it() -> None:
    statistics = SinkStatistics()

    async def run() -> list[Snapshot | None]:
        mailbox = Mailbox(statistics, size=3)
        for given in SNAPSHOTS[:5]:
            mailbox.put(given)
        assert statistics == SinkStatistics(dropped=2, queue_length=3)
        mailbox.close()
        taken = []
        while (first := await mailbox.take()) is not None:
            taken.append(first)
        return [*taken, await mailbox.take()]

    assert asyncio.run(run()) == [*SNAPSHOTS[2:5], None]
    assert statistics.queue_length == 0


def test_a_snapshot_put_back_is_the_oldest_and_dropped_if_the_mailbox_is_full() -> None:
    statistics = SinkStatistics()

    async def run() -> None:
        mailbox = Mailbox(statistics, size=2)
        mailbox.put(SNAPSHOTS[0])
        mailbox.put(SNAPSHOTS[1])
        assert await mailbox.take() is SNAPSHOTS[0]
        mailbox.put_back(SNAPSHOTS[0])
        assert statistics == SinkStatistics(queue_length=2)
        assert await mailbox.take() is SNAPSHOTS[0]
        mailbox.put(SNAPSHOTS[2])
        mailbox.put_back(SNAPSHOTS[0])
        assert statistics == SinkStatistics(dropped=1, queue_length=2)
        assert await mailbox.take() is SNAPSHOTS[1]

    asyncio.run(run())


def test_a_waiting_reader_wakes_for_a_snapshot_and_for_the_end() -> None:
    async def run() -> None:
        mailbox = Mailbox(SinkStatistics())
        async with asyncio.timeout(5):
            reader = asyncio.create_task(mailbox.take())
            await asyncio.sleep(0)
            mailbox.put(SNAPSHOTS[0])
            assert await reader is SNAPSHOTS[0]
            reader = asyncio.create_task(mailbox.take())
            await asyncio.sleep(0)
            mailbox.close()
            assert await reader is None

    asyncio.run(run())


def test_snapshots_are_sent_in_order_and_counted_and_the_sink_is_closed() -> None:
    got: list[Snapshot] = []

    async def send(given: Snapshot) -> None:
        got.append(given)

    task, sink = sink_task(send)
    deliver(task, *SNAPSHOTS[:5])
    assert got == SNAPSHOTS[:5]
    assert task.statistics == SinkStatistics(sent=5)
    assert (sink.opened, sink.closed) == (1, 1)
    assert task.name == "fake"


@pytest.mark.parametrize(
    "error",
    [
        SinkError("no route"), OSError("disk"), ZeroDivisionError(), ExceptionGroup("", [OSError()]), SystemExit(1),
        asyncio.CancelledError(), KeyboardInterrupt(), GeneratorExit(), BaseException("x"), StopAsyncIteration(),
    ],
)  # fmt: skip
def test_a_failing_sink_is_reopened_and_gets_the_snapshot_again(
    delays: list[float], caplog: pytest.LogCaptureFixture, error: BaseException
) -> None:
    caplog.set_level(logging.INFO)
    got: list[Snapshot] = []
    failures = [error] * 3

    async def send(given: Snapshot) -> None:
        if failures:
            raise failures.pop()
        got.append(given)

    task, sink = sink_task(send)
    deliver(task, *SNAPSHOTS[:2])
    assert got == SNAPSHOTS[:2]
    assert task.statistics == SinkStatistics(sent=2, errors=3)
    assert (sink.opened, sink.closed) == (4, 4)
    assert delays == [0.5, 1.0, 2.0]
    assert len(caplog.records) == 2, "expected one line at the failure and one at the recovery"


def test_a_sink_gets_only_the_part_again_that_it_could_not_deliver(delays: list[float]) -> None:
    got: list[Snapshot] = []
    part = snapshot("1", [data(chart(Dimension("d", "d", ("f",))), 1)])
    failures = [SinkError("the connection broke", undelivered=part)]

    async def send(given: Snapshot) -> None:
        got.append(given)
        if failures:
            raise failures.pop()

    task, _ = sink_task(send)
    deliver(task, SNAPSHOTS[0], SNAPSHOTS[2])
    assert got == [SNAPSHOTS[0], part, SNAPSHOTS[2]]
    assert task.statistics == SinkStatistics(sent=2, errors=1)
    assert delays == [0.5]


class MuteError(SinkError):
    """An error of a plugin that does not call the constructor of its base class."""

    def __init__(self) -> None:
        pass


@pytest.mark.parametrize(
    ("error", "dropped"),
    [
        (SinkError("down", dropped=2), 2),
        (SinkError("down", dropped=2**70), 3),  # no more are lost than were taken
        (SinkError("down", dropped=-5), 0),
        (SinkError("down", dropped="five"), 0),  # type: ignore[arg-type]
        (SinkError("down", undelivered="the rest"), 0),  # type: ignore[arg-type]
        (MuteError(), 0),
    ],
)
def test_a_sink_is_tried_again_whatever_its_error_says_about_its_snapshots(
    error: SinkError, dropped: int, delays: list[float]
) -> None:
    got: list[Snapshot] = []

    async def send(given: Snapshot) -> None:
        got.append(given)
        if len(got) == 4:
            raise error

    task, sink = sink_task(send)
    deliver(task, *SNAPSHOTS[:6])
    assert got == [*SNAPSHOTS[:4], *SNAPSHOTS[3:6]]
    assert (task.statistics, sink.opened) == (SinkStatistics(sent=6, dropped=dropped, errors=1), 2)


def test_a_snapshot_that_arrived_before_the_failure_is_counted_as_sent_even_if_the_queue_is_full(
    delays: list[float],
) -> None:
    failures = [SinkError("the connection broke", undelivered=replace(SNAPSHOTS[0], charts=()))]

    async def send(_: Snapshot) -> None:
        if failures:
            for given in SNAPSHOTS[1 : 1 + MAILBOX_SNAPSHOTS]:
                task.put(given)
            raise failures.pop()

    task, _ = sink_task(send)
    deliver(task, SNAPSHOTS[0])
    assert task.statistics == SinkStatistics(sent=1 + MAILBOX_SNAPSHOTS, errors=1)


def test_delays_grow_to_a_minute_and_restart_after_a_success(delays: list[float]) -> None:
    outcomes = [False] * 9 + [True, False, True]

    async def send(_: Snapshot) -> None:
        if not outcomes.pop(0):
            raise SinkError("down")

    task, _ = sink_task(send)
    deliver(task, *SNAPSHOTS[:2])
    assert delays == [0.5, 1, 2, 4, 8, 16, 32, LAST_DELAY_S, LAST_DELAY_S, 0.5]


def test_delays_are_random_so_that_sinks_do_not_retry_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    ranges: list[tuple[float, float]] = []

    def uniform(low: float, high: float) -> float:
        ranges.append((low, high))
        return 0.0

    monkeypatch.setattr("random.uniform", uniform)
    failures = [SinkError("down")]

    async def send(_: Snapshot) -> None:
        if failures:
            raise failures.pop()

    task, _ = sink_task(send)
    deliver(task, SNAPSHOTS[0])
    assert [low < 1 < high for low, high in ranges] == [True]


def test_a_sink_whose_reader_has_gone_ends_without_an_error() -> None:
    async def send(_: Snapshot) -> None:
        raise SinkGoneError("head has gone")

    task, sink = sink_task(send)
    deliver(task, *SNAPSHOTS[:3])
    assert (sink.opened, sink.closed, task.statistics.errors) == (1, 1, 0)


def test_a_sink_that_fails_after_the_end_is_not_tried_again(delays: list[float]) -> None:
    async def send(_: Snapshot) -> None:
        task.mailbox.close()
        raise SinkError("down")

    task, sink = sink_task(send)
    deliver(task, *SNAPSHOTS[:3])
    assert (sink.opened, delays) == (1, [])


def test_a_hanging_sink_times_out_and_delays_no_other_sink(caplog: pytest.LogCaptureFixture) -> None:
    got: list[Snapshot] = []

    async def hang(_: Snapshot) -> None:
        await asyncio.Event().wait()

    async def send(given: Snapshot) -> None:
        got.append(given)
        arrived.set()

    async def run() -> None:
        both = Publisher([hanging, quick])
        async with asyncio.timeout(10):
            tasks = [asyncio.create_task(sink.run()) for sink in both.sinks]
            for given in SNAPSHOTS:
                both.publish(given)
                await arrived.wait()
                arrived.clear()
            assert not hanging.statistics.errors, "the quick sink waited for the hanging one"
            await hung.left.wait()
            both.close()
            await tasks[1]
            hanging.cancel()
            await tasks[0]

    arrived = asyncio.Event()
    hanging, hung = sink_task(hang, "hanging")
    quick, _ = sink_task(send, "quick")
    asyncio.run(run())
    assert got == SNAPSHOTS
    dropped = len(SNAPSHOTS) - MAILBOX_SNAPSHOTS
    assert hanging.statistics == SinkStatistics(0, dropped, 1, MAILBOX_SNAPSHOTS)
    assert quick.statistics == SinkStatistics(len(SNAPSHOTS))
    assert [r.getMessage() for r in caplog.records if "'hanging'" in r.getMessage()]


@pytest.mark.parametrize("fails", ["hangs", "raises"])
def test_a_sink_that_cannot_be_closed_is_reopened(
    delays: list[float], caplog: pytest.LogCaptureFixture, fails: str
) -> None:
    got: list[Snapshot] = []
    failures = [SinkError("down")]

    async def send(given: Snapshot) -> None:
        if failures:
            raise failures.pop()
        got.append(given)

    async def leave() -> None:
        if sink.closed == 1:
            if fails == "hangs":
                await asyncio.Event().wait()
            raise OSError("and cannot be closed")

    task, sink = sink_task(send)
    sink.leave = leave
    deliver(task, *SNAPSHOTS[:2])
    assert got == SNAPSHOTS[:2]
    assert (sink.opened, sink.closed, task.statistics.errors) == (2, 2, 1)
    assert "tried again: down" in caplog.text


def test_a_sink_that_fails_to_close_still_ends_when_cancelled() -> None:
    async def hang(_: Snapshot) -> None:
        started.set()
        await asyncio.Event().wait()

    async def leave() -> None:
        raise SinkError("not now")

    async def run() -> None:
        running = asyncio.create_task(task.run())
        task.put(SNAPSHOTS[0])
        await started.wait()
        task.cancel()
        async with asyncio.timeout(10):
            await running

    started = asyncio.Event()
    SINKS["calm"] = sink = FakeSink(hang)
    sink.leave = leave

    class Calm(FakeSettings, tag="calm", frozen=True):
        send_timeout_s: ClassVar[float | None] = None

    task = SinkTask(Calm(name="calm"))
    asyncio.run(run())
    assert sink.closed == 1


@pytest.mark.parametrize(
    ("error", "message"),
    [(None, "it took longer than 0.05 s"), (TimeoutError(110, "no answer"), "TimeoutError: [Errno 110]")],
)
def test_the_time_limit_differs_from_a_timeout_inside_the_sink(
    delays: list[float], error: Exception | None, message: str
) -> None:
    async def send(_: Snapshot) -> None:
        if not task.statistics.errors:
            if error:
                raise error
            await asyncio.Event().wait()

    task, _ = sink_task(send)
    deliver(task, SNAPSHOTS[0])
    assert message in task.reason
