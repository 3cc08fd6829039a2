"""Streams of snapshots, and clients that are too slow."""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import socket
import tracemalloc
from contextlib import AsyncExitStack
from dataclasses import replace

import aiohttp
import msgspec
import pytest

from ebpfmon import to_json
from ebpfmon_sinks.http_json import stream, views
from tests.unit.http_support import SNAPSHOT, run, serving, snapshot_after, until

REQUEST = b"GET /api/v1/stream HTTP/1.1\r\nHost: localhost\r\n\r\n"


def line_of(seconds: float) -> bytes:
    return msgspec.json.encode(to_json(snapshot_after(seconds)))


def test_a_stream_begins_with_the_newest_snapshot_and_continues_in_order() -> None:
    async def test() -> None:
        async with serving(None, snapshot_after(0), snapshot_after(1)) as served:
            async with served.session.get(f"{served.url}/api/v1/stream") as response:
                assert response.headers["Content-Type"] == "text/event-stream"
                assert response.headers["Cache-Control"] == "no-store"
                for n in (1, 2, 3):
                    if n > 1:
                        await served.sink.send(snapshot_after(n))
                    event = await response.content.readuntil(b"\n\n")
                    assert event == b"id: %d\nevent: snapshot\ndata: %b\n\n" % (n + 1, line_of(n))
            await until(lambda: not len(served.sink._streams))

    run(test)


@pytest.mark.parametrize(("path", "accept"), [("?format=ndjson", "*/*"), ("", "application/x-ndjson")])
def test_ndjson_has_one_snapshot_per_line(path: str, accept: str) -> None:
    async def test() -> None:
        async with serving(None, snapshot_after(1)) as served:
            url, headers = f"{served.url}/api/v1/stream{path}", {"Accept": accept, "Accept-Encoding": "gzip"}
            async with served.session.get(url, headers=headers) as response:
                assert response.headers["Content-Type"] == "application/x-ndjson"
                assert "Content-Encoding" not in response.headers
                assert await response.content.readline() == line_of(1) + b"\n"
                await served.sink.send(snapshot_after(2))
                assert await response.content.readline() == line_of(2) + b"\n"

    run(test)


def test_a_stream_opened_before_the_first_snapshot_waits_for_it() -> None:
    async def test() -> None:
        async with serving() as served, served.session.get(f"{served.url}/api/v1/stream?format=ndjson") as response:
            assert response.status == 200
            await served.sink.send(SNAPSHOT)
            assert json.loads(await response.content.readline())["time"] == SNAPSHOT.time_s

    run(test)


def test_the_last_snapshot_arrives_when_the_daemon_stops() -> None:
    async def test() -> None:
        async with serving(None, snapshot_after(1)) as served:
            response = await served.session.get(f"{served.url}/api/v1/stream?format=ndjson")
            assert await response.content.readline()
            await served.sink.send(snapshot_after(2))
            await served.sink.__aexit__(None, None, None)
            assert await response.content.read() == line_of(2) + b"\n"

    run(test)


def test_clients_that_do_not_read_are_disconnected_and_memory_stays_flat(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Ten clients never read, and one does, while a hundred snapshots of 2 MB are sent."""
    big = replace(SNAPSHOT, host="h" * 2_000_000)

    async def test() -> None:
        async with serving() as served, AsyncExitStack() as stack:
            with_reader = served.session.get(f"{served.url}/api/v1/stream?format=ndjson", read_bufsize=1 << 23)
            async with with_reader as response:
                for _ in range(10):
                    end = stack.enter_context(socket.create_connection(("127.0.0.1", served.sink.port)))
                    end.sendall(REQUEST)
                await until(lambda: len(served.sink._streams) == 11)
                sizes = []
                for n in range(100):
                    if n == 40:
                        tracemalloc.start()
                    await served.sink.send(replace(big, time_s=float(n)))
                    line = b""
                    while not line.endswith(b"\n"):
                        line += await response.content.readany()
                    assert line.startswith(b'{"schema":2')
                    assert b'"time":%d.0,' % n in line
                    if n > 40 and n % 10 == 0:
                        gc.collect()
                        sizes.append(tracemalloc.get_traced_memory()[0])
                tracemalloc.stop()
            assert served.sink._streams.cut == 10
            assert max(sizes) - min(sizes) < 2 * 2_000_000
            assert b"streams_cut_total 10.0" in (await served.get("/metrics")).body

    run(test, 110)
    assert not [r for r in caplog.records if r.levelno >= logging.WARNING]


def test_a_slow_client_is_disconnected_after_a_few_snapshots() -> None:
    big = replace(SNAPSHOT, host="h" * 8_000_000)

    async def test() -> None:
        async with serving() as served:
            end = socket.create_connection(("127.0.0.1", served.sink.port))
            end.sendall(REQUEST)
            await until(lambda: len(served.sink._streams) == 1)
            (client,) = served.sink._streams._clients
            await served.sink.send(big)
            await until(client.waiting.empty)  # The first snapshot is being written, and the others have to wait.
            for n in range(stream.WAITING + 1):
                assert len(served.sink._streams) == 1, n
                await served.sink.send(big)
            assert (len(served.sink._streams), served.sink._streams.cut) == (0, 1)
            await until(lambda: not served.sink._listener.connections)
            end.close()

    run(test)


def test_the_number_of_streams_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "CLIENTS", 2)

    async def test() -> None:
        async with serving(None, SNAPSHOT) as served:
            url = f"{served.url}/api/v1/stream"
            async with served.session.get(url) as first, served.session.get(url) as second:
                assert first.status == second.status == 200
                answer = await served.get("/api/v1/stream")
                assert (answer.status, answer.json["error"]) == (503, "too many clients are streaming")
            await until(lambda: not len(served.sink._streams))
            async with served.session.get(url) as third:
                assert third.status == 200

    run(test)


def test_an_error_in_a_stream_ends_it_and_is_logged(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(_: object) -> bytes:
        raise RuntimeError("inner")

    async def test() -> None:
        async with serving(None, snapshot_after(1)) as served:
            async with served.session.get(f"{served.url}/api/v1/stream?format=ndjson") as response:
                assert await response.content.readline()
                monkeypatch.setattr(views, "snapshot", broken)
                await served.sink.send(snapshot_after(2))
                with pytest.raises(aiohttp.ClientError):
                    await response.content.read()
            monkeypatch.undo()
            assert (await served.get("/api/v1/snapshot")).status == 500, "a failure must be cached like a result"
            await served.sink.send(snapshot_after(3))
            assert (await served.get("/api/v1/snapshot")).status == 200

    run(test)
    assert {r.getMessage() for r in caplog.records} == {
        "cannot answer GET '/api/v1/stream': RuntimeError: inner",
        "cannot answer GET '/api/v1/snapshot': RuntimeError: inner",
    }  # fmt: skip


def test_a_client_that_disconnects_is_forgotten_at_once_and_nothing_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    async def test() -> None:
        async with serving(None, SNAPSHOT) as served:
            for _ in range(50):
                _reader, writer = await asyncio.open_connection("127.0.0.1", served.sink.port)
                writer.write(REQUEST)
                await until(lambda: len(served.sink._streams) == 1)
                writer.transport.abort()
                await until(lambda: not len(served.sink._streams))

    run(test)
    assert not caplog.records
