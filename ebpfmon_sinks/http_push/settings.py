"""The settings of the http_push sink, validated without I/O."""

from __future__ import annotations

import re
from collections.abc import Iterable
from contextlib import AbstractAsyncContextManager
from typing import Annotated, ClassVar, Literal
from urllib.parse import urlsplit

import msgspec

from ebpfmon import Sink, SinkSettings
from ebpfmon_sinks.http_common import is_loopback, read_token

_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # a token of RFC 9110
_OWN_HEADERS = {
    "content-type", "content-encoding", "content-length", "transfer-encoding", "host", "connection", "expect",
}  # fmt: skip


class HttpPushSettings(SinkSettings, tag="http_push", frozen=True):
    """`[[sinks]] type = "http_push"`: post snapshots to an HTTP receiver."""

    url: str
    """The URL to post to: http:// or https://."""
    format: Literal["json", "ndjson"] = "json"
    """json: one snapshot in each request. ndjson: one snapshot on each line."""
    batch: Annotated[int, msgspec.Meta(ge=1, le=3600)] = 1
    """Snapshots in one request. More than 1 needs ndjson. If a request fails, all but its last snapshot are lost, and
    counted as dropped."""
    gzip: bool = True
    """Whether to compress requests. Not all receivers accept that."""
    headers: dict[str, str] = msgspec.field(default_factory=dict)
    """Additional headers of each request."""
    token_file: str = ""
    """A file whose only line is a token, sent as `Authorization: Bearer TOKEN`. It is read again for each request."""
    timeout_s: Annotated[float, msgspec.Meta(ge=0.1, le=9)] = 5.0  # the core's own limit is 10
    """How long a request may take, in seconds."""
    ca_file: str = ""
    """A PEM file with the certificates to trust instead of the system's."""
    insecure: bool = False
    """Whether to send a token without TLS."""

    requires: ClassVar[tuple[str, ...]] = ("ebpfmon_sinks.http_push.push",)  # takes 14 MB
    files: ClassVar[tuple[str, ...]] = ("token_file", "ca_file")

    def __post_init__(self) -> None:
        """Raise ValueError, which names the setting, if a setting is invalid or contradicts another one."""
        try:
            url = urlsplit(self.url)
            host, _ = url.hostname, url.port
        except ValueError as error:
            raise ValueError(f"url: {error}") from None
        if url.scheme not in ("http", "https") or not host or not self.url.isprintable() or " " in self.url:
            raise ValueError("url: expected http://HOST/PATH or https://HOST/PATH")
        if "@" in url.netloc:
            raise ValueError("url: a password in the URL is visible to all who can read the settings; use token_file")
        if self.batch > 1 and self.format != "ndjson":
            raise ValueError('batch: more than one snapshot in a request needs format = "ndjson"')
        for name, value in self.headers.items():
            if not _HEADER_NAME.fullmatch(name) or name.lower() in _OWN_HEADERS:
                raise ValueError(f"headers: {name!r}: this header cannot be set")
            if not value.isprintable() or not value.isascii():
                raise ValueError(f"headers: {name!r}: its value must be printable ASCII")
            if name.lower() == "authorization" and self.token_file:
                raise ValueError(f"headers: {name!r}: token_file sets this header already")
        has_secret = self.token_file or any(name.lower() == "authorization" for name in self.headers)
        if has_secret and url.scheme == "http" and not is_loopback(host) and not self.insecure:
            raise ValueError("url: a token needs https://; or set insecure = true to send it without encryption")

    def check_machine(self) -> Iterable[str]:
        from ebpfmon_sinks.http_push.push import tls_context

        if self.token_file:
            read_token(self.token_file)
        tls_context(self.ca_file)
        return ()

    def open(self) -> AbstractAsyncContextManager[Sink]:
        from ebpfmon_sinks.http_push.push import open_sink

        return open_sink(self)
