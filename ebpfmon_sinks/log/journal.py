"""Write each snapshot to systemd's journal as one entry, with fields for its numbers.

The native protocol (systemd.io/JOURNAL_NATIVE_PROTOCOL) is implemented here because it is short. The packages for it,
systemd-python and cysystemd, block, and have to be compiled against systemd's headers.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import re
import socket
import stat
import struct
import zlib
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress

from ebpfmon import VALUE, ChartData, Role, SinkError, Snapshot, encode_json, unique_names
from ebpfmon_sinks.log.text import is_by_process
from ebpfmon_sinks.series_names import column_name, is_reserved, unique_series_names

SOCKET = "/run/systemd/journal/socket"
SNAPSHOT_ID = "43e9ae4b1c7a4f0c9a1b3f4e7c4d52a6"
"""The MESSAGE_ID of all snapshots. `journalctl MESSAGE_ID=...` shows them without the daemon's messages."""
MAX_FIELDS = 1000
"""journald drops entries with more than 1,024 fields, including those that it adds itself."""
_STREAM = re.compile(r"/run/systemd/journal[^/]*/stdout")
_MAX_NAME = 64  # journald drops fields with longer names
_INFO, _WARNING = "6", "4"
_TOO_LARGE = (errno.EMSGSIZE, errno.ENOBUFS)  # for a datagram
_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SEAL

Fields = Mapping[str, str]


def is_journal(fd: int) -> bool:
    """Return whether a descriptor is a stream to the journal, such as systemd gives to services.

    The address of the other end tells. $JOURNAL_STREAM would, too, but only the command line reads the environment.
    """
    with suppress(OSError):
        if stat.S_ISSOCK(os.fstat(fd).st_mode):
            with socket.socket(fileno=os.dup(fd)) as stream:
                return stream.family == socket.AF_UNIX and bool(_STREAM.fullmatch(str(stream.getpeername())))
    return False


def encode(fields: Fields) -> bytes:
    """Return an entry as one datagram. A value of several lines is preceded by its length, as 64 bits."""
    entry = bytearray()
    for name, text in fields.items():
        value = text.encode(errors="replace")
        if b"\n" in value:
            entry += name.encode() + b"\n" + struct.pack("<Q", len(value)) + value + b"\n"
        else:
            entry += name.encode() + b"=" + value + b"\n"
    return bytes(entry)


@asynccontextmanager
async def open_journal(
    message: Callable[[Snapshot], str], applications: int, destinations: int
) -> AsyncIterator[JournalSink]:
    """Yield a sink that is connected to journald. Raises SinkError. See `JournalSink` for the arguments."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.setblocking(False)
        try:
            sock.connect(SOCKET)
        except OSError as error:
            raise SinkError(
                f"cannot connect to the journal's socket '{SOCKET}': {error.strerror}; is systemd-journald running?"
            ) from error
        yield JournalSink(sock, message, applications, destinations)


class JournalSink:
    """Writes snapshots to the journal without blocking the event loop."""

    def __init__(
        self, sock: socket.socket, message: Callable[[Snapshot], str], applications: int, destinations: int
    ) -> None:
        """Take a non-blocking socket that is connected to journald.

        `message` returns the text of a snapshot. For `applications` and `destinations` see `fields_of`.
        """
        self._sock, self._message = sock, message
        self._applications, self._destinations = applications, destinations
        self._names = Names()

    async def send(self, snapshot: Snapshot) -> None:
        """Write one snapshot. Raises SinkError, also if journald was restarted, because it then has a new socket."""
        message = {"MESSAGE": self._message(snapshot)}
        entry = encode(message | fields_of(snapshot, self._names, self._applications, self._destinations))
        try:
            await _send(self._sock, entry)
        except OSError as error:
            raise SinkError(f"cannot write to the journal: {error.strerror}") from error


async def _send(sock: socket.socket, entry: bytes) -> None:
    """Send an entry, and wait while journald's queue is full."""
    memory_fd = -1
    try:
        while True:
            try:
                if memory_fd < 0:
                    sock.send(entry, socket.MSG_NOSIGNAL)
                else:
                    socket.send_fds(sock, [b""], [memory_fd], socket.MSG_NOSIGNAL)
                return
            except BlockingIOError:
                await _writable(sock)
            except OSError as error:
                if error.errno not in _TOO_LARGE or memory_fd >= 0:
                    raise
                memory_fd = _sealed_memory(entry)
    finally:
        if memory_fd >= 0:
            os.close(memory_fd)


def _sealed_memory(entry: bytes) -> int:
    """Return a sealed memory file with the entry, to send an entry that is too large for a datagram."""
    fd = os.memfd_create("ebpfmon", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        with open(fd, "wb", closefd=False) as file:
            file.write(entry)
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS)
    except BaseException:
        os.close(fd)
        raise
    return fd


