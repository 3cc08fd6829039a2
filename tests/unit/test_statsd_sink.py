"""The StatsD sink on sockets: both protocols and families, and servers that are late, slow, gone or moved."""

from __future__ import annotations

import asyncio
import os
import socket
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Any, ClassVar, Literal

import pytest

from ebpfmon import Dimension, Kind, SinkError, Snapshot
from ebpfmon.pipeline import publish
from ebpfmon.pipeline.publish import SinkTask
from ebpfmon_sinks.statsd import connection
from ebpfmon_sinks.statsd import sink as statsd
from ebpfmon_sinks.statsd.connection import Connected
from ebpfmon_sinks.statsd.settings import StatsdSettings
from ebpfmon_sinks.statsd.sink import StatsdSink
from tests.unit.support import chart, data, snapshot

Protocol = Literal["udp", "tcp"]
IO = chart(Dimension("r", "read", ("r",)))
GAUGE = chart(Dimension("g", "gauge", ("g",)), kind=Kind.GAUGE)
LOOPBACK = {socket.AF_INET: "127.0.0.1", socket.AF_INET6: "::1"}
BOTH = pytest.mark.parametrize("protocol", ["udp", "tcp"])


def one(amount: int) -> Snapshot:
    return snapshot(charts=[data(IO, amount)])


def line(amount: int) -> bytes:
    return b"ebpfmon.x.io.read:%d|c" % amount


def many(count: int) -> Snapshot:
    """Return a snapshot that fills about `count` datagrams of 512 bytes."""
    wide = chart(*(Dimension(f"{n}", f"{n:080}", ("f",)) for n in range(count * 5)))
    return snapshot(charts=[data(wide, *range(1, count * 5 + 1))])


class Server:
    """A server that reads all lines in a thread until it is closed. `reading` can be paused."""

    def __init__(self, protocol: Protocol, port: int = 0, family: int = socket.AF_INET, host: str = "") -> None:
        self.packets: list[bytes] = []
        self.connections: list[list[bytes]] = []
        self.reading = threading.Event()
        self.reading.set()
        self._stream = protocol == "tcp"
        self._socket = socket.socket(family, socket.SOCK_STREAM if self._stream else socket.SOCK_DGRAM)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, self._stream)
        self._socket.bind((host or LOOPBACK[socket.AddressFamily(family)], port))
        self.port: int = self._socket.getsockname()[1]
        self._ends = [self._socket]
        if self._stream:
            self._socket.listen()
        self._thread = threading.Thread(target=self._accept if self._stream else self._read, args=(self._socket,))
        self._thread.start()

    def _accept(self, listening: socket.socket) -> None:
        readers = []
        with suppress(OSError):
            while True:
                end, _ = listening.accept()
                self._ends.append(end)
                readers.append(threading.Thread(target=self._read, args=(end,)))
                readers[-1].start()
        for end in self._ends[1:]:
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        for reader in readers:
            reader.join()

    def _read(self, end: socket.socket) -> None:
        with suppress(OSError):
            self.connections.append(received := [])
            while self.reading.wait() and (packet := end.recv(65536)):
                self.packets.append(packet)
                received.append(packet)

    @property
    def lines(self) -> list[bytes]:
        between = b"" if self._stream else b"\n"
        return [line for line in between.join(self.packets).split(b"\n") if line]

    def close(self) -> None:
        self.reading.set()
        with suppress(OSError):  # This wakes the thread, even if it raises because the socket is not connected.
            self._socket.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        for end in self._ends:
            end.close()


@contextmanager
def serving(protocol: Protocol, port: int = 0, family: int = socket.AF_INET, host: str = "") -> Iterator[Server]:
    server = Server(protocol, port, family, host)
    try:
        yield server
    finally:
        server.close()


def unused_port(protocol: Protocol) -> int:
    with serving(protocol) as server:
        return server.port


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110  # nothing announces what threads and the kernel do
            await asyncio.sleep(0.01)


