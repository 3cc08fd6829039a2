"""Render a snapshot as text for people. Pure."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
from numpy.typing import NDArray

from ebpfmon import (
    VALUE,
    Chart,
    ChartData,
    Column,
    Dimension,
    Histogram,
    Role,
    RowGroups,
    Snapshot,
    TableView,
    printable,
    unique_names,
)
from ebpfmon_sinks.series_names import column_name, unique_series_names

TASK_COMM_LEN = 16
_OWN = "ebpfmon"
"""The family of ebpfmon's own charts."""
_HIDDEN = "ebpfmon.sinks_age"
"""A chart that is never shown. ebpfmon's own charts are shown if they are not 0, but this one is never 0 and
would fill the log."""
_LABEL, _NAME, _NUMBER = 34, 8, 9  # widths of the columns
_NAME_WIDTH, _MAX_NAME = 9 + TASK_COMM_LEN, 60  # the least and the greatest width of a column of names
_QUANTILES = (("p50", 0.5), ("p90", 0.9), ("p99", 0.99))


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How many groups and processes of each per-process table are shown, and how many series of other tables."""

    groups: int
    processes: int
    series: int


def render(snapshot: Snapshot, limits: Limits, *, has_chart_filter: bool = False) -> Iterator[str]:
    """Yield the lines of a snapshot.

    First comes a line for each chart without labels, then the busiest groups and processes of each per-process table,
    the busiest series of other tables, histograms with labels, and ebpfmon's own charts.

    With `has_chart_filter` the sink's settings select charts, and only the columns that these charts have are shown.
    """
    partial = "" if snapshot.complete else ", incomplete"
    now = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(snapshot.time_s))
    yield f"{now}  {snapshot.host}  ({snapshot.elapsed_s:.3f} s{partial})"
    charts = [data for data in snapshot.charts if data.chart.family != _OWN]
    for data in charts:
        if not data.chart.labels:
            yield from _histograms(data, snapshot, 1) if data.chart.buckets else _unlabelled(data, snapshot)
    for table, view in snapshot.tables.items():
        if view.harvest.is_by_process:
            columns = [
                c for c in view.columns if not c.summary and (not has_chart_filter or _is_shown(c, table, charts))
            ]
            yield from _groups(view, columns, snapshot, limits.groups)
            yield from _processes(view, columns, snapshot, limits.processes)
    labelled = [data for data in charts if data.chart.labels]
    of_keys = [d for d in labelled if not d.chart.buckets and not is_by_process(snapshot, d.chart)]
    for _, of_table in groupby(of_keys, _table_and_series):
        yield from _series(list(of_table), snapshot, limits.series)
    for data in labelled:
        count = limits.groups if is_by_process(snapshot, data.chart) else limits.series
        yield from _histograms(data, snapshot, count) if data.chart.buckets else ()
    yield f"  {_OWN}  " + " | ".join(_own(data, snapshot) for data in snapshot.charts if _is_own(data))


def is_by_process(snapshot: Snapshot, chart: Chart) -> bool:
    """Return whether the rows of a chart's table are processes. If the chart has labels, its series are then groups."""
    view = snapshot.tables.get(chart.table)
    return view is not None and view.harvest.is_by_process


def _unlabelled(data: ChartData, snapshot: Snapshot) -> Iterator[str]:
    """Yield a chart without labels as one line."""
    of = data.chart
    numbers = ""
    for column, delta in zip(of.columns, data.deltas[0].tolist(), strict=True):
        name = "" if column.id == VALUE else column.name
        numbers += f"  {name:>{_NAME}} {_number(of, delta, snapshot):>{_NUMBER}}"
    yield f"  {f'{of.family:8} {of.title}':{_LABEL}}{numbers}  {of.units}"


def _is_shown(column: Column, table: str, charts: Sequence[ChartData]) -> bool:
    """Return whether charts of a table show all fields of a column."""
    columns = [c for data in charts if data.chart.table == table for c in data.chart.columns]
    fields = {field for c in columns for field in (*c.plus, *c.minus)}
    return fields.issuperset(column.fields)


def _amounts(view: TableView, columns: Sequence[Column]) -> NDArray[np.int64]:
    """Return the amounts of each row, (rows, columns)."""
    rows = view.harvest.rows
    amounts = np.zeros((len(rows), len(columns)), np.int64)
    for n, column in enumerate(columns):
        for field in column.fields:
            amounts[:, n] += rows[field].astype(np.int64)
    return amounts


