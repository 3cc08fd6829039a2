"""The sink that serves: keeps the newest snapshot, and answers whoever asks."""

from __future__ import annotations

import asyncio
import hmac
import logging
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from ipaddress import ip_address
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

import msgspec
from aiohttp import HttpVersion10, HttpVersion11, hdrs, web

from ebpfmon import SinkError, Snapshot
from ebpfmon_sinks.http_json import metrics, negotiate, openapi, tokens, views
from ebpfmon_sinks.http_json.listen import Listener, problem
from ebpfmon_sinks.http_json.moment import Forms, Moment
from ebpfmon_sinks.http_json.query import QueryError, parse, shown
from ebpfmon_sinks.http_json.routes import EVENTS, HTML, JSON, NDJSON, Route, find
from ebpfmon_sinks.http_json.settings import HttpJsonSettings
from ebpfmon_sinks.http_json.stream import Streams, TooManyError

_WRITE_S = 10.0  # how long a client may take to read an answer
_INTERVALS = 3.0  # so many without a snapshot are too many
_GRACE_S = 2.0
_HEADERS = {
    "Cache-Control": "no-cache", "Server": "ebpfmon", "X-Content-Type-Options": "nosniff",
    "Vary": "Accept, Accept-Encoding, Authorization",
}  # fmt: skip
_log = logging.getLogger(__name__)
_Query = Mapping[str, Any]
_Answer = Callable[[web.BaseRequest, _Query], Awaitable[web.StreamResponse]]


