"""Convert snapshots to lines of Netdata's plugins.d protocol, for one Netdata. Pure."""

from __future__ import annotations

import itertools
import math
import re
import zlib
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from typing import NamedTuple, TypeVar

from ebpfmon import Chart, ChartData, Role, SeriesIndex, Snapshot, printable, unique_names
from ebpfmon_sinks.series_names import column_name, series_id, series_name, unique_series_names

_T = TypeVar("_T")

_MAX_BYTES = 200
"""The greatest length of a word. Netdata gives up on a plugin whose lines are too long."""
_CHECKSUM_LENGTH = 9  # with the character before it
_MAX_SHORT_BYTES = 90
"""The greatest length of units and families. It keeps a CHART line below 1,024 bytes, Netdata's limit."""
_BASE = 1 << 32
"""The first value of a counter.

When a counter decreases, Netdata guesses from its last value whether it was reset (by a restart of ebpfmon) or has
overflowed. If the value was a little below 2**32, Netdata assumes that a 32-bit counter has overflowed, and shows
hundreds of millions. Above 2**32 it assumes a reset."""
_FRACTION = 1000
"""The protocol has only whole numbers, so numbers that may have a fraction are sent as thousandths."""
_EXPIRY_S = 60.0
"""How long a chart may have no values before it is made obsolete. An interval has none if the chart's table could not
be read."""
_TOLERANCE_S = 0.01
"""How much too early a snapshot may be for its update."""
_MAX_VALUE = (1 << 63) - 1


def quote(text: str, max_bytes: int = _MAX_BYTES) -> str:
    """Return a text as one quoted word.

    The protocol has no escape for quotation marks and backslashes, and a backslash at the end would escape the closing
    quotation mark. They are replaced by the characters that Netdata itself replaces them with.
    """
    return f'"{clean_text(text, max_bytes)}"'


def clean_text(text: str, max_bytes: int = _MAX_BYTES) -> str:
    """Return a text as Netdata shows it, without the quotation marks around it (see `quote`)."""
    return _cut(printable(text.replace('"', "'").replace("\\", "/"), replacement=" "), max_bytes)


def _cut(text: str, max_bytes: int) -> str:
    return text.encode()[:max_bytes].decode(errors="ignore")


def dimension_id(text: str) -> str:
    """Return a valid id for a dimension. It has no dot, because alerts cannot refer to an id with a dot."""
    return re.sub(r"[^A-Za-z0-9_:/@+\[\]-]", "_", text)[:_MAX_BYTES] or "_"


def chart_id(text: str) -> str:
    """Return a valid id for a chart: a type, a dot, and a name."""
    kind, _, name = re.sub(r"[^A-Za-z0-9_.-]", "_", text).partition(".")
    kind, name = (kind, name) if name else ("ebpfmon", kind)
    return f"{kind[: _MAX_BYTES // 2] or '_'}.{name or '_'}"[:_MAX_BYTES]


class Ids:
    """Assigns valid and unique ids. `clean` turns a text into a valid id; several texts may become the same id."""

    def __init__(self, clean: Callable[[str], str]) -> None:
        self._clean = clean
        self._used: set[str] = set()

    def assign(self, text: str, reserved: Container[str] = ()) -> str:
        """Return a valid id that is not in use yet and not reserved."""
        plain = unique = self._clean(text)
        for n in itertools.count():
            if unique not in self._used and unique not in reserved:
                break
            unique = f"{plain[: _MAX_BYTES - _CHECKSUM_LENGTH]}_{zlib.crc32(f'{n}{text}'.encode(errors='replace')):08x}"
        self._used.add(unique)
        return unique

    def release(self, id_: str) -> None:
        """Make an id available again."""
        self._used.discard(id_)


class _DimensionState:
    """The state of a dimension in this Netdata."""

    __slots__ = ("amount", "clean_name", "declared", "given_name", "id", "name", "prefix", "seen", "sign", "total",
                 "was_sent")  # fmt: skip

    def __init__(self, id_: str, negative: bool) -> None:
        self.id, self.sign = id_, -1 if negative else 1
        self.given_name = self.clean_name = self.name = ""  # as in the snapshot, cleaned, and cleaned and unique
        self.prefix = f'SET "{id_}" = '
        self.amount: int | float = 0  # of a counter: not yet in an update; of a gauge: the newest value
        self.total: int | float = _BASE
        self.declared = False
        self.was_sent = False  # whether it was in an update
        self.seen = 0  # the number of the last snapshot that had it


