"""The log sink: blocks of text for people, or one JSON object a line, on the terminal or in a file; or the journal."""

from __future__ import annotations

import asyncio
import math
import os
import socket
import stat
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Annotated, ClassVar, Literal, Self

import msgspec
import numpy as np

from ebpfmon import (
    ChartValues,
    Histogram,
    Kind,
    Owners,
    Scope,
    Sink,
    SinkError,
    SinkGoneError,
    SinkSettings,
    Snapshot,
    TableHarvest,
    Value,
    histograms,
    hookimpl,
    to_json,
)
from ebpfmon_sinks import journal

EBPFMON_API_VERSION = 1
_STREAMS = {"stdout": 1, "stderr": 2}
_JOURNAL = "journal"
_NO_FILES = (*_STREAMS, _JOURNAL)
_APPEND = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
TASK_COMM_LEN = 16
_LABEL, _NAME, _NUMBER = 34, 8, 9  # widths of the columns
_WHO, _WHO_MOST = 9 + TASK_COMM_LEN, 60  # of the first one, where lines are of somebody

_QUANTILES = (("p50", 0.5), ("p90", 0.9), ("p99", 0.99))


class LogSettings(SinkSettings, tag="log", frozen=True):
    """`[[sinks]] type = "log"`."""

    format: Literal["text", "json"] = "text"
    path: Annotated[str, msgspec.Meta(min_length=1)] = "stdout"
    """A file, or `stdout` or `stderr`, or `journal`, which is taken as well where systemd made that the stream."""
    applications: Annotated[int, msgspec.Meta(ge=0, le=1000)] = 5
    """How many of the busiest applications the text shows."""
    processes: Annotated[int, msgspec.Meta(ge=0, le=1000)] = 5
    """How many of the busiest processes the text shows."""
    destinations: Annotated[int, msgspec.Meta(ge=0, le=1000)] = 5
    """How many of the busiest keys the text shows of each table that has keys of its own."""
    # a reader may take its time (a terminal that was stopped): the mailbox drops what is too old by then
    send_timeout_s: ClassVar[float | None] = None

    @property
    def capabilities(self) -> frozenset[str]:
        # a file is opened anew for each snapshot
        return frozenset({"dac_override"} if self.path not in _NO_FILES and _is_for_others(self.path) else ())

    def open(self) -> Sink:
        if self.path == _JOURNAL or (self.path in _STREAMS and journal.is_journal(_STREAMS[self.path])):
            return journal.JournalSink(partial(message, settings=self), self.applications, self.destinations)
        return LogSink(self)


@hookimpl
def ebpfmon_register_sinks() -> Sequence[type[SinkSettings]]:
    return [LogSettings]


def _is_for_others(path: str) -> bool:
    """Whether root, who may do everything, could not write a file if he were a user like any other."""
    if not os.path.exists(path):
        path = os.path.dirname(os.path.abspath(path))
    try:
        ways = [os.stat(directory) for directory in Path(os.path.realpath(path)).parents]
        last = os.stat(path)
    except OSError:
        return False
    me = os.geteuid()
    writable = last.st_uid == me or last.st_mode & stat.S_IWOTH
    return not writable or any(way.st_uid != me and not way.st_mode & stat.S_IXOTH for way in ways)


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
        data = message(snapshot, self._settings).encode() + b"\n"
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
    end = socket.socket(fileno=fd)  # inetd's, or such: shared, so that only this send() may not block
    try:
        return end.send(data, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
    finally:
        end.detach()


def message(snapshot: Snapshot, settings: LogSettings) -> str:
    """A snapshot as text, in the format of the settings, without the last newline."""
    if settings.format == "json":
        return msgspec.json.encode(to_json(snapshot)).decode()
    return "\n".join(render(snapshot, settings))


def render(snapshot: Snapshot, settings: LogSettings) -> Iterator[str]:
    """A snapshot as lines for people: a chart a line, then the busiest applications and processes by table, and the
    busiest of other keys, then ebpfmon."""
    partial = "" if snapshot.complete else ", incomplete"
    now = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(snapshot.time_s))
    yield f"{now}  {snapshot.host}  ({snapshot.elapsed_s:.3f} s{partial})"
    own = [c for c in snapshot.charts if c.chart.family == "ebpfmon" and c.chart.id != "ebpfmon.sinks_age"]
    for values in snapshot.charts:
        if values.chart.buckets:
            if values.chart.scope is Scope.SYSTEM:
                yield from _histograms(values, snapshot, 1)
        elif values.chart.family != "ebpfmon" and values.chart.scope is Scope.SYSTEM:
            label = f"{values.chart.family:8} {values.chart.title}"
            named = [(v.dimension.name, _number(values, v.delta, snapshot)) for v in values.values]
            numbers = "".join(f"  {name:>{_NAME}} {number:>{_NUMBER}}" for name, number in named)
            yield f"  {label:{_LABEL}}{numbers}  {values.chart.units}"
    for stem, table in snapshot.tables.items():
        if not table.is_by_process:
            continue
        names = _chosen(table, snapshot, settings)
        if stem in snapshot.owners:
            yield from _applications(table, names, snapshot.owners[stem], snapshot, settings.applications)
        yield from _processes(table, names, snapshot, settings.processes)
    by_key = [c for c in snapshot.charts if c.chart.scope is Scope.KEYS and c.values]
    for _, charts in groupby((c for c in by_key if not c.chart.buckets), _keys):
        yield from _destinations(list(charts), snapshot, settings.destinations)
    for values in (c for c in by_key if c.chart.buckets):
        yield from _histograms(values, snapshot, settings.destinations)
    yield "  ebpfmon  " + " | ".join(
        ", ".join(f"{v.dimension.name} {_number(c, v.delta, snapshot)}" for v in c.values) + f" {c.chart.units}"
        for c in own
        if any(v.delta for v in c.values)
    )


