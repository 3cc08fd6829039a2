"""Levels by key: of what began and has not ended, whose it is. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from ebpfmon.model.everything import Chart, Kind, TableHarvest
from ebpfmon.pipeline.aggregate import Grouping

_MOST = 16384  # keys whose levels are known, the highest ones; that of any other begins anew at 0


class Levels:
    """The running sums of the levels of every key that has any: what began less what ended, since the probe was loaded.

    A key may do nothing for hours while something of it is under way, so they outlive the rows.
    """

    def __init__(self, charts: Iterable[Chart], fields: tuple[str, ...]) -> None:
        """`charts`: of which the levels are looked at. `fields`: those by which keys are told apart."""
        self._each = [d for chart in charts if chart.kind is Kind.LEVEL for d in chart.dimensions]
        self._fields = fields
        self._grouping = Grouping(len(fields))
        self.rows: np.ndarray | None = None
        """A row (structured) of each key that has a level."""
        self.values = np.zeros((0, len(self._each)), np.int64)
        """Its levels: (keys, dimensions of all level charts)."""
        self.total = np.zeros(len(self._each), np.int64)
        """Those of all keys, and of what found no row: (dimensions of all level charts,)."""

    def __len__(self) -> int:
        return len(self._each)

    def add(self, rows: np.ndarray, names: Sequence[str], counters: np.ndarray, totals: np.ndarray) -> None:
        """Take in an interval: its rows (structured), what they count, i64 (rows, names), and all of it (names,)."""
        if not self._each:
            return
        signs = np.array([[d.plus.count(n) - d.minus.count(n) for d in self._each] for n in names], np.int64)
        self.total += totals @ signs
        changes = counters @ signs
        moved = np.flatnonzero(changes.any(axis=1))
        raw = rows.view(f"V{rows.dtype.itemsize}")[moved]
        if self.rows is not None:
            raw = np.concatenate((self.rows.view(raw.dtype), raw))
        together, changes = raw.view(rows.dtype), np.vstack((self.values, changes[moved]))
        keys = np.stack([together[name].astype(np.uint64) for name in self._fields], axis=1)
        order, starts = self._grouping.group(keys)
        if len(order):
            changes = np.add.reduceat(changes[order], starts, axis=0)
            raw = raw[np.minimum.reduceat(order, starts)]
        kept = np.flatnonzero(changes.any(axis=1))
        kept = kept[np.argsort(-np.abs(changes[kept]).sum(axis=1), kind="stable")][:_MOST]
        self.rows, self.values = raw[kept].view(rows.dtype), changes[kept]

    def harvest(self, table: TableHarvest) -> None:
        """Take in an interval of which nothing else is shown."""
        names = tuple(table.totals)
        counters = np.stack([table.rows[name].astype(np.int64) for name in names], axis=1)
        self.add(table.rows, names, counters, np.array([*table.totals.values()], np.int64))
