"""The StatsD sink and host names: several addresses, names that appear later or move, silent name servers."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from ebpfmon import SinkError
from ebpfmon.pipeline import publish
from ebpfmon.pipeline.publish import SinkTask
from ebpfmon_sinks.blocking import THREAD
from ebpfmon_sinks.statsd import connection
from ebpfmon_sinks.statsd import sink as statsd
from ebpfmon_sinks.statsd.settings import StatsdSettings
from tests.unit.test_statsd_sink import BOTH, Protocol, line, one, run, running, serving, until

Answers = Sequence[str | Exception]


@pytest.fixture
def resolver(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Make host names resolve to these answers, one for each lookup. The last answer is repeated."""

    def set_to(*answers: Answers) -> None:
        left, real = list(answers), socket.getaddrinfo

        def fake(host: str, port: int, type: int = 0, flags: int = 0) -> list[Any]:
            if flags & socket.AI_NUMERICHOST:
                return list(real(host, port, type=type, flags=flags))
            answer = left.pop(0) if len(left) > 1 else left[0]
            for each in answer:
                if isinstance(each, Exception):
                    raise each
            return [entry for each in answer for entry in real(str(each), port, type=type)]

        monkeypatch.setattr(socket, "getaddrinfo", fake)

    return set_to


@BOTH
def test_the_first_address_that_listens_is_used(protocol: Protocol, resolver: Callable[..., None]) -> None:
    resolver(["::1", "127.0.0.2", "127.0.0.1"])

    async def test() -> None:
        with serving(protocol) as server:
            async with StatsdSettings(host="statsd.test", port=server.port, protocol=protocol).open() as sink:
                await sink.send(one(1))
            await until(lambda: server.lines == [line(1)])

    run(test)


def test_a_changed_address_of_a_name_is_used_over_udp(
    monkeypatch: pytest.MonkeyPatch, resolver: Callable[..., None]
) -> None:
    monkeypatch.setattr(statsd, "_RENEW_S", 0)
    nowhere = socket.gaierror(socket.EAI_AGAIN, "later")
    resolver(["127.0.0.1"], ["127.0.0.1"], [nowhere], ["127.0.0.2"])

    async def test() -> None:
        with serving("udp") as old, serving("udp", old.port, host="127.0.0.2") as new:
            async with StatsdSettings(host="statsd.test", port=old.port).open() as sink:
                for n in range(1, 5):
                    await sink.send(one(n))
            await until(lambda: old.lines == [line(1), line(2)] and new.lines == [line(3), line(4)])

    run(test)


def test_an_address_is_not_looked_up_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statsd, "_RENEW_S", 0)

    async def test() -> None:
        with serving("udp") as server:
            async with StatsdSettings(port=server.port).open() as sink:
                for n in range(1, 4):
                    await sink.send(one(n))
            await until(lambda: server.packets == [b"\n", line(1), line(2), line(3)])

    run(test)


@BOTH
def test_no_snapshot_is_lost_if_a_name_resolves_later(
    protocol: Protocol, resolver: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publish, "FIRST_DELAY_S", 0.01)
    resolver([socket.gaierror(socket.EAI_NONAME, "Name or service not known")], [OSError(5, "?")], ["127.0.0.1"])

    async def test() -> None:
        with serving(protocol) as server:
            task = SinkTask(StatsdSettings(host="statsd.test", port=server.port, protocol=protocol))
            for n in range(1, 4):
                task.mailbox.put(one(n))
            async with running(task):
                await until(lambda: task.statistics.sent == 3)
            assert task.statistics.errors == 2
            await until(lambda: server.lines == [line(1), line(2), line(3)])

    run(test)


def test_a_silent_name_server_is_an_error_and_blocks_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    asked, answer, real = threading.Event(), threading.Event(), socket.getaddrinfo

    def stuck(host: str, port: int, type: int = 0, flags: int = 0) -> list[Any]:
        if flags & socket.AI_NUMERICHOST:
            return list(real(host, port, type=type, flags=flags))
        asked.set()
        answer.wait()
        return []

    monkeypatch.setattr(socket, "getaddrinfo", stuck)
    monkeypatch.setattr(connection, "_RESOLVE_S", 0.1)
    threads = set(threading.enumerate())

    async def test() -> None:
        for _ in range(5):
            with pytest.raises(SinkError, match=r"^cannot connect to 'udp statsd\.test:8125': no answer$"):
                async with StatsdSettings(host="statsd.test").open():
                    pass

    run(test)  # It must end although the lookup does not.
    assert asked.is_set()
    left = [thread for thread in set(threading.enumerate()) - threads if thread.name == THREAD]
    assert len(left) == 1, "a lookup per attempt would pile up"
    answer.set()  # This ends the thread of the lookup.
    for thread in set(threading.enumerate()) - threads:
        thread.join(10)


@pytest.mark.parametrize("host", ["a" * 70, "a..b", "a\0b", "\udcff"])
def test_an_invalid_host_is_an_error(host: str) -> None:
    async def test() -> None:
        with pytest.raises(SinkError, match=r"^cannot connect to 'udp "):
            async with StatsdSettings(host=host).open():
                pass

    run(test)
