"""The thread of a sink: what it logs about snapshots that are dropped, and when it ends."""

from __future__ import annotations

import asyncio
import errno
import os
from contextlib import AbstractAsyncContextManager
from functools import partial

import pytest

from ebpfmon import Sink, SinkError, SinkSettings
from ebpfmon.daemon import sinks
from ebpfmon.daemon.sinks import SinkThread, missing_right, prepare
from ebpfmon.kernel import capabilities
from ebpfmon.pipeline.publish import Publisher, SinkTask
from tests.unit.http_support import until
from tests.unit.support import snapshot


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


def refused() -> SinkError:
    """Return an error that hides the one of the kernel, as those of most sinks do."""
    try:
        try:
            raise PermissionError(errno.EACCES, "Permission denied")
        except OSError:
            raise SinkError("cannot listen") from None
    except SinkError as error:
        return error


def test_a_sink_that_lacks_a_right_says_what_has_become_of_it(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(capabilities, "held", lambda: frozenset({"bpf"}))
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    chown = frozenset({"chown"})
    all_rights = frozenset({"bpf", "chown", "dac_override"})
    assert (
        missing_right(chown, all_rights, refused())
        == "; ebpfmon gave up the right to do this right after its start: restart ebpfmon"
    )
    assert "; this needs CAP_CHOWN (in a systemd unit" in missing_right(chown, frozenset({"bpf"}), refused())
    assert missing_right(frozenset(), all_rights, refused()).endswith("make root the owner (chown root)")
    assert missing_right(chown, all_rights, SinkError("no answer")) == ""
    SinkTask(SinkSettings(name="late"), partial(missing_right, chown, all_rights)).failed(refused())
    assert caplog.messages == [
        "sink 'late' has failed and will be tried again: cannot listen; ebpfmon gave up the right to do this right "
        "after its start: restart ebpfmon"
    ]


class Down(SinkSettings, frozen=True):
    def open(self) -> AbstractAsyncContextManager[Sink]:
        raise SinkError("nobody is there")


def test_at_the_end_each_sink_says_in_one_line_what_is_lost_and_why(caplog: pytest.LogCaptureFixture) -> None:
    """Also sinks that a reload has replaced."""

    async def test() -> None:
        publisher = Publisher([])
        running = sinks.Sinks(publisher, lambda: None)
        running.update(prepare([Down(name="one"), Down(name="two")]))
        for _ in range(3):
            publisher.publish(snapshot("x"))
        former, other = list(running._threads)
        async with asyncio.timeout(10):
            await until(lambda: former.task.is_failing and other.task.is_failing)
            running.update(prepare([Down(name="one", interval=1), Down(name="two")]))
            await former.end()
            publisher.publish(snapshot("x"))
            await running.close(0.1)
        assert not running._threads

    asyncio.run(test())
    assert "the former sink 'one' has lost its last 3 snapshots: nobody is there" in caplog.messages
    ends = sorted(message for message in caplog.messages if "will be tried again" not in message)
    assert ends == [
        "sink 'one' has lost its last snapshot: nobody is there",
        "sink 'two' has lost its last 4 snapshots: nobody is there",
        "the former sink 'one' has lost its last 3 snapshots: nobody is there",
    ]
