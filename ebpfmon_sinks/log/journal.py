"""Write each snapshot to systemd's journal, as one entry with a field for every number.

The native protocol (systemd.io/JOURNAL_NATIVE_PROTOCOL) is implemented here because it is short. The packages that
speak it, systemd-python and cysystemd, are C that blocks, and must be compiled against systemd's headers.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import re
import socket
import struct
import zlib
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import replace

import msgspec

from ebpfmon import VALUE, ChartData, Role, Series, SinkError, Snapshot
from ebpfmon_sinks.joined import joined_name, of_column
from ebpfmon_sinks.log.text import is_by_process

SOCKET = "/run/systemd/journal/socket"
SNAPSHOT_ID = "43e9ae4b1c7a4f0c9a1b3f4e7c4d52a6"
"""The MESSAGE_ID of all snapshots: `journalctl MESSAGE_ID=...` finds them, and no message of the daemon's."""
FIELDS_MOST = 1000
"""journald leaves out an entry of more than 1,024 fields, with those that it adds itself."""
_STREAM = re.compile(r"/run/systemd/journal[^/]*/stdout")
_NAME_MOST = 64  # journald leaves out a field with a longer name
_INFO, _WARNING = "6", "4"
_TOO_LARGE = (errno.EMSGSIZE, errno.ENOBUFS)  # for a datagram
_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SEAL

Fields = Mapping[str, str]


def is_journal(fd: int) -> bool:
    """Return whether a descriptor is a stream to the journal, as systemd gives one to services.

    The name of the other end tells. So does $JOURNAL_STREAM, but only the command line reads the environment.
    """
    with suppress(OSError):
        end = socket.socket(fileno=os.dup(fd))
        with end:
            return end.family == socket.AF_UNIX and bool(_STREAM.fullmatch(str(end.getpeername())))
    return False


def encode(fields: Fields) -> bytes:
    """Return an entry as one datagram. A value of several lines has its length in front, as 64 bits."""
    entry = bytearray()
    for name, text in fields.items():
        value = text.encode(errors="replace")
        if b"\n" in value:
            entry += name.encode() + b"\n" + struct.pack("<Q", len(value)) + value + b"\n"
        else:
            entry += name.encode() + b"=" + value + b"\n"
    return bytes(entry)


@asynccontextmanager
async def connected(
    message: Callable[[Snapshot], str], applications: int, destinations: int
) -> AsyncIterator[JournalSink]:
    """Yield a sink that is connected to journald. Raise SinkError. See `JournalSink` for the arguments."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as end:
        end.setblocking(False)
        try:
            end.connect(SOCKET)
        except OSError as error:
            raise SinkError(f"open the journal's socket '{SOCKET}': {error.strerror}") from error
        yield JournalSink(end, message, applications, destinations)


class JournalSink:
    """Write entries without ever blocking the event loop."""

    def __init__(
        self, end: socket.socket, message: Callable[[Snapshot], str], applications: int, destinations: int
    ) -> None:
        """`end`: connected to journald, non-blocking. `message`: what people read of a snapshot. See `fields_of` for
        the others."""
        self._end, self._message = end, message
        self._applications, self._destinations = applications, destinations
        self._names = Names()

    async def send(self, snapshot: Snapshot) -> None:
        """Write one snapshot. Raise SinkError; a journald that was started anew has another socket."""
        said = {"MESSAGE": self._message(snapshot)}
        entry = encode(said | fields_of(snapshot, self._names, self._applications, self._destinations))
        try:
            await _send(self._end, entry)
        except OSError as error:
            raise SinkError(f"write to the journal: {error.strerror}") from error


async def _send(end: socket.socket, entry: bytes) -> None:
    """Send an entry, and wait while the other side's queue is full."""
    large = -1
    try:
        while True:
            try:
                if large < 0:
                    end.send(entry, socket.MSG_NOSIGNAL)
                else:
                    socket.send_fds(end, [b""], [large], socket.MSG_NOSIGNAL)
                return
            except BlockingIOError:
                await _writable(end)
            except OSError as error:
                if error.errno not in _TOO_LARGE or large >= 0:
                    raise
                large = _sealed(entry)
    finally:
        if large >= 0:
            os.close(large)


def _sealed(entry: bytes) -> int:
    """Return a file in memory that nobody can change any more: the way to hand over an entry of any size."""
    fd = os.memfd_create("ebpfmon", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        with open(fd, "wb", closefd=False) as file:
            file.write(entry)
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS)
    except BaseException:
        os.close(fd)
        raise
    return fd


