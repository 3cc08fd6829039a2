"""One interval, as sinks get it. Data only."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from ebpfmon.model.series import ChartData, Series
from ebpfmon.model.table import Column, LabelSource, RowGroups, TableHarvest


@dataclass(frozen=True, slots=True, kw_only=True)
class TableView:
    """The rows of one table in one interval, and how to display them.

    `columns` are the columns that the probe declares for its rows. `labels` is the source of the rows' label values, or
    None for a per-process table. `groups` has the group of each row for each grouping, by the name of the grouping. It
    is empty for keyed tables, and if groups are turned off.
    """

    harvest: TableHarvest
    columns: tuple[Column, ...] = ()
    labels: LabelSource | None = None
    groups: Mapping[str, RowGroups] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """One interval: the charts with their series, and the table rows behind them.

    `time_s` is the end of the interval in seconds since the epoch, and `elapsed_s` is its length. `complete` is False
    if a table could not be read or if the kernel skipped runs of BPF programs, so that counts are missing.
    """

    host: str
    time_s: float
    elapsed_s: float
    complete: bool
    charts: tuple[ChartData, ...]
    tables: Mapping[str, TableView] = field(default_factory=dict)

    def series(self) -> Iterator[Series]:
        """Yield every series of every chart."""
        for data in self.charts:
            yield from data.series()

    def chart(self, id: str) -> ChartData | None:
        """Return the chart with this id, or None."""
        return next((data for data in self.charts if data.chart.id == id), None)
