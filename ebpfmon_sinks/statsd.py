"""The StatsD sink: counters and gauges over UDP or TCP, in the original's tongue or with tags in one of three others.

What of the PyPI package `statsd` fits is used: its clients' `incr` and `gauge` form the lines (a negative gauge behind
a 0 in the same datagram, as a sign means "relative"), its pipeline packs them. Its clients cannot send for a daemon:
UDP's drops every error and sends all at once, TCP's blocks, and both resolve names where they stand, take the first
address alone and have to be told its family.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import math
import os
import re
import socket
import struct
import termios
import threading
from collections.abc import Sequence
from contextlib import suppress
from itertools import count
from typing import Annotated, Any, Literal, Self

import msgspec
from statsd.client.base import StatsClientBase
from statsd.client.udp import Pipeline

from ebpfmon import Chart, Dimension, Kind, Scope, SinkError, SinkSettings, Snapshot, Value, hookimpl

EBPFMON_API_VERSION = 1

Tags = Literal["none", "datadog", "influx", "graphite"]
Address = tuple[Any, ...]  # as the socket module has them

_PREFIX_MOST, _CHART_MOST, _WHO_MOST, _WHAT_MOST = 40, 60, 90, 20
# characters of the parts of a name: a gauge's two lines (236 each with tags, then `:-1.7976931348623157e+308|g`) fit
# the smallest datagram that may be set
_DATAGRAM_LEAST, _DATAGRAM_MOST = 512, 65507
_NAMES = 1 << 15  # that are remembered: all of a snapshot with 500 destinations and 200 applications are a third

_RESOLVE_S, _CONNECT_S = 4.0, 2.0  # so that a second address has its turn within the core's limit for opening
_RENEW_S = 60.0  # UDP never hears that a server has moved: its name is looked up again
_ANSWER_S = 0.05  # how long after the last byte a server that is not there has time to say so
_BURSTS_PER_S = 100
_SEND_MOST_S = 5.0  # what took longer than the core's limit would be sent again and again


class StatsdSettings(SinkSettings, tag="statsd", frozen=True):
    """`[[sinks]] type = "statsd"`."""

    host: Annotated[str, msgspec.Meta(min_length=1)] = "127.0.0.1"
    """A name, or an address of either family."""
    port: Annotated[int, msgspec.Meta(ge=1, le=65535)] = 8125
    protocol: Literal["udp", "tcp"] = "udp"
    prefix: Annotated[
        str, msgspec.Meta(pattern=r"^([A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*)?\Z", max_length=_PREFIX_MOST)
    ] = "ebpfmon"
    """What all names begin with. Hosts that share a server need one each, or their counters are summed."""
    tags: Tags = "none"
    """Whose syntax for tags: application, destination and dimension are part of the name, or tags of it."""
    maximum_datagram: Annotated[int, msgspec.Meta(ge=_DATAGRAM_LEAST, le=_DATAGRAM_MOST)] = 1432
    """Bytes of UDP's payload: 1432 pass through any Ethernet in one piece, with room for a tunnel's header."""
    packets_per_second: Annotated[int, msgspec.Meta(ge=10, le=1_000_000)] = 2000
    """How fast the datagrams of one snapshot follow each other, if all are sent within five seconds so."""

    def open(self) -> StatsdSink:
        return StatsdSink(self)


@hookimpl
def ebpfmon_register_sinks() -> Sequence[type[SinkSettings]]:
    return [StatsdSettings]


class StatsdSink:
    """One socket. What the server is known not to have raises SinkError, and the core sends the whole snapshot again:
    what had arrived before is then counted twice, unless it went down with the server."""

    def __init__(self, settings: StatsdSettings) -> None:
        self._settings = settings
        self._names = Names(settings.tags)
        self._where = f"{settings.protocol} {settings.host}:{settings.port}"
        self._socket: socket.socket | None = None
        self._renew_at = math.inf

    async def __aenter__(self) -> Self:
        try:
            await self._open()
        except (OSError, ValueError) as error:  # ValueError: no name of a host can be like that
            raise SinkError(f"connect to '{self._where}': {_why(error)}") from error
        return self

    async def __aexit__(self, *_: object) -> None:
        self._close()

    async def send(self, snapshot: Snapshot) -> None:
        """Send one snapshot. Raises SinkError."""
        datagrams = form(snapshot, self._names, self._settings)
        try:
            end = await self._renewed()
            _hear(end)  # nothing that will be sent again goes to one that has said goodbye
            if self._settings.protocol == "udp":
                await self._send_paced(end, datagrams)
            else:
                everything = b"".join(datagram + b"\n" for datagram in datagrams)
                await asyncio.get_running_loop().sock_sendall(end, everything)
            await _settle(end)
        except OSError as error:
            raise SinkError(f"send to '{self._where}': {_why(error)}") from error

    async def _send_paced(self, end: socket.socket, datagrams: Sequence[bytes]) -> None:
        """What finds a server's receive buffer full is lost, and nobody is told.

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

    async def _renewed(self) -> socket.socket:
        loop = asyncio.get_running_loop()
        if loop.time() >= self._renew_at:
            self._renew_at = loop.time() + _RENEW_S
            with suppress(OSError, ValueError):  # then the old address has to do
                await self._open()
        assert self._socket
        return self._socket

    async def _open(self) -> None:
        kind = socket.SOCK_DGRAM if self._settings.protocol == "udp" else socket.SOCK_STREAM
        host = self._settings.host.removeprefix("[").removesuffix("]")
        named, addresses = await _resolve(host, self._settings.port, kind)
        end = await _connect(kind, addresses)
        self._close()
        self._socket = end
        if named and kind == socket.SOCK_DGRAM:
            self._renew_at = asyncio.get_running_loop().time() + _RENEW_S

    def _close(self) -> None:
        if self._socket:
            self._socket.close()
            self._socket = None