def _groups(view: TableView, columns: Sequence[Column], snapshot: Snapshot, count: int) -> Iterator[str]:
    """Yield the busiest groups of the first grouping."""
    for grouping, groups in list(view.groups.items())[:1]:
        ids, of_rows, rows = np.unique(groups.ids, return_inverse=True, return_counts=True)
        amounts = np.zeros((len(ids), len(columns)), np.int64)
        np.add.at(amounts, of_rows, _amounts(view, columns))
        busiest = _busiest(amounts, columns)[:count]
        busiest_ids = ids[busiest].tolist()
        items = [id_ for id_ in busiest_ids if id_ != RowGroups.OTHER]
        shown = [*(_shown(groups.names[id_]) for id_ in items), Role.OTHER.value]
        unique = unique_names(shown, shown, [*(False for _ in items), True])
        names = dict(zip((*items, RowGroups.OTHER), unique, strict=True))
        width = max(TASK_COMM_LEN, *map(len, names.values()))
        labels = [f"{n:>8} {names[id_]:{width}}" for n, id_ in zip(rows[busiest].tolist(), busiest_ids, strict=True)]
        heading = f"{'ROWS':>8} {printable(grouping.upper(), TASK_COMM_LEN):{width}}"
        yield from _lines(heading, labels, columns, amounts[busiest], snapshot)


def _processes(view: TableView, columns: Sequence[Column], snapshot: Snapshot, count: int) -> Iterator[str]:
    """Yield the busiest processes."""
    amounts = _amounts(view, columns)
    busiest = _busiest(amounts, columns)[:count]
    labels = [
        f"{tgid:>8} {printable(comm.decode(errors='replace')):{TASK_COMM_LEN}}"
        for tgid, comm in view.harvest.rows[["tgid", "comm"]][busiest].tolist()
    ]
    yield from _lines(f"{'PID':>8} {'COMMAND':{TASK_COMM_LEN}}", labels, columns, amounts[busiest], snapshot)
    if view.harvest.overflow_calls and columns and count:
        yield f"  {'overflow':>8} {view.harvest.overflow_calls} calls of processes for which the table had no room"


def _busiest(amounts: NDArray[np.int64], columns: Sequence[Column]) -> NDArray[np.intp]:
    """Return the indices of active rows, the busiest first: by calls, or by everything if no column counts calls."""
    calls = [n for n, column in enumerate(columns) if column.units == "calls/s"]
    activity = amounts[:, calls or slice(None)].sum(axis=1)
    order = np.argsort(-activity, kind="stable")
    return order[amounts[order].any(axis=1)]


def _lines(
    heading: str, labels: Sequence[str], columns: Sequence[Column], amounts: NDArray[np.int64], snapshot: Snapshot
) -> Iterator[str]:
    """Yield a table of rates. Columns that have only zeros are left out."""
    shown = [(n, column) for n, column in enumerate(columns) if amounts[:, n].any()]
    if not shown:
        return
    yield f"  {heading}" + "".join(f"  {column.header:>{_NUMBER}}" for _, column in shown)
    for row, label in enumerate(labels):
        numbers = ""
        for n, column in shown:
            amount = int(amounts[row, n])
            rate = _scaled(amount / snapshot.elapsed_s, column.is_bytes) if amount else "-"
            numbers += f"  {rate:>{max(_NUMBER, len(column.header))}}"
        yield f"  {label}{numbers}"


def _table_and_series(data: ChartData) -> tuple[object, ...]:
    """Return the key of charts that are shown side by side: they have the same table and the same series."""
    return data.chart.table or data.chart.family, data.index.labels, data.index.roles


