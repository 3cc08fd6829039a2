"""Give each sink the charts and the interval length that it asked for. No I/O."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from ebpfmon.model import ChartData, RowGroups, SeriesIndex, Snapshot, TableHarvest, TableView
from ebpfmon.model.series import Numbers
from ebpfmon.pipeline.aggregate import Aggregator


class ChartFilter:
    """A set of charts, given by patterns of their ids.

    `*` matches any text, and a leading `!` excludes. An exclusion always wins. If no pattern includes charts, the set
    contains every chart that is not excluded.
    """

    def __init__(self, patterns: Sequence[str]) -> None:
        """Create the set. Raises ValueError if a pattern is not valid."""
        for pattern in patterns:
            if not re.fullmatch(r"!?[\w.*-]+", pattern):
                raise ValueError(f"'{pattern}': expected the id of a chart, or a pattern such as apps.* or !apps.*")
        self._included = [p for p in patterns if not p.startswith("!")]
        self._excluded = [p[1:] for p in patterns if p.startswith("!")]
        self._known: dict[str, bool] = {}

    def __contains__(self, id_: str) -> bool:
        if id_ not in self._known:
            included = not self._included or any(fnmatch.fnmatchcase(id_, p) for p in self._included)
            self._known[id_] = included and not any(fnmatch.fnmatchcase(id_, p) for p in self._excluded)
        return self._known[id_]

    def apply(self, snapshot: Snapshot) -> Snapshot:
        """Return the snapshot with only the charts in this set."""
        if not self._included and not self._excluded:
            return snapshot
        return replace(snapshot, charts=tuple(c for c in snapshot.charts if c.chart.id in self))


def join_snapshots(first: Snapshot, second: Snapshot) -> Snapshot:
    """Return two successive intervals as one.

    Amounts are summed, and gauges are those of the second interval. Charts and series that only the first has are kept.
    """
    return replace(
        second,
        elapsed_s=first.elapsed_s + second.elapsed_s,
        complete=first.complete and second.complete,
        charts=_charts(first.charts, second.charts),
        tables={
            **first.tables,
            **second.tables,
            **{
                name: _view(first.tables[name], second.tables[name])
                for name in first.tables.keys() & second.tables.keys()
            },
        },
    )


def _charts(first: Sequence[ChartData], second: Sequence[ChartData]) -> tuple[ChartData, ...]:
    before = {data.chart.id: data for data in first}
    charts = [_chart(before.get(data.chart.id), data) for data in second]
    now = {data.chart.id for data in second}
    return (*charts, *(data for data in first if data.chart.id not in now))


def _chart(first: ChartData | None, second: ChartData) -> ChartData:
    if first is None or not second.chart.kind.cumulative:
        return second
    if first.index is second.index:
        summed: Numbers = np.add(first.deltas, second.deltas)
        return replace(second, deltas=summed)
    positions = {key: n for n, key in enumerate(second.index.keys)}
    keys = first.index.keys
    gone = [n for n, key in enumerate(keys) if key not in positions]
    shared = [n for n, key in enumerate(keys) if key in positions]
    deltas = second.deltas.copy()
    targets = [positions[keys[n]] for n in shared]
    deltas[targets] = np.add(deltas[targets], first.deltas[shared])
    if not gone:
        return replace(second, deltas=deltas)
    # Series that only the first interval has come first, because `other` and `overflow` must stay last.
    return replace(
        second,
        index=SeriesIndex(
            labels=(*(first.index.labels[n] for n in gone), *second.index.labels),
            names=(*(first.index.names[n] for n in gone), *second.index.names),
            roles=(*(first.index.roles[n] for n in gone), *second.index.roles),
            starts_s=(*(first.index.starts_s[n] for n in gone), *second.index.starts_s),
        ),
        deltas=np.vstack((first.deltas[gone], deltas)),
        totals=np.vstack((first.totals[gone], second.totals)),
    )


def _view(first: TableView, second: TableView) -> TableView:
    parts = [first.harvest, second.harvest]
    dtype, counters = parts[1].rows.dtype, len(parts[1].totals)
    numbers = np.concatenate([part.rows.view(np.uint64).reshape(len(part.rows), dtype.itemsize // 8) for part in parts])
    groups = Aggregator(numbers.shape[1] - counters).group(np.ascontiguousarray(numbers[:, :-counters]))
    kept = groups.last
    rows = numbers[kept]
    if len(groups):
        rows[:, -counters:] = groups.sums(numbers[:, -counters:].view(np.int64)).view(np.uint64)
    harvest = TableHarvest(
        rows.reshape(-1).view(dtype),
        _sum(parts[0].totals, parts[1].totals),
        _sum(parts[0].overflow, parts[1].overflow),
        parts[0].overflow_calls + parts[1].overflow_calls,
        parts[1].capacity,
        parts[1].since_load,
    )
    shared = first.groups.keys() & second.groups.keys()
    row_groups = {
        name: _groups(first.groups[name], second.groups[name], kept) for name in second.groups if name in shared
    }
    return replace(second, harvest=harvest, groups=row_groups)


def _groups(first: RowGroups, second: RowGroups, kept: NDArray[np.intp]) -> RowGroups:
    # Usually both have the same dict, which may be large, so do not copy it.
    names = second.names if first.names is second.names else {**first.names, **second.names}
    return RowGroups(np.concatenate((first.ids, second.ids))[kept], names)


def _sum(first: Mapping[str, int], second: Mapping[str, int]) -> dict[str, int]:
    return {name: second.get(name, 0) + first.get(name, 0) for name in {**first, **second}}
