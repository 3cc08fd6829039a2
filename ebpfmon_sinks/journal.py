"""systemd's journal: each snapshot as one entry with a field for every number.

The native protocol (systemd.io/JOURNAL_NATIVE_PROTOCOL) is written here, as it is short: the packages that speak it,
systemd-python and cysystemd, are C that blocks, and must be compiled against systemd's headers.
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
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Self

import msgspec

from ebpfmon import ChartValues, Scope, SinkError, Snapshot, Value

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
    """Whether a descriptor is a stream to the journal, as systemd gives one to services.

    The other end's name tells; so does $JOURNAL_STREAM, but the environment is the command line's alone.
    """
    with suppress(OSError):
        end = socket.socket(fileno=os.dup(fd))
        with end:
            return end.family == socket.AF_UNIX and bool(_STREAM.fullmatch(str(end.getpeername())))
    return False


def encode(fields: Fields) -> bytes:
    """An entry as one datagram. A value of several lines has its length in front, as 64 bits."""
    entry = bytearray()
    for name, text in fields.items():
        value = text.encode(errors="replace")
        if b"\n" in value:
            entry += name.encode() + b"\n" + struct.pack("<Q", len(value)) + value + b"\n"
        else:
            entry += name.encode() + b"=" + value + b"\n"
    return bytes(entry)


class JournalSink:
    """Writes without ever blocking the event loop."""

    def __init__(self, message: Callable[[Snapshot], str], applications: int, destinations: int) -> None:
        """`message`: what people read of a snapshot. The others: see `fields_of`."""
        self._message, self._applications, self._destinations = message, applications, destinations
        self._names = Names()
        self._socket: socket.socket | None = None

    async def __aenter__(self) -> Self:
        end = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        end.setblocking(False)
        try:
            end.connect(SOCKET)
        except OSError as error:
            end.close()
            raise SinkError(f"open the journal's socket '{SOCKET}': {error.strerror}") from error
        self._socket = end
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._socket:
            self._socket.close()

    async def send(self, snapshot: Snapshot) -> None:
        """Write one snapshot. Raises SinkError; a journal that was started anew has another socket."""
        assert self._socket, "it is not open"
        said = {"MESSAGE": self._message(snapshot)}
        entry = encode(said | fields_of(snapshot, self._names, self._applications, self._destinations))
        try:
            await _send(self._socket, entry)
        except OSError as error:
            raise SinkError(f"write to the journal: {error.strerror}") from error


async def _send(end: socket.socket, entry: bytes) -> None:
    """Whether it is busy is the other side's queue, of which a connected socket is told."""
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
    """A file in memory that nobody can change any more: the other way to hand over an entry, of any size."""
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
    """What fields are called: `ebpf.io` with `read` is EBPFMON_IO_READ. No two have one name: where one had it first,
    or it would be too long, it ends in a checksum."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, ...], str] = {}
        self._taken: set[str] = set()

    def trim(self) -> None:
        """Forget all if it has become too much. Not within a snapshot, whose names are to differ."""
        if len(self._known) > 4 * FIELDS_MOST:
            self._known.clear()
            self._taken.clear()

    def of(self, *words: str) -> str:
        """The name for these words, always the same."""
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
    """A snapshot as fields, but for its MESSAGE.

    Of a chart of the system every dimension has one: its delta, or level. A chart by application or by destination has
    one, a JSON object of what is not 0: of so many of the busiest, and the rest in `other`. With 0 it has none.
    """
    names.trim()
    fields = {
        "PRIORITY": _INFO if snapshot.complete else _WARNING, "SYSLOG_IDENTIFIER": "ebpfmon", "MESSAGE_ID": SNAPSHOT_ID,
        "EBPFMON_TIME": f"{snapshot.time_s:.3f}", "EBPFMON_ELAPSED_S": f"{snapshot.elapsed_s:.4f}",
        "EBPFMON_COMPLETE": str(snapshot.complete).lower(),
    }  # fmt: skip
    left_out = 0
    for values in snapshot.charts:
        for name, value in _of_chart(values, names, {Scope.APPS: applications, Scope.KEYS: destinations}):
            if len(fields) < FIELDS_MOST:
                fields[name] = value
            else:
                left_out += 1
    return fields | ({"EBPFMON_LEFT_OUT": str(left_out)} if left_out else {})


def _of_chart(values: ChartValues, names: Names, most: Mapping[Scope, int]) -> Iterator[tuple[str, str]]:
    chart = values.chart
    if chart.scope is Scope.SYSTEM:
        for value in values.values:
            yield names.of(chart.id, value.dimension.name), str(value.delta)
    elif most[chart.scope] and values.values:
        amounts = _busiest(values, most[chart.scope])
        yield names.of(chart.id), msgspec.json.encode(amounts).decode()


def _busiest(values: ChartValues, most: int) -> dict[str, int | float]:
    """By name, what so many keys did, and the rest: in all, what the chart says."""
    width = len(values.chart.dimensions)
    keys: list[Sequence[Value]] = [values.values[n : n + width] for n in range(0, len(values.values), width)]
    others = 2 if values.chart.scope is Scope.APPS else 1  # `other`, and `overflow`, which are last
    keys, rest = keys[:-others], keys[-others:]
    keys.sort(key=lambda key: -sum(abs(value.delta) for value in key))
    amounts: dict[str, int | float] = {}
    for key in (*keys[:most], *rest):
        for value in key:
            _add(amounts, value.dimension.name, value.delta)
    for key in keys[most:]:
        for value, other in zip(key, rest[0], strict=True):
            _add(amounts, other.dimension.name, value.delta)
    return {name: amount for name, amount in amounts.items() if amount}


def _add(amounts: dict[str, int | float], name: str, amount: int | float) -> None:
    amounts[name] = amounts.get(name, 0) + amount