def _series(charts: Sequence[ChartData], snapshot: Snapshot, count: int) -> Iterator[str]:
    """Yield the charts of one table: a line for each of the busiest series, then one for `other`.

    Columns that are 0 everywhere are left out.
    """
    columns = [(d.chart, c, d.deltas[:, n].tolist()) for d in charts for n, c in enumerate(d.chart.columns)]
    columns = [column for column in columns if any(column[2])]
    if not columns or not count:
        return
    index = charts[0].index
    items: list[tuple[str, tuple[int | float, ...]]] = []
    rest: list[tuple[str, tuple[int | float, ...]]] = []
    numbers = zip(*(amounts for _, _, amounts in columns), strict=True)
    for role, name, of_series in zip(index.roles, unique_series_names(charts[0], _shown), numbers, strict=True):
        (items if role is Role.ITEM else rest).append((name, of_series))
    items.sort(key=lambda item: -sum(map(abs, item[1])))
    if Role.OTHER in index.roles:
        name, of_other = rest[0]
        rest[0] = name, tuple(map(sum, zip(of_other, *(item[1] for item in items[count:]), strict=True)))
    lines = [(name, amounts) for name, amounts in (*items[:count], *rest) if any(amounts)]
    width = max(_NAME_WIDTH, *(len(name) for name, _ in lines)) if lines else _NAME_WIDTH
    headings = [f"{_heading(chart, column):>{_NUMBER}}" for chart, column, _ in columns]
    yield f"  {printable(str(_table_and_series(charts[0])[0])).upper():{width}}" + "".join(f"  {h}" for h in headings)
    for name, of_line in lines:
        shown = ""
        for (chart, _, _), heading, amount in zip(columns, headings, of_line, strict=True):
            shown += f"  {_number(chart, amount, snapshot) if amount else '-':>{len(heading)}}"
        yield f"  {name:{width}}{shown}"


def _heading(chart: Chart, column: Dimension) -> str:
    """Return the heading of a column: the unit and the name, or the counters if the column has no name."""
    if column.id == VALUE:
        return " ".join(column.plus).replace("_", " ")
    return printable(f"{chart.units.removesuffix('/s')} {column.name}")


def _histograms(data: ChartData, snapshot: Snapshot, count: int) -> Iterator[str]:
    """Yield a line for each of the busiest series, with the 50th, 90th and 99th percentile."""
    chart = data.chart
    histograms = [*zip(unique_series_names(data, _shown), (s.histogram for s in data.series()), strict=True)]
    histograms.sort(key=lambda pair: -pair[1].count)
    for name, histogram in histograms[:count]:
        if not histogram.count:
            return
        label = f"{chart.family:8} {chart.title}" + (f": {name}" if chart.labels else "")
        quantiles = "".join(f"  {percentile} {_bound(histogram, part)}" for percentile, part in _QUANTILES)
        rate = _scaled(histogram.count / snapshot.elapsed_s, is_bytes=False)
        yield f"  {label:{_LABEL}}{quantiles}  {histogram.buckets.units}  of {rate} {chart.units}"


def _bound(histogram: Histogram, part: float) -> str:
    bound = histogram.quantile(part)
    shown = f"<= {bound:.15g}" if math.isfinite(bound) else f"> {histogram.buckets.bounds[-1]:.15g}"
    return f"{shown:>{_NUMBER}}"


def _shown(name: str) -> str:
    return printable(name, _MAX_NAME)


def _is_own(data: ChartData) -> bool:
    return data.chart.family == _OWN and data.chart.id != _HIDDEN and bool(data.deltas.any())


def _own(data: ChartData, snapshot: Snapshot) -> str:
    """Return the numbers of one of ebpfmon's own charts and their unit."""
    chart = data.chart
    numbers = [
        f"{column_name(chart, name, column, column.name)} {_number(chart, delta, snapshot)}"
        for name, deltas in zip(unique_series_names(data, _shown), data.deltas.tolist(), strict=True)
        for column, delta in zip(chart.columns, deltas, strict=True)
    ]
    return f"{', '.join(numbers)} {chart.units}"


def _number(chart: Chart, delta: int | float, snapshot: Snapshot) -> str:
    if not chart.kind.cumulative or not chart.units.endswith("/s"):
        return str(delta) if isinstance(delta, int) else f"{delta:g}"
    return _scaled(delta / snapshot.elapsed_s, chart.units.startswith("bytes"))


def _scaled(rate: float, is_bytes: bool) -> str:
    if not is_bytes:
        return str(round(rate))
    for unit in ("B", "kB", "MB", "GB"):
        if abs(rate) < 999.5 or unit == "GB":
            break
        rate /= 1000
    return f"{rate:.0f} {unit}" if unit == "B" else f"{rate:.1f} {unit}"
