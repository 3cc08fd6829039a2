"""Create small charts, tables and snapshots for tests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ebpfmon.model import (
    Chart,
    ChartData,
    Column,
    Dimension,
    Kind,
    LabelSource,
    Role,
    RowGroups,
    SeriesIndex,
    Snapshot,
    TableHarvest,
    TableView,
)

PROCESS_IDENTITY = [
    ("start_ns", "u8"), ("tgid", "u4"), ("exec_id", "u4"), ("cgroup_id", "u8"), ("parent_tgid", "u4"), ("uid", "u4"),
    ("comm", "S16"),
]  # fmt: skip
"""The first fields of the rows of a per-process table, for `numpy.dtype`."""


def chart(
    *dimensions: Dimension,
    id: str = "x.io",  # named like the field
    kind: Kind = Kind.COUNTER,
    units: str = "calls/s",
    family: str = "VFS",
    labels: tuple[str, ...] = (),
) -> Chart:
    """Return a chart with default values for everything that a test does not care about."""
    return Chart(
        id=id, title="Calls", units=units, family=family, priority=1, dimensions=dimensions, kind=kind, labels=labels
    )


def data(
    of: Chart,
    *deltas: int | float,
    series: Mapping[tuple[str, ...], Sequence[int | float]] | None = None,
    names: Mapping[tuple[str, ...], tuple[str, ...]] | None = None,
    other: Sequence[int | float] | None = None,
    overflow: Sequence[int | float] | None = None,
) -> ChartData:
    """Return the data of a chart with these numbers for one interval.

    Pass one number for each column: as arguments if the chart has no labels, otherwise by label values in `series`, and
    in `other` and `overflow` for the series with these roles. `names` are display names, by label values. All
    totals are 1000 if the chart has totals, otherwise 0.
    """
    rows: list[tuple[tuple[str, ...], Role, Sequence[int | float]]] = []
    if not of.labels:
        rows.append(((), Role.ITEM, deltas))
    rows += [(labels, Role.ITEM, numbers) for labels, numbers in (series or {}).items()]
    for role, numbers in ((Role.OTHER, other), (Role.OVERFLOW, overflow)):
        if numbers is not None:
            rows.append(((role.value,) * len(of.labels), role, numbers))
    index = SeriesIndex(
        labels=tuple(labels for labels, _, _ in rows),
        names=tuple((names or {}).get(labels, labels) for labels, _, _ in rows),
        roles=tuple(role for _, role, _ in rows),
        starts_s=(1.6e9,) * len(rows),
    )
    array = np.array([list(numbers) for _, _, numbers in rows]).reshape(len(rows), len(of.columns))
    totals = np.full(array.shape, 1000 if of.kind.cumulative else 0, np.int64)
    return ChartData(chart=of, index=index, deltas=array, totals=totals)


def process_table(
    counters: Sequence[str], rows: Sequence[Mapping[str, Any]], *, overflow_calls: int = 0, capacity: int = 64
) -> TableHarvest:
    """Return a per-process table with these rows.

    Fields that a row does not mention are 0. `overflow_calls` is the overflow of the first counter.
    """
    return keyed_table(PROCESS_IDENTITY, counters, rows, overflow_calls=overflow_calls, capacity=capacity)


def keyed_table(
    key: Sequence[tuple[str, str]],
    counters: Sequence[str],
    rows: Sequence[Mapping[str, Any]],
    *,
    overflow_calls: int = 0,
    capacity: int = 64,
) -> TableHarvest:
    """Return a keyed table.

    `key` has the names and numpy types of the key's fields. Everything else is as for `process_table`.
    """
    array = np.zeros(len(rows), np.dtype([*key, *((name, "u8") for name in counters)]))
    for n, row in enumerate(rows):
        for name, value in row.items():
            array[n][name] = value
    overflow = dict.fromkeys(counters, 0) | dict.fromkeys(counters[:1], overflow_calls)
    totals = {name: int(array[name].sum()) + overflow[name] for name in counters}
    return TableHarvest(array, totals, overflow, overflow_calls, capacity)


def view(
    harvest: TableHarvest,
    *,
    columns: Sequence[Column] = (),
    labels: LabelSource | None = None,
    groups: Mapping[str, Sequence[str | None]] | None = None,
) -> TableView:
    """Return the view of a table that a snapshot has.

    `groups` has, for each grouping, the name of the group of each row, None for a row without a group.
    """
    return TableView(
        harvest=harvest,
        columns=tuple(columns),
        labels=labels,
        groups={grouping: _row_groups(names) for grouping, names in (groups or {}).items()},
    )


def _row_groups(names: Sequence[str | None]) -> RowGroups:
    ids = {name: n for n, name in enumerate(dict.fromkeys(name for name in names if name is not None), 1)}
    numbers = [RowGroups.OTHER if name is None else ids[name] for name in names]
    return RowGroups(np.array(numbers, np.uint64), {n: name for name, n in ids.items()})


def snapshot(
    host: str = "h", charts: Sequence[ChartData] = (), tables: Mapping[str, TableView] | None = None
) -> Snapshot:
    """Return a complete snapshot of an interval of 0.5 s."""
    return Snapshot(host=host, time_s=1.7e9, elapsed_s=0.5, complete=True, charts=tuple(charts), tables=tables or {})
