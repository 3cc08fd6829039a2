"""Which connections the HTTP sink accepts, and which ones it closes to make room for others."""

from __future__ import annotations

import asyncio
import asyncio.sslproto
import gc
import resource
import socket
import ssl
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import replace

import pytest

from ebpfmon_sinks.accept import FAILURE_PAUSE_S, Acceptor
from ebpfmon_sinks.http_json import connection, listen
from ebpfmon_sinks.http_json.connection import State
from tests.unit.http_support import SNAPSHOT, Served, make_certificate, run, serving, settings_on_free_port, until

REQUEST = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
STREAM = b"GET /api/v1/stream HTTP/1.1\r\nHost: localhost\r\n\r\n"
PART = b"GET / HTTP/1.1\r\nHost: local"
HELLO = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"  # the first bytes of a TLS handshake


class Client:
    """A connection that is used without an event loop, as simple attackers do."""

    def __init__(self, port: int, data: bytes = b"", source: str = "127.0.0.1") -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), source_address=(source, 0))
        self.socket.sendall(data)
        self.socket.setblocking(False)
        self.answer = b""

    @property
    def is_closed(self) -> bool:
        """Whether the server has closed the connection. Adds what it has sent to `answer`."""
        try:
            while data := self.socket.recv(1 << 16):
                self.answer += data
        except BlockingIOError:
            return False
        except ConnectionError:
            pass
        return True


@contextmanager
def clients(port: int, count: int, data: bytes = b"") -> Iterator[list[Client]]:
    """Connect so many clients, which all send this."""
    with ExitStack() as stack:
        made = [Client(port, data) for _ in range(count)]
        for each in made:
            stack.callback(each.socket.close)
        yield made


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    return make_certificate(tmp_path_factory.mktemp("tls"))


@asynccontextmanager
async def serving_tls(certificate: tuple[str, str]) -> AsyncIterator[tuple[Served, ssl.SSLContext]]:
    async with serving(
        settings_on_free_port(tls_certificate=certificate[0], tls_key=certificate[1]), SNAPSHOT
    ) as served:
        served.url = served.url.replace("http:", "https:")
        yield served, ssl.create_default_context(cafile=certificate[0])


def tls_objects() -> int:
    """Return the number of TLS connections in memory. Each has a buffer of 256 KiB."""
    return sum(isinstance(each, asyncio.sslproto.SSLProtocol) for each in gc.get_objects())


def without_garbage_collection(test: Callable[[], Awaitable[None]]) -> None:
    """Run a test while the garbage collector is off. It comes too late for many failed connections in a second."""
    gc.collect()
    gc.disable()
    try:
        run(test)
    finally:
        gc.enable()


@pytest.mark.parametrize("data", [HELLO, PART])
@pytest.mark.parametrize("is_closed_by_client", [False, True])
def test_a_failed_tls_handshake_leaves_nothing_in_memory(
    monkeypatch: pytest.MonkeyPatch, certificate: tuple[str, str], data: bytes, is_closed_by_client: bool
) -> None:
    monkeypatch.setattr(connection, "FIRST_REQUEST_S", 60 if is_closed_by_client else 0.1)

    async def test() -> None:
        async with serving_tls(certificate) as (served, _):
            with clients(served.sink.port, 20, data) as made:
                if is_closed_by_client:
                    await until(lambda: not served.sink._listener.connections or tls_objects() == 20)
                    for each in made:
                        each.socket.close()
                else:
                    await until(lambda: all(each.is_closed for each in made))
            await until(lambda: not served.sink._listener.connections)
            await until(lambda: not tls_objects(), 1)

    without_garbage_collection(test)


@pytest.mark.parametrize(
    "request_",
    [b"GET / HTTP/1.1", b"GET /nope HTTP/1.1", b"GET /\xff HTTP/1.1", b"nonsense", b"CONNECT  ", b"POST / HTTP/1.1"],
)
@pytest.mark.parametrize("header", [b"Connection: close", b"Content-Length: 5", b" folded", b"X: " + b"y" * 9000])
def test_a_closed_tls_connection_leaves_no_buffer_in_memory(
    certificate: tuple[str, str], request_: bytes, header: bytes
) -> None:
    async def test() -> None:
        async with serving_tls(certificate) as (served, trust):
            lines = request_ + b"\r\nHost: x\r\n" + header + b"\r\n\r\n"
            for _ in range(3):
                await asyncio.to_thread(ask, served.sink.port, trust, lines)
            await until(lambda: not served.sink._listener.connections)
            await until(lambda: not tls_objects(), 1)

    without_garbage_collection(test)


