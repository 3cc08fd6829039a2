"""The connection of one client, from accept until its socket is closed."""

from __future__ import annotations

import asyncio
import enum
import logging
import socket
import ssl
import struct
from collections.abc import Callable, Hashable
from typing import Any

from aiohttp import web
from aiohttp.typedefs import Handler

from ebpfmon_sinks.http_json.middlewares import problem

FIRST_REQUEST_S = 5.0
"""How long a connection may take until its first request is complete, TLS handshake included."""
IDLE_S = 30.0
"""How long a connection may then stay open without a complete request."""
_SHUTDOWN_S = 1.0  # to close a TLS connection
_LIMITS: dict[str, Any] = {
    "max_line_size": 8190, "max_field_size": 8190,
    "keepalive_timeout": 2 * IDLE_S,  # IDLE_S is enforced here, because aiohttp waits for clients that do not read
    "lingering_time": 0.0,  # bodies are never read
    "access_log": None,
}  # fmt: skip
_RESET = struct.pack("ii", 1, 0)  # struct linger: closing sends RST
_log = logging.getLogger(__name__)


class State(enum.IntEnum):
    """What a connection waits for."""

    SILENT = 0
    """The client has not sent a byte. The connection costs a descriptor, and no TLS object or task."""
    OPENING = 1
    """The TLS handshake or the first request is incomplete."""
    IDLE = 2
    """The client may send another request."""
    SENDING = 3
    """The client does not read what was sent to it."""
    BUSY = 4
    """A request is being answered. This connection is not closed to make room."""


class Connection(web.RequestHandler):
    """The connection of one client. Invalid HTTP is answered with an error, and not logged."""

    def __init__(
        self,
        server: web.Server,
        sock: socket.socket,
        tls: ssl.SSLContext | None,
        *,
        origin: Hashable,
        closed: Callable[[Connection], object],
    ) -> None:
        """Wait for the first byte.

        `origin` identifies the client for limits. `closed` is called at the end, maybe more than once.
        """
        loop = asyncio.get_running_loop()
        super().__init__(server, loop=loop, **_LIMITS)
        self.origin, self.state, self.since_s = origin, State.SILENT, loop.time()
        self.descriptor = sock.fileno()
        self._socket: socket.socket | None = sock
        self._tls, self._closed = tls, closed
        self._connecting: asyncio.Task[None] | None = None
        self._is_freed = False
        self._open_transport: asyncio.Transport | None = None  # aiohttp's own forgets it before it is closed
        self._timer = loop.call_later(FIRST_REQUEST_S, self.abort)
        loop.add_reader(sock, self._first_byte)

    def abort(self) -> None:
        """Close the connection without waiting for anything. Does nothing if it is closed already."""
        self._timer.cancel()
        if self._socket:
            asyncio.get_running_loop().remove_reader(self._socket)
            reset(self._socket)
            self._socket = None
        elif self._open_transport:
            self._open_transport.abort()
        elif self._connecting:
            self._connecting.cancel()
        self._free()

    def begin_request(self) -> None:
        """Note that a request is complete."""
        self._enter(State.BUSY)

    def end_request(self) -> None:
        """Note that the response has been sent."""
        self._enter(State.IDLE)
        if self._open_transport:  # else the client has disconnected
            self._timer = asyncio.get_running_loop().call_later(IDLE_S, self.abort)

    def pause_writing(self) -> None:
        super().pause_writing()
        if self.state is State.BUSY:
            self._enter(State.SENDING)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self.state is State.SENDING:
            self._enter(State.BUSY)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        if self._is_freed:  # closed while the last step of the handshake was on its way
            transport.abort()
            return
        self._open_transport = transport
        super().connection_made(transport)

    def connection_lost(self, exc: BaseException | None) -> None:
        super().connection_lost(exc)
        self._timer.cancel()
        self._open_transport = None
        self._closed(self)

    async def start(self) -> None:
        """Answer the connection's requests.

        Some requests end aiohttp's task with an exception (in 3.14.5, `CONNECT` without a target). aiohttp would leave
        their connections open, so they are closed here.
        """
        try:
            await super().start()
        except Exception as error:
            _log.debug("closed a connection: %s: %s", type(error).__name__, error)
            error.__traceback__ = None
            self.force_close()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Return the response to a request that could not be parsed or handled. The connection is closed after it."""
        if status >= 500:
            _log.error("cannot answer a request: %s: %s", type(exc).__name__, exc)
        if exc:
            exc.__traceback__ = None  # it refers to the parser, which refers to the exception, and to TLS buffers
        if request.writer.output_size > 0:
            raise ConnectionError("part of a response has been sent already")
        response = problem(status, "this is not valid HTTP" if status < 500 else "internal error")
        response.force_close()
        return response

    def log_exception(self, *args: Any, **kw: Any) -> None:
        """Log one line, without a traceback."""
        error = kw.get("exc_info")
        _log.error("a connection failed: %s: %s", type(error).__name__, error)

    def _enter(self, state: State) -> None:
        self._timer.cancel()
        self.state, self.since_s = state, asyncio.get_running_loop().time()

    def _first_byte(self) -> None:
        loop, sock = asyncio.get_running_loop(), self._socket
        assert sock
        loop.remove_reader(sock)
        self.state, self._socket = State.OPENING, None
        self._connecting = loop.create_task(self._connect(sock))

    async def _connect(self, sock: socket.socket) -> None:
        """Shake hands if TLS is in use, and begin to answer requests."""
        limits = {"ssl_handshake_timeout": FIRST_REQUEST_S, "ssl_shutdown_timeout": _SHUTDOWN_S} if self._tls else {}
        try:
            await asyncio.get_running_loop().connect_accepted_socket(lambda: self, sock, ssl=self._tls, **limits)
        except Exception as error:
            _log.debug("closed a connection: %s: %s", type(error).__name__, error)
            error.__traceback__ = None  # it refers to itself, through asyncio's frames, and to a buffer of 256 KiB
        finally:
            self._connecting = None  # the task may refer to its exception, and that to this object
            if not self._open_transport:  # the handshake failed, or the connection has been closed since
                self._timer.cancel()
                self._free()

    def _free(self) -> None:
        """Report the end, and break aiohttp's reference cycles, so that memory is free before garbage is collected."""
        if not self._open_transport:
            self._is_freed = True
            super().connection_lost(None)
        self._closed(self)


@web.middleware
async def note_requests(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Tell the connection when it answers a request."""
    connection = request.protocol
    assert isinstance(connection, Connection)
    connection.begin_request()
    try:
        return await handler(request)
    finally:
        connection.end_request()


def reset(sock: socket.socket) -> None:
    """Close a socket so that nothing of its connection remains in the kernel."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    sock.close()
