"""Netdata's plugins.d protocol: from snapshots to the lines that one Netdata reads. Pure."""

from __future__ import annotations

import itertools
import math
import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple, TypeVar

from ebpfmon import Chart, ChartData, Role, SeriesIndex, Snapshot, printable
from ebpfmon_sinks.joined import joined, joined_name, of_column

_T = TypeVar("_T")

_LONGEST = 200
"""Bytes of any word. Netdata cuts ids and names there or later, and gives a plugin up whose lines are too long."""
_SHORT = 90
"""Bytes of a unit and of a family: so the line of a chart stays below 1,024, which is what Netdata reads at once."""
_BASE = 1 << 32
"""Where counters begin. When a counter falls (it begins anew after a restart), Netdata guesses from the greatest value
that it saw whether it was reset or overflowed. If it fell from a little below 2**32, Netdata takes it for a counter of
32 bits that overflowed, and shows hundreds of millions. A counter above 2**32 is never taken for that."""
_FRACTION = 1000
"""The protocol has whole numbers only: what may have a fraction is sent as thousandths."""
_EXPIRY_S = 60.0
"""After so long without a value a chart is retired. A chart may be missing for a moment, if its table could not be
read."""
_HIGHEST = (1 << 63) - 1


def text(words: str, most: int = _LONGEST) -> str:
    """Return the words as one quoted word, for people to read.

    Netdata's lexer has no way to write a quotation mark or a backslash inside, and a backslash would swallow the mark
    at the end: they become what Netdata itself would make of them.
    """
    changed = printable(words.replace('"', "'").replace("\\", "/"), replacement=" ")
    return f'"{_cut(changed, most)}"'


def _cut(words: str, most: int) -> str:
    return words.encode()[:most].decode(errors="ignore")


def dimension_id(words: str) -> str:
    """Return an id that a dimension of Netdata can have. Alerts could not name one with a dot."""
    return re.sub(r"[^A-Za-z0-9_:/@+\[\]-]", "_", words)[:_LONGEST] or "_"


def chart_id(words: str) -> str:
    """Return an id that a chart of Netdata can have: a type, a dot, and a name."""
    kind, _, name = re.sub(r"[^A-Za-z0-9_.-]", "_", words).partition(".")
    kind, name = (kind, name) if name else ("ebpfmon", kind)
    return f"{kind[: _LONGEST // 2] or '_'}.{name or '_'}"[:_LONGEST]


class Ids:
    """Clean ids, and tell apart those that cleaning made equal."""

    def __init__(self, clean: Callable[[str], str]) -> None:
        self._clean = clean
        self._used: set[str] = set()

    def take(self, words: str) -> str:
        """Return a clean id that nobody has yet."""
        plain = found = self._clean(words)
        for n in itertools.count():
            if found not in self._used:
                break
            found = f"{plain[: _LONGEST - 9]}_{zlib.crc32(f'{n}{words}'.encode(errors='replace')):08x}"
        self._used.add(found)
        return found

    def give_back(self, id_: str) -> None:
        """Let others have this id."""
        self._used.discard(id_)


class _Line:
    """A dimension of a chart, as this Netdata knows it."""

    __slots__ = ("amount", "declared", "id", "known", "name", "prefix", "seen", "sign", "total")

    def __init__(self, id_: str, negative: bool) -> None:
        self.id, self.name, self.sign = id_, "", -1 if negative else 1
        self.prefix = f'SET "{id_}" = '
        self.amount: int | float = 0  # of a counter what no update had yet, of a gauge the newest
        self.total: int | float = _BASE
        self.declared = False
        self.known = False  # whether an update had it
        self.seen = 0  # the number of the snapshot that had it last


class _Dimension(NamedTuple):
    """A dimension as a snapshot has it: `key` tells it apart from the chart's others, `id` may need cleaning."""

    key: tuple[Role, tuple[str, ...], str]
    id: str
    name: str
    negative: bool


