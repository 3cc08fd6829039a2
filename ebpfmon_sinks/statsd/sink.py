"""The StatsD sink: sends snapshots over UDP or TCP.

The clients of the PyPI package `statsd` cannot send for a daemon: UDP's drops every error and sends all at once, TCP's
blocks, and both resolve names on the spot, take the first address alone, and have to be told its family.
"""

from __future__ import annotations

import asyncio
import math
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress

from ebpfmon import SinkError, Snapshot
from ebpfmon_sinks.statsd import connection
from ebpfmon_sinks.statsd.connection import Connected
from ebpfmon_sinks.statsd.lines import Names, form
from ebpfmon_sinks.statsd.settings import StatsdSettings

_RENEW_S = 60.0  # UDP never hears that a server has moved: its name is looked up again
_BURSTS_PER_S = 100
_SEND_MOST_S = 5.0  # what took longer than the core's limit would be sent again and again


class StatsdSink:
    """One socket.

    What the server is known not to have raises SinkError, and the core sends the whole snapshot again: what had arrived
    before is then counted twice, unless it went down with the server.
    """

    def __init__(self, settings: StatsdSettings, connected: Connected) -> None:
        self._settings, self._connected = settings, connected
        self._names = Names(settings.tags)
        self._renew_at = asyncio.get_running_loop().time() + _RENEW_S

    @property
    def end(self) -> socket.socket:
        """The socket that is connected to the server now."""
        return self._connected.socket

    def close(self) -> None:
        """Close the socket."""
        self.end.close()

    async def send(self, snapshot: Snapshot) -> None:
        """Send one snapshot. Raise SinkError."""
        datagrams = form(snapshot, self._names, self._settings)
        try:
            await self._renew()
            end = self.end
            connection.hear(end)  # nothing that will be sent again goes to a server that has said goodbye
            if self._settings.protocol == "udp":
                await self._send_paced(end, datagrams)
            else:
                everything = b"".join(datagram + b"\n" for datagram in datagrams)
                await asyncio.get_running_loop().sock_sendall(end, everything)
            await connection.sent(end)
        except OSError as error:
            raise SinkError(f"send to '{_where(self._settings)}': {connection.reason(error)}") from error

    async def _send_paced(self, end: socket.socket, datagrams: Sequence[bytes]) -> None:
        """Send datagrams no faster than servers read: what finds a receive buffer full is lost, and nobody is told.

        Measured with etsy's server, 212992 bytes of buffer, 1000 full datagrams on loopback, two CPUs, idle / with four
        busy processes beside it: unpaced 188 / 140 arrived, 20000 a second 594 / 416, 10000 944 / 740, 5000 1000 / 942,
        2000 and less all. A burst is 20 then, which take a fifth of that buffer.
        """
        loop = asyncio.get_running_loop()
        rate = max(self._settings.packets_per_second, math.ceil(len(datagrams) / _SEND_MOST_S))
        burst = max(1, rate // _BURSTS_PER_S)
        for n, datagram in enumerate(datagrams):
            if n and n % burst == 0:
                # the whole pause even if time was lost before: a burst that makes up for it would be one too long
                await asyncio.sleep(burst / rate)
            await loop.sock_sendall(end, datagram)  # waits for room in the send buffer: its size loses nothing

    async def _renew(self) -> None:
        """Look the server's name up again from time to time, if nothing else would tell that it has moved."""
        loop = asyncio.get_running_loop()
        is_deaf = self._connected.by_name and self._settings.protocol == "udp"
        if is_deaf and loop.time() >= self._renew_at:
            self._renew_at = loop.time() + _RENEW_S
            with suppress(OSError, ValueError):  # then the old address has to do
                before, self._connected = self._connected, await _connect(self._settings)
                before.socket.close()


@asynccontextmanager
async def connected(settings: StatsdSettings) -> AsyncIterator[StatsdSink]:
    """Yield a sink that is connected to its server. Raise SinkError if that fails."""
    try:
        sink = StatsdSink(settings, await _connect(settings))
    except (OSError, ValueError) as error:  # ValueError: no host can be called so
        raise SinkError(f"connect to '{_where(settings)}': {connection.reason(error)}") from error
    try:
        yield sink
    finally:
        sink.close()


async def _connect(settings: StatsdSettings) -> Connected:
    kind = socket.SOCK_DGRAM if settings.protocol == "udp" else socket.SOCK_STREAM
    return await connection.connect(settings.host, settings.port, kind)


def _where(settings: StatsdSettings) -> str:
    return f"{settings.protocol} {settings.host}:{settings.port}"