async def _writable(sock: socket.socket) -> None:
    loop, writable = asyncio.get_running_loop(), asyncio.Event()
    loop.add_writer(sock, writable.set)
    try:
        await writable.wait()
    finally:
        loop.remove_writer(sock)


class Names:
    """Assigns unique names to fields: `read` of `ebpf.io` is EBPFMON_IO_READ.

    A name that is too long, or already used for another field, ends in a checksum.
    """

    def __init__(self) -> None:
        self._known: dict[tuple[str, ...], str] = {}
        self._used: set[str] = set()

    def trim(self) -> None:
        """Clear the cache if it is too large. Call this between snapshots, because names within one must differ."""
        if len(self._known) > 4 * MAX_FIELDS:
            self._known.clear()
            self._used.clear()

    def of(self, *words: str) -> str:
        """Return the name for these words."""
        name = self._known.get(words)
        if name is None:
            name = self._known[words] = self._make(words)
            self._used.add(name)
        return name

    def _make(self, words: Sequence[str]) -> str:
        chart, *more = words
        chart = chart.removeprefix("ebpf.").removeprefix("ebpfmon.")
        plain = name = re.sub(r"[^A-Z0-9_]", "_", "_".join(("EBPFMON", chart, *more)).upper())
        salt = 0
        while len(name) > _MAX_NAME or name in self._used or name in _RESERVED:
            checksum = zlib.crc32(repr((salt, *words)).encode(errors="replace"))
            name, salt = f"{plain[: _MAX_NAME - 9]}_{checksum:08X}", salt + 1
        return name


_RESERVED = ("EBPFMON_TIME", "EBPFMON_ELAPSED_S", "EBPFMON_COMPLETE", "EBPFMON_LEFT_OUT")


def fields_of(snapshot: Snapshot, names: Names, applications: int, destinations: int) -> dict[str, str]:
    """Return the fields of a snapshot, except MESSAGE.

    A chart without labels has a field for each dimension, with its delta or the value of a gauge. A chart with labels
    has one field, a JSON object with all numbers that are not 0. If the chart has the series `other`, the object has
    only the busiest series, and `other` includes the rest. `applications` limits charts by process, `destinations` all
    other charts; with a limit of 0, the chart has no field.
    """
    names.trim()
    fields = {
        "PRIORITY": _INFO if snapshot.complete else _WARNING, "SYSLOG_IDENTIFIER": "ebpfmon", "MESSAGE_ID": SNAPSHOT_ID,
        "EBPFMON_TIME": f"{snapshot.time_s:.3f}", "EBPFMON_ELAPSED_S": f"{snapshot.elapsed_s:.4f}",
        "EBPFMON_COMPLETE": str(snapshot.complete).lower(),
    }  # fmt: skip
    left_out = 0
    for data in snapshot.charts:
        limit = applications if is_by_process(snapshot, data.chart) else destinations
        for name, value in _of_chart(data, names, limit):
            if len(fields) < MAX_FIELDS:
                fields[name] = value
            else:
                left_out += 1
    return fields | ({"EBPFMON_LEFT_OUT": str(left_out)} if left_out else {})


def _of_chart(data: ChartData, names: Names, limit: int) -> Iterator[tuple[str, str]]:
    chart = data.chart
    if not chart.labels:
        for column, delta in zip(chart.columns, data.deltas[0].tolist(), strict=True):
            yield names.of(chart.id, *(() if column.id == VALUE else (column.name,))), str(delta)
    elif Role.OTHER not in data.index.roles or limit:
        yield names.of(chart.id), _json(data, limit)


def _json(data: ChartData, limit: int) -> str:
    """Return the amounts of series by their joined names, as JSON.

    If the chart has the series `other`, items beyond the busiest `limit` are added to it.
    """
    chart, roles, deltas = data.chart, data.index.roles, data.deltas.tolist()
    columns = [
        column_name(chart, name, column, column.name) for name in unique_series_names(data) for column in chart.columns
    ]
    columns = unique_names(columns, columns, [stays for stays in is_reserved(data) for _ in chart.columns])
    rest = [n for n, role in enumerate(roles) if role is not Role.ITEM]
    items = [n for n, role in enumerate(roles) if role is Role.ITEM]
    if Role.OTHER in roles:
        items.sort(key=lambda n: -sum(map(abs, deltas[n])))
        items, hidden = items[:limit], items[limit:]
        for n in hidden:
            other = rest[0]
            deltas[other] = [a + b for a, b in zip(deltas[other], deltas[n], strict=True)]
    width = len(chart.columns)
    amounts = {
        name: amount
        for n in (*items, *rest)
        for name, amount in zip(columns[n * width : (n + 1) * width], deltas[n], strict=True)
    }
    return encode_json({name: amount for name, amount in amounts.items() if amount}).decode()
