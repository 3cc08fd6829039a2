"""A connected socket to a StatsD server: names that resolve to several addresses, servers that are not there."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import socket
import struct
import termios
import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

Address = tuple[Any, ...]  # as the socket module has them

_RESOLVE_S, _CONNECT_S = 4.0, 2.0  # so that a second address has its turn within the core's limit for opening
_ANSWER_S = 0.05  # how long after the last byte a server that is not there has time to say so


@dataclass(frozen=True, slots=True)
class Connected:
    """A socket that is connected, and whether the server was given by a name, which may move."""

    socket: socket.socket
    by_name: bool


async def connect(host: str, port: int, kind: int) -> Connected:
    """Connect to the first address where somebody listens, as far as can be known.

    Raise OSError if there is none, ValueError if no host can be called so.
    """
    by_name, addresses = await _resolve(host.removeprefix("[").removesuffix("]"), port, kind)
    return Connected(await _first(kind, addresses), by_name)


async def _resolve(host: str, port: int, kind: int) -> tuple[bool, list[tuple[int, Address]]]:
    """Return whether the host is a name, and the addresses (family, address).

    It runs in a thread of its own. Threads of the loop's executor that wait for a name server would fill it, and the
    daemon's end would wait for them.
    """
    with suppress(socket.gaierror):
        return False, _looked_up(host, port, kind, socket.AI_NUMERICHOST)
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[list[tuple[int, Address]]] = loop.create_future()

    def ask() -> None:
        found: list[tuple[int, Address]] = []
        failure: Exception | None = None
        try:
            found = _looked_up(host, port, kind, 0)
        except Exception as error:
            failure = error

        def tell() -> None:
            if answer.done():
                return
            if failure:
                answer.set_exception(failure)
            else:
                answer.set_result(found)

        with suppress(RuntimeError):  # the loop has ended
            loop.call_soon_threadsafe(tell)

    threading.Thread(target=ask, name="statsd resolver", daemon=True).start()
    async with asyncio.timeout(_RESOLVE_S):
        return True, await answer


def _looked_up(host: str, port: int, kind: int, flags: int) -> list[tuple[int, Address]]:
    found = socket.getaddrinfo(host, port, type=kind, flags=flags)
    return [(family, address) for family, _, _, _, address in found]


async def _first(kind: int, addresses: Sequence[tuple[int, Address]]) -> socket.socket:
    """Return a socket that is connected to the first address where somebody listens."""
    loop, failure = asyncio.get_running_loop(), OSError(errno.EADDRNOTAVAIL, os.strerror(errno.EADDRNOTAVAIL))
    for family, address in addresses:
        end: socket.socket | None = None
        try:
            end = socket.socket(family, kind)
            end.setblocking(False)
            async with asyncio.timeout(_CONNECT_S):
                await loop.sock_connect(end, address)
            if kind == socket.SOCK_DGRAM:
                # an empty line, which all servers pass over: where nobody listens, there will be an answer
                end.send(b"\n")
                await sent(end)
            else:
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return end
        except BaseException as error:
            if end:
                end.close()
            if not isinstance(error, OSError):
                raise
            failure = error
    raise failure


async def sent(end: socket.socket) -> None:
    """Wait until everything has left (with TCP, until the other side's kernel has it), and a little for an answer.

    Raise OSError if there is one. The next `hear` raises an answer of UDP's that takes longer: then what was sent
    before is lost, and the error is all that tells of it.
    """
    while True:
        await asyncio.sleep(_ANSWER_S)
        hear(end)
        if not _unsent(end):
            return


def _unsent(end: socket.socket) -> int:
    """Return how many bytes are in the send queue. TIOCOUTQ is the same number as SIOCOUTQ in Linux."""
    (size,) = struct.unpack("i", fcntl.ioctl(end.fileno(), termios.TIOCOUTQ, bytes(4)))
    return int(size)


def hear(end: socket.socket) -> None:
    """Raise OSError if the other side has refused what was sent, or has gone. No StatsD server says anything else."""
    with suppress(BlockingIOError):
        while end.recv(4096) or end.type == socket.SOCK_DGRAM:
            pass
        raise ConnectionResetError(errno.ECONNRESET, os.strerror(errno.ECONNRESET))


def reason(error: Exception) -> str:
    """Return in words why something failed."""
    if isinstance(error, TimeoutError) and not error.strerror:
        return "no answer"
    if isinstance(error, OSError) and error.errno:  # those of a resolver are below 0; asyncio has words of its own
        return os.strerror(error.errno) if error.errno > 0 else str(error.strerror)
    return str(error)
