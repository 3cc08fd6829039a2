"""Keep gauges by key: how much has begun and not ended yet. No I/O."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from ebpfmon.model import Chart, Dimension, Rows
from ebpfmon.pipeline.aggregate import Aggregator, concatenate_rows, key_columns, take_rows

_MAX_KEYS = 16384
"""At most this many keys have gauges, those with the greatest values. The gauges of any other key restart at 0."""


class Gauges:
    """The gauges of every key: the running sums of `plus` minus `minus` since the probe was loaded.

    Gauges outlive the rows, because a key may do nothing for hours while something that it began is still under way.
    """

    def __init__(self, charts: Iterable[Chart], fields: Sequence[str], counters: Sequence[str]) -> None:
        """Prepare the gauges among `charts`; other charts are ignored.

        `fields` are the fields of a row that make up its key. `counters` are the names of the numbers that `add` gets,
        in their order.
        """
        columns = [column for chart in charts if not chart.kind.cumulative for column in chart.columns]
        self._signs = sign_matrix(columns, counters)
        self._fields = tuple(fields)
        self._aggregator = Aggregator(len(self._fields))
        self.rows: Rows | None = None
        """One row for each key that has a gauge; None before the first interval."""
        self.values = np.zeros((0, len(columns)), np.int64)
        """The gauges of each of these keys, (keys, gauges of all charts)."""
        self.total = np.zeros(len(columns), np.int64)
        """The gauges of the whole table, including events without a row, (gauges of all charts,)."""

    def __len__(self) -> int:
        return len(self.total)

    def clear(self) -> None:
        """Set all gauges to 0."""
        self.rows, self.values, self.total = None, self.values[:0], np.zeros_like(self.total)

    def take_over(self, former: Gauges) -> None:
        """Continue with the values of another object that had the same gauges."""
        self.rows, self.values, self.total = former.rows, former.values, former.total

    def add(self, rows: Rows, numbers: NDArray[np.int64], totals: NDArray[np.int64]) -> None:
        """Add an interval: its rows, their counters (rows, counters), and the totals of the table (counters,)."""
        if not len(self):
            return
        self.total += totals @ self._signs
        changes = numbers @ self._signs
        changed = np.flatnonzero(changes.any(axis=1))
        rows, changes = take_rows(rows, changed), changes[changed]
        if self.rows is not None:
            rows, changes = concatenate_rows(self.rows, rows), np.vstack((self.values, changes))
        groups = self._aggregator.group(key_columns(rows, self._fields))
        values, first = groups.sums(changes), groups.first
        kept = np.flatnonzero(values.any(axis=1))
        kept = kept[np.argsort(-np.abs(values[kept]).sum(axis=1), kind="stable")][:_MAX_KEYS]
        self.rows, self.values = take_rows(rows, first[kept]), values[kept]

    def from_totals(self, since_load: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the gauges (gauges of all charts,) for the totals since the load (counters,)."""
        gauges: NDArray[np.int64] = since_load @ self._signs
        return gauges


def sign_matrix(columns: Sequence[Dimension], names: Sequence[str]) -> NDArray[np.int64]:
    """Return the factor of each counter in each column, (names, columns): 1 for each `plus`, -1 for each `minus`."""
    if not columns:
        return np.zeros((len(names), 0), np.int64)
    return np.array([[c.plus.count(n) - c.minus.count(n) for c in columns] for n in names], np.int64)
