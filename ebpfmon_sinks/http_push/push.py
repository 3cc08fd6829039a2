"""Post snapshots to one receiver, one or several in each request. The core queues snapshots and retries."""

from __future__ import annotations

import asyncio
import gzip
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version
from urllib.parse import urlsplit

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult

from ebpfmon import SinkError, Snapshot, encode_json, printable, to_json
from ebpfmon_sinks.http_common import in_time, read_token_in_time, reason_of
from ebpfmon_sinks.http_push.settings import HttpPushSettings

_VERSION = version("ebpfmon")  # read now, because the daemon may become a user who cannot read it later
_MEDIA = {"json": "application/json", "ndjson": "application/x-ndjson"}
_GZIP_FROM = 1024  # bytes
_SHOWN = 200  # characters of a receiver's text in messages


@asynccontextmanager
async def open_sink(settings: HttpPushSettings) -> AsyncIterator[HttpPushSink]:
    """Yield a sink. On a normal exit, post the unfinished batch. Raises SinkError."""
    context = await in_time(f"cannot use the certificates in '{settings.ca_file}'", tls_context, settings.ca_file)
    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=1, ssl=context, resolver=_Resolver()),
        timeout=aiohttp.ClientTimeout(total=None),  # the sink's own limit includes reading the token
        cookie_jar=aiohttp.DummyCookieJar(),
        headers={"User-Agent": f"ebpfmon/{_VERSION}", **settings.headers},
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
        self._batch.append(_encode(snapshot))
        if not self._works or len(self._batch) >= self._settings.batch:
            await self._post(retried=1)
            self._works = True

    async def flush(self) -> None:
        """Post the unfinished batch."""
        if self._batch:
            await self._post(retried=0)

    async def _post(self, retried: int) -> None:
        """Post the batch. Raises SinkError. ebpfmon posts the last `retried` snapshots again then."""
        lines, self._batch = self._batch, []
        try:
            async with asyncio.timeout(self._settings.timeout_s):
                await self._try_to_post(lines)
        except TimeoutError:
            reason = f"{self._failure}: no answer within {self._settings.timeout_s:g} s"
        except (aiohttp.ClientError, OSError) as error:
            reason = f"{self._failure}: {printable(_why(error), _SHOWN) or type(error).__name__}"
        except SinkError as error:
            reason = str(error)
        else:
            return
        lost = len(lines) - retried
        raise SinkError(f"{reason}; {lost} earlier snapshots are lost" if lost else reason, dropped=lost)

    async def _try_to_post(self, lines: list[bytes]) -> None:
        headers = {"Content-Type": _MEDIA[self._settings.format]}
        body = lines[0] if self._settings.format == "json" else b"".join(line + b"\n" for line in lines)
        if self._settings.gzip and len(body) >= _GZIP_FROM:
            body, headers["Content-Encoding"] = gzip.compress(body, 4, mtime=0), "gzip"
        if self._settings.token_file:
            headers["Authorization"] = f"Bearer {await read_token_in_time(self._settings.token_file)}"
        # Redirects are not followed, because the token would be sent to the new address.
        async with self._session.post(
            self._settings.url, data=body, headers=headers, allow_redirects=False
        ) as response:
            status, reason = response.status, response.reason or ""
        if not 200 <= status < 300:
            raise SinkError(f"{self._failure}: {status} {printable(reason, _SHOWN)}{_remedy(status)}")


class _Resolver(AbstractResolver):
    """Looks up host names. aiohttp's own resolver would wait for a name server in the threads of the event loop."""

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        flags = socket.AI_ADDRCONFIG
        found = await in_time(
            f"cannot look up '{host}'", socket.getaddrinfo, host, port, family, socket.SOCK_STREAM, 0, flags
        )
        numeric = socket.AI_NUMERICHOST | socket.AI_NUMERICSERV
        results: list[ResolveResult] = []
        for kind, _, protocol, _, address in found:
            scope = f"%{int(address[-1])}" if kind == socket.AF_INET6 and address[-1] else ""
            results.append(
                ResolveResult(
                    hostname=host, host=f"{address[0]}{scope}", port=int(address[1]), family=kind, proto=protocol,
                    flags=numeric,
                )
            )  # fmt: skip
        return results

    async def close(self) -> None:
        pass


def tls_context(path: str) -> ssl.SSLContext:
    """Return the context that verifies the receiver. Blocking. Raises SinkError."""
    try:
        return ssl.create_default_context(cafile=path or None)
    except ssl.SSLError:
        raise SinkError(f"cannot use the certificates in '{path}': they are not in PEM format") from None
    except OSError as error:
        raise SinkError(f"cannot use the certificates in '{path}': {error.strerror or error}") from None


def _why(error: Exception) -> str:
    """Return why a request failed. aiohttp hides the error of the kernel in a text with addresses and options."""
    cause = getattr(error, "os_error", getattr(error, "certificate_error", error))
    if isinstance(cause, OSError) and not isinstance(cause, aiohttp.ClientError):
        return reason_of(cause)
    return str(error)


def _encode(snapshot: Snapshot) -> bytes:
    return encode_json(to_json(snapshot))


def _remedy(status: int) -> str:
    """Return what the user should check if a receiver answers with this status."""
    if status in (401, 403):
        return "; check token_file and headers"
    if 300 <= status < 400:
        return "; redirects are not followed; set url to the new address"
    if 400 <= status < 500 and status not in (408, 429):
        return "; the receiver does not accept this; check url and format"
    return ""