def run(test: Callable[[], Awaitable[None]]) -> None:
    async def limited() -> None:
        async with asyncio.timeout(30):
            await test()

    asyncio.run(limited())


@BOTH
@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "[::1]"])
def test_snapshots_arrive_over_both_protocols_and_families(protocol: Protocol, host: str) -> None:
    async def test() -> None:
        with serving(protocol, family=socket.AF_INET6 if ":" in host else socket.AF_INET) as server:
            settings = StatsdSettings(host=host, port=server.port, protocol=protocol)
            async with settings.open() as sink:
                await sink.send(one(1))
                await sink.send(snapshot(charts=[data(IO, 2), data(GAUGE, -3)]))
                await sink.send(snapshot(charts=[data(IO, 0)]))
            expected = [line(1), line(2), b"ebpfmon.x.io.gauge:0|g", b"ebpfmon.x.io.gauge:-3|g"]
            await until(lambda: server.lines == expected)

    run(test)


def test_datagrams_have_at_most_the_maximum_size_and_no_line_is_split() -> None:
    async def test() -> None:
        with serving("udp") as server:
            async with StatsdSettings(port=server.port, maximum_datagram=512).open() as sink:
                await sink.send(many(50))
            await until(lambda: len(server.lines) == 250)
            assert max(map(len, server.packets)) <= 512
            assert sorted(int(each.rpartition(b":")[2][:-2]) for each in server.lines) == list(range(1, 251))

    run(test)


def test_datagrams_are_sent_no_faster_than_the_configured_rate() -> None:
    async def test() -> None:
        with serving("udp") as server:
            settings = StatsdSettings(port=server.port, maximum_datagram=512, packets_per_second=500)
            async with settings.open() as sink:
                begin = time.monotonic()
                await sink.send(many(60))
                took = time.monotonic() - begin
            await until(lambda: len(server.lines) == 300)
            assert took >= 0.01 * (len(server.packets) // 5 - 1)  # 5 at once, then a pause of 10 ms

    run(test)


def test_a_server_that_has_closed_its_side_gets_no_snapshot_twice() -> None:
    async def test() -> None:
        with serving("tcp") as server:
            async with StatsdSettings(port=server.port, protocol="tcp").open() as sink:
                await sink.send(one(1))
                await until(lambda: len(server.lines) == 1)
                server._ends[1].shutdown(socket.SHUT_WR)  # It can still read.
                with pytest.raises(SinkError):
                    await sink.send(one(2))
        assert server.lines == [line(1)]

    run(test)


def test_a_rate_that_is_too_low_for_a_snapshot_is_exceeded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statsd, "_MAX_SEND_S", 0.2)

    async def test() -> None:
        with serving("udp") as server:
            settings = StatsdSettings(port=server.port, maximum_datagram=512, packets_per_second=10)
            async with settings.open() as sink, asyncio.timeout(3):  # 6 s at the configured rate
                await sink.send(many(60))
            await until(lambda: len(server.lines) == 300)

    run(test)


def test_a_snapshot_larger_than_the_receive_buffer_arrives_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """The server reads only while the sink pauses, so it loses whatever its buffer cannot hold."""
    received: list[bytes] = []

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
        server.bind(("127.0.0.1", 0))
        server.setblocking(False)

        async def read(_: float = 0) -> None:
            with suppress(BlockingIOError):
                while True:
                    received.append(server.recv(65536))

        async def test() -> None:
            async with StatsdSettings(port=server.getsockname()[1], maximum_datagram=512).open() as sink:
                monkeypatch.setattr(asyncio, "sleep", read)
                await sink.send(many(600))
                await read()

        run(test)
        assert sum(map(len, received)) > server.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)
    assert len([line for packet in received for line in packet.split(b"\n") if line]) == 3000


