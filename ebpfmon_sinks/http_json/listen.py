"""The server's socket and connections: how many there may be, for how long, and what they may send."""

from __future__ import annotations

import asyncio
import logging
import os
import ssl
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
from aiohttp import web

from ebpfmon import SinkError
from ebpfmon_sinks.http_json.settings import HttpJsonSettings

CONNECTIONS = 64
IDLE_S = 30.0
"""How long a connection may be without a (whole) request."""
_HANDSHAKE_S = 10.0
_STOP_S = 0.5  # for requests that are being answered; the daemon gives all sinks 1.5 s
_BACKLOG = 64
_LIMITS: dict[str, Any] = {
    "max_line_size": 8190, "max_field_size": 8190, "keepalive_timeout": IDLE_S,
    "lingering_time": 0.0,  # of a body nobody reads a byte
    "access_log": None,
}  # fmt: skip
_log = logging.getLogger(__name__)


def problem(status: int, message: str, headers: dict[str, str] | None = None) -> web.Response:
    """An error as JSON."""
    body = msgspec.json.encode({"schema": 1, "status": status, "error": message})
    more = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff", "Server": "ebpfmon", **(headers or {})}
    return web.Response(status=status, body=body, content_type="application/json", headers=more)


class Connection(web.RequestHandler):
    """One client's. What it sends that is not HTTP is its own fault: it is told so, and the log is not."""

    async def start(self) -> None:
        """Answer its requests. Some kill aiohttp's task (3.14.5: `CONNECT` of nothing), and their connection would stay
        for good."""
        try:
            await super().start()
        except Exception as error:
            _log.debug("a connection is closed: %s: %s", type(error).__name__, error)
            self.force_close()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """The answer to what could not be handled; then the connection is closed."""
        if status >= 500:
            _log.error("a request could not be answered: %s: %s", type(exc).__name__, exc)
        if request.writer.output_size > 0:
            raise ConnectionError("an answer is on its way already")
        response = problem(status, "this is not HTTP as it should be" if status < 500 else "something went wrong")
        response.force_close()
        return response

    def log_exception(self, *args: Any, **kw: Any) -> None:
        """A line, and no traceback."""
        error = kw.get("exc_info")
        _log.error("a connection has failed: %s: %s", type(error).__name__, error)


class _Refused(asyncio.Protocol):
    """What is one too many."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        transport.abort()


class Listener:
    """A socket whose requests go to `answer`. `port` is where."""

    def __init__(
        self, settings: HttpJsonSettings, answer: Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]
    ) -> None:
        self._settings, self._answer = settings, answer
        self._web: web.Server | None = None
        self._socket: asyncio.Server | None = None
        self.port = settings.port

    async def open(self) -> None:
        """Raises SinkError."""
        context = await asyncio.to_thread(_tls, self._settings) if self._settings.tls_certificate else None
        self._web = web.Server(self._answer, handler_cancellation=True)
        try:
            self._socket = await asyncio.get_running_loop().create_server(
                self._connection, self._settings.host, self._settings.port, ssl=context, backlog=_BACKLOG,
                reuse_address=True, ssl_handshake_timeout=_HANDSHAKE_S if context else None,
            )  # fmt: skip
        except OSError as error:
            why = os.strerror(error.errno) if error.errno and error.errno > 0 else str(error)
            raise SinkError(f"listen at '{self._settings.host}' port {self._settings.port}: {why}") from None
        self.port = self._socket.sockets[0].getsockname()[1]

    async def close(self) -> None:
        """End all connections."""
        if self._socket:
            self._socket.close()
        if self._web:
            await asyncio.sleep(0)  # requests that have come are begun
            self._web.pre_shutdown()
            await self._web.shutdown(_STOP_S)

    @property
    def connections(self) -> int:
        """How many there are."""
        return len(self._web.connections) if self._web else 0

    def _connection(self) -> asyncio.Protocol:
        assert self._web
        if self.connections >= CONNECTIONS:
            return _Refused()
        return Connection(self._web, loop=asyncio.get_running_loop(), **_LIMITS)


def _tls(settings: HttpJsonSettings) -> ssl.SSLContext:
    """Blocks. Raises SinkError."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        context.load_cert_chain(settings.tls_certificate, settings.tls_key, password=_no_password)
    except (OSError, ValueError) as error:
        why = error.strerror or str(error) if isinstance(error, OSError) else str(error)
        raise SinkError(f"use the certificate '{settings.tls_certificate}' with '{settings.tls_key}': {why}") from None
    return context


def _no_password() -> str:
    raise ValueError("the key is encrypted, and nobody is there to be asked for its password")
