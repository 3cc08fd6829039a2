"""The thread of a sink: what it logs about snapshots that are dropped, and when it ends."""

from __future__ import annotations

import asyncio

import pytest

from ebpfmon import SinkError, SinkSettings
from ebpfmon.daemon import sinks
from ebpfmon.daemon.sinks import SinkThread, prepare
from ebpfmon.pipeline.publish import SinkTask


def test_only_drops_without_an_error_are_logged_as_a_sink_that_delivers_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A sink that fails to deliver a batch, and works again before the next tick, has said what is lost."""

    async def test() -> None:
        task = SinkTask(SinkSettings(name="batches"))
        task.statistics.sent = 4
        thread = SinkThread(task, prepare([task.settings])[0], [], lambda _: None)
        task.failed(SinkError("refused; 4 earlier snapshots are lost", dropped=4))
        task._failing = False
        thread.report()
        assert task.statistics.dropped == 4
        assert caplog.messages == [
            "sink 'batches' has failed and will be tried again: refused; 4 earlier snapshots are lost"
        ]
        task.statistics.dropped += 1
        thread.report()
        assert caplog.messages[1].startswith("sink 'batches' drops snapshots, because it has delivered none for ")
        thread.report()
        assert caplog.messages[2:] == ["sink 'batches' delivers snapshots again"]

    asyncio.run(test())


def test_a_thread_ends_only_when_its_task_has_ended_without_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """No error ends a sink silently, not even a mistake in the code that supervises it."""
    monkeypatch.setattr(sinks, "RETRY_S", 0)
    runs: list[int] = []

    class Task(SinkTask):
        async def run(self) -> None:
            runs.append(len(runs))
            if len(runs) < 3:
                raise TypeError("a mistake")

    async def test() -> None:
        task = Task(SinkSettings(name="mistaken"))
        thread = SinkThread(task, prepare([task.settings])[0], [], lambda _: None)
        thread.start()
        async with asyncio.timeout(10):
            await thread.end()
        assert (runs, task.statistics.errors) == ([0, 1, 2], 2)

    asyncio.run(test())
