"""Publish the costs and losses of ebpfmon itself, as charts of the family `ebpfmon`."""

from __future__ import annotations

import os
import resource
import time
import weakref
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from ebpfmon.model import Chart, ChartData, Dimension, Harvest, Kind, Role, SeriesIndex
from ebpfmon.pipeline.schedule import TimeInterval

_FAMILY = "ebpfmon"
_FIRST_PRIORITY = 145000  # Sort after all other charts.
_STATM = "/proc/self/statm"
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_TABLE, _SINK = "table", "sink"


class Statistics(Protocol):
    """Counts of a sink's snapshots and errors (`ebpfmon.pipeline.publish.SinkStatistics`)."""

    sent: int
    dropped: int
    errors: int
    queue_length: int
    succeeded_s: float


class MeasuredSink(Protocol):
    """A sink with statistics (`ebpfmon.pipeline.publish.SinkTask`)."""

    name: str

    @property
    def statistics(self) -> Statistics:
        """Counts of its snapshots and errors."""


@dataclass(frozen=True, slots=True)
class _ChartSpec:
    """One chart. `id` is without the prefix `ebpfmon.`; `label` is empty, `table` or `sink`."""

    id: str
    title: str
    units: str
    kind: Kind
    label: str = ""
    dimensions: tuple[str, ...] = ("value",)


_CHARTS = (
    _ChartSpec("harvest_time", "Time of a harvest", "milliseconds", Kind.GAUGE, "", ("swap", "drain")),
    _ChartSpec("rows", "Rows in a table", "rows", Kind.GAUGE, _TABLE),
    _ChartSpec("table_occupancy", "Part of a table in use", "%", Kind.GAUGE, _TABLE),
    _ChartSpec("overflow", "Calls without a row", "calls/s", Kind.COUNTER, _TABLE),
    _ChartSpec("lost", "Ticks and program runs left out", "events", Kind.COUNTER, "", ("late_ticks", "missed_runs")),
    _ChartSpec("attribution", "New processes", "processes/s", Kind.COUNTER, "", ("looked_up", "waiting", "forgotten")),
    _ChartSpec("cpu", "CPU time of ebpfmon", "milliseconds/s", Kind.COUNTER, "", ("user", "system")),
    _ChartSpec("memory", "Resident memory of ebpfmon", "MB", Kind.GAUGE, "", ("rss",)),
    _ChartSpec("sinks_sent", "Snapshots sent", "snapshots", Kind.COUNTER, _SINK),
    _ChartSpec("sinks_dropped", "Snapshots lost by a full mailbox", "snapshots", Kind.COUNTER, _SINK),
    _ChartSpec("sinks_errors", "Errors of sinks", "errors", Kind.COUNTER, _SINK),
    _ChartSpec("sinks_queue", "Snapshots waiting", "snapshots", Kind.GAUGE, _SINK),
    _ChartSpec("sinks_age", "Time since a sink last took a snapshot", "seconds", Kind.GAUGE, _SINK),
)
CHART_IDS = tuple(f"{_FAMILY}.{spec.id}" for spec in _CHARTS)
"""The ids of the charts."""


