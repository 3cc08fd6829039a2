"""Show what ebpfmon itself costs and loses, as charts like any other (family `ebpfmon`)."""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from ebpfmon.model import Chart, ChartData, Dimension, Harvest, Kind, Role, SeriesIndex
from ebpfmon.pipeline.schedule import TimeInterval

_FAMILY = "ebpfmon"
_FIRST_PRIORITY = 145000  # after everything else
_STATM = "/proc/self/statm"
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_TABLE, _SINK = "table", "sink"


class Statistics(Protocol):
    """What became of a sink's snapshots (`ebpfmon.pipeline.publish.SinkStatistics`)."""

    sent: int
    dropped: int
    errors: int
    queue_length: int
    succeeded_s: float


class Watched(Protocol):
    """A sink (`ebpfmon.pipeline.publish.SinkTask`)."""

    name: str

    @property
    def statistics(self) -> Statistics:
        """What became of its snapshots."""


@dataclass(frozen=True, slots=True)
class _Declared:
    """One chart: `id` without `ebpfmon.`; `label` is empty, `table` or `sink`; one number has no name."""

    id: str
    title: str
    units: str
    kind: Kind
    label: str = ""
    dimensions: tuple[str, ...] = ("value",)


_CHARTS = (
    _Declared("harvest_time", "Time of a harvest", "milliseconds", Kind.GAUGE, "", ("swap", "drain")),
    _Declared("rows", "Rows in a table", "rows", Kind.GAUGE, _TABLE),
    _Declared("table_occupancy", "Part of a table in use", "%", Kind.GAUGE, _TABLE),
    _Declared("overflow", "Calls without a row", "calls/s", Kind.COUNTER, _TABLE),
    _Declared("lost", "Ticks and program runs left out", "events", Kind.COUNTER, "", ("late_ticks", "missed_runs")),
    _Declared("attribution", "New processes", "processes/s", Kind.COUNTER, "", ("looked_up", "waiting", "forgotten")),
    _Declared("cpu", "CPU time of ebpfmon", "milliseconds/s", Kind.COUNTER, "", ("user", "system")),
    _Declared("memory", "Resident memory of ebpfmon", "MB", Kind.GAUGE, "", ("rss",)),
    _Declared("sinks_sent", "Snapshots sent", "snapshots", Kind.COUNTER, _SINK),
    _Declared("sinks_dropped", "Snapshots lost by a full mailbox", "snapshots", Kind.COUNTER, _SINK),
    _Declared("sinks_errors", "Errors of sinks", "errors", Kind.COUNTER, _SINK),
    _Declared("sinks_queue", "Snapshots waiting", "snapshots", Kind.GAUGE, _SINK),
    _Declared("sinks_age", "Time since a sink last took a snapshot", "seconds", Kind.GAUGE, _SINK),
)


