"""Charts, tables and snapshots of a test's making, as small as it likes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ebpfmon.model.everything import Chart, ChartValues, Dimension, Kind, Owners, Snapshot, TableHarvest, Value

PROCESS_IDENTITY = [
    ("start_ns", "u8"), ("tgid", "u4"), ("exec_id", "u4"), ("cgroup_id", "u8"), ("parent_tgid", "u4"), ("uid", "u4"),
    ("comm", "S16"),
]  # fmt: skip
"""How the rows of a table by process begin: names and types, for `numpy.dtype`."""


def chart(
    *dimensions: Dimension,
    id: str = "x.io",  # the field's own name
    kind: Kind = Kind.COUNTER,
    units: str = "calls/s",
    family: str = "VFS",
) -> Chart:
    """A chart of no importance."""
    return Chart(id=id, title="Calls", units=units, family=family, priority=1, dimensions=dimensions, kind=kind)


def values(of: Chart, *deltas: int | float) -> ChartValues:
    """A chart with these values, one for each dimension, and totals of 1000 where it counts."""
    total = 1000 if of.kind is Kind.COUNTER else 0
    return ChartValues(of, tuple(Value(d, delta, total) for d, delta in zip(of.dimensions, deltas, strict=True)))


def process_table(
    counters: Sequence[str], rows: Sequence[Mapping[str, Any]], *, overflow_calls: int = 0, capacity: int = 64
) -> TableHarvest:
    """A table by process: of each row what is said, 0 where nothing is. `overflow_calls` of the first counter found no
    room."""
    return keyed_table(PROCESS_IDENTITY, counters, rows, overflow_calls=overflow_calls, capacity=capacity)


def keyed_table(
    key: Sequence[tuple[str, str]],
    counters: Sequence[str],
    rows: Sequence[Mapping[str, Any]],
    *,
    overflow_calls: int = 0,
    capacity: int = 64,
) -> TableHarvest:
    """A table by a key of its own: names and numpy types of the key's fields, names of the counters, and as above."""
    array = np.zeros(len(rows), np.dtype([*key, *((name, "u8") for name in counters)]))
    for n, row in enumerate(rows):
        for name, value in row.items():
            array[n][name] = value
    overflow = dict.fromkeys(counters, 0) | dict.fromkeys(counters[:1], overflow_calls)
    totals = {name: int(array[name].sum()) + overflow[name] for name in counters}
    return TableHarvest(array, totals, overflow, overflow_calls, capacity)


def snapshot(
    host: str = "h",
    charts: Sequence[ChartValues] = (),
    tables: Mapping[str, TableHarvest] | None = None,
    owners: Mapping[str, Owners] | None = None,
) -> Snapshot:
    """One interval of half a second."""
    return Snapshot(
        host=host, time_s=1.7e9, elapsed_s=0.5, complete=True, charts=tuple(charts), tables=tables or {},
        owners=owners or {},
    )  # fmt: skip