class ServeSink:
    """Costs a reference and a number for each snapshot; all else is done when it is asked for."""

    def __init__(self, settings: HttpJsonSettings) -> None:
        self._settings = settings
        self._executor = ThreadPoolExecutor(1, "http_json")
        self._listener = Listener(settings, self._guarded)
        self._streams = Streams()
        self._forms = Forms(self._executor)  # of what does not depend on snapshots
        self._newest: Moment | None = None
        self._number, self._longest_s = 0, 0.0
        self._token, self._token_s = "", 0.0
        self._tag = secrets.token_hex(4)  # another start has other snapshots
        self._complaint = ""

    async def __aenter__(self) -> Self:
        if self._settings.token_file:
            await self._read_token()
        await self._listener.open()
        scheme = "https" if self._settings.tls_certificate else "http"
        host = f"[{self._settings.host}]" if ":" in self._settings.host else self._settings.host
        _log.info("serving at %s://%s:%d/", scheme, host, self.port)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._streams.close()
        try:
            await self._listener.close()
        finally:
            self._executor.shutdown(wait=False, cancel_futures=True)

    async def send(self, snapshot: Snapshot) -> None:
        """Make it the newest."""
        if self._number:  # the first interval may be shorter than the others
            self._longest_s = max(self._longest_s, snapshot.elapsed_s)
        self._number += 1
        self._newest = Moment(snapshot, self._number, self._executor)
        self._streams.publish(self._newest)

    @property
    def port(self) -> int:
        """Where it listens."""
        return self._listener.port

    async def _guarded(self, request: web.BaseRequest) -> web.StreamResponse:
        """Every answer goes out here: errors as JSON, and none to a client that does not read it."""
        try:
            response = self._refusal(request) or await self._answer(request)
        except QueryError as error:
            response = problem(error.status, str(error))
        except TooManyError:
            response = problem(503, "too many clients are being streamed to", {"Retry-After": "10"})
        except SinkError as error:
            self._complain(str(error))
            response = problem(503, "the token cannot be checked", {"Retry-After": "10"})
        except Exception as error:
            self._complain(f"GET '{shown(request.path)}': {type(error).__name__}: {error}")
            response = problem(500, "something went wrong; ebpfmon's log says what")
        if request.body_exists:
            response.force_close()  # not a byte of it is read
        transport = request.transport
        if transport and request.writer.output_size and not response.prepared:
            transport.abort()  # in the middle of a stream nothing else can be said
            return response
        try:
            async with asyncio.timeout(_WRITE_S):
                await response.prepare(request)
                await response.write_eof()
        except TimeoutError:
            if transport:
                transport.abort()
        except ConnectionError:
            pass  # the client has gone: the server sees that by itself
        return response

    def _complain(self, why: str) -> None:
        """In the log, but not once for each request."""
        if why != self._complaint:
            self._complaint = why
            _log.error("%s", why)

    def _refusal(self, request: web.BaseRequest) -> web.Response | None:
        """What is wrong with a request wherever it goes."""
        if request.body_exists:
            return problem(413, "a request has no body here")
        if request.version not in (HttpVersion10, HttpVersion11):
            return problem(400, "expected HTTP/1.1 or HTTP/1.0")
        host = request.headers.get(hdrs.HOST, "")
        if self._settings.is_local and not self._settings.token_file and not _is_address(host):
            # else any page in a browser could give its own name this address, and read what is here
            return problem(403, f"'{shown(host)}': without a token, only an address or localhost is a host's name")
        return None

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        """What is at a path, if the client may have it. Raises QueryError."""
        found = find(request.path)
        if found is None:
            return problem(404, f"there is no '{shown(request.path)}': see / for what there is")
        if request.method not in (hdrs.METH_GET, hdrs.METH_HEAD):
            message = f"'{shown(request.method)}' is not allowed here: GET, HEAD are"
            return problem(405, message, {"Allow": "GET, HEAD"})
        route, of_path = found
        if self._settings.token_file and not route.open and not await self._is_known(request):
            return problem(401, "expected Authorization: Bearer TOKEN", {"WWW-Authenticate": "Bearer"})
        query = {**of_path, **parse(request.query.items(), route.parameters)}
        if route.of_snapshot:
            return await self._view(route, request, query)
        answer: _Answer = getattr(self, f"_{route.name}")
        return await answer(request, query)

    async def _is_known(self, request: web.BaseRequest) -> bool:
        await self._read_token()
        kind, _, token = request.headers.get(hdrs.AUTHORIZATION, "").partition(" ")
        return kind.lower() == "bearer" and hmac.compare_digest(
            token.strip().encode(errors="replace"), self._token.encode()
        )

    async def _read_token(self) -> None:
        """Not more often than once a second."""
        if not self._token or time.monotonic() - self._token_s >= 1:
            self._token = await asyncio.to_thread(tokens.read, self._settings.token_file)
            self._token_s, self._complaint = time.monotonic(), ""

    async def _view(self, route: Route, request: web.BaseRequest, query: _Query) -> web.StreamResponse:
        """A form of the newest snapshot."""
        moment = self._newest
        if moment is None:
            return problem(503, "there is no snapshot yet", {"Retry-After": "1"})
        tag = f'W/"{self._tag}-{moment.number}"'
        if negotiate.matches(request.headers.get(hdrs.IF_NONE_MATCH, ""), tag):
            return web.Response(status=304, headers={**_HEADERS, "ETag": tag})
        key = route.name, tuple(query.values())
        make = partial(getattr(views, route.name), moment.snapshot, **query)
        return await self._bytes(request, moment.forms, key, make, JSON, {"ETag": tag})

    async def _bytes(
        self,
        request: web.BaseRequest,
        forms: Forms,
        key: object,
        make: Callable[[], bytes],
        media: str,
        headers: dict[str, str] | None = None,
    ) -> web.Response:
        zipped = negotiate.accepts_gzip(request.headers.get(hdrs.ACCEPT_ENCODING, ""))
        body = await forms.get(key, make, zipped=zipped)
        more = {"Content-Encoding": "gzip"} if zipped else {}
        return web.Response(body=body, headers={**_HEADERS, hdrs.CONTENT_TYPE: media, **more, **(headers or {})})

    async def _metrics(self, request: web.BaseRequest, query: _Query) -> web.StreamResponse:
        moment = self._newest
        as_openmetrics = negotiate.prefers_openmetrics(request.headers.get(hdrs.ACCEPT, ""))
        make = partial(
            metrics.render, moment.snapshot if moment else None, len(self._streams), self._streams.cut,
            as_openmetrics=as_openmetrics,
        )  # fmt: skip
        forms = moment.forms if moment else Forms(self._executor)
        media = metrics.OPENMETRICS if as_openmetrics else metrics.TEXT
        return await self._bytes(request, forms, ("metrics", as_openmetrics), make, media)

    async def _stream(self, request: web.BaseRequest, query: _Query) -> web.StreamResponse:
        wanted = query["format"]
        events = wanted == "sse" if wanted else not negotiate.prefers_ndjson(request.headers.get(hdrs.ACCEPT, ""))
        headers = {**_HEADERS, "Cache-Control": "no-store", hdrs.CONTENT_TYPE: EVENTS if events else NDJSON}
        if request.method == hdrs.METH_HEAD:
            return web.Response(headers=headers)

        async def encode(moment: Moment) -> bytes:
            line = await moment.forms.get(("snapshot", ()), partial(views.snapshot, moment.snapshot))
            return b"id: %d\nevent: snapshot\ndata: %b\n\n" % (moment.number, line) if events else line + b"\n"

        return await self._streams.serve(request, self._newest, encode, headers)

    async def _healthz(self, request: web.BaseRequest, query: _Query) -> web.StreamResponse:
        return _state(200, "alive")

    async def _readyz(self, request: web.BaseRequest, query: _Query) -> web.StreamResponse:
        if self._newest is None:
            return _state(503, "there is no snapshot yet")
        age_s = time.monotonic() - self._newest.came_s
        # how long an interval is, is not known before the second
        late = self._number > 1 and age_s > _INTERVALS * self._longest_s + _GRACE_S
        return _state(503, f"no snapshot for {age_s:.0f} s") if late else _state(200, "ready")

    async def _page(self, request: web.BaseRequest, query: _Query) -> web.StreamResponse:
        policy = {"Content-Security-Policy": openapi.PAGE_POLICY, "Referrer-Policy": "no-referrer"}
        return await self._bytes(request, self._forms, "page", openapi.page, f"{HTML}; charset=utf-8", policy)

    async def _openapi(self, request: web.BaseRequest, query: _Query) -> web.StreamResponse:
        return await self._bytes(request, self._forms, "openapi", openapi.document_bytes, JSON)


def _state(status: int, state: str) -> web.Response:
    body = msgspec.json.encode({"schema": 1, "status": state})
    return web.Response(status=status, body=body, headers={**_HEADERS, hdrs.CONTENT_TYPE: JSON})


def _is_address(host: str) -> bool:
    """Whether a Host header is an address, localhost, or not there (HTTP/1.0)."""
    if not host:
        return True
    try:
        name = urlsplit(f"//{host}").hostname or ""
        return name == "localhost" or bool(ip_address(name))
    except ValueError:
        return False
