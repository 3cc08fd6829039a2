"""The plugins_d sink on its socket: several relays, slow and dead relays, and daemons that restart."""

from __future__ import annotations

import asyncio
import logging
import os
import resource
import socket
import stat
import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, suppress
from dataclasses import replace
from pathlib import Path

import pytest

from ebpfmon import SettingsError, SinkError, Snapshot
from ebpfmon.config import validate
from ebpfmon.plugins.registry import discover
from ebpfmon_sinks import unix_socket
from ebpfmon_sinks.accept import FAILURE_PAUSE_S, Acceptor
from ebpfmon_sinks.plugins_d import sink as plugins_d
from ebpfmon_sinks.plugins_d.settings import PluginsDSettings
from ebpfmon_sinks.plugins_d.sink import IntervalEstimate, PluginsDSink, open_socket
from tests.unit.netdata import Netdata
from tests.unit.support import chart, data, snapshot
from tests.unit.test_plugins_d_stream import IO, READ

LIMIT_S = 20.0


@pytest.fixture
def path(tmp_path: Path) -> Path:
    folder = tmp_path / "run"
    folder.mkdir()
    return folder / "plugins.d.sock"


def snapshot_at(n: int) -> Snapshot:
    return replace(snapshot(charts=[data(IO, n, 2 * n)]), time_s=100.0 + n, elapsed_s=1.0)


def sink_of(path: Path) -> AbstractAsyncContextManager[PluginsDSink]:
    return open_socket(str(path), "", "plugins_d")


def relays(sink: PluginsDSink) -> list[plugins_d._Relay]:
    """Return the relays that are connected to a sink on a socket."""
    return [reader for reader in sink.readers if isinstance(reader, plugins_d._Relay)]


def run(work: Callable[[], object]) -> None:
    async def limited() -> None:
        async with asyncio.timeout(LIMIT_S):
            await work()  # type: ignore[misc]  # all of them are async functions

    asyncio.run(limited())


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(LIMIT_S):
        while not condition():  # noqa: ASYNC110  # nothing announces what other processes do
            await asyncio.sleep(0.01)


class Client:
    """A relay in the test. It parses what it receives like Netdata."""

    def __init__(self, path: Path, hello: bytes = b"every 1\n") -> None:
        self.netdata, self.ended, self._part = Netdata(), False, b""
        self._end = socket.socket(socket.AF_UNIX)
        self._end.connect(str(path))
        self._end.setblocking(False)
        self._end.sendall(hello)

    def read(self) -> bytes:
        data = b""
        with suppress(BlockingIOError, ConnectionResetError):
            while more := self._end.recv(1 << 20):
                data += more
            self.ended = True
        lines, end, self._part = (self._part + data).rpartition(b"END\n")
        self.netdata.read(lines + end)
        return data

    def amounts(self) -> list[int]:
        """Return what the chart shows of a dimension so far."""
        self.read()
        return self.netdata.charts["x.io"].shows("r") if self.netdata.charts else []

    def close(self) -> None:
        self._end.close()


def connected(sink: PluginsDSink, count: int) -> bool:
    return len([r for r in sink.readers if r._stream]) == count


def test_each_relay_gets_every_update_from_the_moment_it_connects(path: Path) -> None:
    async def work() -> None:
        async with sink_of(path) as sink:
            first = Client(path)
            await until(lambda: connected(sink, 1))
            for n in range(4):
                await sink.send(snapshot_at(n))
            late = Client(path, b"every 2\n")
            await until(lambda: connected(sink, 2))
            for n in range(4, 10):
                await sink.send(snapshot_at(n))
            await until(
                lambda: len(first.amounts()) == 8
            )  # the first two updates are not shown, because Netdata counts from them
            assert first.amounts() == [2, 3, 4, 5, 6, 7, 8, 9]
            assert late.amounts() == [11, 15]
            assert late.netdata.charts["x.io"].declared[6] == "2"
            for client in (first, late):
                client.close()
            await until(lambda: not sink.readers)

    run(work)


@pytest.mark.parametrize("hello", [b"every 0\n", b"GET / HTTP/1.1\r\n\r\n", b"x" * 100, b"every 99999999\n"])
def test_a_client_that_is_not_a_relay_is_disconnected(path: Path, hello: bytes) -> None:
    async def work() -> None:
        async with sink_of(path) as sink:
            client = Client(path, hello)
            await until(lambda: not client.read() and client.ended)
            assert not sink.readers
            client.close()

    run(work)


