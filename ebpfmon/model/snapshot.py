"""One interval as sinks see it. Data only."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from ebpfmon.model.series import ChartData, Series
from ebpfmon.model.table import Column, LabelSource, RowGroups, TableHarvest


@dataclass(frozen=True, slots=True, kw_only=True)
class TableView:
    """The rows of one table in one interval, and how to show them.

    `columns` are what the probe declares of its rows. `labels` gives the label values of the rows; it is None for a
    table by process. `groups` says, by the name of the grouping, which group each row belongs to; it is empty for
    tables with keys of their own, and if groups are turned off.
    """

    harvest: TableHarvest
    columns: tuple[Column, ...] = ()
    labels: LabelSource | None = None
    groups: Mapping[str, RowGroups] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """One interval: charts with their series, and the rows of the tables they are made of.

    `time_s` is the end of the interval in seconds since the epoch, `elapsed_s` its length. `complete` is False if a
    table could not be read or the kernel left out runs of programs.
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
        """Return the chart of that id, None if there is none."""
        return next((data for data in self.charts if data.chart.id == id), None)
