"""Turn what tables counted into charts, with the deltas and the running totals of every series. No I/O.

There is one class for each source of charts: the totals of a table (`SystemAccount`), the rows of a keyed table
(`KeyAccount`), and the rows of all per-process tables, summed by one grouping (`GroupAccount`).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ebpfmon.model import Chart, ChartData, Dimension, LabelSource, Role, RowGroups, Rows, SeriesIndex, TableHarvest
from ebpfmon.pipeline.aggregate import FEW, Aggregator, concatenate_rows, take_or_zero, take_rows
from ebpfmon.pipeline.gauges import Gauges, sign_matrix
from ebpfmon.pipeline.schedule import TimeInterval
from ebpfmon.pipeline.top_k import TopK

Counters = Mapping[str, Sequence[str]]
"""The counter names of each table, by table."""
_NO_LABELS: tuple[tuple[str, ...], ...] = ((),)
_GROUP = np.dtype([("group", "u8")])
_BY_ID = Aggregator(1)


class _ChartColumns:
    """The columns of several charts, computed from the counters of several tables side by side."""

    def __init__(self, charts: Iterable[Chart], counters: Counters) -> None:
        self.charts = tuple(charts)
        self.names = [f"{table}/{name}" for table, table_counters in counters.items() for name in table_counters]
        self.spans: dict[str, slice] = {}
        """The position of each table's counters in `names`."""
        end = 0
        for table, table_counters in counters.items():
            self.spans[table] = slice(end, end := end + len(table_counters))
        self.qualified = [_qualified(chart) for chart in self.charts]
        cumulative = [c for c in self.qualified if c.kind.cumulative]
        self._signs = sign_matrix([d for chart in cumulative for d in chart.columns], self.names)
        self._slices: list[slice] = []
        """The position of each chart's columns among those of all cumulative charts, or of all other charts."""
        ends = {True: 0, False: 0}
        for chart in self.charts:
            begin = ends[chart.kind.cumulative]
            ends[chart.kind.cumulative] = begin + len(chart.columns)
            self._slices.append(slice(begin, ends[chart.kind.cumulative]))

    def charts_of(
        self, index: SeriesIndex, deltas: NDArray[np.int64], totals: NDArray[np.int64], gauges: NDArray[np.int64]
    ) -> list[ChartData]:
        """Return the charts. `deltas` and `totals` are (series, counters), `gauges` is (series, gauges)."""
        chart_deltas, chart_totals = deltas @ self._signs, totals @ self._signs
        charts = []
        for chart, columns in zip(self.charts, self._slices, strict=True):
            if chart.kind.cumulative:
                numbers = chart_deltas[:, columns], chart_totals[:, columns]
            else:
                values = gauges[:, columns]
                numbers = values, np.zeros_like(values)
            charts.append(ChartData(chart=chart, index=index, deltas=numbers[0], totals=numbers[1]))
        return charts


