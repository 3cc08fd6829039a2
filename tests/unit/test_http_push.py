"""The http_push sink: what it posts, and receivers that fail in different ways."""

from __future__ import annotations

import asyncio
import gzip
import json
import logging
import os
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from ebpfmon import SinkError, Snapshot, to_json
from ebpfmon.pipeline.publish import MAILBOX_SNAPSHOTS, SinkTask
from ebpfmon_sinks import http_common
from ebpfmon_sinks.blocking import THREAD
from ebpfmon_sinks.http_push.push import open_sink
from ebpfmon_sinks.http_push.settings import HttpPushSettings
from tests.unit.http_support import SNAPSHOT, run, snapshot_after, until

Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass
class Receiver:
    """A receiver that keeps the requests it gets. `answer` makes the response, by default an empty 200."""

    url: str = ""
    requests: list[web.Request] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)
    answer: Answer | None = None

    async def take(self, request: web.Request) -> web.StreamResponse:
        self.requests.append(request)
        self.bodies.append(await request.read())
        return await self.answer(request) if self.answer else web.Response()


@asynccontextmanager
async def receiving(answer: Answer | None = None) -> AsyncIterator[Receiver]:
    """Run a receiver that accepts posts to /in."""
    receiver = Receiver(answer=answer)
    application = web.Application()
    application.router.add_post("/in", receiver.take)
    async with TestServer(application) as server:
        receiver.url = str(server.make_url("/in"))
        yield receiver


async def status(code: int) -> web.Response:
    return web.Response(status=code, text="x" * 100)


def encoded(snapshot: Snapshot) -> bytes:
    return msgspec.json.encode(to_json(snapshot))


def test_each_snapshot_is_posted_as_json() -> None:
    async def test() -> None:
        async with receiving() as receiver, open_sink(HttpPushSettings(url=receiver.url)) as sink:
            for n in range(3):
                await sink.send(snapshot_after(n))
            assert receiver.bodies == [encoded(snapshot_after(n)) for n in range(3)]
            headers = receiver.requests[0].headers
            assert headers["Content-Type"] == "application/json"
            assert headers["User-Agent"].startswith("ebpfmon/")
            assert headers["Content-Encoding"] == "gzip"
            assert len({r.transport for r in receiver.requests}) == 1, "the connection must be reused"

    run(test)


def test_large_bodies_are_compressed_unless_gzip_is_false() -> None:
    seen: list[bytes] = []

    async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
        seen.append(head + await reader.readexactly(length))
        writer.write(b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n")
        writer.close()

    async def test() -> None:
        server = await asyncio.start_server(take, "127.0.0.1", 0)
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/in"
        async with server, open_sink(HttpPushSettings(url=url)) as sink:
            small = Snapshot(host="h", time_s=1.0, elapsed_s=1.0, complete=True, charts=())
            await sink.send(small)
            await sink.send(SNAPSHOT)
            async with open_sink(HttpPushSettings(url=url, gzip=False)) as plain:
                await plain.send(SNAPSHOT)
        assert seen[0].endswith(b"\r\n\r\n" + encoded(small))
        assert b"content-encoding" not in seen[0].lower()
        assert gzip.decompress(seen[1].partition(b"\r\n\r\n")[2]) == encoded(SNAPSHOT)
        assert seen[2].endswith(b"\r\n\r\n" + encoded(SNAPSHOT))

    run(test)


def test_ndjson_is_posted_in_batches_except_the_first_and_last_snapshots() -> None:
    async def test() -> None:
        async with receiving() as receiver:
            settings = HttpPushSettings(url=receiver.url, format="ndjson", batch=3)
            async with open_sink(settings) as sink:
                for n in range(9):
                    await sink.send(snapshot_after(n))
            lines = [[json.loads(line)["time"] - SNAPSHOT.time_s for line in b.splitlines()] for b in receiver.bodies]
            assert lines == [[0], [1, 2, 3], [4, 5, 6], [7, 8]]
            assert all(body.endswith(b"\n") for body in receiver.bodies)
            assert receiver.requests[0].headers["Content-Type"] == "application/x-ndjson"

    run(test)


def test_headers_and_the_token_are_sent_and_the_token_is_read_for_each_request(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("one\n")

    async def test() -> None:
        async with receiving() as receiver:
            settings = HttpPushSettings(url=receiver.url, token_file=str(file), headers={"X-Scope-OrgID": "t1"})
            async with open_sink(settings) as sink:
                await sink.send(SNAPSHOT)
                file.write_text("two\n")
                await sink.send(SNAPSHOT)
                file.unlink()
                with pytest.raises(SinkError, match=r"cannot read the token in '.*': No such file"):
                    await sink.send(SNAPSHOT)
            assert [r.headers["Authorization"] for r in receiver.requests] == ["Bearer one", "Bearer two"]
            assert receiver.requests[0].headers["X-Scope-OrgID"] == "t1"

    run(test)


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (500, "500 Internal Server Error"), (503, "503 Service Unavailable"), (429, "429 Too Many Requests"),
        (408, "408 Request Timeout"), (401, "401 Unauthorized; check token_file and headers"),
        (404, "404 Not Found; the receiver does not accept this; check url and format"),
        (302, "302 Found; redirects are not followed; set url to the new address"),
        (304, "304 Not Modified; redirects are"),
    ],
)  # fmt: skip
def test_a_refusal_is_an_error_with_the_status_of_the_answer(code: int, message: str) -> None:
    async def test() -> None:
        async with receiving(lambda _: status(code)) as receiver:
            async with open_sink(HttpPushSettings(url=f"{receiver.url}?key=secret")) as sink:
                with pytest.raises(SinkError) as caught:
                    await sink.send(SNAPSHOT)
            assert str(caught.value).startswith(f"cannot post to '{receiver.url}': {message}")
            assert "secret" not in str(caught.value)

    run(test)


@pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
def test_a_redirect_is_not_followed(code: int) -> None:
    async def test() -> None:
        async with receiving() as other:

            async def answer(_: web.Request) -> web.Response:
                return web.Response(status=code, headers={"Location": other.url})

            async with receiving(answer) as receiver, open_sink(HttpPushSettings(url=receiver.url)) as sink:
                with pytest.raises(SinkError, match=f"{code} .*; redirects are not followed"):
                    await sink.send(SNAPSHOT)
            assert not other.requests

    run(test)


Behaviour = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read(-1)


async def never_read(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    reader._transport.pause_reading()  # type: ignore[attr-defined]
    await asyncio.sleep(30)


async def read_slowly(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while await reader.read(1):  # noqa: ASYNC110 (it reads slowly on purpose)
        await asyncio.sleep(0.05)


async def reset(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read(100)
    writer.transport.abort()


async def leave(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read(100)
    writer.close()


async def babble(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"220 mail.example ESMTP\x1b[2J\r\n")
    await reader.read(100)
    writer.close()


async def endless_headers(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read(100)
    writer.write(b"HTTP/1.1 200 OK\r\n")
    try:
        while True:
            writer.write(b"X: y\r\n" * 1000)
            await writer.drain()
            await asyncio.sleep(0.01)
    except ConnectionError:
        pass


@pytest.mark.parametrize(
    ("behaviour", "message"),
    [
        (hang, "no answer within 0.3 s"), (never_read, "no answer within 0.3 s"), (read_slowly, "no answer within"),
        (reset, "(Server disconnected|Connection reset|.*reset)"), (leave, ".+"), (babble, "400, message"),
        (endless_headers, "(400|.*[Tt]oo many|Got more than)"),
    ],
    ids=lambda of: getattr(of, "__name__", ""),
)  # fmt: skip
def test_a_receiver_that_does_not_answer_properly_is_an_error_within_the_time_limit(
    behaviour: Behaviour, message: str
) -> None:
    async def test() -> None:
        tasks: list[asyncio.Task[None]] = []

        def begun(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            async def limited() -> None:
                try:
                    await behaviour(reader, writer)
                except ConnectionError:
                    pass
                finally:
                    writer.close()

            tasks.append(asyncio.create_task(limited()))

        server = await asyncio.start_server(begun, "127.0.0.1", 0)
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
        big = Snapshot(host="h" * 20_000_000, time_s=1.0, elapsed_s=1.0, complete=True, charts=())
        settings = HttpPushSettings(url=url, timeout_s=0.3)
        before = time.monotonic()
        async with open_sink(settings) as sink:
            with pytest.raises(SinkError, match=f"^cannot post to '{url}': {message}") as caught:
                await sink.send(big if behaviour is never_read else SNAPSHOT)
        assert time.monotonic() - before < 3
        assert str(caught.value).isprintable()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        server.close()  # since Python 3.12, wait_closed waits for the connections, which the receiver keeps open

    run(test)


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("http://127.0.0.1:1/x", "Connection refused$"),
        ("http://localhost:1/x", "Connection refused$"),
        ("http://no.such.host.invalid/x", r"[^\[\]]+$"),
    ],
)
def test_an_unreachable_receiver_is_an_error_that_names_it_and_the_reason(url: str, reason: str) -> None:
    async def test() -> None:
        async with open_sink(HttpPushSettings(url=url)) as sink:
            with pytest.raises(SinkError, match=f"^cannot post to '{url}': {reason}"):
                await sink.send(SNAPSHOT)

    run(test)


def test_a_name_server_that_never_answers_is_an_error_and_holds_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    answered, real = threading.Event(), socket.getaddrinfo

    def stuck(host: str, *rest: Any, **more: Any) -> list[Any]:
        if host == "receiver.test":
            answered.wait()
            return list(real("127.0.0.1", *rest, **more))
        return list(real(host, *rest, **more))

    monkeypatch.setattr(socket, "getaddrinfo", stuck)

    async def test() -> None:
        async with receiving() as receiver:
            url = receiver.url.replace("127.0.0.1", "receiver.test")
            for _ in range(10):
                async with open_sink(HttpPushSettings(url=url)) as sink:
                    with monkeypatch.context() as patch:  # not for longer: the system's certificates may need more
                        patch.setattr(http_common, "ANSWER_S", 0.1)
                        match = r"^cannot look up 'receiver.test': no answer within 0.1 s$"
                        with pytest.raises(SinkError, match=match):
                            await sink.send(SNAPSHOT)
            assert sum(thread.name == THREAD for thread in threading.enumerate()) == 1
            answered.set()
            await until(lambda: not any(thread.name == THREAD for thread in threading.enumerate()))
            async with open_sink(HttpPushSettings(url=url)) as sink:
                await sink.send(SNAPSHOT)
            assert len(receiver.bodies) == 1

    run(test)


def test_the_body_of_an_answer_is_not_read() -> None:
    async def flood(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        try:
            while True:
                await response.write(b"x" * 100_000)
        except ConnectionError:
            return response

    async def test() -> None:
        async with receiving(flood) as receiver, open_sink(HttpPushSettings(url=receiver.url)) as sink:
            for _ in range(3):
                await sink.send(SNAPSHOT)
            assert len(receiver.bodies) == 3

    run(test)


def test_a_receiver_that_recovers_gets_the_newest_snapshots_and_the_log_two_lines(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("random.uniform", lambda low, high: 0.05)
    working = asyncio.Event()

    async def answer(request: web.Request) -> web.StreamResponse:
        return await status(200 if working.is_set() else 500)

    async def test() -> None:
        async with receiving(answer) as receiver:
            task = SinkTask(HttpPushSettings(url=receiver.url, format="ndjson", batch=2, name="push"))
            running = asyncio.create_task(task.run())
            for n in range(20):
                task.mailbox.put(snapshot_after(n))
            await until(lambda: task.statistics.errors >= 3)
            assert task.statistics.sent == 0
            working.set()
            await until(lambda: not task.statistics.queue_length)
            task.mailbox.close()
            await running
            times = [json.loads(line)["time"] - SNAPSHOT.time_s for b in receiver.bodies for line in b.splitlines()]
            assert times[-MAILBOX_SNAPSHOTS:] == [*range(12, 20)]
            assert task.statistics.sent == MAILBOX_SNAPSHOTS
            assert task.statistics.dropped == 20 - MAILBOX_SNAPSHOTS

    run(test)
    messages = [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]
    assert len(messages) == 2
    assert "500 Internal Server Error" in messages[0]
    assert messages[1] == "sink 'push' works again"


def test_a_snapshot_that_is_posted_again_has_the_same_host_and_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("random.uniform", lambda low, high: 0.05)
    answers = 0

    async def answer(request: web.Request) -> web.StreamResponse:
        nonlocal answers
        answers += 1
        if answers == 1:
            await asyncio.sleep(1)  # longer than the sink waits
        return await status(200)

    async def test() -> None:
        async with receiving(answer) as receiver:
            task = SinkTask(HttpPushSettings(url=receiver.url, timeout_s=0.2))
            running = asyncio.create_task(task.run())
            for n in range(2):
                task.mailbox.put(snapshot_after(n))
            await until(lambda: task.statistics.sent == 2)
            task.mailbox.close()
            await running
            posted = [json.loads(body) for body in receiver.bodies]
            assert [(each["host"], each["time"] - SNAPSHOT.time_s) for each in posted] == [("h", n) for n in (0, 0, 1)]
            assert posted[0] == posted[1]

    run(test)


def test_the_error_says_how_many_snapshots_of_a_batch_are_lost() -> None:
    codes = [200, 500, 500]

    async def test() -> None:
        async with receiving(lambda _: status(codes.pop(0))) as receiver:
            settings = HttpPushSettings(url=receiver.url, format="ndjson", batch=3)
            async with open_sink(settings) as sink:
                for n in range(3):
                    await sink.send(snapshot_after(n))
                with pytest.raises(
                    SinkError, match=r"500 Internal Server Error; 2 earlier snapshots are lost$"
                ) as caught:
                    await sink.send(snapshot_after(3))
                assert caught.value.dropped == 2
                await sink.send(snapshot_after(4))
                with pytest.raises(SinkError, match=r"; 1 earlier snapshots are lost$") as caught:
                    await sink.flush()
                assert caught.value.dropped == 1
            assert len(receiver.bodies) == 3

    run(test)


def test_lost_snapshots_of_a_batch_are_counted_as_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("random.uniform", lambda low, high: 0.05)
    codes = [200, 500, 200, 500]

    async def test() -> None:
        async with receiving(lambda _: status(codes.pop(0))) as receiver:
            task = SinkTask(HttpPushSettings(url=receiver.url, format="ndjson", batch=4))
            running = asyncio.create_task(task.run())
            for n in range(8):
                task.mailbox.put(snapshot_after(n))
            await until(lambda: len(receiver.bodies) == 3 and not task.statistics.queue_length)
            task.mailbox.close()
            await running
            posted = [[json.loads(line)["time"] - SNAPSHOT.time_s for line in b.splitlines()] for b in receiver.bodies]
            assert posted == [[0], [1, 2, 3, 4], [4], [5, 6, 7]]
            assert task.statistics.dropped == 3 + 3
            assert task.statistics.errors == 2

    run(test)


def test_files_that_never_answer_are_errors_within_the_time_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)

    async def test() -> None:
        async with receiving() as receiver:
            for _ in range(5):
                async with open_sink(HttpPushSettings(url=receiver.url, token_file=str(pipe))) as sink:
                    with monkeypatch.context() as patch:  # not for longer: the system's certificates may need more
                        patch.setattr(http_common, "ANSWER_S", 0.1)
                        with pytest.raises(SinkError, match=f"^cannot read the token in '{pipe}': no answer within 0"):
                            await sink.send(SNAPSHOT)
                        with pytest.raises(SinkError, match=f"^cannot use the certificates in '{pipe}': no answer"):
                            await open_sink(HttpPushSettings(url=receiver.url, ca_file=str(pipe))).__aenter__()
            assert sum(thread.name == THREAD for thread in threading.enumerate()) == 2
            assert not receiver.bodies

    run(test)
    while any(thread.name == THREAD for thread in threading.enumerate()):
        with suppress(OSError):  # ENXIO: the reader comes in a moment
            os.close(os.open(pipe, os.O_WRONLY | os.O_NONBLOCK))


def test_a_certificate_is_verified_against_the_system_or_ca_file(tmp_path: Path) -> None:
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
         "-keyout", key, "-out", cert, "-subj", "/CN=x", "-addext", "subjectAltName=IP:127.0.0.1"],
        check=True, capture_output=True,
    )  # fmt: skip
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(cert, key)

    async def test() -> None:
        receiver, application = Receiver(), web.Application()
        application.router.add_post("/in", receiver.take)
        server = TestServer(application, scheme="https")
        await server.start_server(ssl=context)
        url = str(server.make_url("/in"))
        try:
            async with open_sink(HttpPushSettings(url=url)) as sink:
                with pytest.raises(SinkError, match="cannot verify the certificate: "):
                    await sink.send(SNAPSHOT)
            async with open_sink(HttpPushSettings(url=url, ca_file=str(cert))) as sink:
                await sink.send(SNAPSHOT)
            other = url.replace("127.0.0.1", "localhost")  # The certificate does not have this name.
            async with open_sink(HttpPushSettings(url=other, ca_file=str(cert))) as sink:
                with pytest.raises(SinkError, match="cannot verify the certificate: "):
                    await sink.send(SNAPSHOT)
            for wrong in ("/no/such.pem", str(key)):
                with pytest.raises(SinkError, match=f"cannot use the certificates in '{wrong}'"):
                    await open_sink(HttpPushSettings(url=url, ca_file=wrong)).__aenter__()
        finally:
            await server.close()
        assert len(receiver.bodies) == 1

    run(test)