class _Chart:
    """A chart, as this Netdata knows it.

    Rates (`.../s`) that only count up use Netdata's algorithm `incremental`: Netdata is told how far a counter has
    come, and makes the rate itself, from the microseconds that BEGIN names (or from its own clock, when a chart was
    just declared). So the rate is right however long the interval was, and an update that was left out loses nothing.
    A difference that may be negative cannot use it, because Netdata takes a counter that falls for one that was reset,
    and shows nothing. It is `absolute`, and so is everything that is no rate: a gauge, or an amount that is shown as
    it is.

    The counters are not the totals of the series, which begin anew when a series was forgotten.
    """

    def __init__(self, chart: Chart, *, id: str, title: str, is_stacked: bool) -> None:
        """`id`: as Netdata knows it. Charts with one context are looked at together."""
        self.id = id
        self.seen = 0  # the number of the snapshot that had it last
        self.elapsed_s = 0.0  # since its last update
        self.declared = False
        self._chart, self._title = chart, title
        self._type = "heatmap" if chart.buckets else "stacked" if is_stacked else "line"
        self._is_gauge = not chart.kind.cumulative
        self._is_rate = not self._is_gauge and chart.units.endswith("/s")
        self._is_incremental = self._is_rate and not any(column.minus for column in chart.columns)
        self._lines: dict[object, _Line] = {}
        self._current: list[_Line] = []  # those of the newest snapshot, in its order
        self._ids = Ids(dimension_id)
        self._to_declare: dict[object, _Line] = {}
        self._begun = False

    def show(self, dimensions: Sequence[_Dimension]) -> None:
        """Say which dimensions `add` gives the numbers of from now on."""
        new = {dimension for dimension in dimensions if dimension.key not in self._lines}
        # the rest of a whole is always there, so it has the plain id, even if an item is called the same
        taken = {d.key: self._ids.take(d.id) for d in _rest_first(dimensions, lambda d: d.key[0]) if d in new}
        self._current = []
        for dimension in dimensions:
            line = self._lines.get(dimension.key)
            if line is None:
                line = self._lines[dimension.key] = _Line(taken[dimension.key], dimension.negative)
            if line.name != dimension.name or not line.declared:
                line.name = dimension.name
                self._to_declare[dimension.key] = line
            self._current.append(line)

    def add(self, amounts: Sequence[int | float], number: int) -> None:
        """Take in an interval, that of the snapshot with this number: an amount for each dimension."""
        self.seen = number
        for line, amount in zip(self._current, amounts, strict=True):
            line.amount = amount if self._is_gauge else line.amount + amount
            line.seen = number

    def declare_again(self) -> None:
        """Declare everything again with the next update, because something of the chart has changed."""
        self._to_declare |= {key: line for key, line in self._lines.items() if line.declared}

    def update(self, last: int, update_every: int) -> Iterator[str]:
        """Yield what Netdata does not know. `last`: the number of the newest snapshot that it knows."""
        gone = [
            key
            for key, line in self._lines.items()
            if line.seen <= last and (self._is_gauge or not line.amount)  # or the last amount is still to come
        ]
        if self._to_declare or gone:  # the chart first: a dimension belongs to the one that was named last
            yield self._chart_line(update_every)
            self.declared = True
        for line in self._to_declare.values():
            line.declared = True
            yield self._dimension_line(line)
        self._to_declare.clear()
        for key in gone:
            line = self._lines.pop(key)
            self._ids.give_back(line.id)
            yield self._dimension_line(line, "obsolete")
        if self._lines:
            yield f"BEGIN {text(self.id)}" + (f" {max(round(self.elapsed_s * 1e6), 1)}\n" if self._begun else "\n")
            yield from self._set_lines()
            yield "END\n"
            self._begun, self.elapsed_s = True, 0.0

    def obsolete(self, update_every: int) -> str:
        """Return the line that makes Netdata forget it."""
        return self._chart_line(update_every, "obsolete")

    def _set_lines(self) -> Iterator[str]:
        for line in self._lines.values():
            if self._is_gauge:
                value = line.amount
            elif line.known:
                value, line.amount = line.amount, 0
            else:
                # Netdata shows nothing of a dimension's first value, it counts from there: the amount comes with the
                # next one. But before a chart's first update nobody has counted.
                line.known, value, line.amount = True, 0, line.amount if self._begun else 0
            if self._is_incremental:
                line.total += value
                yield f"{line.prefix}{int(line.total)}\n"
            elif math.isfinite(value):
                exact = value / self.elapsed_s if self._is_rate and self.elapsed_s else value
                yield f"{line.prefix}{max(min(round(exact * _FRACTION), _HIGHEST), -_HIGHEST)}\n"

    def _chart_line(self, update_every: int, options: str = "") -> str:
        of, family = self._chart, text(self._chart.family, _SHORT)
        return (
            f"CHART {text(self.id)} '' {text(self._title)} {text(of.units, _SHORT)} {family} {text(chart_id(of.id))} "
            f"{self._type} {of.priority} {update_every} '{options}' ebpfmon {family}\n"
        )

    def _dimension_line(self, line: _Line, options: str = "") -> str:
        algorithm, divisor = ("incremental", 1) if self._is_incremental else ("absolute", _FRACTION)
        return f"DIMENSION {text(line.id)} {text(line.name)} {algorithm} {line.sign} {divisor} '{options}'\n"


class _Parts(NamedTuple):
    """The charts that Netdata has of one chart: itself, or a heatmap for each of `series`."""

    series: SeriesIndex
    charts: list[_Chart]