async def _writable(end: socket.socket) -> None:
    loop, writable = asyncio.get_running_loop(), asyncio.Event()
    loop.add_writer(end, writable.set)
    try:
        await writable.wait()
    finally:
        loop.remove_writer(end)


class Names:
    """Name fields: `ebpf.io` with `read` is EBPFMON_IO_READ. No two fields have one name: if another one had it first,
    or if it would be too long, it ends in a checksum."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, ...], str] = {}
        self._taken: set[str] = set()

    def trim(self) -> None:
        """Forget all names if there are too many. Not within a snapshot, whose names must differ."""
        if len(self._known) > 4 * FIELDS_MOST:
            self._known.clear()
            self._taken.clear()

    def of(self, *words: str) -> str:
        """Return the name for these words, always the same."""
        name = self._known.get(words)
        if name is None:
            name = self._known[words] = self._made(words)
            self._taken.add(name)
        return name

    def _made(self, words: Sequence[str]) -> str:
        chart, *more = words
        chart = chart.removeprefix("ebpf.").removeprefix("ebpfmon.")
        plain = found = re.sub(r"[^A-Z0-9_]", "_", "_".join(("EBPFMON", chart, *more)).upper())
        salt = 0
        while len(found) > _NAME_MOST or found in self._taken or found in _OWN:
            mark = zlib.crc32(repr((salt, *words)).encode(errors="replace"))
            found, salt = f"{plain[: _NAME_MOST - 9]}_{mark:08X}", salt + 1
        return found


_OWN = ("EBPFMON_TIME", "EBPFMON_ELAPSED_S", "EBPFMON_COMPLETE", "EBPFMON_LEFT_OUT")


def fields_of(snapshot: Snapshot, names: Names, applications: int, destinations: int) -> dict[str, str]:
    """Return a snapshot as fields, but for its MESSAGE.

    A chart without labels has a field for each dimension: its delta, or the value of a gauge. A chart with labels has
    one field, a JSON object of what is not 0. If its series add up to a whole, the object has the busiest ones alone
    (so many `applications` of a chart by process, so many `destinations` of others), and the rest is in `other`; with 0
    the chart has no field.
    """
    names.trim()
    fields = {
        "PRIORITY": _INFO if snapshot.complete else _WARNING, "SYSLOG_IDENTIFIER": "ebpfmon", "MESSAGE_ID": SNAPSHOT_ID,
        "EBPFMON_TIME": f"{snapshot.time_s:.3f}", "EBPFMON_ELAPSED_S": f"{snapshot.elapsed_s:.4f}",
        "EBPFMON_COMPLETE": str(snapshot.complete).lower(),
    }  # fmt: skip
    left_out = 0
    for data in snapshot.charts:
        most = applications if is_by_process(snapshot, data.chart) else destinations
        for name, value in _of_chart(data, names, most):
            if len(fields) < FIELDS_MOST:
                fields[name] = value
            else:
                left_out += 1
    return fields | ({"EBPFMON_LEFT_OUT": str(left_out)} if left_out else {})


def _of_chart(data: ChartData, names: Names, most: int) -> Iterator[tuple[str, str]]:
    chart = data.chart
    if not chart.labels:
        for column, delta in zip(chart.columns, data.deltas[0].tolist(), strict=True):
            yield names.of(chart.id, *(() if column.id == VALUE else (column.name,))), str(delta)
    elif Role.OTHER not in data.index.roles:
        yield names.of(chart.id), _json(data.series())
    elif most:
        items = [series for series in data.series() if series.role is Role.ITEM]
        rest = [series for series in data.series() if series.role is not Role.ITEM]
        items.sort(key=lambda series: -sum(map(abs, series.deltas)))
        hidden = [replace(rest[0], deltas=series.deltas) for series in items[most:]]
        yield names.of(chart.id), _json([*items[:most], *rest, *hidden])


def _json(several: Iterable[Series]) -> str:
    """Return what series did, by their joined names. Series that are called the same are summed."""
    amounts: dict[str, int | float] = {}
    for series in several:
        name = joined_name(series.chart, series.labels, series.names)
        for column, delta in zip(series.chart.columns, series.deltas, strict=True):
            called = of_column(series.chart, name, column, column.name)
            amounts[called] = amounts.get(called, 0) + delta
    return msgspec.json.encode({name: amount for name, amount in amounts.items() if amount}).decode()