def ask(port: int, trust: ssl.SSLContext, request_: bytes) -> None:
    """Send a request over TLS, and wait until the server answers or closes the connection."""
    with (
        socket.create_connection(("127.0.0.1", port), 10) as plain,
        trust.wrap_socket(plain, server_hostname="127.0.0.1") as end,
    ):
        end.sendall(request_)
        with suppress(ConnectionError, ssl.SSLError):
            end.recv(100)


def states(served: Served) -> list[State]:
    return sorted(each.state for each in served.sink._listener._connections)


def test_a_silent_connection_costs_no_tls_object(certificate: tuple[str, str]) -> None:
    async def test() -> None:
        async with serving_tls(certificate) as (served, _):
            with clients(served.sink.port, 10):
                await until(lambda: served.sink._listener.connections == 10)
                assert states(served) == [State.SILENT] * 10
                assert not [task for task in asyncio.all_tasks() if "_connect" in repr(task)]

    run(test)


@pytest.mark.parametrize(("tls", "data"), [(False, b""), (False, PART), (True, b""), (True, HELLO[:1]), (True, HELLO)])
def test_among_any_number_of_unfinished_connections_a_client_is_served(
    certificate: tuple[str, str], data: bytes, tls: bool
) -> None:
    """Three times as many connections as may be open come, while a client asks again and again on a new connection."""

    async def test() -> None:
        async with serving_tls(certificate) if tls else with_no_tls() as (served, trust):
            most = 0
            with ExitStack() as stack:
                for _ in range(3):
                    stack.enter_context(clients(served.sink.port, listen.CONNECTIONS, data))
                    async with served.session.get(
                        f"{served.url}/healthz", ssl=trust, headers={"Connection": "close"}
                    ) as response:
                        assert response.status == 200
                    most = max(most, served.sink._listener.connections)
            assert listen.CONNECTIONS - 2 <= most <= listen.CONNECTIONS

    run(test)


@asynccontextmanager
async def with_no_tls() -> AsyncIterator[tuple[Served, bool]]:
    async with serving(None, SNAPSHOT) as served:
        yield served, True


@pytest.mark.parametrize(
    ("tls", "data"), [(False, b""), (False, PART), (False, REQUEST), (True, b""), (True, HELLO[:1]), (True, HELLO)]
)
def test_a_connection_that_waits_too_long_for_a_request_is_closed(
    monkeypatch: pytest.MonkeyPatch, certificate: tuple[str, str], data: bytes, tls: bool
) -> None:
    for limit in ("FIRST_REQUEST_S", "IDLE_S"):
        monkeypatch.setattr(connection, limit, 0.2)

    async def test() -> None:
        async with serving_tls(certificate) if tls else with_no_tls() as (served, _):
            with clients(served.sink.port, 1, data) as (client,):
                await until(lambda: served.sink._listener.connections == 1)
                await until(lambda: client.is_closed)
                assert not served.sink._listener.connections
                assert client.answer[:12] == (b"HTTP/1.1 200" if data == REQUEST else b"")

    run(test, 10)


def test_sending_headers_slowly_does_not_extend_the_time_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "FIRST_REQUEST_S", 0.3)

    async def test() -> None:
        async with serving(None, SNAPSHOT) as served:
            with clients(served.sink.port, 1, b"GET / HTTP/1.1\r\nX: ") as (client,):
                while not client.is_closed:
                    try:
                        client.socket.send(b"x")
                    except ConnectionError:
                        break
                    await asyncio.sleep(0.01)
            await until(lambda: not served.sink._listener.connections)

    run(test, 10)


