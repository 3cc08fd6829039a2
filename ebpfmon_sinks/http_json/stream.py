"""Snapshots to whoever wants every one of them, each in a queue of a few: who reads too slowly is cut off."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable

from aiohttp import web

from ebpfmon_sinks.http_json.moment import Moment

CLIENTS = 16
WAITING = 4
"""Snapshots that may wait for a client. They are the same objects for all clients."""
_SEND_BUFFER = 1 << 17  # bytes in the kernel; what it would grow to by itself holds minutes
_WRITE_BUFFER = 1 << 16

Encode = Callable[[Moment], Awaitable[bytes]]


class TooManyError(Exception):
    """As many clients as there may be are being streamed to."""


class Client:
    """One reader: what waits for it, and how to get rid of it."""

    def __init__(self, transport: asyncio.Transport | None) -> None:
        self.waiting: asyncio.Queue[Moment | None] = asyncio.Queue(WAITING)
        self.transport = transport
        self.was_cut = False

    def cut(self) -> None:
        """Drop the connection, with all that is on its way."""
        self.was_cut = True
        if self.transport:
            self.transport.abort()


class Streams:
    """All clients that are being streamed to."""

    def __init__(self) -> None:
        self._clients: set[Client] = set()
        self._closed = False
        self.cut = 0
        """How many were cut off."""

    def __len__(self) -> int:
        return len(self._clients)

    def publish(self, moment: Moment) -> None:
        """A snapshot for everybody; never waits."""
        for client in list(self._clients):
            if client.waiting.full():
                self.cut += 1
                self._clients.discard(client)
                client.cut()
            else:
                client.waiting.put_nowait(moment)

    def close(self) -> None:
        """No more snapshots: whoever waits for one has had the last."""
        self._closed = True
        for client in self._clients:
            if client.waiting.full():
                client.cut()
            else:
                client.waiting.put_nowait(None)

    async def serve(
        self, request: web.BaseRequest, newest: Moment | None, encode: Encode, headers: dict[str, str]
    ) -> web.StreamResponse:
        """Stream to a client until it goes, is cut off, or there is no more. Raises TooManyError."""
        if len(self._clients) >= CLIENTS or self._closed:
            raise TooManyError
        client = Client(request.transport)
        if newest:
            client.waiting.put_nowait(newest)
        self._clients.add(client)
        response = web.StreamResponse(headers=headers)
        try:
            _narrow(request.transport)
            await response.prepare(request)
            while moment := await client.waiting.get():
                await response.write(await encode(moment))
        except ConnectionError:
            if request.transport:  # it is for the server to see that the connection has gone
                request.transport.abort()
        finally:
            self._clients.discard(client)
        return response


def _narrow(transport: asyncio.Transport | None) -> None:
    """Have little on its way, so that a reader who does not read is seen soon."""
    if transport is None:
        return
    transport.set_write_buffer_limits(_WRITE_BUFFER)
    end = transport.get_extra_info("socket")
    if end is not None:
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER)
