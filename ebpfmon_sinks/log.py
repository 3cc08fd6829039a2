"""The log sink: blocks of text for people, or one JSON object a line, on the terminal or in a file."""

from __future__ import annotations

import asyncio
import os
import socket
import stat
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Annotated, ClassVar, Literal, Self

import msgspec
import numpy as np

from ebpfmon import (
    ChartValues,
    Kind,
    SinkError,
    SinkGoneError,
    SinkSettings,
    Snapshot,
    TableHarvest,
    Value,
    hookimpl,
    to_json,
)

EBPFMON_API_VERSION = 1
_STREAMS = {"stdout": 1, "stderr": 2}
_APPEND = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
TASK_COMM_LEN = 16
_LABEL, _NAME, _NUMBER = 34, 8, 9  # widths of the columns


class LogSettings(SinkSettings, tag="log", frozen=True):
    """`[[sinks]] type = "log"`."""

    format: Literal["text", "json"] = "text"
    path: Annotated[str, msgspec.Meta(min_length=1)] = "stdout"
    """A file, or `stdout` or `stderr`."""
    processes: Annotated[int, msgspec.Meta(ge=0, le=1000)] = 5
    """How many of the busiest processes the text shows."""
    # a reader may take its time (a terminal that was stopped): the mailbox drops what is too old by then
    send_timeout_s: ClassVar[float | None] = None

    def open(self) -> LogSink:
        return LogSink(self)


@hookimpl
def ebpfmon_register_sinks() -> Sequence[type[SinkSettings]]:
    return [LogSettings]


