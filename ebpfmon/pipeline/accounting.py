"""Fields to charts: the interval's amounts and the running totals of every dimension. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from ebpfmon.model.everything import Chart, ChartValues, Dimension, Kind, Value

Fields = Mapping[str, int | float]


class Accounting:
    """Keeps the running totals of one source of fields (a table, or ebpfmon itself) over its charts."""

    def __init__(self, charts: Iterable[Chart]) -> None:
        self._charts = tuple(charts)
        counted = (d for c in self._charts if c.kind is Kind.COUNTER for d in c.dimensions)
        self._totals = {name: 0 for d in counted for name in (*d.plus, *d.minus)}
        # the values of an interval in which nothing happened: the next may be alike
        self._still: tuple[ChartValues, ...] = ()
        self._still_levels: Fields | None = None

    def account(self, fields: Fields, levels: Fields | None = None) -> list[ChartValues]:
        """One interval's fields as the values of all charts; `levels` are those of levels, if they are others. A field
        that is not there counts as 0."""
        still = not any(fields.values())
        if still and self._still and levels == self._still_levels:
            return list(self._still)
        totals, get = self._totals, fields.get
        for name in totals:
            totals[name] += int(get(name, 0))
        of_kind = {Kind.COUNTER: fields, Kind.LEVEL: fields if levels is None else levels}
        values = [
            ChartValues(chart, tuple(self._value(chart.kind, d, of_kind[chart.kind]) for d in chart.dimensions))
            for chart in self._charts
        ]
        self._still, self._still_levels = tuple(values) if still else (), levels
        return values

    def _value(self, kind: Kind, dimension: Dimension, fields: Fields) -> Value:
        now = _sum(dimension, fields)
        return Value(dimension, now, int(_sum(dimension, self._totals)) if kind is Kind.COUNTER else 0)


def _sum(dimension: Dimension, fields: Fields) -> int | float:
    total: int | float = 0
    get = fields.get
    for name in dimension.plus:
        total += get(name, 0)
    for name in dimension.minus:
        total -= get(name, 0)
    return total