def _qualified(chart: Chart) -> Chart:
    """Return the chart with its fields named `table/field`, because the account has the counters of several tables."""

    def with_table(fields: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(f"{chart.table}/{name}" for name in fields)

    if buckets := chart.buckets:
        sum_field = f"{chart.table}/{buckets.sum}" if buckets.sum else ""
        return replace(chart, buckets=replace(buckets, field=f"{chart.table}/{buckets.field}", sum=sum_field))
    dimensions = tuple(
        Dimension(d.id, d.name, with_table(d.plus), with_table(d.minus), d.negative) for d in chart.dimensions
    )
    return replace(chart, dimensions=dimensions)


class SystemAccount:
    """The charts without labels of one table. Each has one series: the total of the table."""

    def __init__(self, charts: Iterable[Chart], table: str, counters: Sequence[str]) -> None:
        self._table, self._names = table, tuple(counters)
        self._columns = _ChartColumns(charts, {table: counters})
        self._gauges = Gauges(self._columns.qualified, (), self._columns.names)
        self._last_gauges = np.zeros(len(self._gauges), np.int64)
        self._totals = np.zeros((1, len(self._names)), np.int64)
        self._index: SeriesIndex | None = None
        self._idle_charts: list[ChartData] = []
        """The charts of the last interval if it was idle. They are reused while nothing changes."""

    def account(self, table: TableHarvest, interval: TimeInterval) -> list[ChartData]:
        """Return the charts of one interval."""
        deltas = _vector(table.totals, self._names)
        gauges = self._gauges_of(table)
        idle = not deltas.any() and np.array_equal(gauges, self._last_gauges)
        if idle and self._idle_charts:
            return self._idle_charts
        if self._index is None:
            starts = (interval.start_s,)
            self._index = SeriesIndex(labels=_NO_LABELS, names=_NO_LABELS, roles=(Role.ITEM,), starts_s=starts)
        self._totals += deltas
        charts = self._columns.charts_of(self._index, deltas[np.newaxis], self._totals, gauges[np.newaxis])
        self._idle_charts, self._last_gauges = charts if idle else [], gauges
        return charts

    def _gauges_of(self, table: TableHarvest) -> NDArray[np.int64]:
        return (
            self._gauges.from_totals(_vector(table.since_load, self._names)) if len(self._gauges) else self._last_gauges
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Counts:
    """The counts of an interval.

    `numbers` (rows, counters) are the counts of each row, and `totals` (counters,) those of the whole table. `overflow`
    (counters,) is the part of `totals` that found no free row.
    """

    rows: Rows
    numbers: NDArray[np.int64]
    totals: NDArray[np.int64]
    overflow: NDArray[np.int64]


Labeller = Callable[[Rows], tuple[Sequence[tuple[str, ...]], Sequence[tuple[str, ...]]]]
"""Returns the label values of rows, and the display names of these values."""


class _LabelledAccount:
    """The charts with labels of one source: the top-K series, and everything else in `other`."""

    def __init__(
        self,
        columns: _ChartColumns,
        fields: Sequence[str],
        maximum: int,
        rest: Mapping[Role, tuple[str, ...]],
        weights: NDArray[np.float64],
    ) -> None:
        """Create an account without series.

        `fields` make up the key of a row. `rest` has the label values of the series that always exist: `other`, and
        also `overflow` if it is not part of `other`. `weights` (counters,) is how much each counter contributes to the
        activity of a key.
        """
        self._columns, self._rest = columns, rest
        self.gauges = Gauges(columns.qualified, fields, columns.names)
        self._top = TopK(fields, maximum)
        counters = len(columns.names)
        # A key counts as active as long as one of its gauges is not 0.
        self._weights = np.concatenate((weights, np.ones(len(self.gauges))))
        # The totals and the start of each known key. The start is NaN if the key never had a series.
        self._totals = np.zeros((0, counters), np.int64)
        self._starts_s = np.zeros(0)
        self._selected = 0
        self._rest_totals = np.zeros((len(rest), counters), np.int64)
        self._rest_start_s: float | None = None
        self._index: SeriesIndex | None = None
        self._idle_charts: list[ChartData] = []
        """The charts of the last interval if it was idle. They are reused while nothing changes."""

    def account(
        self, counts: _Counts, label_rows: Labeller, interval: TimeInterval, tables: Collection[str]
    ) -> list[ChartData]:
        """Return the charts of these tables for one interval: series in order of their appearance, then the rest."""
        idle = not len(counts.rows) and not counts.totals.any() and not len(self.gauges.values)
        if idle and self._idle_charts and self._top.age(interval.elapsed_s):
            last_index, index = self._index, self._update_index(label_rows)
            if index is not last_index:  # A display name has changed.
                self._idle_charts = [replace(data, index=index) for data in self._idle_charts]
            return [data for data in self._idle_charts if data.chart.table in tables]
        deltas, gauges = self._add(counts, interval)
        totals = np.vstack((self._totals[: self._selected], self._rest_totals))
        charts = self._columns.charts_of(self._update_index(label_rows), deltas, totals, gauges)
        self._idle_charts = charts if idle else []
        return [data for data in charts if data.chart.table in tables]

    def _add(self, counts: _Counts, interval: TimeInterval) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Add an interval. Return the deltas (series, counters) and the gauges (series, gauges) of each series."""
        rows, numbers, total = self._append_gauges(counts)
        selection = self._top.select(rows, numbers, self._weights, interval.elapsed_s)
        self._selected, counters = selection.selected, len(self._columns.names)
        sums = selection.sums[: self._selected]
        if selection.previous is not None:
            is_new = selection.previous < 0
            self._totals = take_or_zero(self._totals, selection.previous)
            self._starts_s = np.where(is_new, np.nan, take_or_zero(self._starts_s, selection.previous))
            starts_s = self._starts_s[: self._selected]
            starts_s[np.isnan(starts_s)] = interval.start_s
        # The totals of a hidden key do not change, because its counts go to `other`.
        self._totals[: self._selected] += sums[:, :counters]
        if self._rest_start_s is None:
            self._rest_start_s = interval.start_s
        rest = [total - sums.sum(axis=0)]
        if Role.OVERFLOW in self._rest:
            overflow = np.concatenate((counts.overflow, np.zeros(len(self.gauges), np.int64)))
            rest = [rest[0] - overflow, overflow]
        self._rest_totals += np.stack(rest)[:, :counters]
        deltas = np.vstack((sums, *rest))
        return deltas[:, :counters], deltas[:, counters:]

    def _append_gauges(self, counts: _Counts) -> tuple[Rows, NDArray[np.int64], NDArray[np.int64]]:
        """Return rows, numbers and totals with one more row per key that has a gauge, and one more column per gauge."""
        if not len(self.gauges):
            return counts.rows, counts.numbers, counts.totals
        self.gauges.add(counts.rows, counts.numbers, counts.totals)
        gauge_rows, values = self.gauges.rows, self.gauges.values
        assert gauge_rows is not None, "an interval was just added"
        numbers = np.hstack((counts.numbers, np.zeros((len(counts.rows), len(self.gauges)), np.int64)))
        gauge_numbers = np.hstack((np.zeros((len(gauge_rows), counts.numbers.shape[1]), np.int64), values))
        totals = np.concatenate((counts.totals, self.gauges.total))
        return concatenate_rows(counts.rows, gauge_rows), np.vstack((numbers, gauge_numbers)), totals

    def _update_index(self, label_rows: Labeller) -> SeriesIndex:
        """Return the index of the current series. It is the same object as before if nothing has changed."""
        if not self._selected and self._index is not None and len(self._index) == len(self._rest):
            return self._index  # The labels of the series in `rest` never change.
        labels, names = label_rows(self._top.rows)
        start_s = self._rest_start_s or 0.0
        index = SeriesIndex(
            labels=(*labels, *self._rest.values()),
            names=(*names, *self._rest.values()),
            roles=(*(Role.ITEM,) * len(labels), *self._rest),
            starts_s=(*self._starts_s[: self._selected].tolist(), *(start_s,) * len(self._rest)),
        )
        if index != self._index:
            self._index = index
        assert self._index is not None
        return self._index


class KeyAccount:
    """The charts of one keyed table, with the labels of its probe's `LabelSource`.

    The series `other` includes the overflow.
    """

    def __init__(self, charts: Iterable[Chart], table: str, counters: Sequence[str], labels: LabelSource) -> None:
        self._table, self._names, self._labels = table, tuple(counters), labels
        weights = np.array([not name.endswith("_ns") for name in counters], np.float64)  # Time is not activity.
        rest = {Role.OTHER: labels.other or ("other",) * len(labels.labels)}
        columns = _ChartColumns(charts, {table: counters})
        self._account = _LabelledAccount(columns, labels.fields, labels.maximum, rest, weights)

    def take_over(self, former: KeyAccount) -> None:
        """Continue with the gauges of the account that published this table under former settings."""
        self._account.gauges.take_over(former._account.gauges)

    def relabel(self, labels: LabelSource) -> bool:
        """Replace the label source and keep the totals.

        Return False, and change nothing, if the new source defines different series. Keys that the new source excludes
        get no more rows, so they expire like idle ones.
        """
        if _series_definition(labels) != _series_definition(self._labels):
            return False
        self._labels = labels
        return True

    def reset_gauges(self, overlap: Iterable[TableHarvest]) -> None:
        """Restart the gauges from what a new probe had already counted when it took over (see `Harvest.overlap`)."""
        self._account.gauges.clear()
        for table in overlap:
            self._account.gauges.add(table.rows, table.counters, _vector(table.totals, self._names))

    def account(self, table: TableHarvest, interval: TimeInterval) -> list[ChartData]:
        """Return the charts of one interval. The series add up to the table's totals without the excluded rows."""
        rows, numbers, totals = table.rows, table.counters, _vector(table.totals, self._names)
        included = self._labels.included(rows) if len(rows) else None
        if included is not None:
            totals = totals - numbers[~included].sum(axis=0)
            rows, numbers = take_rows(rows, included), numbers[included]
        counts = _Counts(rows=rows, numbers=numbers, totals=totals, overflow=np.zeros_like(totals))
        return self._account.account(counts, self._label, interval, {self._table})

    def _label(self, rows: Rows) -> tuple[Sequence[tuple[str, ...]], Sequence[tuple[str, ...]]]:
        return self._labels.values(rows), self._labels.names(rows)


def _series_definition(labels: LabelSource) -> tuple[object, ...]:
    """Return the settings of a label source that define the series, as opposed to their names."""
    return labels.fields, labels.labels, labels.maximum, labels.other


@dataclass(frozen=True, slots=True)
class GroupSums:
    """The rows of one table summed by group.

    `groups` u64 (n,) are group ids, which may repeat, and `sums` i64 (n, counters) are their counts.
    """

    groups: NDArray[np.uint64]
    sums: NDArray[np.int64]


class GroupAccount:
    """The charts of one grouping, over the rows of all per-process tables."""

    def __init__(self, charts: Iterable[Chart], counters: Counters, maximum: int) -> None:
        """Create an account for the charts of a grouping (see `Chart.for_grouping`).

        `counters` has the counters of all per-process tables.
        """
        self._columns = _ChartColumns(charts, counters)
        self.definition = self._columns.charts, self._columns.names, maximum
        """The settings that define the series and the meaning of their totals."""
        # The busiest groups are those with the most calls; bytes and time do not count.
        weights = np.array([not name.endswith(("_bytes", "_ns")) for name in self._columns.names], np.float64)
        rest = {Role.OTHER: ("other",), Role.OVERFLOW: ("overflow",)}
        self._account = _LabelledAccount(self._columns, _GROUP.names or (), maximum, rest, weights)
        self._names: dict[int, str] = {}

    def account(
        self,
        tables: Mapping[str, TableHarvest],
        by_group: Mapping[str, GroupSums],
        names: Mapping[int, str],
        interval: TimeInterval,
    ) -> list[ChartData]:
        """Return the charts of one interval. `names` has the names of all groups in `by_group`."""
        spans, width = self._columns.spans, len(self._columns.names)
        totals, overflow = np.zeros(width, np.int64), np.zeros(width, np.int64)
        has_name = {table: sums.groups != RowGroups.OTHER for table, sums in by_group.items()}
        numbers = np.zeros((sum(map(np.count_nonzero, has_name.values())), width), np.int64)
        rows, end = [np.zeros(0, _GROUP)], 0
        for table, sums in by_group.items():
            harvest = tables[table]
            totals[spans[table]] = [*harvest.totals.values()]
            if any(harvest.overflow.values()):
                overflow[spans[table]] = _vector(harvest.overflow, tuple(harvest.totals))
            groups = sums.groups[has_name[table]]
            numbers[end : end + len(groups), spans[table]] = sums.sums[has_name[table]]
            rows.append(groups.view(_GROUP))
            end += len(groups)
        counts = _Counts(rows=np.concatenate(rows), numbers=numbers, totals=totals, overflow=overflow)
        if len(self._account.gauges):
            # A group with a gauge may be selected again after attribution has forgotten its name.
            self._names.update((group, names[group]) for group in counts.rows["group"].tolist())

        def label_rows(selected: Rows) -> tuple[Sequence[tuple[str, ...]], Sequence[tuple[str, ...]]]:
            ids, gauges = selected["group"].tolist(), self._account.gauges.rows
            kept = ids if gauges is None else [*ids, *gauges["group"].tolist()]
            self._names = {group: names[group] if group in names else self._names[group] for group in kept}
            labels = [(self._names[group],) for group in ids]
            return labels, labels

        return self._account.account(counts, label_rows, interval, by_group.keys())


def sums_by(numbers: NDArray[np.int64], table: TableHarvest) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Sum the counters of the rows that have the same number. `numbers` (rows,) has a number for each row of the table.

    Return the distinct numbers (n,), and the sums for each of them (n, counters).
    """
    if len(numbers) <= FEW and len({*numbers.tolist()}) == len(numbers):
        return numbers, table.counters
    groups = _BY_ID.group(numbers.astype(np.uint64)[:, np.newaxis])
    # Sorting whole rows takes half the time of sorting their counters only.
    ordered = replace(table, rows=take_rows(table.rows, groups.order))
    return numbers[groups.order[groups.starts]], groups.sums_in_order(ordered.counters)


def _vector(of_names: Mapping[str, int], names: Sequence[str]) -> NDArray[np.int64]:
    return np.array([of_names.get(name, 0) for name in names], np.int64)
