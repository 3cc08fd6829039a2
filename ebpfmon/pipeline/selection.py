"""What of the snapshots a sink gets: the charts that it chose, over intervals of its own length. Pure."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from ebpfmon.model.everything import ChartValues, Kind, Owners, Snapshot, TableHarvest, Value
from ebpfmon.pipeline.aggregate import Grouping


class Charts:
    """A set of charts by their ids: patterns with `*`, of which those after `!` exclude. An exclusion always wins; if
    there are exclusions alone, all else is in; so is everything if there are no patterns."""

    def __init__(self, patterns: Sequence[str]) -> None:
        """Raises ValueError for what is no pattern."""
        for pattern in patterns:
            if not re.fullmatch(r"!?[\w.*-]+", pattern):
                raise ValueError(f"'{pattern}': expected a chart's id, such as ebpf.io, or with * or ! apps.*")
        self._included = [p for p in patterns if not p.startswith("!")]
        self._excluded = [p[1:] for p in patterns if p.startswith("!")]
        self._known: dict[str, bool] = {}

    def __contains__(self, id_: str) -> bool:
        if id_ not in self._known:
            included = not self._included or any(fnmatch.fnmatchcase(id_, p) for p in self._included)
            self._known[id_] = included and not any(fnmatch.fnmatchcase(id_, p) for p in self._excluded)
        return self._known[id_]

    def of(self, snapshot: Snapshot) -> Snapshot:
        """The snapshot with these charts alone."""
        if not self._included and not self._excluded:
            return snapshot
        return replace(snapshot, charts=tuple(c for c in snapshot.charts if c.chart.id in self))


def joined(first: Snapshot, second: Snapshot) -> Snapshot:
    """Two intervals, one after the other, as one: amounts are summed, levels are the second's. What only the first has
    is there as well."""
    tables, owners = _tables(first, second)
    return replace(
        second,
        elapsed_s=first.elapsed_s + second.elapsed_s,
        complete=first.complete and second.complete,
        charts=_charts(first.charts, second.charts),
        tables=tables,
        owners=owners,
    )


def _charts(first: Sequence[ChartValues], second: Sequence[ChartValues]) -> tuple[ChartValues, ...]:
    before = {values.chart.id: values for values in first}
    charts = [
        ChartValues(values.chart, _values(values.chart.kind, before[values.chart.id].values, values.values))
        if values.chart.id in before
        else values
        for values in second
    ]
    now = {values.chart.id for values in second}
    return (*charts, *(values for values in first if values.chart.id not in now))


def _values(kind: Kind, first: Sequence[Value], second: Sequence[Value]) -> tuple[Value, ...]:
    if kind is Kind.LEVEL:
        return tuple(second)
    before = {value.dimension.id: value for value in first}
    summed = [
        Value(value.dimension, before[value.dimension.id].delta + value.delta, value.total)
        if value.dimension.id in before
        else value
        for value in second
    ]
    now = {value.dimension.id for value in second}
    # what is no more goes first, as `other` and its like are last
    return (*(value for value in first if value.dimension.id not in now), *summed)


def _tables(first: Snapshot, second: Snapshot) -> tuple[dict[str, TableHarvest], dict[str, Owners]]:
    tables: dict[str, TableHarvest] = {**first.tables, **second.tables}
    owners: dict[str, Owners] = {**first.owners, **second.owners}
    for stem in first.tables.keys() & second.tables.keys():
        parts = [first.tables[stem], second.tables[stem]]
        rows, kept = _rows(parts)
        tables[stem] = TableHarvest(
            rows,
            _added(parts[0].totals, parts[1].totals),
            _added(parts[0].overflow, parts[1].overflow),
            parts[0].overflow_calls + parts[1].overflow_calls,
            parts[1].capacity,
            parts[1].since_load,
        )
        if stem in first.owners and stem in second.owners:
            owners[stem] = _owners(first.owners[stem], second.owners[stem], kept)
    return tables, owners


def _rows(parts: Sequence[TableHarvest]) -> tuple[np.ndarray, np.ndarray]:
    """The rows of both, those of one key summed, and which of them, one after the other, they are (the later one)."""
    dtype, counters = parts[1].rows.dtype, len(parts[1].totals)
    numbers = np.concatenate([part.rows.view(np.uint64).reshape(len(part.rows), dtype.itemsize // 8) for part in parts])
    order, starts = Grouping(numbers.shape[1] - counters).group(numbers[:, :-counters])
    kept = np.maximum.reduceat(order, starts) if len(order) else order
    rows = numbers[kept]
    if len(order):
        rows[:, -counters:] = np.add.reduceat(numbers[order, -counters:], starts, axis=0)
    return rows.reshape(-1).view(dtype), kept


def _owners(first: Owners, second: Owners, kept: np.ndarray) -> Owners:
    """Of rows that were kept of both, in terms of the second's groups and what is missing there."""
    names = dict.fromkeys(second.groups)
    names.update(dict.fromkeys(first.groups))
    ids = {name: n for n, name in enumerate(names)}
    translated = np.array([ids[name] for name in first.groups], np.int64)
    of_rows = np.concatenate((translated[first.of_rows], second.of_rows))
    return Owners(tuple(names), of_rows[kept])


def _added(first: Mapping[str, int], second: Mapping[str, int]) -> dict[str, int]:
    return {name: second.get(name, 0) + first.get(name, 0) for name in {**first, **second}}