class SelfMetrics:
    """Collect the numbers of `ebpfmon.*`, once a tick."""

    def __init__(self, tables: Iterable[str], sinks: Iterable[Watched]) -> None:
        self._tables, self._sinks = tuple(tables), tuple(sinks)
        self._cpu_ms = _cpu_ms()
        self._before = {sink.name: (0, 0, 0) for sink in self._sinks}
        labelled = {"": ("",), _TABLE: self._tables, _SINK: tuple(sink.name for sink in self._sinks)}
        self._names = labelled
        self.declared = [
            Chart(
                id=f"ebpfmon.{of.id}", title=of.title, units=of.units, family=_FAMILY, kind=of.kind,
                priority=_FIRST_PRIORITY + order, labels=(of.label,) if of.label else (),
                dimensions=tuple(Dimension(d, d.replace("_", " "), (d,)) for d in of.dimensions),
            )
            for order, of in enumerate(_CHARTS)
        ]  # fmt: skip
        """The charts, in their order."""
        self._totals = [np.zeros((len(labelled[of.label]), len(of.dimensions)), np.int64) for of in _CHARTS]
        self._starts_s: dict[tuple[str, str], float] = {}  # by label and its value
        self._indexes: dict[str, SeriesIndex] = {}

    def take_over(self, former: SelfMetrics) -> None:
        """Go on with the totals of the same tables and sinks."""
        self._cpu_ms, self._starts_s = former._cpu_ms, dict(former._starts_s)
        self._before |= {sink.name: former._before[sink.name] for sink in self._sinks if sink in former._sinks}
        for of, totals, before in zip(_CHARTS, self._totals, former._totals, strict=True):
            places = {name: n for n, name in enumerate(former._names[of.label])}
            for n, name in enumerate(self._names[of.label]):
                if name in places:
                    totals[n] = before[places[name]]

    def charts(
        self, harvest: Harvest, late_ticks: int, attribution: Mapping[str, int], interval: TimeInterval
    ) -> list[ChartData]:
        """Return the charts of this tick. `attribution` has its own numbers, if groups are turned on."""
        return self.charts_of(self.numbers(harvest, late_ticks, attribution), interval)

    def charts_of(
        self, numbers: Mapping[str, Sequence[Sequence[int | float]]], interval: TimeInterval
    ) -> list[ChartData]:
        """Return the charts with these numbers: of each chart, a row for each series."""
        found = []
        for chart, of, totals in zip(self.declared, _CHARTS, self._totals, strict=True):
            of_kind = np.int64 if of.kind.cumulative else None  # without series there is no number to tell by
            deltas = np.array(numbers[of.id], of_kind).reshape(totals.shape)
            if of.kind.cumulative:
                totals += deltas
            index = self._index(of.label, interval)
            found.append(ChartData(chart=chart, index=index, deltas=deltas, totals=totals.copy()))
        return found

    def numbers(
        self, harvest: Harvest, late_ticks: int, attribution: Mapping[str, int]
    ) -> dict[str, list[list[int | float]]]:
        """Measure: of each chart, a row for each series."""
        before, self._cpu_ms = self._cpu_ms, _cpu_ms()
        tables = [harvest.tables.get(stem) for stem in self._tables]
        statistics = [sink.statistics for sink in self._sinks]
        return {
            "harvest_time": [[round(harvest.swap_ns / 1e6, 3), round(harvest.drain_ns / 1e6, 3)]],
            "rows": [[len(table.rows) if table else 0] for table in tables],
            "table_occupancy": [[round(100 * len(table.rows) / table.capacity, 1) if table else 0] for table in tables],
            "overflow": [[table.overflow_calls if table else 0] for table in tables],
            "lost": [[late_ticks, harvest.missed_runs]],
            "attribution": [[attribution.get(name, 0) for name in ("looked_up", "waiting", "forgotten")]],
            "cpu": [[now - then for now, then in zip(self._cpu_ms, before, strict=True)]],
            "memory": [[round(_resident_bytes() / 1e6, 1)]],
            **self._of_sinks(),
            "sinks_queue": [[of.queue_length] for of in statistics],
            "sinks_age": [[round(time.monotonic() - of.succeeded_s, 1)] for of in statistics],
        }

    def _of_sinks(self) -> dict[str, list[list[int | float]]]:
        changes: list[tuple[int, ...]] = []
        for sink in self._sinks:
            now = (sink.statistics.sent, sink.statistics.dropped, sink.statistics.errors)
            changes.append(tuple(new - old for new, old in zip(now, self._before[sink.name], strict=True)))
            self._before[sink.name] = now
        ids = ("sinks_sent", "sinks_dropped", "sinks_errors")
        return {id_: [[change[n]] for change in changes] for n, id_ in enumerate(ids)}

    def _index(self, label: str, interval: TimeInterval) -> SeriesIndex:
        if label not in self._indexes:
            values = tuple((name,) for name in self._names[label]) if label else ((),)
            starts_s = tuple(self._starts_s.setdefault((label, name), interval.start_s) for name in self._names[label])
            self._indexes[label] = SeriesIndex(
                labels=values, names=values, roles=(Role.ITEM,) * len(values), starts_s=starts_s
            )
        return self._indexes[label]


def _cpu_ms() -> tuple[int, int]:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return int(usage.ru_utime * 1000), int(usage.ru_stime * 1000)


def _resident_bytes() -> int:
    fd = os.open(_STATM, os.O_RDONLY | os.O_CLOEXEC)  # a file object would make nine system calls of these three
    try:
        return int(os.read(fd, 128).split()[1]) * _PAGE_BYTES
    finally:
        os.close(fd)
