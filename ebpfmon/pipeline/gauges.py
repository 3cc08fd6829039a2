"""Keep the gauges of keys: what began and has not ended, by key. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from ebpfmon.model import Chart, Dimension, Rows
from ebpfmon.pipeline.aggregate import Aggregator, concatenated, key_of, taken

_MOST = 16384  # keys whose gauges are known, the highest ones; the gauges of any other key begin again at 0


class Gauges:
    """The running sums of every key that has a gauge: `plus` less `minus`, since the probe was loaded.

    A key may do nothing for hours while something of it is under way, so gauges outlive the rows.
    """

    def __init__(self, charts: Iterable[Chart], fields: Sequence[str], counters: Sequence[str]) -> None:
        """`charts`: those whose gauges are kept. `fields`: those of a row that make up its key. `counters`: the names
        of the numbers that are taken in, in their order."""
        each = [d for chart in charts if not chart.kind.cumulative for d in chart.columns]
        self._signs = signs_of(each, counters)
        self._fields = tuple(fields)
        self._aggregator = Aggregator(len(self._fields))
        self.rows: Rows | None = None
        """A row of each key that has a gauge; None before the first interval."""
        self.values = np.zeros((0, len(each)), np.int64)
        """The gauges of each of these keys, (keys, gauges of all charts)."""
        self.total = np.zeros(len(each), np.int64)
        """The gauges of all keys and of what found no row, (gauges of all charts,)."""

    def __len__(self) -> int:
        return len(self.total)

    def clear(self) -> None:
        """Make all gauges 0."""
        self.rows, self.values, self.total = None, self.values[:0], np.zeros_like(self.total)

    def take_over(self, former: Gauges) -> None:
        """Go on with the gauges of the same charts that were kept elsewhere until now."""
        self.rows, self.values, self.total = former.rows, former.values, former.total

    def add(self, rows: Rows, numbers: NDArray[np.int64], totals: NDArray[np.int64]) -> None:
        """Take in an interval: its rows, their counters (rows, counters), and all of it (counters,)."""
        if not len(self):
            return
        self.total += totals @ self._signs
        changes = numbers @ self._signs
        moved = np.flatnonzero(changes.any(axis=1))
        together, changes = taken(rows, moved), changes[moved]
        if self.rows is not None:
            together, changes = concatenated(self.rows, together), np.vstack((self.values, changes))
        groups = self._aggregator.group(key_of(together, self._fields))
        changes, first = groups.sums(changes), groups.first
        kept = np.flatnonzero(changes.any(axis=1))
        kept = kept[np.argsort(-np.abs(changes[kept]).sum(axis=1), kind="stable")][:_MOST]
        self.rows, self.values = taken(together, first[kept]), changes[kept]

    def of(self, counted: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the gauges of what was counted since the load (counters,): (gauges of all charts,)."""
        gauges: NDArray[np.int64] = counted @ self._signs
        return gauges


def signs_of(columns: Sequence[Dimension], names: Sequence[str]) -> NDArray[np.int64]:
    """Return how often each counter counts for each column: (names, columns)."""
    if not columns:
        return np.zeros((len(names), 0), np.int64)
    return np.array([[c.plus.count(n) - c.minus.count(n) for c in columns] for n in names], np.int64)