async def _resolve(host: str, port: int, kind: int) -> tuple[bool, list[tuple[int, Address]]]:
    """Whether it is a name, and the addresses (family, address).

    In a thread of its own: the loop's executor would be full of those that wait for a name server, and at the daemon's
    end wait for them.
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


async def _connect(kind: int, addresses: Sequence[tuple[int, Address]]) -> socket.socket:
    """A socket that is connected to the first address where somebody listens, as far as can be known."""
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
                await _settle(end)
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


async def _settle(end: socket.socket) -> None:
    """Wait until all has left, with TCP: until the other side's kernel has it, and a little for an answer.

    Raises OSError if there is one. An answer of UDP's that takes longer is raised by the next `send`: then what was
    sent before is lost, and the error is all that tells of it.
    """
    while True:
        await asyncio.sleep(_ANSWER_S)
        _hear(end)
        if not _unsent(end):
            return


def _unsent(end: socket.socket) -> int:
    """Bytes in the send queue. This is SIOCOUTQ, which in Linux is the same number."""
    (size,) = struct.unpack("i", fcntl.ioctl(end.fileno(), termios.TIOCOUTQ, bytes(4)))
    return int(size)


def _hear(end: socket.socket) -> None:
    """Raises OSError if the other side has refused what was sent, or has gone. No StatsD server says anything else."""
    with suppress(BlockingIOError):
        while end.recv(4096) or end.type == socket.SOCK_DGRAM:
            pass
        raise ConnectionResetError(errno.ECONNRESET, os.strerror(errno.ECONNRESET))


def _why(error: Exception) -> str:
    if isinstance(error, TimeoutError) and not error.strerror:
        return "no answer"
    if isinstance(error, OSError) and error.errno:  # those of a resolver are below 0; asyncio has words of its own
        return os.strerror(error.errno) if error.errno > 0 else str(error.strerror)
    return str(error)


class Names:
    """What a dimension is called: in one flavour, all of it but the prefix and the value, in [a-z0-9_.-] apart from the
    flavour's own marks. No flavour has an escape, so all else becomes `_`. No two dimensions have one name: if another
    one had it first, it ends in a hash of the dimension's ID, as it does when it had to be cut.

    The names are used, not the IDs: `io.read` tells more than `io.vfs_read`, and who has names of hosts resolved wants
    to see them.
    """

    def __init__(self, tags: Tags) -> None:
        self._tags = tags
        self._known: dict[tuple[str, str, str], str] = {}
        self._taken: set[str] = set()

    def trim(self) -> None:
        """Forget all if it has become too much. Not within a snapshot, whose names are to differ."""
        if len(self._known) > _NAMES:
            self._known.clear()
            self._taken.clear()

    def of(self, chart: Chart, template: Dimension, dimension: Dimension) -> str:
        """Of a dimension that the chart declares as `template`."""
        source = (chart.id, dimension.id, dimension.name)
        name = self._known.get(source)
        if name is None:
            name = self._known[source] = self._made(chart, template, dimension)
            self._taken.add(name)
        return name

    def _made(self, chart: Chart, template: Dimension, dimension: Dimension) -> str:
        id_, who, what = dimension.id, dimension.name, ""
        if chart.scope is Scope.KEYS and template.id:
            id_, who = id_.removesuffix(f"_{template.id}"), who.removesuffix(f"_{template.name}")
            what = _part(template.name, _WHAT_MOST)
        metric = ".".join(filter(None, _part(chart.id, _CHART_MOST).split("."))) or "_"
        for n in count():
            name = self._put_together(chart, metric, _part(who, _WHO_MOST, f"{n} {id_}" if n else ""), what)
            if name not in self._taken:
                return name
        raise AssertionError

    def _put_together(self, chart: Chart, metric: str, who: str, what: str) -> str:
        if self._tags == "none":  # each is one component of the path
            return ".".join([metric, *(part.replace(".", "_") for part in (who, what) if part)])
        key = {Scope.APPS: "application", Scope.KEYS: chart.key or "destination"}.get(chart.scope, "dimension")
        tags = [(key, who), *([("dimension", what)] if what else [])]
        match self._tags:
            case "datadog":
                return _metric(metric, "datadog") + "|#" + ",".join(f"{key}:{value}" for key, value in tags)
            case "influx":
                return metric + "".join(f",{key}={value}" for key, value in tags)
            case _:
                return metric + "".join(f";{key}={value}" for key, value in tags)


def _metric(name: str, tags: Tags) -> str:
    """A metric's name, in which Datadog allows no `-`."""
    return name.replace("-", "_") if tags == "datadog" else name