@BOTH
def test_a_missing_server_is_an_error_at_once(protocol: Protocol) -> None:
    port = unused_port(protocol)

    async def test() -> None:
        begin = time.monotonic()
        with pytest.raises(SinkError) as caught:
            async with StatsdSettings(port=port, protocol=protocol).open():
                pass
        assert str(caught.value) == f"cannot connect to '{protocol} 127.0.0.1:{port}': Connection refused"
        assert time.monotonic() - begin < 5

    run(test)


@BOTH
@pytest.mark.parametrize("snapshots", [0, 1, 2])
def test_the_first_snapshot_that_a_stopped_server_misses_raises_the_error(protocol: Protocol, snapshots: int) -> None:
    async def test() -> None:
        with serving(protocol) as server:
            async with StatsdSettings(port=server.port, protocol=protocol).open() as sink:
                for n in range(snapshots):
                    await sink.send(one(n + 1))
                await until(lambda: len(server.lines) == snapshots)
                server.close()
                with pytest.raises(SinkError, match=rf"cannot send to '{protocol} 127.0.0.1:\d+': Connection re"):
                    await sink.send(one(9))

    run(test)


@pytest.mark.parametrize("size", [2000, 10_000])
def test_a_server_that_stops_reading_delays_only_the_sink_and_gets_everything_once(size: int) -> None:
    # The smaller snapshot fits into the kernel's buffer, but the server does not read it.
    async def test() -> None:
        with serving("tcp") as server:
            server.reading.clear()
            async with StatsdSettings(port=server.port, protocol="tcp").open() as sink:
                big = many(size)
                sending = asyncio.create_task(sink.send(big))
                for _ in range(50):  # the event loop is not blocked
                    await asyncio.sleep(0.01)
                assert not sending.done()
                server.reading.set()
                await sending
            await until(lambda: len(server.lines) == 5 * size)

    run(test)


def with_send_buffer(size: int, sockets: list[socket.socket]) -> Callable[..., Awaitable[Connected]]:
    """Return a function that connects with a send buffer of this size, and adds the socket to `sockets`."""
    connect = connection.connect

    async def connect_with_buffer(*arguments: Any) -> Connected:
        connected = await connect(*arguments)
        connected.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, size)
        sockets.append(connected.socket)
        return connected

    return connect_with_buffer


class Impatient(StatsdSettings, tag="impatient", frozen=True):
    """The settings of a sink that gives up a connection after a second."""

    send_timeout_s: ClassVar[float | None] = 1.25


@pytest.mark.parametrize("send_buffer", [4 << 20, 1 << 14])
def test_a_server_that_stalls_and_then_reads_everything_gets_every_line_once(
    send_buffer: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What waits in the send queue when the sink gives up must neither arrive later nor be lost.

    The snapshot has 500 kB. It fits into the larger of the buffers, but not into that of the server.
    """
    size = 1000
    monkeypatch.setattr(publish, "FIRST_DELAY_S", 0.05)
    monkeypatch.setattr(connection, "connect", with_send_buffer(send_buffer, []))

    async def test() -> None:
        with serving("tcp") as server:
            server.reading.clear()
            server._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)  # connections inherit it
            task = SinkTask(Impatient(port=server.port, protocol="tcp"))
            async with running(task):
                task.put(many(size))
                await until(lambda: task.statistics.errors >= 2)
                server.reading.set()
                await until(lambda: task.statistics.sent == 1)
            server.close()
            streams = [b"".join(packets) for packets in server.connections]
            lines = [line for stream in streams for line in stream.split(b"\n")[:-1]]  # the last one has no end
            assert len(streams) > 2, "the connection was given up more than once"
            assert sorted(int(line.rpartition(b":")[2][:-2]) for line in lines) == list(range(1, 5 * size + 1))
            assert task.statistics.dropped == 0

    run(test)


def test_after_a_break_the_next_server_gets_the_lines_that_were_not_acknowledged(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What the first server had not read when it ended is lost, because its kernel had acknowledged it."""
    monkeypatch.setattr(publish, "FIRST_DELAY_S", 0.05)
    sockets: list[socket.socket] = []
    monkeypatch.setattr(connection, "connect", with_send_buffer(1 << 14, sockets))

    def numbers(data: bytes) -> list[int]:
        return [int(line.rpartition(b":")[2][:-2]) for line in data.split(b"\n")[:-1]]

    async def test() -> None:
        with socket.create_server(("127.0.0.1", 0)) as listening:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)  # connections inherit it
            port = listening.getsockname()[1]
            task = SinkTask(StatsdSettings(port=port, protocol="tcp"))
            async with running(task):
                task.put(many(1000))
                end, _ = await asyncio.to_thread(listening.accept)
                first = await asyncio.to_thread(end.recv, 100_000, socket.MSG_WAITALL)
                await until(lambda: connection.acknowledged(sockets[0]) > len(first))
                listening.close()
                end.close()
                await until(lambda: task.statistics.errors > 0)
                with serving("tcp", port) as server:
                    await until(lambda: task.statistics.sent == 1)
                second = b"".join(server.packets)
        read, sent_again = numbers(first), numbers(second)
        assert read == [*range(1, len(read) + 1)]
        assert sent_again == [*range(sent_again[0], 5001)]
        assert len(read) <= sent_again[0] - 1, "no line that the first server has read is sent again"

    run(test)


