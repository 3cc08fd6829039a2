"""Turn what tables counted into charts: the interval's numbers and the running totals of every series. Pure.

There are three sources: a table's totals (`SystemAccount`), the rows of a table with keys of its own
(`KeyAccount`), and the rows of all tables by process, summed by one grouping (`GroupAccount`).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ebpfmon.model import Chart, ChartData, Dimension, LabelSource, Role, RowGroups, Rows, SeriesIndex, TableHarvest
from ebpfmon.pipeline.aggregate import FEW, Aggregator, at, concatenated, taken
from ebpfmon.pipeline.gauges import Gauges, signs_of
from ebpfmon.pipeline.schedule import TimeInterval
from ebpfmon.pipeline.top_k import TopK

Counters = Mapping[str, Sequence[str]]
"""The names of the counters of each table, by table."""
_NO_LABELS: tuple[tuple[str, ...], ...] = ((),)
_GROUP = np.dtype([("group", "u8")])
_BY_ID = Aggregator(1)


class _Columns:
    """The columns of some charts over the counters of some tables, side by side."""

    def __init__(self, charts: Iterable[Chart], counters: Counters) -> None:
        self.charts = tuple(charts)
        self.names = [f"{table}/{name}" for table, of_table in counters.items() for name in of_table]
        self.spans: dict[str, slice] = {}
        """Where among `names` the counters of each table are."""
        end = 0
        for table, of_table in counters.items():
            self.spans[table] = slice(end, end := end + len(of_table))
        self.qualified = [_qualified(chart) for chart in self.charts]
        cumulative = [c for c in self.qualified if c.kind.cumulative]
        self._signs = signs_of([d for chart in cumulative for d in chart.columns], self.names)
        self._slices: list[slice] = []
        """Where the columns of each chart are: among those of all cumulative charts, or of all others."""
        ends = {True: 0, False: 0}
        for chart in self.charts:
            begin = ends[chart.kind.cumulative]
            ends[chart.kind.cumulative] = begin + len(chart.columns)
            self._slices.append(slice(begin, ends[chart.kind.cumulative]))

    def charts_of(
        self, index: SeriesIndex, deltas: NDArray[np.int64], totals: NDArray[np.int64], gauges: NDArray[np.int64]
    ) -> list[ChartData]:
        """Return the charts. `deltas` and `totals` are (series, counters), `gauges` (series, gauges)."""
        chart_deltas, chart_totals = deltas @ self._signs, totals @ self._signs
        found = []
        for chart, here in zip(self.charts, self._slices, strict=True):
            if chart.kind.cumulative:
                numbers = chart_deltas[:, here], chart_totals[:, here]
            else:
                now = gauges[:, here]
                numbers = now, np.zeros_like(now)
            found.append(ChartData(chart=chart, index=index, deltas=numbers[0], totals=numbers[1]))
        return found


def _qualified(chart: Chart) -> Chart:
    """Return the chart with its fields named `table/field`, as the counters of several tables stand side by side."""

    def of_table(fields: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(f"{chart.table}/{name}" for name in fields)

    if buckets := chart.buckets:
        total = f"{chart.table}/{buckets.sum}" if buckets.sum else ""
        return replace(chart, buckets=replace(buckets, field=f"{chart.table}/{buckets.field}", sum=total))
    dimensions = tuple(
        Dimension(d.id, d.name, of_table(d.plus), of_table(d.minus), d.negative) for d in chart.dimensions
    )
    return replace(chart, dimensions=dimensions)


class SystemAccount:
    """The charts without labels of one table: one series each, over everything that the table counted."""

    def __init__(self, charts: Iterable[Chart], table: str, counters: Sequence[str]) -> None:
        self._table, self._names = table, tuple(counters)
        self._columns = _Columns(charts, {table: counters})
        self._gauges = Gauges(self._columns.qualified, (), self._columns.names)
        self._gauges_before = np.zeros(len(self._gauges), np.int64)
        self._totals = np.zeros((1, len(self._names)), np.int64)
        self._index: SeriesIndex | None = None
        self._idle: list[ChartData] = []

    def account(self, table: TableHarvest, interval: TimeInterval) -> list[ChartData]:
        """Return one interval as charts."""
        counted = _vector(table.totals, self._names)
        gauges = self._gauges_of(table)
        idle = not counted.any() and np.array_equal(gauges, self._gauges_before)
        if idle and self._idle:
            return self._idle
        if self._index is None:
            starts = (interval.start_s,)
            self._index = SeriesIndex(labels=_NO_LABELS, names=_NO_LABELS, roles=(Role.ITEM,), starts_s=starts)
        self._totals += counted
        charts = self._columns.charts_of(self._index, counted[np.newaxis], self._totals, gauges[np.newaxis])
        self._idle, self._gauges_before = charts if idle else [], gauges
        return charts

    def _gauges_of(self, table: TableHarvest) -> NDArray[np.int64]:
        return self._gauges.of(_vector(table.since_load, self._names)) if len(self._gauges) else self._gauges_before


@dataclass(frozen=True, slots=True, kw_only=True)
class _Counted:
    """What was counted in an interval: `numbers` (rows, counters) by row, `totals` (counters,) in all. `overflow`
    (counters,) is the part of `totals` that found no row."""

    rows: Rows
    numbers: NDArray[np.int64]
    totals: NDArray[np.int64]
    overflow: NDArray[np.int64]


Namer = Callable[[Rows], tuple[Sequence[tuple[str, ...]], Sequence[tuple[str, ...]]]]
"""From rows to their label values, and to these values as people read them."""


class _LabelledAccount:
    """The charts with labels of one source: top-K series, the rest in `other`."""

    def __init__(
        self,
        columns: _Columns,
        fields: Sequence[str],
        maximum: int,
        rest: Mapping[Role, tuple[str, ...]],
        weights: NDArray[np.float64],
    ) -> None:
        """`fields` make up the key of a row. `rest` are the series that are always there and their label values:
        `other`, and `overflow` if what found no row is not part of that. `weights` (counters,) is how much each counter
        is activity."""
        self._columns, self._rest = columns, rest
        self.gauges = Gauges(columns.qualified, fields, columns.names)
        self._top = TopK(fields, maximum)
        counters = len(columns.names)
        self._weights = np.concatenate((weights, np.ones(len(self.gauges))))  # what has a gauge is active
        self._totals = np.zeros((0, counters), np.int64)  # of each known key
        self._starts_s = np.zeros(0)  # of each known key; NaN if it never had a series
        self._selected = 0
        self._rest_totals = np.zeros((len(rest), counters), np.int64)
        self._rest_start_s: float | None = None
        self._index: SeriesIndex | None = None
        self._idle: list[ChartData] = []

    def account(
        self, counted: _Counted, name: Namer, interval: TimeInterval, tables: Collection[str]
    ) -> list[ChartData]:
        """Return one interval as the charts of these tables: series in the order in which they came, then the rest."""
        idle = not len(counted.rows) and not counted.totals.any() and not len(self.gauges.values)
        if idle and self._idle and self._top.age(interval.elapsed_s):
            before, index = self._index, self._indexed(name)
            if index is not before:  # a name has become better
                self._idle = [replace(data, index=index) for data in self._idle]
            return [data for data in self._idle if data.chart.table in tables]
        deltas, gauges = self._take_in(counted, interval)
        totals = np.vstack((self._totals[: self._selected], self._rest_totals))
        charts = self._columns.charts_of(self._indexed(name), deltas, totals, gauges)
        self._idle = charts if idle else []
        return [data for data in charts if data.chart.table in tables]

    def _take_in(self, counted: _Counted, interval: TimeInterval) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return what each series counted, (series, counters), and its gauges, (series, gauges)."""
        rows, numbers, total = self._with_gauges(counted)
        selection = self._top.select(rows, numbers, self._weights, interval.elapsed_s)
        self._selected, counters = selection.selected, len(self._columns.names)
        sums = selection.sums[: self._selected]
        if selection.known is not None:
            is_new = selection.known < 0
            self._totals = at(self._totals, selection.known)
            self._starts_s = np.where(is_new, np.nan, at(self._starts_s, selection.known))
            starts_s = self._starts_s[: self._selected]
            starts_s[np.isnan(starts_s)] = interval.start_s
        # totals of a key that is hidden stand still: what it does is in `other`
        self._totals[: self._selected] += sums[:, :counters]
        if self._rest_start_s is None:
            self._rest_start_s = interval.start_s
        rest = [total - sums.sum(axis=0)]
        if Role.OVERFLOW in self._rest:
            overflow = np.concatenate((counted.overflow, np.zeros(len(self.gauges), np.int64)))
            rest = [rest[0] - overflow, overflow]
        self._rest_totals += np.stack(rest)[:, :counters]
        deltas = np.vstack((sums, *rest))
        return deltas[:, :counters], deltas[:, counters:]

    def _with_gauges(self, counted: _Counted) -> tuple[Rows, NDArray[np.int64], NDArray[np.int64]]:
        """Return rows, numbers and totals with a row more for each key that has a gauge, a column more for each
        gauge."""
        if not len(self.gauges):
            return counted.rows, counted.numbers, counted.totals
        self.gauges.add(counted.rows, counted.numbers, counted.totals)
        of_gauges, values = self.gauges.rows, self.gauges.values
        assert of_gauges is not None, "an interval was just added"
        numbers = np.hstack((counted.numbers, np.zeros((len(counted.rows), len(self.gauges)), np.int64)))
        more = np.hstack((np.zeros((len(of_gauges), counted.numbers.shape[1]), np.int64), values))
        totals = np.concatenate((counted.totals, self.gauges.total))
        return concatenated(counted.rows, of_gauges), np.vstack((numbers, more)), totals

    def _indexed(self, name: Namer) -> SeriesIndex:
        """Return which series there are now: the same object as before if they are the same."""
        if not self._selected and self._index is not None and len(self._index) == len(self._rest):
            return self._index  # only labels of keys can change
        labels, names = name(self._top.rows)
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
    """The charts of one table with keys of its own, by the labels that its probe gives them.

    `other` has everything without a series of its own, and what found no row.
    """

    def __init__(self, charts: Iterable[Chart], table: str, counters: Sequence[str], labels: LabelSource) -> None:
        self._table, self._names, self._labels = table, tuple(counters), labels
        weights = np.array([not name.endswith("_ns") for name in counters], np.float64)  # time is no activity
        rest = {Role.OTHER: labels.other or ("other",) * len(labels.labels)}
        columns = _Columns(charts, {table: counters})
        self._account = _LabelledAccount(columns, labels.fields, labels.maximum, rest, weights)

    def take_over(self, former: KeyAccount) -> None:
        """Go on with the gauges of the account that showed this table under other settings."""
        self._account.gauges.take_over(former._account.gauges)

    def relabel(self, labels: LabelSource) -> bool:
        """Replace the label source and keep the totals. Return False, without changing anything, if the new source
        defines other series. Keys that the new source does not want get no more rows, so they expire like idle ones."""
        if _series_definition(labels) != _series_definition(self._labels):
            return False
        self._labels = labels
        return True

    def reset_gauges(self, overlap: Iterable[TableHarvest]) -> None:
        """Start the gauges anew, with what a probe saw begin before it took over."""
        self._account.gauges.clear()
        for table in overlap:
            self._account.gauges.add(table.rows, table.counters, _vector(table.totals, self._names))

    def account(self, table: TableHarvest, interval: TimeInterval) -> list[ChartData]:
        """Return the charts of one interval. The series add up to the table's totals without the excluded rows."""
        rows, numbers, totals = table.rows, table.counters, _vector(table.totals, self._names)
        included = self._labels.included(rows) if len(rows) else None
        if included is not None:
            totals = totals - numbers[~included].sum(axis=0)
            rows, numbers = taken(rows, included), numbers[included]
        counted = _Counted(rows=rows, numbers=numbers, totals=totals, overflow=np.zeros_like(totals))
        return self._account.account(counted, self._name, interval, {self._table})

    def _name(self, rows: Rows) -> tuple[Sequence[tuple[str, ...]], Sequence[tuple[str, ...]]]:
        return self._labels.values(rows), self._labels.names(rows)