def test_a_silent_relay_is_disconnected(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plugins_d, "_HELLO_S", 0.05)

    async def work() -> None:
        async with sink_of(path) as sink:
            silent = Client(path, b"ever")
            await until(lambda: sink.readers)
            await until(lambda: not sink.readers)
            silent.close()

    run(work)


def test_a_relay_may_send_its_line_in_parts(path: Path) -> None:
    async def work() -> None:
        async with sink_of(path) as sink:
            client = Client(path, b"eve")
            await until(lambda: sink.readers)
            client._end.sendall(b"ry 1\n")
            await until(lambda: connected(sink, 1))
            client.close()

    run(work)


def test_the_number_of_relays_is_limited(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plugins_d, "_MAX_RELAYS", 2)

    async def work() -> None:
        async with sink_of(path) as sink:
            clients = [Client(path) for _ in range(3)]
            await until(lambda: connected(sink, 2) and any(c.read() or c.ended for c in clients))
            assert len(sink.readers) == 2
            for client in clients:
                client.close()

    run(work)


def test_a_slow_relay_delays_nothing_and_is_disconnected(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(plugins_d, "_STALL_LIMIT_S", 0.3)
    caplog.set_level(logging.INFO)
    wide = chart(*(replace(READ, id=f"{n}") for n in range(5000)))

    async def work() -> None:
        async with sink_of(path) as sink:
            stopped, quick = Client(path), Client(path)
            await until(lambda: connected(sink, 2))
            biggest, sent, start = 0, 0, time.monotonic()
            while len(sink.readers) == 2:
                await sink.send(replace(snapshot_at(sent), charts=(data(wide, *[sent] * 5000),)))
                sent += 1
                biggest = max(biggest, *(relay._transport.get_write_buffer_size() for relay in relays(sink)))
                for _ in range(20):
                    await asyncio.sleep(0)
                    quick.read()
                assert time.monotonic() - start < LIMIT_S
            assert biggest < 1_000_000
            quick.read()
            await until(lambda: quick.read() or len(quick.netdata.charts["x.io"].begins) >= sent - 2)
            stopped.close()
            quick.close()

    run(work)
    assert "disconnected a relay: it has read nothing for" in caplog.text


def test_intervals_that_a_slow_relay_missed_are_in_its_next_update(path: Path) -> None:
    wide = chart(*(replace(READ, id=f"{n}") for n in range(5000)))

    async def work() -> None:
        async with sink_of(path) as sink:
            client = Client(path)
            await until(lambda: connected(sink, 1))
            for n in range(30):
                await sink.send(replace(snapshot_at(n), charts=(data(wide, *[n] * 5000),)))
            (relay,) = relays(sink)
            assert relay._full_since is not None
            await until(lambda: client.read() and relay._full_since is None)
            await sink.send(replace(snapshot_at(30), charts=(data(wide, *[30] * 5000),)))
            await until(lambda: sum((client.read(), client.netdata.charts["x.io"].shows("7"))[1]) == sum(range(2, 31)))
            assert len(client.netdata.charts["x.io"].begins) < 30
            client.close()

    run(work)


def test_only_owner_and_group_may_connect(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """This also holds if the folder is created, as /run/ebpfmon is."""
    monkeypatch.setattr(unix_socket, "OWN_FOLDER", str(path.parent))
    path.parent.rmdir()
    before = os.umask(0o077)
    try:

        async def work() -> None:
            async with sink_of(path):
                assert stat.S_IMODE(path.stat().st_mode) == 0o660
                assert stat.S_IMODE(path.parent.stat().st_mode) == 0o755

        run(work)
    finally:
        os.umask(before)
    assert not path.exists()


def test_the_group_gets_the_socket_and_a_missing_group_is_logged(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    import grp

    caplog.set_level(logging.INFO)

    async def opened(group: str) -> None:
        async with PluginsDSettings(socket=str(path), group=group).open():
            assert path.stat().st_gid == os.getgid()

    run(lambda: opened(grp.getgrgid(os.getgid()).gr_name))
    run(lambda: opened("no-such-group"))
    assert f"no group 'no-such-group': only root may connect to '{path}'" in caplog.text


def test_a_socket_of_a_daemon_that_was_killed_is_replaced(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))

    async def work() -> None:
        async with sink_of(path) as sink:
            client = Client(path)
            await until(lambda: connected(sink, 1))
            client.close()

    run(work)


def test_another_daemons_socket_is_left_alone(path: Path) -> None:
    async def work() -> None:
        async with sink_of(path) as sink:
            with pytest.raises(SinkError, match="another daemon uses it; stop that daemon"):
                await sink_of(path).__aenter__()
            client = Client(path)
            await until(lambda: connected(sink, 1))
            client.close()

    run(work)


def test_a_file_at_the_sockets_path_is_left_alone(path: Path) -> None:
    path.write_text("mine")
    with pytest.raises(SinkError, match="it exists and is not a socket"):
        run(lambda: sink_of(path).__aenter__())
    assert path.read_text() == "mine"


def test_the_socket_of_a_later_daemon_is_not_removed(path: Path) -> None:
    async def work() -> None:
        async with sink_of(path):
            path.unlink()
            path.write_text("another's")

    run(work)
    assert path.exists()


@pytest.mark.parametrize(
    ("socket_", "message"),
    [("run/x.sock", "sinks[0].socket: 'run/x.sock': expected an absolute path"), ("/" + "x" * 107, "longer than 107")],
)
def test_an_invalid_socket_path_is_refused_with_the_settings(socket_: str, message: str) -> None:
    with pytest.raises(SettingsError) as caught:
        validate({"sinks": [{"type": "plugins_d", "socket": socket_}]}, "x.toml", discover())
    assert message in str(caught.value)


def test_the_settings_have_defaults() -> None:
    assert validate({"sinks": [{"type": "plugins_d"}]}, "x.toml", discover()).sinks == (PluginsDSettings(),)
    assert PluginsDSettings().socket == "/run/ebpfmon/plugins.d.sock"
    assert PluginsDSettings().group == "netdata"


@pytest.mark.parametrize(
    ("elapsed", "seen"),
    [
        ([0.3, 1.0, 1.001], [0, 1, 1]),
        ([7.1, 10.0, 10.0, 3.0], [0, 10, 10, 10]),
        ([0.9, 2.0, 1.0, 1.0, 2.0, 2.0], [0, 2, 2, 1, 1, 1]),  # one tick was left out at the start
        ([0.2, 0.1, 1.0, 1.0], [0, 1, 1, 1]),
    ],
)
def test_the_interval_is_estimated_from_the_lengths(elapsed: list[float], seen: list[int]) -> None:
    estimate = IntervalEstimate()
    assert [estimate.update(e) for e in elapsed] == seen


def test_closing_a_sink_with_a_relay_that_reads_nothing_leaves_no_descriptor(path: Path) -> None:
    wide = chart(*(replace(READ, id=f"{n}") for n in range(5000)))

    async def work() -> None:
        before = len(os.listdir("/proc/self/fd"))
        clients: list[Client] = []
        async with sink_of(path) as sink:
            clients += [Client(path), Client(path)]
            await until(lambda: connected(sink, 2))
            for n in range(10):
                await sink.send(replace(snapshot_at(n), charts=(data(wide, *[n] * 5000),)))
            assert all(relay._full_since is not None for relay in relays(sink))
        assert len(os.listdir("/proc/self/fd")) - before == 2, "those of the clients"
        for client in clients:
            client.close()

    run(work)


def test_without_descriptors_relays_wait_and_nothing_is_logged(
    path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """asyncio's own servers try a hundred times in a row, and log each."""
    failures: list[float] = []
    pause = Acceptor._pause

    def counted(self: Acceptor, seconds: float) -> None:
        failures.append(seconds)
        pause(self, seconds)

    monkeypatch.setattr(Acceptor, "_pause", counted)

    async def work() -> None:
        async with sink_of(path) as sink:
            with socket.socket(socket.AF_UNIX) as relay:
                soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
                resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))  # those in use stay open
                try:
                    relay.connect(str(path))
                    relay.sendall(b"every 1\n")
                    await until(lambda: len(failures) >= 3)
                    assert not sink.readers
                finally:
                    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
                await until(lambda: sink.readers)

    run(work)
    assert not [r for r in caplog.records if r.levelno >= logging.WARNING]
    assert failures == [FAILURE_PAUSE_S] * len(failures)