def test_if_all_connections_are_taken_idle_ones_are_closed_for_new_ones_and_busy_ones_stay(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(listen, "CONNECTIONS", 3)

    async def test() -> None:
        async with serving(None, SNAPSHOT) as served:
            port = served.sink.port
            with clients(port, 1, STREAM) as busy, clients(port, 2, REQUEST) as idle:
                await until(lambda: states(served) == [State.IDLE, State.IDLE, State.BUSY])
                with clients(port, 1, STREAM) as second:
                    await until(lambda: states(served) == [State.IDLE, State.BUSY, State.BUSY])
                    assert [each.is_closed for each in idle].count(True) == 1
                    with clients(port, 1, STREAM) as third:
                        await until(lambda: states(served) == [State.BUSY] * 3)
                        with clients(port, 1, REQUEST) as refused:
                            await until(lambda: refused[0].is_closed)
                        assert not any(each.is_closed for each in (*busy, *second, *third))
                        assert len(served.sink._streams) == 3

    run(test)


def test_a_new_client_is_not_closed_for_others_before_those_that_wait_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever holds connections that have sent a request must not keep new clients from sending theirs."""
    monkeypatch.setattr(listen, "CONNECTIONS", 4)

    async def test() -> None:
        async with serving(None, SNAPSHOT) as served:
            port = served.sink.port
            with clients(port, 3, REQUEST) as waiting:
                await until(lambda: states(served) == [State.IDLE] * 3)
                new = Client(port, REQUEST[:10])
                await until(lambda: states(served) == [State.OPENING, *[State.IDLE] * 3])
                with clients(port, 2, REQUEST):
                    await until(lambda: sum(each.is_closed for each in waiting) == 2)
                    new.socket.sendall(REQUEST[10:])
                    await until(lambda: not new.is_closed and new.answer.startswith(b"HTTP/1.1 200"))
                new.socket.close()

    run(test)


def test_a_handshake_that_ends_after_its_connection_was_closed_is_ignored() -> None:
    aborted: list[bool] = []

    class Transport(asyncio.Transport):
        def abort(self) -> None:
            aborted.append(True)

    async def test() -> None:
        async with serving(None, SNAPSHOT) as served:
            with clients(served.sink.port, 1):
                await until(lambda: states(served) == [State.SILENT])
                (one,) = served.sink._listener._connections
                one.abort()
                one.connection_made(Transport())
                assert aborted == [True]
                assert not served.sink._listener.connections

    run(test)


def test_clients_that_do_not_read_their_responses_are_closed_for_new_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listen, "CONNECTIONS", 3)
    big = replace(SNAPSHOT, host="h" * 30_000_000)

    async def test() -> None:
        async with serving(None, big) as served:
            ask = b"GET /api/v1/snapshot HTTP/1.1\r\nHost: localhost\r\n\r\n"
            with clients(served.sink.port, 3, ask):
                await until(lambda: states(served) == [State.SENDING] * 3)
                assert (await served.get("/healthz")).status == 200

    run(test)


def test_a_connection_that_its_client_has_closed_during_a_request_is_freed() -> None:
    async def test() -> None:
        async with serving(None, SNAPSHOT) as served:
            with clients(served.sink.port, 1, STREAM):
                await until(lambda: states(served) == [State.BUSY])
                (one,) = (weakref.ref(each) for each in served.sink._listener._connections)
            await until(lambda: not served.sink._listener.connections)
            await until(lambda: gc.collect() >= 0 and not one(), 5)

    run(test)


def test_one_address_cannot_take_the_connections_of_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listen, "_origin", lambda _, address: address[0])
    monkeypatch.setattr(listen, "CONNECTIONS", 8)
    monkeypatch.setattr(listen, "PER_ORIGIN", 3)

    async def test() -> None:
        async with serving(None, SNAPSHOT) as served:
            port = served.sink.port
            other = Client(port, REQUEST, "127.0.0.2")
            await until(lambda: states(served) == [State.IDLE])
            with clients(port, 20):
                await until(lambda: states(served) == [State.SILENT] * 3 + [State.IDLE])
                assert not other.is_closed
                with clients(port, 20, STREAM) as streams:
                    await until(lambda: sum(not each.is_closed for each in streams) == 3)
                    third = Client(port, REQUEST, "127.0.0.3")
                    await until(lambda: not third.is_closed and third.answer.startswith(b"HTTP/1.1 200"))
                    assert not other.is_closed
                    third.socket.close()
            other.socket.close()

    run(test)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [("192.0.2.1", "192.0.2.2", False), ("::ffff:192.0.2.1", "192.0.2.1", True), ("127.0.0.1", "127.9.9.9", True),
     ("127.0.0.1", "::1", True), ("2001:db8::1", "2001:db8::ffff:1", True), ("2001:db8::1", "2001:db8:0:1::1", False),
     ("fe80::1%lo", "fe80::2%lo", True)],
)  # fmt: skip
def test_clients_are_counted_by_ipv4_address_ipv6_network_or_as_local(one: str, other: str, same: bool) -> None:
    with socket.socket() as sock:
        assert (listen._origin(sock, (one, 1)) == listen._origin(sock, (other, 2))) is same


def test_connections_leave_descriptors_for_the_rest_of_the_daemon(monkeypatch: pytest.MonkeyPatch) -> None:
    """The lowest free descriptors are used first, so a high one says how many are in use."""

    async def test() -> None:
        async with serving(None, SNAPSHOT) as served:
            with clients(served.sink.port, 2, STREAM):
                await until(lambda: states(served) == [State.BUSY] * 2)
                monkeypatch.setattr(listen, "_usable_descriptors", lambda: 0)
                with clients(served.sink.port, 1, REQUEST) as refused:
                    await until(lambda: refused[0].is_closed)
                monkeypatch.undo()
                assert (await served.get("/healthz")).status == 200

    run(test)


def test_a_descriptor_that_was_freed_to_make_room_is_not_taken_for_a_spare_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise every second connection of a flood would take another descriptor of the reserve."""

    class Lowest(socket.socket):
        def fileno(self) -> int:
            return 3

    async def test() -> None:
        async with serving(None, SNAPSHOT) as served:
            listener = served.sink._listener
            with clients(served.sink.port, 1), Lowest() as new:
                await until(lambda: states(served) == [State.SILENT])
                (one,) = listener._connections
                monkeypatch.setattr(listen, "_usable_descriptors", lambda: one.descriptor + 1)
                assert not listener._lacks_descriptors(new)
                monkeypatch.setattr(listen, "_usable_descriptors", lambda: one.descriptor)
                assert listener._lacks_descriptors(new)

    run(test)


@pytest.mark.parametrize(("soft", "usable"), [(1024, 992), (32, 0), (resource.RLIM_INFINITY, float("inf"))])
def test_the_reserve_is_counted_from_the_soft_limit(monkeypatch: pytest.MonkeyPatch, soft: int, usable: float) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (soft, resource.RLIM_INFINITY))
    assert listen._usable_descriptors() == usable


