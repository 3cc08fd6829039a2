"""The settings of the http_json sink, validated without I/O."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractAsyncContextManager
from typing import Annotated, ClassVar

import msgspec

from ebpfmon import Sink, SinkSettings, file_resources, port_resources
from ebpfmon_sinks.directories import require_directory
from ebpfmon_sinks.http_common import is_loopback, read_token
from ebpfmon_sinks.unix_socket import check_path

_FIRST_FREE_PORT = 1024  # listening on a lower port needs CAP_NET_BIND_SERVICE
_POSTING = ("url", "format", "batch", "gzip", "headers", "token_file", "timeout_s", "ca_file")


class HttpJsonSettings(SinkSettings, tag="http_json", frozen=True):
    """`[[sinks]] type = "http_json"`: serve snapshots to HTTP clients."""

    host: str = "127.0.0.1"
    """The address to listen on. An address that other machines can reach needs a token and TLS, or `insecure`."""
    port: Annotated[int, msgspec.Meta(ge=0, le=65535)] = 9797
    """The port to listen on. 0: any free port, which is logged."""
    socket: str = ""
    """The path of a Unix socket to listen on instead of a port."""
    socket_group: str = ""
    """The group that may connect to `socket` besides root. Empty: only root."""
    token_file: str = ""
    """A file whose only line is a token. Every request then needs `Authorization: Bearer TOKEN`, except those for
    /healthz and /readyz. The file may be replaced at any time."""
    tls_certificate: str = ""
    """A PEM file with the certificate, followed by those of its issuers."""
    tls_key: str = ""
    """A PEM file with the private key of the certificate."""
    insecure: bool = False
    """Whether to serve other machines without a token or without TLS."""

    requires: ClassVar[tuple[str, ...]] = ("ebpfmon_sinks.http_json.serve",)  # takes 14 MB
    files: ClassVar[tuple[str, ...]] = ("token_file", "tls_certificate", "tls_key")
    removed: ClassVar[dict[str, str]] = {
        f"push_{name}": f'posting is now a sink of its own; set {name} in a sink with type = "http_push"'
        for name in _POSTING
    }

    def __post_init__(self) -> None:
        """Raise ValueError, which names the setting, if a setting is invalid or contradicts another one."""
        if not self.host:
            raise ValueError(
                "host: expected an address, such as 127.0.0.1, or 0.0.0.0 for all addresses of this machine"
            )
        for key, other in (("tls_certificate", "tls_key"), ("tls_key", "tls_certificate")):
            if getattr(self, key) and not getattr(self, other):
                raise ValueError(f"{key}: needs {other} as well")
        if self.socket:
            check_path(self.socket)
            for key in ("host", "port", "tls_certificate"):
                if getattr(self, key) != getattr(type(self)(), key):
                    raise ValueError(f"{key}: the sink listens on socket; remove {key}")
        elif self.socket_group:
            raise ValueError("socket_group: needs socket as well")
        missing = [key for key in ("token_file", "tls_certificate", "tls_key") if not getattr(self, key)]
        if missing and not self.is_local and not self.insecure:
            raise ValueError(
                f"host: other machines can reach {self.host!r}, so set {' and '.join(missing)}, "
                "or set insecure = true to let everyone there see what runs here"
            )

    @property
    def capabilities(self) -> frozenset[str]:
        if self.socket:
            return frozenset({"chown"} if self.socket_group else ())
        return frozenset({"net_bind_service"} if 0 < self.port < _FIRST_FREE_PORT else ())

    @property
    def resources(self) -> frozenset[str]:
        return file_resources(self.socket) if self.socket else port_resources(self.host, self.port)

    @property
    def is_local(self) -> bool:
        """Whether only this machine can reach the server."""
        return bool(self.socket) or is_loopback(self.host)

    def check_machine(self) -> Iterable[str]:
        from ebpfmon_sinks.http_json import listen

        if self.token_file:
            read_token(self.token_file)
        if self.tls_certificate:
            listen.tls_context(self.tls_certificate, self.tls_key)
        if self.socket:
            require_directory(self.socket, f"cannot listen on '{self.socket}'")
            listen.group_id(self.socket, self.socket_group)
        return ()

    def open(self) -> AbstractAsyncContextManager[Sink]:
        from ebpfmon_sinks.http_json.serve import HttpJsonSink

        return HttpJsonSink(self)