class _Dimension(NamedTuple):
    """A dimension in a snapshot. `key` is unique within the chart. `id` may have to be cleaned."""

    key: tuple[Role, tuple[str, ...], str]
    id: str
    name: str
    negative: bool


class _ChartState:
    """The state of a chart in this Netdata.

    Rates (units `.../s`) whose counters never decrease use Netdata's algorithm `incremental`. The value of the counter
    is sent, and Netdata computes the rate with the microseconds in BEGIN (or with its own clock if the chart was
    just declared). The rate is right however long the interval was, and nothing is lost if an update is left out.

    Everything else is `absolute`: gauges, amounts that are not rates, and differences. A difference may decrease, which
    Netdata would take for a reset of the counter.

    The counters are not the totals of the series, because those restart at 0 if a series was dropped and comes back.
    """

    def __init__(self, chart: Chart, *, id: str, title: str, is_stacked: bool) -> None:
        """`id` is the chart's id in Netdata."""
        self.id = id
        self.seen = 0  # the number of the last snapshot that had it
        self.elapsed_s = 0.0  # since its last update
        self.declared = False
        self._chart, self._title = chart, title
        self._type = "heatmap" if chart.buckets else "stacked" if is_stacked else "line"
        self._is_gauge = not chart.kind.cumulative
        self._is_rate = not self._is_gauge and chart.units.endswith("/s")
        self._is_incremental = self._is_rate and not any(column.minus for column in chart.columns)
        self._dimensions: dict[object, _DimensionState] = {}
        self._current: list[_DimensionState] = []  # the dimensions of the newest snapshot, in its order
        self._ids = Ids(dimension_id)
        self._to_declare: dict[object, _DimensionState] = {}
        self._begun = False

    def set_dimensions(self, dimensions: Sequence[_Dimension]) -> None:
        """Set the dimensions for which `add` gets amounts from now on."""
        new = {dimension for dimension in dimensions if dimension.key not in self._dimensions}
        # `other` and `overflow` always exist, so they get the plain id even if an item has the same name.
        ids = {d.key: self._ids.assign(d.id) for d in _rest_first(dimensions, lambda d: d.key[0]) if d in new}
        for dimension in dimensions:
            if dimension.key not in self._dimensions:
                self._dimensions[dimension.key] = _DimensionState(ids[dimension.key], dimension.negative)
        self._current = [self._dimensions[dimension.key] for dimension in dimensions]
        for dimension, state in zip(dimensions, self._current, strict=True):
            if state.given_name != dimension.name:
                state.given_name, state.clean_name = dimension.name, clean_text(dimension.name)
        leaving = []  # not in the snapshot any more, but still in Netdata
        if len(self._dimensions) > len(dimensions):
            keys = {dimension.key for dimension in dimensions}
            leaving = [state for key, state in self._dimensions.items() if key not in keys]
        # Queries of several charts group dimensions by their names, so the names have to be unique as well.
        names = unique_names(
            [*(state.clean_name for state in self._current), *(state.name for state in leaving)],
            [state.id[: _MAX_BYTES - _CHECKSUM_LENGTH] for state in (*self._current, *leaving)],
            [*(dimension.key[0] is not Role.ITEM for dimension in dimensions), *(True for _ in leaving)],
        )
        for dimension, state, name in zip(dimensions, self._current, names, strict=False):
            if state.name != name or not state.declared:
                state.name = name
                self._to_declare[dimension.key] = state

    def add(self, amounts: Sequence[int | float], number: int) -> None:
        """Add the interval of the snapshot with this number: an amount for each dimension."""
        self.seen = number
        for state, amount in zip(self._current, amounts, strict=True):
            state.amount = amount if self._is_gauge else state.amount + amount
            state.seen = number

    def declare_again(self) -> None:
        """Declare the chart and its dimensions again in the next update."""
        self._to_declare |= {key: state for key, state in self._dimensions.items() if state.declared}

    def update(self, last: int, update_every: int) -> Iterator[str]:
        """Yield the lines of an update. `last` is the number of the last snapshot that was sent."""
        gone = [
            key
            for key, state in self._dimensions.items()
            if state.seen <= last
            and (self._is_gauge or not state.amount)  # a counter stays until its last amount is sent
        ]
        if self._to_declare or gone:  # A DIMENSION line belongs to the chart that was declared last.
            yield self._chart_line(update_every)
            self.declared = True
        for state in self._to_declare.values():
            state.declared = True
            yield self._dimension_line(state)
        self._to_declare.clear()
        for key in gone:
            state = self._dimensions.pop(key)
            self._ids.release(state.id)
            yield self._dimension_line(state, "obsolete")
        if self._dimensions:
            yield f"BEGIN {quote(self.id)}" + (f" {max(round(self.elapsed_s * 1e6), 1)}\n" if self._begun else "\n")
            yield from self._set_lines()
            yield "END\n"
            self._begun, self.elapsed_s = True, 0.0

    def obsolete(self, update_every: int) -> str:
        """Return the line that makes Netdata forget the chart."""
        return self._chart_line(update_every, "obsolete")

    def _set_lines(self) -> Iterator[str]:
        for state in self._dimensions.values():
            if self._is_gauge:
                value = state.amount
            elif state.was_sent:
                value, state.amount = state.amount, 0
            else:
                # Netdata does not show the first value of a dimension but counts from it, so the first amount is sent
                # with the second update. Amounts from before the chart's first update are dropped.
                state.was_sent, value, state.amount = True, 0, state.amount if self._begun else 0
            if self._is_incremental:
                state.total += value
                yield f"{state.prefix}{int(state.total)}\n"
            elif math.isfinite(value):
                exact = value / self.elapsed_s if self._is_rate and self.elapsed_s else value
                yield f"{state.prefix}{max(min(round(exact * _FRACTION), _MAX_VALUE), -_MAX_VALUE)}\n"

    def _chart_line(self, update_every: int, options: str = "") -> str:
        chart = self._chart
        units, family = quote(chart.units, _MAX_SHORT_BYTES), quote(chart.family, _MAX_SHORT_BYTES)
        return (
            f"CHART {quote(self.id)} '' {quote(self._title)} {units} {family} {quote(chart_id(chart.id))} "
            f"{self._type} {chart.priority} {update_every} '{options}' ebpfmon {family}\n"
        )

    def _dimension_line(self, state: _DimensionState, options: str = "") -> str:
        algorithm, divisor = ("incremental", 1) if self._is_incremental else ("absolute", _FRACTION)
        return f"DIMENSION {quote(state.id)} {quote(state.name)} {algorithm} {state.sign} {divisor} '{options}'\n"