def _part(text: str, most: int, salt: str = "") -> str:
    """A part of a name: clean, not empty, not too long, and another one for each salt."""
    clean = re.sub(r"[^a-z0-9_.-]", "_", text.lower()) or "_"
    if len(clean) <= most and not salt:
        return clean
    from hashlib import blake2b  # brings OpenSSL, 4 MB, and is seldom needed

    mark = blake2b((salt or text).encode(errors="surrogatepass"), digest_size=4).hexdigest()
    return f"{clean[: most - len(mark) - 1]}_{mark}"


def form(snapshot: Snapshot, names: Names, settings: StatsdSettings) -> list[bytes]:
    """A snapshot as datagrams.

    A counter's delta of 0 is not sent: who uses StatsD expects a counter to speak when something has happened, and
    every server goes on with a 0 by itself, or forgets the counter, as it was set up to (etsy's `deleteCounters`). A
    negative one is (etsy's, Datadog's and Netdata's servers subtract it). A gauge is sent as long as it exists: servers
    keep its last value.
    """
    names.trim()
    packer = _Packer(settings)
    with packer.pipeline() as lines:
        for of_chart in snapshot.charts:
            chart, templates = of_chart.chart, of_chart.chart.dimensions
            for n, value in enumerate(of_chart.values):
                if chart.kind is Kind.LEVEL or value.delta:
                    _add(lines, chart.kind, names.of(chart, templates[n % len(templates)], value.dimension), value)
    return packer.datagrams


def _add(lines: Pipeline, kind: Kind, name: str, value: Value) -> None:
    if not math.isfinite(value.delta):
        return  # there is no way to write it
    if kind is Kind.LEVEL:
        lines.gauge(name, value.delta + 0)  # -0.0 would be "0 less than before"
    else:
        lines.incr(name, value.delta)


class _Packer(StatsClientBase):  # type: ignore[misc]  # the package has no types
    """A client of the package's, which only keeps what the package would send."""

    def __init__(self, settings: StatsdSettings) -> None:
        self._prefix = _metric(settings.prefix, settings.tags)
        self._maxudpsize = settings.maximum_datagram + 1  # the package fills datagrams up to one less
        self.datagrams: list[bytes] = []

    def pipeline(self) -> Pipeline:
        return _Lines(self)

    def _send(self, data: str) -> None:
        self.datagrams.append(data.encode("ascii"))


class _Lines(Pipeline):  # type: ignore[misc]  # likewise
    """Puts Datadog's tags where they belong, behind the value: the package knows of no tags."""

    def _prepare(self, stat: str, value: str, rate: float) -> str:
        name, mark, tags = stat.partition("|#")
        return f"{super()._prepare(name, value, rate)}{mark}{tags}"