def test_without_descriptors_new_clients_wait_and_nothing_spins(monkeypatch: pytest.MonkeyPatch) -> None:
    paused: list[float] = []
    pause = Acceptor._pause

    def counted(self: Acceptor, seconds: float) -> None:
        paused.append(seconds)
        pause(self, seconds)

    monkeypatch.setattr(Acceptor, "_pause", counted)

    async def test() -> None:
        async with serving(None, SNAPSHOT) as served:
            with socket.socket() as client:
                soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
                resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))  # those in use stay open
                try:
                    client.connect(("127.0.0.1", served.sink.port))
                    client.sendall(REQUEST)
                    client.setblocking(False)
                    await until(lambda: len(paused) >= 2)
                    assert paused == [FAILURE_PAUSE_S] * len(paused)
                finally:
                    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
                answer = await asyncio.get_running_loop().sock_recv(client, 100)
                assert answer.startswith(b"HTTP/1.1 200")
            assert len(paused) < 100

    run(test)


def test_closing_the_sink_ends_connections_that_have_sent_nothing(certificate: tuple[str, str]) -> None:
    async def test() -> None:
        async with serving_tls(certificate) as (served, _):
            port = served.sink.port
            with clients(port, 2) as silent, clients(port, 2, HELLO) as opening:
                await until(lambda: states(served) == [State.SILENT] * 2 + [State.OPENING] * 2)
                await served.sink.__aexit__(None, None, None)
                await until(lambda: all(each.is_closed for each in (*silent, *opening)))
                with pytest.raises(ConnectionRefusedError):
                    Client(port)

    run(test)
