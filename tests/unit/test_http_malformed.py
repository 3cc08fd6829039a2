"""Malformed requests are refused, and nothing is logged."""

from __future__ import annotations

import asyncio
import gc
import logging
import random
from collections.abc import Iterator

import pytest

from ebpfmon_sinks.http_json import connection, listen
from tests.unit.http_support import SNAPSHOT, run, serving, until

GOOD = b"GET /api/v1/processes?sort=calls&top=5 HTTP/1.1\r\nHost: 127.0.0.1\r\nAccept: */*\r\n\r\n"
METHODS = [b"GET", b"POST", b"HEAD", b"CONNECT", b"OPTIONS", b"PRI", b"get", b"\x16\x03\x01", b"G ET", b"", b"X" * 5000]
TARGETS = [
    b"/", b"*", b"http://[::1", b"http://a:b/", b"//", b"/%", b"/%zz", b"/\xff", b"/a b", b"/api/v1/charts/" + b"%00",
    b"/api/v1/charts/" + b"\x1b[2J", b"/../../etc/passwd", b"/api/v1/processes?top=" + b"9" * 4000, b"?" * 8000,
    b"/" + b"a" * 9000, b"a:1", b"/api/v1/processes?" + b"&".join(b"a%d=1" % n for n in range(500)), b"",
    b"/api/v1/processes?sort=%ff%fe&app=%00", b"/api/v1/processes?top=1;drop=2", b"/metrics?x[]=", b"/stream\r\n",
]  # fmt: skip
VERSIONS = [b"HTTP/1.1", b"HTTP/1.0", b"HTTP/2.0", b"HTTP/9.9", b"http/1.1", b"", b"HTTP/1.1 x", b"HTTP/-1", b"HTTP/1"]
HEADERS = [
    b"Host: 127.0.0.1", b"Host: a\r\nHost: b", b"Host: \xff", b"Host: [", b"Host : x", b" folded", b"no colon", b": x",
    b"Content-Length: -1", b"Content-Length: 1e9", b"Content-Length: 99999999999999999999", b"Content-Length: 4\r\n"
    b"Content-Length: 5", b"Content-Length: 4", b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked\r\n"
    b"Content-Length: 4", b"Transfer-Encoding: gzip, chunked", b"Transfer-Encoding: x", b"Expect: 100-continue",
    b"Expect: the unexpected", b"Upgrade: websocket\r\nConnection: Upgrade", b"Connection: close, keep-alive",
    b"Accept: " + b",;=q" * 1500, b"Accept-Encoding: gzip;q=gzip", b"If-None-Match: \"\x01", b"X: " + b"y" * 9000,
    b"X\x00: y", b"X: y\x00", b"Content-Encoding: gzip\r\nContent-Length: 4", b"Range: bytes=0-1", b"Cookie: a=\x7f",
    b"Authorization: Bearer " + b"z" * 8000, *(b"X-%d: y" % n for n in range(3)),
    b"\r\n".join(b"X-%d: y" % n for n in range(200)),
]  # fmt: skip
ENDS = [
    b"\r\n\r\n",
    b"\n\n",
    b"\r\n\r\nBODY",
    b"\r\n\r\n5\r\nhello\r\nZZ\r\n",
    b"\r\n\r\n-1\r\n",
    b"\r\r",
    b"\r\n\x00\r\n",
]


def requests(count: int, seed: int) -> Iterator[bytes]:
    """Generate malformed requests of many kinds, and some that are almost malformed."""
    chance = random.Random(seed)
    for n in range(count):
        if n % 4 == 0:
            yield chance.randbytes(chance.randrange(1, 400))
        elif n % 4 == 1:
            broken = bytearray(GOOD)
            for _ in range(chance.randrange(1, 6)):
                at = chance.randrange(len(broken))
                broken[at : at + chance.randrange(3)] = chance.randbytes(chance.randrange(3))
            yield bytes(broken)
        elif n % 4 == 2:
            yield b"GET %b HTTP/1.1\r\nHost: localhost\r\n%b\r\n\r\n" % (chance.choice(TARGETS), chance.choice(HEADERS))
        else:
            line = b" ".join((chance.choice(METHODS), chance.choice(TARGETS), chance.choice(VERSIONS)))
            headers = b"\r\n".join(chance.choice(HEADERS) for _ in range(chance.randrange(4)))
            yield line + b"\r\n" + headers + chance.choice(ENDS)