class SelfMetrics:
    """Measures the numbers of the charts `ebpfmon.*`, once per tick."""

    def __init__(self, tables: Iterable[str], sinks: Iterable[MeasuredSink]) -> None:
        self._tables, self._sinks = tuple(tables), tuple(sinks)
        self._cpu_ms = _cpu_ms()
        self._memory = _ResidentMemory()
        self._before = {sink.name: (0, 0, 0) for sink in self._sinks}
        self._names = {"": ("",), _TABLE: self._tables, _SINK: tuple(sink.name for sink in self._sinks)}
        self.declared = [
            Chart(
                id=f"{_FAMILY}.{spec.id}", title=spec.title, units=spec.units, family=_FAMILY, kind=spec.kind,
                priority=_FIRST_PRIORITY + order, labels=(spec.label,) if spec.label else (),
                dimensions=tuple(Dimension(d, d.replace("_", " "), (d,)) for d in spec.dimensions),
            )
            for order, spec in enumerate(_CHARTS)
        ]  # fmt: skip
        """The charts, in the order of `_CHARTS`."""
        self._totals = [np.zeros((len(self._names[spec.label]), len(spec.dimensions)), np.int64) for spec in _CHARTS]
        self._starts_s: dict[tuple[str, str], float] = {}
        """The start of each series, by label and label value."""
        self._indexes: dict[str, SeriesIndex] = {}

    def take_over(self, former: SelfMetrics) -> None:
        """Continue with the totals of tables and sinks that both objects have."""
        self._memory = former._memory
        self._cpu_ms, self._starts_s = former._cpu_ms, dict(former._starts_s)
        self._before |= {sink.name: former._before[sink.name] for sink in self._sinks if sink in former._sinks}
        for spec, totals, before in zip(_CHARTS, self._totals, former._totals, strict=True):
            positions = {name: n for n, name in enumerate(former._names[spec.label])}
            for n, name in enumerate(self._names[spec.label]):
                if name in positions:
                    totals[n] = before[positions[name]]

    def charts(
        self, harvest: Harvest, late_ticks: int, attribution: Mapping[str, int], interval: TimeInterval
    ) -> list[ChartData]:
        """Return the charts of this tick. `attribution` are the numbers of `GroupStage.statistics`, if any."""
        return self.charts_of(self.measure(harvest, late_ticks, attribution), interval)

    def charts_of(
        self, numbers: Mapping[str, Sequence[Sequence[int | float]]], interval: TimeInterval
    ) -> list[ChartData]:
        """Return the charts that have numbers: for each chart, one row per series."""
        charts = []
        for chart, spec, totals in zip(self.declared, _CHARTS, self._totals, strict=True):
            if spec.id not in numbers:
                continue
            # Without series, numpy would infer float64.
            dtype = np.int64 if spec.kind.cumulative else None
            deltas = np.array(numbers[spec.id], dtype).reshape(totals.shape)
            if spec.kind.cumulative:
                totals += deltas
            index = self._index(spec.label, interval)
            charts.append(ChartData(chart=chart, index=index, deltas=deltas, totals=totals.copy()))
        return charts

    def measure(
        self, harvest: Harvest, late_ticks: int, attribution: Mapping[str, int]
    ) -> dict[str, list[list[int | float]]]:
        """Return the current numbers: for each chart, one row per series. What cannot be measured now is left out."""
        resident_bytes = self._memory.read_bytes()
        before, self._cpu_ms = self._cpu_ms, _cpu_ms()
        tables = [harvest.tables.get(name) for name in self._tables]
        return {
            "harvest_time": [[round(harvest.swap_ns / 1e6, 3), round(harvest.drain_ns / 1e6, 3)]],
            "rows": [[len(table.rows) if table else 0] for table in tables],
            "table_occupancy": [[round(100 * len(table.rows) / table.capacity, 1) if table else 0] for table in tables],
            "overflow": [[table.overflow_calls if table else 0] for table in tables],
            "lost": [[late_ticks, harvest.missed_runs]],
            "attribution": [[attribution.get(name, 0) for name in ("looked_up", "waiting", "forgotten")]],
            "cpu": [[now - then for now, then in zip(self._cpu_ms, before, strict=True)]],
            **({} if resident_bytes is None else {"memory": [[round(resident_bytes / 1e6, 1)]]}),
            **self._sink_deltas(),
            "sinks_queue": [[sink.statistics.queue_length] for sink in self._sinks],
            "sinks_age": [[round(time.monotonic() - sink.statistics.succeeded_s, 1)] for sink in self._sinks],
        }

    def _sink_deltas(self) -> dict[str, list[list[int | float]]]:
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


class _ResidentMemory:
    """Reads the resident memory of this process, from a file that stays open, so that a tick needs no descriptor."""

    def __init__(self) -> None:
        self._fd: int | None = None

    def read_bytes(self) -> int | None:
        """Return the size in bytes, None if it cannot be read now."""
        try:
            if self._fd is None:
                self._fd = os.open(_STATM, os.O_RDONLY | os.O_CLOEXEC)
                weakref.finalize(self, os.close, self._fd)
            return int(os.pread(self._fd, 128, 0).split()[1]) * _PAGE_BYTES
        except OSError:
            return None