@BOTH
def test_answers_of_the_server_are_ignored(protocol: Protocol) -> None:
    async def test() -> None:
        with serving(protocol) as server:
            async with StatsdSettings(port=server.port, protocol=protocol).open() as sink:
                assert isinstance(sink, StatsdSink)
                if protocol == "udp":
                    for answer in (b"", b"ERROR\n"):
                        server._socket.sendto(answer, sink.sock.getsockname())
                else:
                    await until(lambda: len(server._ends) == 2)
                    server._ends[1].sendall(b"ERROR\n")
                await sink.send(one(5))
                await sink.send(one(6))
            await until(lambda: server.lines == [line(5), line(6)])

    run(test)


@asynccontextmanager
async def running(task: SinkTask) -> AsyncIterator[None]:
    async with asyncio.TaskGroup() as group:
        group.create_task(task.run())
        try:
            yield
        finally:
            task.cancel()


@BOTH
def test_a_late_server_and_a_restarted_one_get_every_snapshot(
    protocol: Protocol, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publish, "FIRST_DELAY_S", 0.05)
    port = unused_port(protocol)

    async def test() -> None:
        task = SinkTask(StatsdSettings(port=port, protocol=protocol))
        task.mailbox.put(one(1))
        async with running(task):
            await until(lambda: task.statistics.errors > 0)
            with serving(protocol, port) as server:
                await until(lambda: task.statistics.sent == 1)
            errors = task.statistics.errors
            task.mailbox.put(one(2))
            await until(lambda: task.statistics.errors > errors)
            assert task.statistics.sent == 1
            with serving(protocol, port) as again:
                await until(lambda: task.statistics.sent == 2)
                await until(lambda: again.lines == [line(2)])
        assert server.lines == [line(1)]
        assert task.statistics.dropped == 0

    run(test)


@BOTH
@pytest.mark.parametrize("is_there", [True, False])
def test_descriptors_are_closed_with_the_sink(protocol: Protocol, is_there: bool) -> None:
    async def test() -> None:
        with serving(protocol) as server:
            port = server.port if is_there else unused_port(protocol)
            before = len(os.listdir("/proc/self/fd"))
            with suppress(SinkError):
                async with StatsdSettings(port=port, protocol=protocol).open():
                    assert len(os.listdir("/proc/self/fd")) > before
                    if protocol == "tcp":
                        await until(lambda: len(server._ends) == 2)
                        before += 1  # The server has opened one, too.
            assert len(os.listdir("/proc/self/fd")) == before

    run(test)
