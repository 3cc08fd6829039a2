"""Listen for connections, and limit their number."""

from __future__ import annotations

import grp
import resource
import socket
import ssl
import struct
from collections import Counter
from collections.abc import Hashable, Iterable
from functools import partial
from ipaddress import IPv6Address, ip_address, ip_network
from typing import Any

from aiohttp import web

from ebpfmon import SinkError
from ebpfmon_sinks.accept import Acceptor
from ebpfmon_sinks.http_common import in_time, reason_of
from ebpfmon_sinks.http_json.connection import Connection, State, reset
from ebpfmon_sinks.http_json.settings import HttpJsonSettings
from ebpfmon_sinks.unix_socket import UnixSocket

CONNECTIONS = 64
PER_ORIGIN = 32
"""How many connections may come from one address, from one /64 network (IPv6) or from one user (Unix socket).

All local clients share the loopback addresses, so those have no limit of their own.
"""
RESERVED_DESCRIPTORS = 32
"""How many of the process's descriptors connections leave free, so that the rest of the daemon can open files."""
_STOP_S = 0.5  # to finish responses in progress; all sinks together have 1.5 s to stop
_BACKLOG = 256
_LOOPBACK = "loopback"
_CREDENTIALS = struct.Struct("iII")  # struct ucred: pid, uid, gid


class Listener:
    """Listening sockets that serve an application.

    asyncio's servers, and with them aiohttp's sites, count a connection only once its TLS handshake is complete, and
    limit neither. So connections are accepted here. AppRunner does the rest.
    """

    def __init__(self, settings: HttpJsonSettings, application: web.Application) -> None:
        self._settings = settings
        self._runner = web.AppRunner(application, handler_cancellation=True, shutdown_timeout=_STOP_S)
        self._tls: ssl.SSLContext | None = None
        self._sockets: list[socket.socket] = []
        self._acceptors: list[Acceptor] = []
        self._unix: UnixSocket | None = None
        self._connections: set[Connection] = set()
        self.port = 0 if settings.socket else settings.port
        """The port that it listens on, or 0. If the settings say 0, it is known once the listener is open."""

    async def open(self) -> None:
        """Listen. Raises SinkError."""
        settings = self._settings
        if settings.tls_certificate:
            certificate, key = settings.tls_certificate, settings.tls_key
            self._tls = await in_time(
                f"cannot use the certificate '{certificate}' with '{key}'", tls_context, certificate, key
            )
        await self._bind()
        await self._runner.setup()
        for listening in self._sockets:
            self._acceptors.append(Acceptor(listening, self._admit, partial(self._make_room, self._connections)))

    async def _bind(self) -> None:
        settings = self._settings
        where = f"'{settings.socket}'" if settings.socket else f"'{settings.host}' port {settings.port}"
        failure = f"cannot listen on {where}"
        try:
            if settings.socket:
                self._unix = await in_time(failure, _bind_unix, settings.socket, settings.socket_group)
                self._unix.socket.listen(_BACKLOG)
                self._sockets.append(self._unix.socket)
                return
            for family, address in await in_time(failure, _addresses, settings.host, settings.port):
                self._sockets.append(socket.create_server(address, family=family, backlog=_BACKLOG))
            self.port = self._sockets[0].getsockname()[1]
        except OSError as error:
            await self.close()
            raise SinkError(f"{failure}: {reason_of(error)}") from None

    async def close(self) -> None:
        """Stop listening and end all connections."""
        for acceptor in self._acceptors:
            acceptor.close()
        for listening in self._sockets:
            listening.close()
        if self._unix:
            self._unix.close()
        for connection in [each for each in self._connections if each.state <= State.OPENING]:
            connection.abort()
        await self._runner.cleanup()

    @property
    def connections(self) -> int:
        """The number of open connections."""
        return len(self._connections)

    def _admit(self, sock: socket.socket, address: Any, since_s: float) -> bool:
        """Serve or refuse a connection. Return whether there was room for it."""
        origin = _origin(sock, address)
        same = [each for each in self._connections if each.origin == origin]
        is_crowded = origin != _LOOPBACK and len(same) >= PER_ORIGIN
        is_full = len(self._connections) >= CONNECTIONS or self._lacks_descriptors(sock)
        if (is_crowded or is_full) and not self._make_room(same if is_crowded else self._connections, since_s):
            reset(sock)
        elif server := self._runner.server:
            self._connections.add(Connection(server, sock, self._tls, origin=origin, closed=self._connections.discard))
        return not (is_crowded or is_full)

    def _lacks_descriptors(self, sock: socket.socket) -> bool:
        """Return whether the new socket takes a descriptor of the reserve.

        A system call returns the lowest descriptor that is free. As long as a connection has one of the reserve, the
        lower ones were all in use, and one that is free now was closed to make room.
        """
        highest = max([sock.fileno(), *(each.descriptor for each in self._connections)])
        return highest >= _usable_descriptors()

    def _make_room(self, connections: Iterable[Connection], since_s: float) -> bool:
        """Close one of these connections, unless all are busy. Return whether one was closed.

        Connections that were accepted after `since_s` (on the loop's clock) come last, because they have had no chance
        to send anything. Of the others it is one from the origin with the most connections: one that has sent nothing,
        or else the one that has waited longest.
        """
        counts = Counter(each.origin for each in self._connections)
        idle = [each for each in connections if each.state is not State.BUSY]
        if idle:
            min(
                idle, key=lambda c: (c.since_s >= since_s, -counts[c.origin], c.state > State.SILENT, c.since_s)
            ).abort()
        return bool(idle)