class Stream:
    """What one Netdata is told, from the moment it listens: each chart and dimension is declared before its first
    value, declared again when it changes, and retired when it is gone."""

    def __init__(self, every_s: int) -> None:
        """`every_s`: how many seconds at least are between two updates."""
        self._every_s = every_s
        self._charts: dict[tuple[str, object], _Chart] = {}  # by the id, and what tells the parts of one apart
        self._parts: dict[str, _Parts] = {}
        self._ids = Ids(chart_id)
        self._number = self._last = 0  # of the newest snapshot, and of the newest that was sent
        self._time_s, self._step_s, self._slot = 0.0, 0, -1

    def add(self, snapshot: Snapshot) -> None:
        """Take in an interval: the next update has it, however many there are until then."""
        self._number, self._time_s = self._number + 1, snapshot.time_s
        for known in self._charts.values():
            known.elapsed_s += snapshot.elapsed_s
        for data in snapshot.charts:
            id_, buckets = data.chart.id, data.chart.buckets
            parts = self._parts.get(id_)
            if parts is None or parts.series is not data.index:
                charts = self._heatmaps(data) if buckets else [self._whole(data)]
                parts = self._parts[id_] = _Parts(data.index, charts)
            if buckets:
                for chart, amounts in zip(parts.charts, data.deltas[:, : len(buckets.bounds) + 1], strict=True):
                    chart.add(amounts.tolist(), self._number)
            else:
                parts.charts[0].add(data.deltas.ravel().tolist(), self._number)

    def update(self, interval_s: int) -> bytes:
        """Return whole lines, if it is time for them. `interval_s`: between two snapshots."""
        step_s = interval_s * math.ceil(self._every_s / interval_s)
        slot = math.floor(self._time_s / step_s)
        if step_s != self._step_s:
            self._step_s = step_s
            for chart in self._charts.values():
                chart.declare_again()
        elif step_s > interval_s and slot == self._slot:
            return b""
        self._slot = slot
        lines: list[str] = []
        for key, chart in [*self._charts.items()]:
            if chart.seen > self._last:
                lines += chart.update(self._last, step_s)
            elif chart.elapsed_s > max(_EXPIRY_S, 3 * step_s):
                if chart.declared:
                    lines.append(chart.obsolete(step_s))
                self._ids.give_back(self._charts.pop(key).id)
                self._parts.pop(key[0], None)
        self._last = self._number
        return "".join(lines).encode()

    def _whole(self, data: ChartData) -> _Chart:
        """Return a chart whose dimensions are the numbers of all series."""
        of, index, key = data.chart, data.index, (data.chart.id, None)
        chart = self._charts.get(key)
        if chart is None:
            chart = self._charts[key] = _Chart(
                of, id=self._ids.take(of.id), title=of.title, is_stacked=Role.OTHER in index.roles
            )
        columns = of.columns
        dimensions: list[_Dimension] = []
        for role, labels, names in zip(index.roles, index.labels, index.names, strict=True):
            id_, name = joined(of, labels), joined_name(of, labels, names)
            dimensions += (
                _Dimension(
                    (role, labels, c.id), of_column(of, id_, c, c.id), of_column(of, name, c, c.name), c.negative
                )
                for c in columns
            )
        chart.show(dimensions)
        return chart

    def _heatmaps(self, data: ChartData) -> list[_Chart]:
        """Return the charts of a histogram: one for each series, whose dimensions are the buckets."""
        of, index = data.chart, data.index
        ids = {(role, labels): f"{of.id}_{joined(of, labels)}" if of.labels else of.id for role, labels in index.keys}
        taken = {
            key: self._ids.take(id_)
            for key, id_ in _rest_first(ids.items(), lambda item: item[0][0])
            if (of.id, key) not in self._charts
        }
        assert of.buckets, "a histogram has buckets"
        dimensions = [
            _Dimension((Role.ITEM, (), c.id), c.id, c.name, c.negative)
            for c in of.columns[: len(of.buckets.bounds) + 1]
        ]
        charts = []
        for key, names in zip(index.keys, index.names, strict=True):
            chart = self._charts.get((of.id, key))
            if chart is None:
                title = f"{of.title}: {joined_name(of, key[1], names)}" if of.labels else of.title
                chart = _Chart(of, id=taken[key], title=title, is_stacked=False)
                self._charts[of.id, key] = chart
                chart.show(dimensions)
            charts.append(chart)
        return charts


def _rest_first(things: Iterable[_T], role_of: Callable[[_T], Role]) -> list[_T]:
    """Return the things with those first that stand for the rest of a whole."""
    return sorted(things, key=lambda thing: role_of(thing) is Role.ITEM)