async def answer_to(port: int, request: bytes) -> bytes:
    """Send a request and return the whole answer."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(request)
        # This completes the request if it can be completed.
        writer.write(b"\r\n\r\nGET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        return await asyncio.wait_for(reader.read(1 << 20), 5)
    except ConnectionError:
        return b""
    finally:
        writer.close()


def test_ten_thousand_malformed_requests_are_refused_and_nothing_is_logged(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listen, "CONNECTIONS", 1000)
    # Some of the requests look incomplete to the parser. It closes their connections after this time.
    for limit in ("FIRST_REQUEST_S", "IDLE_S"):
        monkeypatch.setattr(connection, limit, 0.5)
    caplog.set_level(logging.INFO)
    statuses: dict[bytes, int] = {}

    async def test() -> None:
        async with serving(None, SNAPSHOT) as served:

            async def some(seed: int) -> None:
                for request in requests(500, seed):
                    answer = await answer_to(served.sink.port, request)
                    assert b"Traceback" not in answer
                    assert b"aiohttp" not in answer
                    answer = answer.removeprefix(b"HTTP/1.1 100 Continue\r\n\r\n")
                    status = answer.split(b" ", 2)[1] if answer.startswith(b"HTTP/") else answer
                    statuses[status] = statuses.get(status, 0) + 1
                    assert status == b"" or status[:1] in (b"2", b"4"), (request, answer)
                    if status[:1] == b"4" and answer.partition(b"\r\n\r\n")[2].startswith(b"{"):
                        assert b'"schema":2,"status":' + status in answer, (request, answer)

            await asyncio.gather(*(some(seed) for seed in range(20)))
            answer = await served.get("/api/v1/processes")
            assert answer.status == 200
            assert not len(served.sink._streams)

    run(test, 110)
    assert sum(statuses.values()) == 10_000
    assert sum(n for status, n in statuses.items() if status[:1] == b"4") > 9_000, statuses
    messages = {(r.name, r.getMessage()) for r in caplog.records if not r.getMessage().startswith("serving at")}
    assert not messages


def test_a_request_that_crashes_the_parser_ends_only_its_own_connection(caplog: pytest.LogCaptureFixture) -> None:
    async def test() -> None:
        async with serving(None, SNAPSHOT) as served:
            reader, writer = await asyncio.open_connection("127.0.0.1", served.sink.port)
            writer.write(b"CONNECT  \r\n\r\n")
            assert await asyncio.wait_for(reader.read(), 5) == b""
            await until(lambda: not served.sink._listener.connections)
            writer.close()

    run(test)
    gc.collect()
    assert not [r for r in caplog.records if r.levelno > logging.INFO]


@pytest.mark.parametrize("length", [b"1", b"1000000000000"])
def test_a_body_is_refused_before_it_is_read(length: bytes) -> None:
    async def test() -> None:
        async with serving(None, SNAPSHOT) as served:
            reader, writer = await asyncio.open_connection("127.0.0.1", served.sink.port)
            writer.write(b"GET /api/v1/snapshot HTTP/1.1\r\nHost: localhost\r\nContent-Length: " + length + b"\r\n\r\n")
            answer = await asyncio.wait_for(reader.read(), 5)
            assert answer.startswith(b"HTTP/1.1 413 ")
            assert b"requests must not have a body" in answer
            writer.close()

    run(test)


def test_many_requests_on_one_connection_are_answered_in_order() -> None:
    async def test() -> None:
        async with serving(None, SNAPSHOT) as served:
            reader, writer = await asyncio.open_connection("127.0.0.1", served.sink.port)
            line = b"GET /%b HTTP/1.1\r\nHost: localhost\r\n\r\n"
            writer.write(b"".join(line % path for path in [b"healthz", b"nope"] * 200) + line % b"metrics\r\nX:")
            answer = b""
            while answer.count(b"HTTP/1.1 ") < 400:
                part = await asyncio.wait_for(reader.read(1 << 16), 5)
                assert part, "the server closed the connection"
                answer += part
            found = [part[:3] for part in answer.split(b"HTTP/1.1 ")[1:401]]
            assert found == [b"200", b"404"] * 200
            writer.close()

    run(test)