def _bind_unix(path: str, group: str) -> UnixSocket:
    """Return a socket that members of the group may connect to. Blocking. Raises SinkError and OSError."""
    return UnixSocket(path, group_id(path, group))


def group_id(path: str, group: str) -> int:
    """Return the number of the group that may connect to a socket, -1 if there is none. Blocking. Raises SinkError."""
    try:
        return grp.getgrnam(group).gr_gid if group else -1
    except KeyError:
        raise SinkError(f"cannot listen on '{path}': no group '{group}'; create it, or change socket_group") from None


def _addresses(host: str, port: int) -> list[tuple[int, Any]]:
    """Return the families and addresses of a host name. Blocking. Raises OSError."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    return [(family, address) for family, _, _, _, address in found]


def _origin(sock: socket.socket, address: tuple[str, int]) -> Hashable:
    """Return what identifies the client of a connection for limits: its user, address or network."""
    if sock.family == socket.AF_UNIX:
        credentials = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        return int(_CREDENTIALS.unpack(credentials)[1])
    ip = ip_address(address[0].partition("%")[0])
    if isinstance(ip, IPv6Address) and ip.ipv4_mapped:
        ip = ip.ipv4_mapped
    if ip.is_loopback:
        return _LOOPBACK
    return ip_network((ip, 64 if ip.version == 6 else 32), strict=False)


def _usable_descriptors() -> float:
    """Return the lowest descriptor that connections may not use."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return float("inf") if soft == resource.RLIM_INFINITY else soft - RESERVED_DESCRIPTORS


def tls_context(certificate: str, key: str) -> ssl.SSLContext:
    """Return a context with the server's certificate and key. Blocking. Raises SinkError."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        context.load_cert_chain(certificate, key, password=_no_password)
    except ssl.SSLError:
        reason = "it is not a PEM certificate, or the key does not belong to it"
    except (OSError, ValueError) as error:
        reason = reason_of(error) if isinstance(error, OSError) else str(error)
    else:
        return context
    raise SinkError(f"cannot use the certificate '{certificate}' with '{key}': {reason}")


def _no_password() -> str:
    raise ValueError("the key is encrypted; store it without a password")
