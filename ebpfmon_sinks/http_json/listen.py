"""Listen for connections, and limit their number, their duration, and what they may send."""

from __future__ import annotations

import asyncio
import logging
import os
import ssl
from typing import Any

from aiohttp import web

from ebpfmon import SinkError
from ebpfmon_sinks.http_json.middlewares import problem
from ebpfmon_sinks.http_json.settings import HttpJsonSettings

CONNECTIONS = 64
IDLE_S = 30.0
"""How long a connection may stay open without a complete request."""
_HANDSHAKE_S = 10.0
_STOP_S = 0.5  # to finish responses in progress; all sinks together have 1.5 s to stop
_BACKLOG = 64
_LIMITS: dict[str, Any] = {
    "max_line_size": 8190, "max_field_size": 8190, "keepalive_timeout": IDLE_S,
    "lingering_time": 0.0,  # bodies are never read
    "access_log": None,
}  # fmt: skip
_log = logging.getLogger(__name__)


class Connection(web.RequestHandler):
    """The connection of one client. Invalid HTTP is answered with an error, and not logged."""

    async def start(self) -> None:
        """Answer the connection's requests.

        Some requests end aiohttp's task with an exception (in 3.14.5, `CONNECT` without a target). aiohttp would leave
        their connections open, so they are closed here.
        """
        try:
            await super().start()
        except Exception as error:
            _log.debug("closed a connection: %s: %s", type(error).__name__, error)
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
        if request.writer.output_size > 0:
            raise ConnectionError("part of a response has been sent already")
        response = problem(status, "this is not valid HTTP" if status < 500 else "internal error")
        response.force_close()
        return response

    def log_exception(self, *args: Any, **kw: Any) -> None:
        """Log one line, without a traceback."""
        error = kw.get("exc_info")
        _log.error("a connection failed: %s: %s", type(error).__name__, error)


class _RefusedConnection(asyncio.Protocol):
    """A connection above the limit."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        transport.abort()


class Listener:
    """A listening socket that serves an application.

    aiohttp's TCPSite limits neither connections nor TLS handshakes, so the socket is opened here. AppRunner does the
    rest.
    """

    def __init__(self, settings: HttpJsonSettings, application: web.Application) -> None:
        self._settings = settings
        self._runner = web.AppRunner(application, handler_cancellation=True, shutdown_timeout=_STOP_S)
        self._server: asyncio.Server | None = None
        self.port = settings.port
        """The port that it listens on. If the settings say 0, it is known once the listener is open."""

    async def open(self) -> None:
        """Listen. Raises SinkError."""
        settings = self._settings
        context = await asyncio.to_thread(_tls_context, settings) if settings.tls_certificate else None
        await self._runner.setup()
        try:
            self._server = await asyncio.get_running_loop().create_server(
                self._connect, settings.host, settings.port, ssl=context, backlog=_BACKLOG, reuse_address=True,
                ssl_handshake_timeout=_HANDSHAKE_S if context else None,
            )  # fmt: skip
        except OSError as error:
            reason = os.strerror(error.errno) if error.errno and error.errno > 0 else str(error)
            raise SinkError(f"cannot listen on '{settings.host}' port {settings.port}: {reason}") from None
        self.port = self._server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        """Stop listening and end all connections."""
        if self._server:
            self._server.close()
        await self._runner.cleanup()

    @property
    def connections(self) -> int:
        """The number of open connections."""
        return len(self._runner.server.connections) if self._runner.server else 0

    def _connect(self) -> asyncio.Protocol:
        server = self._runner.server
        if server is None or self.connections >= CONNECTIONS:
            return _RefusedConnection()
        return Connection(server, loop=asyncio.get_running_loop(), **_LIMITS)


def _tls_context(settings: HttpJsonSettings) -> ssl.SSLContext:
    """Return a context with the server's certificate and key. Blocking. Raises SinkError."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        context.load_cert_chain(settings.tls_certificate, settings.tls_key, password=_no_password)
    except (OSError, ValueError) as error:
        reason = error.strerror or str(error) if isinstance(error, OSError) else str(error)
        raise SinkError(
            f"cannot use the certificate '{settings.tls_certificate}' with '{settings.tls_key}': {reason}"
        ) from None
    return context


def _no_password() -> str:
    raise ValueError("the key is encrypted; store it without a password")
