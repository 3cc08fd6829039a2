"""The sink that posts: each snapshot, or so many at once, to one receiver. Queue and retries are the core's."""

from __future__ import annotations

import asyncio
import gzip
import ssl
from importlib.metadata import version
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

import aiohttp
import msgspec

from ebpfmon import SinkError, Snapshot, to_json
from ebpfmon_sinks.http_json import tokens
from ebpfmon_sinks.http_json.settings import HttpJsonSettings

_MEDIA = {"json": "application/json", "ndjson": "application/x-ndjson"}
_ZIPPED_FROM = 1024  # bytes


class PushSink:
    """Raises SinkError for whatever the receiver does but take it, with its status if it said one."""

    def __init__(self, settings: HttpJsonSettings) -> None:
        self._settings = settings
        url = urlsplit(settings.push_url)  # a query may hold a secret
        self._what = f"post to '{url.scheme}://{url.netloc}{url.path}'"
        self._session: aiohttp.ClientSession | None = None
        self._batch: list[bytes] = []
        self._works = False

    async def __aenter__(self) -> Self:
        context = await asyncio.to_thread(self._tls)
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=1, ssl=context, resolver=aiohttp.ThreadedResolver()),
            timeout=aiohttp.ClientTimeout(total=self._settings.push_timeout_s),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={"User-Agent": f"ebpfmon/{version('ebpfmon')}", **self._settings.push_headers},
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._session
        try:
            if self._batch and error is None:
                await self._post()
        finally:
            await self._session.close()

    async def send(self, snapshot: Snapshot) -> None:
        """Post it, or what has come together by now.

        The first one goes at once, so that a receiver which does not work is known not to, and nothing is collected
        for it: then the core keeps what it has room for, and counts the rest.
        """
        self._batch.append(await asyncio.to_thread(self._line, snapshot))
        if not self._works or len(self._batch) >= self._settings.push_batch:
            await self._post()
            self._works = True

    async def _post(self) -> None:
        assert self._session
        lines, self._batch = self._batch, []
        lost = f"; {len(lines) - 1} snapshots before it are lost" if len(lines) > 1 else ""
        body, headers = await asyncio.to_thread(self._request, lines)
        try:
            # not where a redirect leads: that would be the token's way as well
            async with self._session.post(
                self._settings.push_url, data=body, headers=headers, allow_redirects=False
            ) as response:
                status, reason = response.status, response.reason or ""
        except TimeoutError:
            raise SinkError(f"{self._what}: no answer within {self._settings.push_timeout_s:g} s{lost}") from None
        except (aiohttp.ClientError, OSError) as error:
            raise SinkError(f"{self._what}: {_printable(str(error)) or type(error).__name__}{lost}") from None
        if not 200 <= status < 300:
            raise SinkError(f"{self._what}: {status} {_printable(reason)}{_remedy(status)}{lost}")

    def _line(self, snapshot: Snapshot) -> bytes:
        return msgspec.json.encode(to_json(snapshot))

    def _request(self, lines: list[bytes]) -> tuple[bytes, dict[str, str]]:
        """Body and headers. Blocks. Raises SinkError."""
        headers = {"Content-Type": _MEDIA[self._settings.push_format]}
        body = lines[0] if self._settings.push_format == "json" else b"".join(line + b"\n" for line in lines)
        if self._settings.push_gzip and len(body) >= _ZIPPED_FROM:
            body, headers["Content-Encoding"] = gzip.compress(body, 4, mtime=0), "gzip"
        if self._settings.push_token_file:
            headers["Authorization"] = f"Bearer {tokens.read(self._settings.push_token_file)}"
        return body, headers

    def _tls(self) -> ssl.SSLContext:
        """Blocks. Raises SinkError."""
        path = self._settings.push_ca_file
        try:
            return ssl.create_default_context(cafile=path or None)
        except OSError as error:
            raise SinkError(f"trust the certificates in '{path}': {error.strerror or error}") from None


def _remedy(status: int) -> str:
    if status in (401, 403):
        return " (push_token_file or push_headers)"
    if 300 <= status < 400:
        return " (a redirect is not followed: push_url)"
    if 400 <= status < 500 and status not in (408, 429):
        return " (it will not take this: push_url and push_format)"
    return ""


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else "?" for c in text[:200])