class LogSink:
    """Writes without ever blocking the event loop. A regular file is opened for each snapshot, so that it may be
    rotated at any time; a stream (terminal, pipe, socket) is kept open."""

    def __init__(self, settings: LogSettings) -> None:
        self._settings = settings
        self._stream = -1

    async def __aenter__(self) -> Self:
        try:
            self._stream = await asyncio.to_thread(self._open)
        except OSError as error:
            raise SinkError(f"open '{self._settings.path}': {error.strerror}") from error
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._stream >= 0:
            os.close(self._stream)

    async def send(self, snapshot: Snapshot) -> None:
        """Write one snapshot. Raises SinkError, or SinkGoneError if the reader of a stream has gone."""
        if self._settings.format == "json":
            data = msgspec.json.encode(to_json(snapshot)) + b"\n"
        else:
            data = "".join(f"{line}\n" for line in render(snapshot, self._settings.processes)).encode()
        try:
            if self._stream >= 0:
                await _write_stream(self._stream, data)
            else:
                await asyncio.to_thread(self._append, data)
        except BrokenPipeError:
            raise SinkGoneError(f"the reader of {self._settings.path} has gone") from None
        except OSError as error:
            raise SinkError(f"write '{self._settings.path}': {error.strerror}") from error

    def _open(self) -> int:
        """A descriptor if it is a stream, -1 if it is a file that can be written."""
        if self._settings.path in _STREAMS:
            stream = _STREAMS[self._settings.path]
            mode = os.fstat(stream).st_mode
            if stat.S_ISFIFO(mode) or stat.S_ISCHR(mode):
                # opened anew, as O_NONBLOCK on the stream itself would be set for the shell as well
                with suppress(OSError):
                    return os.open(f"/proc/self/fd/{stream}", os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            return os.dup(stream)
        # O_NONBLOCK: a named pipe without a reader is refused (ENXIO), where it would keep the daemon waiting
        fd = os.open(self._settings.path, _APPEND | os.O_NONBLOCK, 0o640)
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            return fd
        os.close(fd)
        return -1

    def _append(self, data: bytes) -> None:
        with open(os.open(self._settings.path, _APPEND, 0o640), "ab") as file:
            file.write(data)


async def _write_stream(fd: int, data: bytes) -> None:
    loop = asyncio.get_running_loop()
    while data:
        try:
            data = data[_write(fd, data) :]
        except BlockingIOError:
            writable = asyncio.Event()
            loop.add_writer(fd, writable.set)
            try:
                await writable.wait()
            finally:
                loop.remove_writer(fd)


def _write(fd: int, data: bytes) -> int:
    if not stat.S_ISSOCK(os.fstat(fd).st_mode):
        return os.write(fd, data)
    end = socket.socket(fileno=fd)  # systemd's journal: shared, so that only this send() may not block
    try:
        return end.send(data, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
    finally:
        end.detach()


def render(snapshot: Snapshot, processes: int) -> Iterator[str]:
    """A snapshot as lines for people: a chart a line, then the busiest processes, then ebpfmon itself."""
    partial = "" if snapshot.complete else ", incomplete"
    now = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(snapshot.time_s))
    yield f"{now}  {snapshot.host}  ({snapshot.elapsed_s:.3f} s{partial})"
    own = [c for c in snapshot.charts if c.chart.family == "ebpfmon"]
    for values in snapshot.charts:
        if values not in own:
            label = f"{values.chart.family:8} {values.chart.title}"
            named = [(v.dimension.name, _number(values, v, snapshot)) for v in values.values]
            numbers = "".join(f"  {name:>{_NAME}} {number:>{_NUMBER}}" for name, number in named)
            yield f"  {label:{_LABEL}}{numbers}  {values.chart.units}"
    for table in snapshot.tables.values():
        yield from _busiest(table, snapshot, processes)
    yield "  ebpfmon  " + " | ".join(
        ", ".join(f"{v.dimension.name} {_number(c, v, snapshot)}" for v in c.values) + f" {c.chart.units}"
        for c in own
        if any(v.delta for v in c.values)
    )


def _busiest(table: TableHarvest, snapshot: Snapshot, count: int) -> Iterator[str]:
    calls = [n for n in table.totals if n.endswith("_calls")]
    if not count or not calls:
        return
    busiest = table.rows[np.argsort(np.sum([table.rows[n] for n in calls], axis=0))[::-1][:count]]
    shown = [n for n in table.totals if n.endswith(("_calls", "_bytes")) and busiest[n].any()]
    yield f"  {'PID':>8} {'COMMAND':{TASK_COMM_LEN}}" + "".join(f"  {_column(n):>{_NUMBER}}" for n in shown)
    for row in busiest:
        rates = [_scaled(int(row[n]) / snapshot.elapsed_s, n.endswith("_bytes")) if row[n] else "-" for n in shown]
        numbers = "".join(f"  {rate:>{max(_NUMBER, len(_column(n)))}}" for n, rate in zip(shown, rates, strict=True))
        yield f"  {row['tgid']:>8} {_printable(row['comm']):{TASK_COMM_LEN}}{numbers}"
    if table.overflow_calls:
        yield f"  {'overflow':>8} {table.overflow_calls} calls of processes that found no room in the table"


def _column(field: str) -> str:
    """The heading of a counter."""
    return field.removesuffix("_calls").replace("_", " ")


def _number(chart: ChartValues, value: Value, snapshot: Snapshot) -> str:
    if chart.chart.kind is Kind.LEVEL or not chart.chart.units.endswith("/s"):
        return str(value.delta) if isinstance(value.delta, int) else f"{value.delta:g}"
    return _scaled(value.delta / snapshot.elapsed_s, chart.chart.units.startswith("bytes"))


def _scaled(rate: float, is_bytes: bool) -> str:
    if not is_bytes:
        return str(round(rate))
    for unit in ("B", "kB", "MB", "GB"):
        if abs(rate) < 999.5 or unit == "GB":
            break
        rate /= 1000
    return f"{rate:.0f} {unit}" if unit == "B" else f"{rate:.1f} {unit}"


def _printable(comm: bytes) -> str:
    """A process names itself, so what it says is not put on a terminal as it is."""
    return "".join(c if c.isprintable() else "?" for c in comm.decode(errors="replace"))