def _chosen(table: TableHarvest, snapshot: Snapshot, settings: LogSettings) -> list[str]:
    """Which of a table's calls and bytes are shown: where the sink chose charts, those that are in one of them."""
    names = [n for n in table.totals if n.endswith(("_calls", "_bytes"))]
    if not settings.charts:
        return names
    charts = [c.chart for c in snapshot.charts if c.chart.scope is not Scope.KEYS]
    fields = {field for chart in charts for d in chart.dimensions for field in (*d.plus, *d.minus)}
    return [n for n in names if n in fields]


def _applications(
    table: TableHarvest, names: Sequence[str], owners: Owners, snapshot: Snapshot, count: int
) -> Iterator[str]:
    def of_groups(weights: np.ndarray | None = None) -> np.ndarray:
        return np.bincount(owners.of_rows, weights, len(owners.groups))

    rows = of_groups()
    amounts = {n: of_groups(table.rows[n]) for n in names}
    order = _by_calls(amounts)[:count]
    labels = [f"{rows[group]:>8} {_printable(owners.groups[group])[:TASK_COMM_LEN]:{TASK_COMM_LEN}}" for group in order]
    yield from _lines(
        f"{'ROWS':>8} {'APPLICATION':{TASK_COMM_LEN}}", labels, {n: a[order] for n, a in amounts.items()}, snapshot
    )


def _processes(table: TableHarvest, names: Sequence[str], snapshot: Snapshot, count: int) -> Iterator[str]:
    amounts = {n: table.rows[n] for n in names}
    busiest = table.rows[_by_calls(amounts)[:count]]
    comms = [_printable(row["comm"].decode(errors="replace")) for row in busiest]
    labels = [f"{row['tgid']:>8} {comm:{TASK_COMM_LEN}}" for row, comm in zip(busiest, comms, strict=True)]
    yield from _lines(f"{'PID':>8} {'COMMAND':{TASK_COMM_LEN}}", labels, {n: busiest[n] for n in amounts}, snapshot)
    if table.overflow_calls and names and count:
        yield f"  {'overflow':>8} {table.overflow_calls} calls of processes that found no room in the table"


def _keys(values: ChartValues) -> tuple[str, tuple[str, ...]]:
    """What the charts by key of one table have in common: how it is called, and the names of the keys, `other` last."""
    first = values.chart.dimensions[0]
    suffix = f"_{first.name}" if first.id else ""
    names = (value.dimension.name for value in values.values[:: len(values.chart.dimensions)])
    return values.chart.table or values.chart.family, tuple(name.removesuffix(suffix) for name in names)


def _destinations(charts: Sequence[ChartValues], snapshot: Snapshot, count: int) -> Iterator[str]:
    """The charts by key of one table: a line for each of the busiest keys, then one for all that is in none of those.
    What nobody did has no column."""
    title, names = _keys(charts[0])
    columns = [(c, n) for c in charts for n in range(len(c.chart.dimensions)) if any(v.delta for v in _column_of(c, n))]
    if not columns or not count:
        return
    amounts = zip(*([v.delta for v in _column_of(*column)] for column in columns), strict=True)
    *keys, other = zip(names, amounts, strict=True)
    keys.sort(key=lambda key: -sum(map(abs, key[1])))
    lines = [key for key in keys[:count] if any(key[1])]
    rest = tuple(map(sum, zip(other[1], *(of_key for _, of_key in keys[count:]), strict=True)))
    if any(rest):
        lines.append((other[0], rest))
    labels = [_printable(name)[:_WHO_MOST] for name, _ in lines]
    width = max(_WHO, *map(len, labels))
    headings = [f"{_template(*column):>{_NUMBER}}" for column in columns]
    yield f"  {_printable(title).upper():{width}}" + "".join(f"  {heading}" for heading in headings)
    for label, (_, of_key) in zip(labels, lines, strict=True):
        numbers = ""
        for (chart, _), heading, amount in zip(columns, headings, of_key, strict=True):
            numbers += f"  {_number(chart, amount, snapshot) if amount else '-':>{len(heading)}}"
        yield f"  {label:{width}}{numbers}"


