"""Keep the newest snapshot, and answer clients with it. This is an aiohttp application."""

from __future__ import annotations

import logging
import secrets
import time
from functools import partial
from types import TracebackType
from typing import Self

import msgspec
from aiohttp import ETag, hdrs, web
from aiohttp.helpers import ETAG_ANY
from aiohttp.typedefs import Handler

from ebpfmon import Pool, Snapshot, encode_json
from ebpfmon_sinks.http_json import metrics, openapi, views
from ebpfmon_sinks.http_json.connection import note_requests
from ebpfmon_sinks.http_json.encodings import Encodings, NumberedSnapshot
from ebpfmon_sinks.http_json.listen import Listener
from ebpfmon_sinks.http_json.middlewares import Token, add_security_headers, middlewares
from ebpfmon_sinks.http_json.query import NoQuery, parse
from ebpfmon_sinks.http_json.responses import HealthJson, StreamQuery
from ebpfmon_sinks.http_json.routes import EVENTS, HTML, JSON, NDJSON, ROUTES, Route
from ebpfmon_sinks.http_json.settings import HttpJsonSettings
from ebpfmon_sinks.http_json.stream import Streams

_LATE_INTERVALS = 3.0  # /readyz returns 503 after this many intervals without a snapshot
_GRACE_S = 2.0
_COMPRESS_IN_THREAD = 1 << 14  # bytes; compressing more would block the event loop for too long
_log = logging.getLogger(__name__)