def _series_definition(labels: LabelSource) -> tuple[object, ...]:
    """Return the settings that define the series, apart from their names."""
    return labels.fields, labels.labels, labels.maximum, labels.other


@dataclass(frozen=True, slots=True)
class GroupSums:
    """What the rows of one table came to by group: `groups` u64 (n,) are ids of groups, which may repeat, `sums` i64
    (n, counters) what they counted."""

    groups: NDArray[np.uint64]
    sums: NDArray[np.int64]


class GroupAccount:
    """The charts of one grouping, over the rows of all tables by process."""

    def __init__(self, charts: Iterable[Chart], counters: Counters, maximum: int) -> None:
        """`charts`: as this grouping publishes them. `counters`: those of all tables by process."""
        self._columns = _Columns(charts, counters)
        self.definition = self._columns.charts, self._columns.names, maximum
        """What decides which series there are, and what their totals mean."""
        # the busiest groups are those with the most calls; bytes and time do not count
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
        """Return one interval as charts. `names`: of all groups in `by_group`."""
        spans, width = self._columns.spans, len(self._columns.names)
        totals, overflow = np.zeros(width, np.int64), np.zeros(width, np.int64)
        has_name = {table: found.groups != RowGroups.OTHER for table, found in by_group.items()}
        numbers = np.zeros((sum(map(np.count_nonzero, has_name.values())), width), np.int64)
        rows, end = [np.zeros(0, _GROUP)], 0
        for table, found in by_group.items():
            of_table = tables[table]
            totals[spans[table]] = [*of_table.totals.values()]
            if any(of_table.overflow.values()):
                overflow[spans[table]] = _vector(of_table.overflow, tuple(of_table.totals))
            groups = found.groups[has_name[table]]
            numbers[end : end + len(groups), spans[table]] = found.sums[has_name[table]]
            rows.append(groups.view(_GROUP))
            end += len(groups)
        counted = _Counted(rows=np.concatenate(rows), numbers=numbers, totals=totals, overflow=overflow)
        if len(self._account.gauges):
            # groups with a gauge may be selected again after attribution has forgotten their names
            self._names.update((group, names[group]) for group in counted.rows["group"].tolist())

        def name(selected: Rows) -> tuple[Sequence[tuple[str, ...]], Sequence[tuple[str, ...]]]:
            ids, gauges = selected["group"].tolist(), self._account.gauges.rows
            kept = ids if gauges is None else [*ids, *gauges["group"].tolist()]
            self._names = {group: names.get(group) or self._names[group] for group in kept}
            labels = [(self._names[group],) for group in ids]
            return labels, labels

        return self._account.account(counted, name, interval, by_group.keys())


def sums_by(numbers: NDArray[np.int64], table: TableHarvest) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Sum the counters of a table by a number that each of its rows has, `numbers` (rows,).

    Return the numbers that there are, (n,), and the sums of each, (n, counters).
    """
    if len(numbers) <= FEW and len({*numbers.tolist()}) == len(numbers):
        return numbers, table.counters
    groups = _BY_ID.group(numbers.astype(np.uint64)[:, np.newaxis])
    # whole rows are put in order in half the time that their counters alone take
    ordered = replace(table, rows=taken(table.rows, groups.order))
    return numbers[groups.order[groups.starts]], groups.sums_in_order(ordered.counters)


def _vector(of_names: Mapping[str, int], names: Sequence[str]) -> NDArray[np.int64]:
    return np.array([of_names.get(name, 0) for name in names], np.int64)
