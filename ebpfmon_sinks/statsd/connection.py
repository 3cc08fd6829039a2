"""Connect a socket to a StatsD server, and find out whether the server receives what is sent."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import socket
import struct
import termios
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from ebpfmon_sinks.blocking import within

Address = tuple[Any, ...]  # an address in the socket module's format

_RESOLVE_S, _CONNECT_S = 4.0, 2.0  # both fit into the core's time limit for opening a sink
_ANSWER_S = 0.05  # how long to wait for an ICMP error after the last byte
_BYTES_ACKED = 120  # the offset of tcpi_bytes_acked in struct tcp_info


@dataclass(frozen=True, slots=True)
class Connected:
    """A connected socket, and whether the server was given as a name, whose address may change."""

    socket: socket.socket
    by_name: bool


async def connect(host: str, port: int, kind: int) -> Connected:
    """Connect to the first address at which a server seems to listen.

    Raises OSError if there is none, and ValueError if `host` cannot be a host name.
    """
    by_name, addresses = await _resolve(host.removeprefix("[").removesuffix("]"), port, kind)
    return Connected(await _first(kind, addresses), by_name)


async def _resolve(host: str, port: int, kind: int) -> tuple[bool, list[tuple[int, Address]]]:
    """Return whether the host is a name, and its addresses as (family, address)."""
    with suppress(socket.gaierror):
        return False, _lookup(host, port, kind, socket.AI_NUMERICHOST)
    return True, await within(_RESOLVE_S, _lookup, host, port, kind, 0)


def _lookup(host: str, port: int, kind: int, flags: int) -> list[tuple[int, Address]]:
    results = socket.getaddrinfo(host, port, type=kind, flags=flags)
    return [(family, address) for family, _, _, _, address in results]


async def _first(kind: int, addresses: Sequence[tuple[int, Address]]) -> socket.socket:
    """Return a socket that is connected to the first address at which a server seems to listen."""
    loop, failure = asyncio.get_running_loop(), OSError(errno.EADDRNOTAVAIL, os.strerror(errno.EADDRNOTAVAIL))
    for family, address in addresses:
        sock: socket.socket | None = None
        try:
            sock = socket.socket(family, kind)
            sock.setblocking(False)
            async with asyncio.timeout(_CONNECT_S):
                await loop.sock_connect(sock, address)
            if kind == socket.SOCK_DGRAM:
                # All servers ignore an empty line. If no server listens, an ICMP error comes back.
                sock.send(b"\n")
                await wait_until_sent(sock)
            else:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return sock
        except BaseException as error:
            if sock:
                sock.close()
            if not isinstance(error, OSError):
                raise
            failure = error
    raise failure


async def wait_until_sent(sock: socket.socket) -> None:
    """Wait until everything is sent (with TCP, acknowledged by the server's kernel), and a little longer for an error.

    Raises OSError if an error comes back. An ICMP error that takes longer is raised by the next `check_errors`. In
    that case, what was sent before it is lost.
    """
    while True:
        await asyncio.sleep(_ANSWER_S)
        check_errors(sock)
        if not _unsent(sock):
            return


def _unsent(sock: socket.socket) -> int:
    """Return how many bytes are in the send queue. In Linux, TIOCOUTQ has the same number as SIOCOUTQ."""
    (size,) = struct.unpack("i", fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, bytes(4)))
    return int(size)


def acknowledged(sock: socket.socket) -> int:
    """Return how many bytes the server's kernel has acknowledged since the TCP connection was established."""
    info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _BYTES_ACKED + 8)
    (count,) = struct.unpack_from("Q", info, _BYTES_ACKED)
    return int(count)


def abort(sock: socket.socket) -> int:
    """Close a TCP connection and discard what has not been sent. Otherwise the kernel would still send it.

    Returns how many bytes the server's kernel had acknowledged. What it acknowledges after that is not known, so
    nothing comes between the question and the end.
    """
    with suppress(OSError):  # the socket is closed already
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    count = acknowledged(sock)
    sock.close()
    return count


def check_errors(sock: socket.socket) -> None:
    """Raise OSError if the server has refused data or closed the connection. Data that it sends is discarded."""
    with suppress(BlockingIOError):
        while sock.recv(4096) or sock.type == socket.SOCK_DGRAM:
            pass
        raise ConnectionResetError(errno.ECONNRESET, os.strerror(errno.ECONNRESET))


def reason(error: Exception) -> str:
    """Return the reason of an error for a message."""
    if isinstance(error, TimeoutError) and not error.strerror:
        return "no answer"
    if isinstance(error, OSError) and error.errno:
        # strerror has the reason for errors of the resolver, whose errno is negative. For others asyncio adds to it.
        return os.strerror(error.errno) if error.errno > 0 else str(error.strerror)
    return str(error)