def _histograms(values: ChartValues, snapshot: Snapshot, count: int) -> Iterator[str]:
    """A line for each histogram, of the busiest keys: what half, nine tenths and 99 of 100 values do not exceed."""
    found = sorted((h for h in histograms(values) if h.count), key=lambda h: -h.count)[:count]
    for each in found:
        label = f"{values.chart.family:8} {values.chart.title}" + (f": {_printable(each.name)}" if each.name else "")
        quantiles = "".join(f"  {name} {_bound(each, part)}" for name, part in _QUANTILES)
        rate = _scaled(each.count / snapshot.elapsed_s, is_bytes=False)
        yield f"  {label[:_WHO_MOST]:{_LABEL}}{quantiles}  {each.of.units}  of {rate} {values.chart.units}"


def _bound(histogram: Histogram, part: float) -> str:
    bound = histogram.quantile(part)
    shown = f"<= {bound:.15g}" if math.isfinite(bound) else f"> {histogram.of.bounds[-1]:.15g}"
    return f"{shown:>{_NUMBER}}"


def _column_of(values: ChartValues, template: int) -> tuple[Value, ...]:
    """Of a chart by key, one dimension of every key."""
    return values.values[template :: len(values.chart.dimensions)]


def _template(values: ChartValues, template: int) -> str:
    """The heading of such a column: the unit and what is done, or where that has no name, what is counted."""
    each = values.chart.dimensions[template]
    unit = values.chart.units.removesuffix("/s")
    return _printable(f"{unit} {each.name}") if each.id else " ".join(map(_column, each.plus))


def _by_calls(amounts: Mapping[str, np.ndarray]) -> np.ndarray:
    """The numbers of the rows that did something, those with most calls first."""
    if not amounts:
        return np.zeros(0, np.intp)
    calls = [a for n, a in amounts.items() if n.endswith("_calls")] or [*amounts.values()]
    order: np.ndarray = np.argsort(-np.sum(calls, axis=0, dtype=np.float64), kind="stable")
    active: np.ndarray = np.any([*amounts.values()], axis=0)
    busiest: np.ndarray = order[active[order]]
    return busiest


def _lines(heading: str, labels: Sequence[str], amounts: Mapping[str, np.ndarray], snapshot: Snapshot) -> Iterator[str]:
    """A table of rates; what nobody did has no column."""
    shown = {n: a for n, a in amounts.items() if a.any()}
    if not shown:
        return
    yield f"  {heading}" + "".join(f"  {_column(n):>{_NUMBER}}" for n in shown)
    for row, label in enumerate(labels):
        numbers = ""
        for name, of_rows in shown.items():
            amount = int(of_rows[row])
            rate = _scaled(amount / snapshot.elapsed_s, name.endswith("_bytes")) if amount else "-"
            numbers += f"  {rate:>{max(_NUMBER, len(_column(name)))}}"
        yield f"  {label}{numbers}"


def _column(field: str) -> str:
    """The heading of a counter."""
    return field.removesuffix("_calls").replace("_", " ")


def _number(chart: ChartValues, delta: int | float, snapshot: Snapshot) -> str:
    if chart.chart.kind is Kind.LEVEL or not chart.chart.units.endswith("/s"):
        return str(delta) if isinstance(delta, int) else f"{delta:g}"
    return _scaled(delta / snapshot.elapsed_s, chart.chart.units.startswith("bytes"))


def _scaled(rate: float, is_bytes: bool) -> str:
    if not is_bytes:
        return str(round(rate))
    for unit in ("B", "kB", "MB", "GB"):
        if abs(rate) < 999.5 or unit == "GB":
            break
        rate /= 1000
    return f"{rate:.0f} {unit}" if unit == "B" else f"{rate:.1f} {unit}"


def _printable(name: str) -> str:
    """A process names itself, and the network hosts: what they say is not put on a terminal as it is."""
    return "".join(c if c.isprintable() else "?" for c in name)
