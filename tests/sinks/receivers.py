"""HTTP servers that accept what is posted to them, or fail in different ways. They run in a thread on 127.0.0.1."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

_RESET = struct.pack("ii", 1, 0)  # SO_LINGER: close(2) sends RST
KINDS = ("accepts", "answers_500", "hangs", "resets", "fills")


class Receivers:
    """The servers. `accepts` keeps what it receives. `fills` never reads, so all buffers fill up."""

    def __init__(self) -> None:
        self.accepted: list[dict[str, Any]] = []
        self.connections = dict.fromkeys(KINDS, 0)
        self.ports: dict[str, int] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def serve(self, ready: threading.Event, stop: asyncio.Event) -> None:
        """Serve until `stop` is set."""
        servers = [await self._open(kind) for kind in KINDS]
        ready.set()
        await stop.wait()
        for server in servers:
            server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks)

    async def _open(self, kind: str) -> asyncio.Server:
        act = getattr(self, f"_{kind}")

        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            assert task
            self._tasks.add(task)
            self.connections[kind] += 1
            with suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
                await act(reader, writer)
            writer.transport.abort()
            with suppress(ConnectionError):
                await writer.wait_closed()
            self._tasks.discard(task)

        end = socket.socket()
        if kind == "fills":
            end.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        end.bind(("127.0.0.1", 0))
        self.ports[kind] = end.getsockname()[1]
        return await asyncio.start_server(answer, sock=end, limit=1 << 16)

    async def _accepts(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            self.accepted.append(json.loads(await _body(reader)))
            writer.write(b"HTTP/1.1 204 No Content\r\n\r\n")

    async def _answers_500(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            await _body(reader)
            writer.write(b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\n\r\n")

    async def _hangs(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.read(1 << 16):  # until the client gives up
            pass

    async def _resets(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(100)
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)

    async def _fills(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert isinstance(writer.transport, asyncio.Transport)
        writer.transport.pause_reading()
        await asyncio.Event().wait()


async def _body(reader: asyncio.StreamReader) -> bytes:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
    (length,) = (line.partition(":")[2] for line in head.split("\r\n") if line.startswith("content-length:"))
    return await reader.readexactly(int(length))


@contextmanager
def receivers() -> Iterator[Receivers]:
    """Run all servers in a thread."""
    servers, ready, ends = Receivers(), threading.Event(), list[Callable[[], object]]()

    async def serve() -> None:
        stop, loop = asyncio.Event(), asyncio.get_running_loop()
        ends.append(lambda: loop.call_soon_threadsafe(stop.set))
        await servers.serve(ready, stop)

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    try:
        assert ready.wait(30)
        yield servers
    finally:
        ends[0]()
        thread.join()
