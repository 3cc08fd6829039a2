"""Stream every snapshot to clients. Each has a short queue, and a client that reads too slowly is disconnected."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable

from aiohttp import web

from ebpfmon_sinks.http_json.encodings import NumberedSnapshot

CLIENTS = 16
WAITING = 4
"""How many snapshots may wait for a client. The queues of all clients share the snapshots."""
_SEND_BUFFER = 1 << 17  # bytes in the kernel; by default the buffer would grow until it holds minutes of data
_WRITE_BUFFER = 1 << 16

Encode = Callable[[NumberedSnapshot], Awaitable[bytes]]


class Client:
    """A client's queue and connection."""

    def __init__(self, transport: asyncio.Transport | None) -> None:
        self.waiting: asyncio.Queue[NumberedSnapshot | None] = asyncio.Queue(WAITING)
        self._transport = transport

    def cut(self) -> None:
        """Drop the connection and everything that has not been sent."""
        if self._transport:
            self._transport.abort()


class Streams:
    """All streaming clients."""

    def __init__(self) -> None:
        self._clients: set[Client] = set()
        self._closed = False
        self.cut = 0
        """How many clients were disconnected because they read too slowly."""

    def __len__(self) -> int:
        return len(self._clients)

    def publish(self, numbered: NumberedSnapshot) -> None:
        """Queue a snapshot for every client. Never waits."""
        for client in list(self._clients):
            if client.waiting.full():
                self.cut += 1
                self._clients.discard(client)
                client.cut()
            else:
                client.waiting.put_nowait(numbered)

    def close(self) -> None:
        """End all streams after their queued snapshots."""
        self._closed = True
        for client in self._clients:
            if client.waiting.full():
                client.cut()
            else:
                client.waiting.put_nowait(None)

    async def serve(
        self, request: web.Request, newest: NumberedSnapshot | None, encode: Encode, headers: dict[str, str]
    ) -> web.StreamResponse:
        """Stream to a client until one side disconnects or the sink is closed. Raises HTTPServiceUnavailable."""
        if len(self._clients) >= CLIENTS or self._closed:
            raise web.HTTPServiceUnavailable(text="too many clients are streaming", headers={"Retry-After": "10"})
        client = Client(request.transport)
        if newest:
            client.waiting.put_nowait(newest)
        self._clients.add(client)
        response = web.StreamResponse(headers=headers)
        try:
            _shrink_buffers(request.transport)
            await response.prepare(request)
            while numbered := await client.waiting.get():
                await response.write(await encode(numbered))
        except ConnectionError:
            if request.transport:  # the server notices the lost connection and cleans up
                request.transport.abort()
        finally:
            self._clients.discard(client)
        return response


def _shrink_buffers(transport: asyncio.Transport | None) -> None:
    """Limit the buffers of a connection, so that a client that does not read is noticed soon."""
    if transport is None:
        return
    transport.set_write_buffer_limits(_WRITE_BUFFER)
    sock = transport.get_extra_info("socket")
    if sock is not None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER)
