"""The settings of the HTTP sink, checked without asking the machine anything.

This module is imported wherever ebpfmon runs. aiohttp and prometheus_client, which cost 14 MB, are imported when a sink
is opened, and in a thread, as that takes a quarter of a second.
"""

from __future__ import annotations

import asyncio
import importlib
import re
from ipaddress import IPv6Address, ip_address
from types import TracebackType
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

import msgspec

from ebpfmon import Sink, SinkSettings, Snapshot

_SERVING = ("host", "port", "token_file", "tls_certificate", "tls_key")
_PUSHING = (
    "push_format", "push_batch", "push_gzip", "push_headers", "push_token_file", "push_timeout_s", "push_ca_file",
)  # fmt: skip
_FIRST_FREE_PORT = 1024  # below, a port takes CAP_NET_BIND_SERVICE
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # of RFC 9110: what a header's name is made of
_OURS = {"content-type", "content-encoding", "content-length", "transfer-encoding", "host", "connection", "expect"}


class HttpJsonSettings(SinkSettings, tag="http_json", frozen=True):
    """`[[sinks]] type = "http_json"`. With `push_url` it posts snapshots there, without it serves them.

    Who wants both has two of them: each then has a queue, retries and self metrics of its own, and what one does is
    not in the other's way.
    """

    host: str = "127.0.0.1"
    """The address to serve at. One that other machines reach needs a token and TLS, or `insecure`."""
    port: Annotated[int, msgspec.Meta(ge=0, le=65535)] = 9797
    """0: any that is free; the log says which."""
    token_file: str = ""
    """A file whose only line is a token; then every request must have `Authorization: Bearer TOKEN`, but for /healthz
    and /readyz. It may be replaced at any time."""
    tls_certificate: str = ""
    """A PEM file: the certificate, then those of its issuers."""
    tls_key: str = ""
    """A PEM file with the key of the certificate."""
    insecure: bool = False
    """Serve other machines without a token or without TLS, or send a token without TLS."""
    push_url: str = ""
    """Where snapshots are posted to: http:// or https://."""
    push_format: Literal["json", "ndjson"] = "json"
    """One object, or one a line."""
    push_batch: Annotated[int, msgspec.Meta(ge=1, le=3600)] = 1
    """With ndjson: so many snapshots go in one request. If that fails all but the last are lost."""
    push_gzip: bool = True
    """Whether requests are compressed; not every receiver takes that."""
    push_headers: dict[str, str] = msgspec.field(default_factory=dict)
    """More headers of each request."""
    push_token_file: str = ""
    """A file whose only line is a token, sent as `Authorization: Bearer TOKEN`. It is read again for each request."""
    push_timeout_s: Annotated[float, msgspec.Meta(ge=0.1, le=9)] = 5.0  # the core's own limit is 10
    """How long a request may take."""
    push_ca_file: str = ""
    """A PEM file with the certificates to trust, instead of the system's."""

    def __post_init__(self) -> None:
        """Raises ValueError, naming the key."""
        if self.push_url:
            self._check_pushing()
        else:
            self._check_serving()

    @property
    def capabilities(self) -> frozenset[str]:
        return frozenset({"net_bind_service"} if not self.push_url and 0 < self.port < _FIRST_FREE_PORT else ())

    def open(self) -> Sink:
        return HttpJsonSink(self)

    @property
    def is_local(self) -> bool:
        """Whether it serves this machine alone."""
        return _is_loopback(self.host)

    def _check_serving(self) -> None:
        self._refuse(_PUSHING, "means nothing without push_url")
        if not self.host:
            raise ValueError("host: expected an address, such as 127.0.0.1, or 0.0.0.0 for all of this machine's")
        for key, other in (("tls_certificate", "tls_key"), ("tls_key", "tls_certificate")):
            if getattr(self, key) and not getattr(self, other):
                raise ValueError(f"{key}: means nothing without {other}")
        needed = [key for key in ("token_file", "tls_certificate", "tls_key") if not getattr(self, key)]
        if needed and not self.is_local and not self.insecure:
            raise ValueError(
                f"host: other machines reach {self.host!r}: that needs {' and '.join(needed)}, "
                "or insecure = true if whoever is there may see what runs here"
            )

    def _check_pushing(self) -> None:
        self._refuse(_SERVING, "a sink with push_url does not serve: have another one for that")
        try:
            url = urlsplit(self.push_url)
            host, _ = url.hostname, url.port
        except ValueError as error:
            raise ValueError(f"push_url: {error}") from None
        if url.scheme not in ("http", "https") or not host or not self.push_url.isprintable() or " " in self.push_url:
            raise ValueError("push_url: expected http://HOST/PATH or https://HOST/PATH")
        if "@" in url.netloc:
            raise ValueError("push_url: a password would be seen by whoever sees the settings: use push_token_file")
        if self.push_batch > 1 and self.push_format != "ndjson":
            raise ValueError('push_batch: more than one snapshot in a request needs push_format = "ndjson"')
        for name, value in self.push_headers.items():
            if not _TOKEN.fullmatch(name) or name.lower() in _OURS:
                raise ValueError(f"push_headers: {name!r}: no header that can be set")
            if not value.isprintable() or not value.isascii():
                raise ValueError(f"push_headers: {name!r}: its value must be printable ASCII")
            if name.lower() == "authorization" and self.push_token_file:
                raise ValueError(f"push_headers: {name!r}: push_token_file sets it already")
        secret = self.push_token_file or any(name.lower() == "authorization" for name in self.push_headers)
        if secret and url.scheme == "http" and not _is_loopback(host) and not self.insecure:
            raise ValueError(
                "push_url: a token needs https://, or insecure = true if whoever is on the way may have it"
            )

    def _refuse(self, keys: tuple[str, ...], why: str) -> None:
        """Keys that are not at their defaults."""
        defaults = dict(zip(self.__struct_fields__, self.__struct_defaults__, strict=True))
        for key in keys:
            if getattr(self, key) != ({} if key == "push_headers" else defaults[key]):
                raise ValueError(f"{key}: {why}")


def _is_loopback(host: str) -> bool:
    """Of a name other than localhost nobody knows."""
    if host.lower() == "localhost":
        return True
    try:
        address = ip_address(host)
    except ValueError:
        return False
    if isinstance(address, IPv6Address) and address.ipv4_mapped:
        address = address.ipv4_mapped
    return address.is_loopback


class HttpJsonSink:
    """The sink that the settings ask for, once its libraries are there."""

    def __init__(self, settings: HttpJsonSettings) -> None:
        self._settings = settings
        self._sink: Sink | None = None

    async def __aenter__(self) -> Self:
        sink = await asyncio.to_thread(self._made)
        await sink.__aenter__()
        self._sink = sink
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._sink:
            await self._sink.__aexit__(kind, error, trace)

    async def send(self, snapshot: Snapshot) -> None:
        """Raises SinkError."""
        assert self._sink, "it is not open"
        await self._sink.send(snapshot)

    @property
    def port(self) -> int:
        """Where it serves."""
        return int(getattr(self._sink, "port", 0))

    def _made(self) -> Sink:
        name = "PushSink" if self._settings.push_url else "ServeSink"
        module = importlib.import_module(f"ebpfmon_sinks.http_json.{name.removesuffix('Sink').lower()}")
        sink: Sink = getattr(module, name)(self._settings)
        return sink