class HttpJsonSink:
    """Serves the newest snapshot. It is only encoded when a client asks for it."""

    def __init__(self, settings: HttpJsonSettings) -> None:
        self._settings = settings
        self._executor = Pool("http_json", 1)
        self._token = Token(settings.token_file) if settings.token_file else None
        self._streams = Streams()
        self._encodings = Encodings(self._executor)  # of what does not depend on a snapshot
        self._newest: NumberedSnapshot | None = None
        self._number, self._longest_s = 0, 0.0
        self._tag = secrets.token_hex(4)  # so that ETags from before a restart do not match
        self._listener = Listener(settings, self._application())

    async def __aenter__(self) -> Self:
        if self._token:
            await self._token.read()
        await self._listener.open()
        _log.info("serving at %s", self._url())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._streams.close()
        try:
            await self._listener.close()
        finally:
            self._executor.shutdown(wait=False, cancel_futures=True)
            # After the server is closed, aiohttp still caches handlers, which refer to this object. Free the snapshot.
            self._newest = None

    async def send(self, snapshot: Snapshot) -> None:
        """Make a snapshot the newest."""
        if self._number:  # the first interval is shorter than the others
            self._longest_s = max(self._longest_s, snapshot.elapsed_s)
        self._number += 1
        self._newest = NumberedSnapshot(snapshot, self._number, self._executor)
        self._streams.publish(self._newest)

    @property
    def port(self) -> int:
        """The port that the server listens on. 0 for a Unix socket."""
        return self._listener.port

    def _url(self) -> str:
        settings = self._settings
        if settings.socket:
            return f"the Unix socket '{settings.socket}'"
        host = f"[{settings.host}]" if ":" in settings.host else settings.host
        return f"{'https' if settings.tls_certificate else 'http'}://{host}:{self.port}/"

    def _application(self) -> web.Application:
        open_routes = {route.name for route in ROUTES if route.open}
        application = web.Application(
            middlewares=[note_requests, *middlewares(self._settings, self._token, open_routes)]
        )
        application.on_response_prepare.append(add_security_headers)
        for route in ROUTES:
            resource = application.router.add_resource(route.path, name=route.name)
            for method in (hdrs.METH_GET, hdrs.METH_HEAD):
                resource.add_route(method, self._handler(route), expect_handler=_ignore_expect)
        return application

    def _handler(self, route: Route) -> Handler:
        answer = partial(self._view, route) if route.of_snapshot else getattr(self, f"_{route.name}")

        async def handle(request: web.Request) -> web.StreamResponse:
            response: web.StreamResponse = await answer(request, parse(request.query.items(), route.query))
            return response

        return handle

    async def _view(self, route: Route, request: web.Request, query: msgspec.Struct) -> web.StreamResponse:
        """Return an encoding of the newest snapshot, or 304 if the client already has it."""
        newest = self._newest
        if newest is None:
            raise web.HTTPServiceUnavailable(text="there is no snapshot yet", headers={"Retry-After": "1"})
        tag = ETag(f"{self._tag}-{newest.number}", is_weak=True)
        if any(known.value in (tag.value, ETAG_ANY) for known in request.if_none_match or ()):
            response = web.Response(status=304)
        else:
            arguments = {**request.match_info, **msgspec.structs.asdict(query)}
            make = partial(getattr(views, route.name), newest.snapshot, **arguments)
            response = self._response(await newest.encodings.get((route.name, *arguments.values()), make), JSON)
        response.etag = tag
        return response

    def _response(self, body: bytes, media: str) -> web.Response:
        response = web.Response(
            body=body, headers={hdrs.CONTENT_TYPE: media}, zlib_executor=self._executor,
            zlib_executor_size=_COMPRESS_IN_THREAD,
        )  # fmt: skip
        response.enable_compression()
        return response

    async def _metrics(self, request: web.Request, query: NoQuery) -> web.StreamResponse:
        newest = self._newest
        encoder, media = metrics.choose_encoder(request.headers.get(hdrs.ACCEPT, ""))
        snapshot = newest.snapshot if newest else None
        make = partial(metrics.render, snapshot, len(self._streams), self._streams.cut, encoder)
        encodings = newest.encodings if newest else Encodings(self._executor)
        return self._response(await encodings.get(("metrics", media), make), media)

    async def _stream(self, request: web.Request, query: StreamQuery) -> web.StreamResponse:
        as_ndjson = query.format == "ndjson"
        if query.format == "auto":
            accepted = request.headers.get(hdrs.ACCEPT, "").lower()
            as_ndjson = NDJSON in accepted and EVENTS not in accepted
        headers: dict[str, str] = {hdrs.CACHE_CONTROL: "no-store", hdrs.CONTENT_TYPE: NDJSON if as_ndjson else EVENTS}
        if request.method == hdrs.METH_HEAD:
            return web.Response(headers=headers)

        async def encode(numbered: NumberedSnapshot) -> bytes:
            line = await numbered.encodings.get(("snapshot",), partial(views.snapshot, numbered.snapshot))
            if as_ndjson:
                return line + b"\n"
            return b"id: %d\nevent: snapshot\ndata: %b\n\n" % (numbered.number, line)

        return await self._streams.serve(request, self._newest, encode, headers)

    async def _healthz(self, request: web.Request, query: NoQuery) -> web.StreamResponse:
        return _health(200, "alive")

    async def _readyz(self, request: web.Request, query: NoQuery) -> web.StreamResponse:
        if self._newest is None:
            return _health(503, "there is no snapshot yet")
        age_s = time.monotonic() - self._newest.received_s
        # the length of an interval is unknown before the second snapshot
        is_late = self._number > 1 and age_s > _LATE_INTERVALS * self._longest_s + _GRACE_S
        return _health(503, f"no snapshot for {age_s:.0f} s") if is_late else _health(200, "ready")

    async def _page(self, request: web.Request, query: NoQuery) -> web.StreamResponse:
        response = self._response(await self._encodings.get("page", openapi.page), f"{HTML}; charset=utf-8")
        response.headers.update({"Content-Security-Policy": openapi.PAGE_POLICY, "Referrer-Policy": "no-referrer"})
        return response

    async def _openapi(self, request: web.Request, query: NoQuery) -> web.StreamResponse:
        return self._response(await self._encodings.get("openapi", openapi.document_bytes), JSON)


def _health(status: int, state: str) -> web.Response:
    body = encode_json(HealthJson(status=state))
    return web.Response(status=status, body=body, content_type=JSON)


async def _ignore_expect(request: web.Request) -> None:
    """Do not send 100 Continue, because the body would be refused."""