class _NetdataCharts(NamedTuple):
    """The charts in Netdata for one of ebpfmon's: a single chart, or for a histogram a heatmap for each series."""

    series_index: SeriesIndex
    charts: list[_ChartState]


class Stream:
    """The lines for one Netdata, from the moment it connects.

    Each chart and dimension is declared before its first value, declared again when it changes, and made obsolete when
    it is gone.
    """

    def __init__(self, every_s: int) -> None:
        """`every_s` is the least number of seconds between two updates."""
        self._every_s = every_s
        self._charts: dict[tuple[str, object], _ChartState] = {}  # by the chart's id and a heatmap's series
        self._by_id: dict[str, _NetdataCharts] = {}
        self._ids = Ids(chart_id)
        self._number = self._last = 0  # of the newest snapshot, and of the last one that was sent
        self._time_s, self._step_s, self._slot = 0.0, 0, -1
        self._elapsed_s = 0.0  # since the last update

    def add(self, snapshot: Snapshot) -> None:
        """Add an interval. The next update sums all intervals since the last one."""
        self._number, self._time_s = self._number + 1, snapshot.time_s
        self._elapsed_s += snapshot.elapsed_s
        for known in self._charts.values():
            known.elapsed_s += snapshot.elapsed_s
        for data in snapshot.charts:
            id_, buckets = data.chart.id, data.chart.buckets
            parts = self._by_id.get(id_)
            if parts is None or parts.series_index is not data.index:
                charts = self._heatmaps(data, snapshot) if buckets else [self._lines_chart(data)]
                parts = self._by_id[id_] = _NetdataCharts(data.index, charts)
            if buckets:
                for chart, amounts in zip(parts.charts, data.deltas[:, : len(buckets.bounds) + 1], strict=True):
                    chart.add(amounts.tolist(), self._number)
            else:
                parts.charts[0].add(data.deltas.ravel().tolist(), self._number)

    def update(self, interval_s: int) -> bytes:
        """Return the lines of an update, or nothing if it is too early.

        `interval_s` is the number of seconds between two snapshots.
        """
        step_s = interval_s * math.ceil(self._every_s / interval_s)
        slot = math.floor((self._time_s + _TOLERANCE_S) / step_s)
        if step_s != self._step_s:
            self._step_s = step_s
            for chart in self._charts.values():
                chart.declare_again()
        elif step_s > interval_s and slot == self._slot and self._elapsed_s < step_s - _TOLERANCE_S:
            return b""  # The elapsed time counts as well, because the clock may have been set back.
        self._slot, self._elapsed_s = slot, 0.0
        lines: list[str] = []
        for key, chart in [*self._charts.items()]:
            if chart.seen > self._last:
                lines += chart.update(self._last, step_s)
            elif chart.elapsed_s > max(_EXPIRY_S, 3 * step_s):
                if chart.declared:
                    lines.append(chart.obsolete(step_s))
                self._ids.release(self._charts.pop(key).id)
                self._by_id.pop(key[0], None)
        self._last = self._number
        return "".join(lines).encode()

    def _lines_chart(self, data: ChartData) -> _ChartState:
        """Return a chart with one dimension for each number of each series."""
        source, index, key = data.chart, data.index, (data.chart.id, None)
        chart = self._charts.get(key)
        if chart is None:
            chart = self._charts[key] = _ChartState(
                source, id=self._ids.assign(source.id), title=source.title, is_stacked=Role.OTHER in index.roles
            )
        columns = source.columns
        dimensions: list[_Dimension] = []
        for role, labels, names in zip(index.roles, index.labels, index.names, strict=True):
            id_, name = series_id(source, labels), series_name(source, labels, names)
            dimensions += (
                _Dimension(
                    (role, labels, c.id),
                    column_name(source, id_, c, c.id),
                    column_name(source, name, c, c.name),
                    c.negative,
                )
                for c in columns
            )
        chart.set_dimensions(dimensions)
        return chart

    def _heatmaps(self, data: ChartData, snapshot: Snapshot) -> list[_ChartState]:
        """Return the heatmaps of a histogram: one for each series, with one dimension for each bucket.

        An item may have such a name that its heatmap would have the id of another chart. Charts keep their ids.
        """
        source, index = data.chart, data.index
        plain = {
            (role, labels): f"{source.id}_{series_id(source, labels)}" if source.labels else source.id
            for role, labels in index.keys
        }
        new = {key: id_ for key, id_ in plain.items() if (source.id, key) not in self._charts}
        reserved = {chart_id(each.chart.id) for each in snapshot.charts if each is not data} if new else ()
        ids = {key: self._ids.assign(id_, reserved) for key, id_ in _rest_first(new.items(), lambda item: item[0][0])}
        assert source.buckets, "a histogram has buckets"
        dimensions = [
            _Dimension((Role.ITEM, (), c.id), c.id, c.name, c.negative)
            for c in source.columns[: len(source.buckets.bounds) + 1]
        ]
        charts = []
        for key, name in zip(index.keys, unique_series_names(data), strict=True):
            chart = self._charts.get((source.id, key))
            if chart is None:
                title = f"{source.title}: {name}" if source.labels else source.title
                chart = _ChartState(source, id=ids[key], title=title, is_stacked=False)
                self._charts[source.id, key] = chart
                chart.set_dimensions(dimensions)
            charts.append(chart)
        return charts


def _rest_first(values: Iterable[_T], role_of: Callable[[_T], Role]) -> list[_T]:
    """Return the values with those of the roles `other` and `overflow` first."""
    return sorted(values, key=lambda value: role_of(value) is Role.ITEM)
