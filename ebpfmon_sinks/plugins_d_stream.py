"""Netdata's plugins.d protocol: from snapshots to the lines that one Netdata reads. Pure."""

from __future__ import annotations

import itertools
import math
import re
import zlib
from collections.abc import Callable, Iterator
from dataclasses import replace

from ebpfmon import Chart, ChartValues, Dimension, Kind, Scope, Snapshot, Value, histograms

_LONGEST = 200
"""Bytes of any word. Netdata cuts ids and names there or later, and gives a plugin up whose lines are too long."""
_SHORT = 90
"""Bytes of a unit and of a family: so the line of a chart stays below 1,024, which is what Netdata reads at once."""
_BASE = 1 << 32
"""Where counters begin. When a counter falls (it begins anew after a restart), Netdata guesses between a reset and an
overflow, by the greatest value that it saw: one that fell from a little below 2**32 it takes for a counter of 32 bits
that overflowed, and shows hundreds of millions. No counter that was above 2**32 is ever taken so."""
_FRACTION = 1000
"""The protocol has whole numbers only: what may have a fraction is sent as thousandths."""
_EXPIRY_S = 60.0
"""After so long without a value a chart is given up: one that is missing for a moment (its table could not be read)
is not."""
_HIGHEST = (1 << 63) - 1


def text(words: str, most: int = _LONGEST) -> str:
    """As one quoted word, for people to read. Netdata's lexer has no way to write a quotation mark or a backslash
    inside, and a backslash would swallow the mark at the end: they become what Netdata itself would make of them."""
    changed = "".join(c if c.isprintable() else " " for c in words.replace('"', "'").replace("\\", "/"))
    return f'"{_cut(changed, most)}"'


def _cut(words: str, most: int) -> str:
    return words.encode()[:most].decode(errors="ignore")


def dimension_id(words: str) -> str:
    """What Netdata can always have as the id of a dimension. A dot would part it where alerts name it."""
    return re.sub(r"[^A-Za-z0-9_:/@+\[\]-]", "_", words)[:_LONGEST] or "_"


def chart_id(words: str) -> str:
    """What Netdata can always have as the id of a chart: a type, a dot, and a name."""
    kind, _, name = re.sub(r"[^A-Za-z0-9_.-]", "_", words).partition(".")
    kind, name = (kind, name) if name else ("ebpfmon", kind)
    return f"{kind[: _LONGEST // 2] or '_'}.{name or '_'}"[:_LONGEST]


class Ids:
    """Cleans ids, and tells apart those that cleaning made equal."""

    def __init__(self, clean: Callable[[str], str]) -> None:
        self._clean = clean
        self._used: set[str] = set()

    def take(self, words: str) -> str:
        """An id that nobody has."""
        plain = found = self._clean(words)
        for n in itertools.count():
            if found not in self._used:
                break
            found = f"{plain[: _LONGEST - 9]}_{zlib.crc32(f'{n}{words}'.encode(errors='replace')):08x}"
        self._used.add(found)
        return found

    def give_back(self, id_: str) -> None:
        """Nobody has it any more."""
        self._used.discard(id_)


class _Line:
    """A dimension of a chart, as this Netdata knows it."""

    __slots__ = ("amount", "id", "known", "name", "prefix", "seen", "sign", "total")

    def __init__(self, dimension: Dimension, id_: str) -> None:
        self.id, self.name, self.sign = id_, "", -1 if dimension.negative else 1
        self.prefix = f'SET "{id_}" = '
        self.amount: int | float = 0  # of a counter what no update had yet, of a level the newest
        self.total: int | float = _BASE
        self.known = False  # whether an update had it
        self.seen = 0  # the number of the snapshot that had it last


