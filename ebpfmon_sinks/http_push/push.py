"""Post snapshots to one receiver, one or several in each request. The core queues snapshots and retries."""

from __future__ import annotations

import asyncio
import gzip
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version
from urllib.parse import urlsplit

import aiohttp
import msgspec

from ebpfmon import SinkError, Snapshot, printable, to_json
from ebpfmon_sinks.http_common import read_token
from ebpfmon_sinks.http_push.settings import HttpPushSettings

_MEDIA = {"json": "application/json", "ndjson": "application/x-ndjson"}
_GZIP_FROM = 1024  # bytes
_SHOWN = 200  # characters of a receiver's text in messages


@asynccontextmanager
async def open_sink(settings: HttpPushSettings) -> AsyncIterator[HttpPushSink]:
    """Yield a sink. On a normal exit, post the unfinished batch. Raises SinkError."""
    context = await asyncio.to_thread(_tls_context, settings.ca_file)
    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=1, ssl=context, resolver=aiohttp.ThreadedResolver()),
        timeout=aiohttp.ClientTimeout(total=settings.timeout_s),
        cookie_jar=aiohttp.DummyCookieJar(),
        headers={"User-Agent": f"ebpfmon/{version('ebpfmon')}", **settings.headers},
    ) as session:
        sink = HttpPushSink(settings, session)
        yield sink
        await sink.flush()


class HttpPushSink:
    """Posts snapshots. Every status except 2xx raises SinkError."""

    def __init__(self, settings: HttpPushSettings, session: aiohttp.ClientSession) -> None:
        self._settings, self._session = settings, session
        url = urlsplit(settings.url)
        # Leave out the query, which may contain a secret.
        self._failure = f"cannot post to '{url.scheme}://{url.netloc}{url.path}'"
        self._batch: list[bytes] = []
        self._works = False

    async def send(self, snapshot: Snapshot) -> None:
        """Add a snapshot to the batch, and post the batch when it is complete.

        The first snapshot is posted at once. If the receiver does not work, the sink fails before it has a whole batch,
        so that the snapshots stay in the core's queue, which counts those that it drops.
        """
        self._batch.append(await asyncio.to_thread(_encode, snapshot))
        if not self._works or len(self._batch) >= self._settings.batch:
            await self._post()
            self._works = True

    async def flush(self) -> None:
        """Post the unfinished batch."""
        if self._batch:
            await self._post()

    async def _post(self) -> None:
        lines, self._batch = self._batch, []
        lost = f"; {len(lines) - 1} earlier snapshots are lost" if len(lines) > 1 else ""
        body, headers = await asyncio.to_thread(self._request, lines)
        try:
            # Redirects are not followed, because the token would be sent to the new address.
            async with self._session.post(
                self._settings.url, data=body, headers=headers, allow_redirects=False
            ) as response:
                status, reason = response.status, response.reason or ""
        except TimeoutError:
            raise SinkError(f"{self._failure}: no answer within {self._settings.timeout_s:g} s{lost}") from None
        except (aiohttp.ClientError, OSError) as error:
            raise SinkError(f"{self._failure}: {printable(str(error), _SHOWN) or type(error).__name__}{lost}") from None
        if not 200 <= status < 300:
            raise SinkError(f"{self._failure}: {status} {printable(reason, _SHOWN)}{_remedy(status)}{lost}")

    def _request(self, lines: list[bytes]) -> tuple[bytes, dict[str, str]]:
        """Return a request's body and headers. Blocking. Raises SinkError."""
        headers = {"Content-Type": _MEDIA[self._settings.format]}
        body = lines[0] if self._settings.format == "json" else b"".join(line + b"\n" for line in lines)
        if self._settings.gzip and len(body) >= _GZIP_FROM:
            body, headers["Content-Encoding"] = gzip.compress(body, 4, mtime=0), "gzip"
        if self._settings.token_file:
            headers["Authorization"] = f"Bearer {read_token(self._settings.token_file)}"
        return body, headers


def _tls_context(path: str) -> ssl.SSLContext:
    """Return the context that verifies the receiver. Blocking. Raises SinkError."""
    try:
        return ssl.create_default_context(cafile=path or None)
    except OSError as error:
        raise SinkError(f"cannot use the certificates in '{path}': {error.strerror or error}") from None


def _encode(snapshot: Snapshot) -> bytes:
    return msgspec.json.encode(to_json(snapshot))


def _remedy(status: int) -> str:
    """Return what the user should check if a receiver answers with this status."""
    if status in (401, 403):
        return "; check token_file and headers"
    if 300 <= status < 400:
        return "; redirects are not followed; set url to the new address"
    if 400 <= status < 500 and status not in (408, 429):
        return "; the receiver does not accept this; check url and format"
    return ""
