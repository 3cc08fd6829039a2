"""aiohttp middlewares that check requests and send responses."""

from __future__ import annotations

import asyncio
import hmac
import logging
import time
from collections.abc import Container
from ipaddress import ip_address
from urllib.parse import urlsplit

from aiohttp import HttpVersion10, HttpVersion11, hdrs, web
from aiohttp.typedefs import Handler, Middleware

from ebpfmon import SinkError, encode_json
from ebpfmon_sinks.http_common import read_token_in_time
from ebpfmon_sinks.http_json.query import QueryError, excerpt
from ebpfmon_sinks.http_json.responses import ProblemJson
from ebpfmon_sinks.http_json.settings import HttpJsonSettings

WRITE_S = 10.0
"""How long a client may take to read a response."""
_SECURITY_HEADERS = {"Server": "ebpfmon", "X-Content-Type-Options": "nosniff"}
_log = logging.getLogger(__name__)


def middlewares(
    settings: HttpJsonSettings, token: Token | None, open_routes: Container[str | None]
) -> list[Middleware]:
    """Return the middlewares, the outermost first. `open_routes` are the names of routes that need no token."""
    chain: list[Middleware] = [_limit_write_time, _errors_as_json(), _refuse_bodies]
    if token:
        chain.append(_require_token(token, open_routes))
    elif settings.is_local and not settings.socket:  # web pages cannot reach a Unix socket
        chain.append(_require_address_as_host)
    return chain


async def add_security_headers(request: web.BaseRequest, response: web.StreamResponse) -> None:
    """Add the headers of every response. This handles the signal on_response_prepare, so streams have them too."""
    response.headers.update(_SECURITY_HEADERS)
    response.headers.setdefault("Cache-Control", "no-cache")
    response.headers.setdefault("Vary", "Accept, Accept-Encoding, Authorization")


def problem(status: int, message: str, headers: dict[str, str] | None = None) -> web.Response:
    """Return an error as JSON."""
    body = encode_json(ProblemJson(status=status, error=message))
    return web.Response(
        status=status, body=body, content_type="application/json",
        headers={**_SECURITY_HEADERS, "Cache-Control": "no-store", **(headers or {})},
    )  # fmt: skip


class Token:
    """The token that clients must send. Its file is read again at most once a second."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._token = ""
        self._read_s = 0.0

    async def read(self) -> str:
        """Return the token. Raises SinkError."""
        if not self._token or time.monotonic() - self._read_s >= 1:
            self._token = await read_token_in_time(self.path)
            self._read_s = time.monotonic()
        return self._token

    async def is_sent_by(self, request: web.Request) -> bool:
        """Return whether a request has the token. Raises SinkError."""
        expected = await self.read()
        kind, _, given = request.headers.get(hdrs.AUTHORIZATION, "").partition(" ")
        return kind.lower() == "bearer" and hmac.compare_digest(
            given.strip().encode(errors="replace"), expected.encode()
        )


@web.middleware
async def _limit_write_time(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Send the response, and close the connection if the client does not read it in time."""
    response = await handler(request)
    if request.body_exists:
        response.force_close()  # the body is not read
    try:
        async with asyncio.timeout(WRITE_S):
            await response.prepare(request)
            await response.write_eof()
    except TimeoutError:
        if request.transport:
            request.transport.abort()
    except ConnectionError:
        pass  # the client has disconnected; the server cleans up
    return response


def _errors_as_json() -> Middleware:
    """Return the middleware that turns exceptions into responses. A failure that repeats is logged once."""
    last_logged = ""

    @web.middleware
    async def answer(request: web.Request, handler: Handler) -> web.StreamResponse:
        nonlocal last_logged
        try:
            return await handler(request)
        except web.HTTPException as error:
            return _http_problem(request, error)
        except QueryError as error:
            return problem(error.status, str(error))
        except Exception as error:
            failure = f"cannot answer GET '{excerpt(request.path)}': {type(error).__name__}: {error}"
            if failure != last_logged:
                last_logged = failure
                _log.error("%s", failure)
            if request.writer.output_size and request.transport:
                request.transport.abort()  # a stream that has begun cannot report an error
            return problem(500, "internal error; see ebpfmon's log")

    return answer


def _http_problem(request: web.Request, error: web.HTTPException) -> web.Response:
    """Return an exception of aiohttp or a handler as JSON."""
    headers = {name: error.headers[name] for name in ("Allow", "Retry-After") if name in error.headers}
    if isinstance(error, web.HTTPMethodNotAllowed):
        headers["Allow"] = allowed = ", ".join(sorted(error.allowed_methods))
        return problem(405, f"method '{excerpt(request.method)}' is not allowed; use {allowed}", headers)
    if isinstance(error, web.HTTPNotFound):
        return problem(404, f"no such path '{excerpt(request.path)}'; / lists all paths", headers)
    return problem(error.status, error.text or error.reason, headers)


@web.middleware
async def _refuse_bodies(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Refuse requests with bodies, and other versions of HTTP."""
    if request.body_exists:
        return problem(413, "requests must not have a body")
    if request.version not in (HttpVersion10, HttpVersion11):
        return problem(400, "expected HTTP/1.1 or HTTP/1.0")
    return await handler(request)


@web.middleware
async def _require_address_as_host(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Refuse host names other than localhost.

    Otherwise a web page could let its own host name resolve to 127.0.0.1, and read the responses (DNS rebinding).
    """
    host = request.headers.get(hdrs.HOST, "")
    if not _is_address(host):
        return problem(403, f"host '{excerpt(host)}': without a token the host must be an address or localhost")
    return await handler(request)


def _require_token(token: Token, open_routes: Container[str | None]) -> Middleware:
    """Return the middleware that answers 401 to requests without the token.

    If the token cannot be read, they get 503. That is logged when it begins, changes and ends.
    """
    last_logged = ""

    @web.middleware
    async def check(request: web.Request, handler: Handler) -> web.StreamResponse:
        nonlocal last_logged
        if request.match_info.route.name in open_routes:
            return await handler(request)
        try:
            is_authorized = await token.is_sent_by(request)
        except SinkError as error:
            if str(error) != last_logged:
                last_logged = str(error)
                _log.error("%s; requests get 503 until that works", error)
            return problem(503, "cannot check the token", {"Retry-After": "10"})
        if last_logged:
            last_logged = ""
            _log.warning("the token in '%s' can be read again", token.path)
        if not is_authorized:
            return problem(401, "expected Authorization: Bearer TOKEN", {"WWW-Authenticate": "Bearer"})
        return await handler(request)

    return check


def _is_address(host: str) -> bool:
    """Return whether a Host header is an address, localhost, or missing (HTTP/1.0)."""
    if not host:
        return True
    try:
        name = urlsplit(f"//{host}").hostname or ""
        return name == "localhost" or bool(ip_address(name))
    except ValueError:
        return False