class _Chart:
    """A chart, as this Netdata knows it.

    Which of Netdata's algorithms it has: rates (`.../s`) that only count up are `incremental`. Netdata is told how far
    a counter has come, and makes the rate itself, by the microseconds that BEGIN names (or its own clock, when a chart
    was just declared): so it is right however long the interval was, and what happened is shown in full even where an
    update was left out. What may be negative cannot be that: Netdata takes a counter that falls for one that was reset,
    and shows nothing. It is `absolute`, and so is what is no rate: a level, or an amount that is shown as it is.

    The counters are not `Value.total`: that of a key begins anew whenever the key is shown anew.
    """

    def __init__(self, chart: Chart, id_: str, context: str) -> None:
        """`context`: what charts have in common that are looked at together."""
        self.chart, self.id, self._context = chart, id_, context
        self.seen = 0  # the number of the snapshot that had it last
        self.elapsed_s = 0.0  # since its last update
        self.declared = False
        self._is_level = chart.kind is Kind.LEVEL
        self._is_rate = not self._is_level and chart.units.endswith("/s")
        self._is_incremental = self._is_rate and not any(d.minus for d in chart.dimensions)
        self._lines: dict[str, _Line] = {}
        self._ids = Ids(dimension_id)
        self._to_declare: dict[str, str] = {}  # lines, with the names that they have now
        self._begun = False

    def add(self, values: ChartValues, number: int) -> None:
        """Take in an interval: that of the snapshot with this number."""
        self.seen = number
        for value in values.values:
            dimension = value.dimension
            line = self._lines.get(dimension.id)
            if line is None:
                line = self._lines[dimension.id] = _Line(dimension, self._ids.take(dimension.id))
                self._to_declare[dimension.id] = dimension.name
            elif line.name != dimension.name:
                self._to_declare[dimension.id] = dimension.name
            line.amount = value.delta if self._is_level else line.amount + value.delta
            line.seen = number

    def declare_again(self) -> None:
        """With the next update: something of it has changed."""
        self._to_declare |= {id_: line.name for id_, line in self._lines.items() if line.name}

    def update(self, last: int, update_every: int) -> Iterator[str]:
        """All that Netdata does not know. `last`: the number of the newest snapshot that it knows."""
        gone = [
            id_
            for id_, line in self._lines.items()
            if line.seen <= last and (self._is_level or not line.amount)  # or the last amount is still to come
        ]
        if self._to_declare or gone:  # the chart first: a dimension belongs to the one that was named last
            yield self._chart_line(update_every)
            self.declared = True
        for id_, name in self._to_declare.items():
            self._lines[id_].name = name
            yield self._dimension_line(self._lines[id_])
        self._to_declare.clear()
        for id_ in gone:
            line = self._lines.pop(id_)
            self._ids.give_back(line.id)
            yield self._dimension_line(line, "obsolete")
        if self._lines:
            yield f"BEGIN {text(self.id)}" + (f" {max(round(self.elapsed_s * 1e6), 1)}\n" if self._begun else "\n")
            yield from self._set_lines()
            yield "END\n"
            self._begun, self.elapsed_s = True, 0.0

    def obsolete(self, update_every: int) -> str:
        """Netdata shall forget it."""
        return self._chart_line(update_every, "obsolete")

    def _set_lines(self) -> Iterator[str]:
        for line in self._lines.values():
            if self._is_level:
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
        of = self.chart
        kind = "heatmap" if of.buckets else "line" if of.scope is Scope.SYSTEM else "stacked"
        family = text(of.family, _SHORT)
        return (
            f"CHART {text(self.id)} '' {text(of.title)} {text(of.units, _SHORT)} {family} {text(self._context)} "
            f"{kind} {of.priority} {update_every} '{options}' ebpfmon {family}\n"
        )

    def _dimension_line(self, line: _Line, options: str = "") -> str:
        algorithm, divisor = ("incremental", 1) if self._is_incremental else ("absolute", _FRACTION)
        return f"DIMENSION {text(line.id)} {text(line.name)} {algorithm} {line.sign} {divisor} '{options}'\n"


class Stream:
    """What one Netdata is told, from the moment it listens: each chart and dimension is declared before its first
    value, declared again when it changes, and retired when it is gone."""

    def __init__(self, every_s: int) -> None:
        """`every_s`: so many seconds at least are to lie between two updates."""
        self._every_s = every_s
        self._charts: dict[str, _Chart] = {}
        self._ids = Ids(chart_id)
        self._number = self._last = 0  # of the newest snapshot, and of the newest that was sent
        self._time_s, self._step_s, self._slot = 0.0, 0, -1

    def add(self, snapshot: Snapshot) -> None:
        """Take in an interval: the next update has it, however many there are until then."""
        self._number, self._time_s = self._number + 1, snapshot.time_s
        for known in self._charts.values():
            known.elapsed_s += snapshot.elapsed_s
        for values in snapshot.charts:
            if values.chart.buckets:
                for each in _heatmaps(values):
                    self._add(each, values.chart.id)
            else:
                self._add(values, values.chart.id)

    def _add(self, values: ChartValues, context: str) -> None:
        chart = self._charts.get(values.chart.id)
        if chart is None:
            chart_id_ = self._ids.take(values.chart.id)
            chart = self._charts[values.chart.id] = _Chart(values.chart, chart_id_, chart_id(context))
        chart.add(values, self._number)

    def update(self, interval_s: int) -> bytes:
        """Whole lines, if it is time for them. `interval_s`: between two snapshots."""
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
        for id_, chart in [*self._charts.items()]:
            if chart.seen > self._last:
                lines += chart.update(self._last, step_s)
            elif chart.elapsed_s > max(_EXPIRY_S, 3 * step_s):
                if chart.declared:
                    lines.append(chart.obsolete(step_s))
                self._ids.give_back(self._charts.pop(id_).id)
        self._last = self._number
        return "".join(lines).encode()


def _heatmaps(values: ChartValues) -> Iterator[ChartValues]:
    """A histogram's chart as Netdata has them: a chart for each key, the buckets as its dimensions."""
    of = values.chart
    for each in histograms(values):
        buckets = of.dimensions[: len(each.counts)]
        chart = replace(of, id=f"{of.id}_{each.id}", title=f"{of.title}: {each.name}") if each.id else of
        counts = zip(buckets, each.counts, strict=True)
        yield ChartValues(chart, tuple(Value(dimension, value.delta, value.total) for dimension, value in counts))
