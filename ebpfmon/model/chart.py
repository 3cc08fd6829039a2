"""Declarations of charts: their labels, dimensions, buckets and kinds. Data only."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import ClassVar, Self

VALUE = "value"
"""The dimension id of a chart that has a single number.

Such a dimension needs no name: sinks leave it out of joined ids and tags."""


@dataclass(frozen=True, slots=True)
class Dimension:
    """One number of each series: the sum of the fields in `plus` minus the sum of the fields in `minus`.

    A field is one of the probe's counters, by its name in C. `negative` asks sinks to draw the number below zero if
    their users expect that (Netdata's do). The number itself does not change.
    """

    id: str
    name: str
    plus: tuple[str, ...]
    minus: tuple[str, ...] = ()
    negative: bool = False

    @classmethod
    def value(cls, *plus: str, minus: tuple[str, ...] = (), negative: bool = False) -> Self:
        """Return the only dimension of a chart that has a single number."""
        return cls(VALUE, VALUE, plus, minus, negative)


@dataclass(frozen=True, kw_only=True)  # No slots: `cached_property` needs a `__dict__`.
class Buckets:
    """The buckets of a histogram, and the counters behind them.

    The counter `field[n]` in C counts the values that are at most `bounds[n]` and greater than the bound before. The
    last counter counts the values above all bounds. Bounds are in ascending order, in `units`. `sum` is the counter
    that holds the sum of all values, in `sum_units`; empty if there is none.
    """

    field: str
    bounds: tuple[float, ...]
    units: str
    sum: str = ""
    sum_units: str = ""

    @classmethod
    def log2(cls, field: str, slots: int, first: float, units: str, *, sum: str = "", sum_units: str = "") -> Self:
        """Return the buckets that match `log2_slot(value, unit, slots)` in C.

        `first` is the first bound: the `unit` of the C call, converted to `units`. Each further bound doubles it.
        """
        bounds = tuple(first * 2**n for n in range(slots - 1))
        return cls(field=field, bounds=bounds, units=units, sum=sum, sum_units=sum_units or units)

    @cached_property
    def columns(self) -> tuple[Dimension, ...]:
        """One column for each bucket, named after its bound, and then the column `sum` if the sum is counted."""
        names = [*(f"{bound:.15g}" for bound in self.bounds), "+Inf"]
        each = [Dimension(f"le_{name.strip('+')}", name, (f"{self.field}_{n}",)) for n, name in enumerate(names)]
        return (*each, *([Dimension("sum", "sum", (self.sum,))] if self.sum else []))


@dataclass(frozen=True, slots=True)
class Kind:
    """What the numbers of a chart mean: COUNTER, GAUGE or HISTOGRAM. `KINDS` lists all kinds.

    `cumulative` numbers are amounts of the interval and have totals; all others are values at the end of the interval.
    `columns` returns the numbers that each series of a chart has. `violation` returns what is wrong with a chart of
    this kind, or an empty string.
    """

    name: str
    cumulative: bool
    columns: Callable[[Chart], tuple[Dimension, ...]]
    violation: Callable[[Chart], str]

    COUNTER: ClassVar[Kind]
    GAUGE: ClassVar[Kind]
    HISTOGRAM: ClassVar[Kind]

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True, slots=True, kw_only=True)
class Chart:
    """A set of numbers to look at together, computed from the counters of one of the probe's tables.

    `table` is the name of that table; by default it is the probe's first.

    - A chart without `labels` has one series, the total of the whole system.
    - A chart with `labels` has one series for each set of label values that the probe's `LabelSource` returns.
    - A `grouped` chart is declared once and published once for each grouping that the user chose. The grouping's prefix
      is added to its id: `vfs_read_call` becomes `apps.vfs_read_call`, with the label `application`.

    `dimensions` are the numbers of each series; a histogram has `buckets` instead. Charts with `return_only` exist only
    in load mode `return`. `separator` joins label values for backends that have no labels. The labels of an `unbounded`
    chart keep taking new values, such as remote addresses. Backends that never forget a series leave such a chart out.
    """

    id: str
    title: str
    units: str
    family: str
    priority: int
    dimensions: tuple[Dimension, ...] = ()
    kind: Kind = None  # type: ignore[assignment]  # The default is COUNTER, or HISTOGRAM if there are buckets.
    labels: tuple[str, ...] = ()
    grouped: bool = False
    table: str = ""
    return_only: bool = False
    buckets: Buckets | None = None
    separator: str = ":"
    unbounded: bool = False

    def __post_init__(self) -> None:
        """Raise ValueError if the kind, the dimensions and the buckets contradict each other."""
        if self.kind is None:
            object.__setattr__(self, "kind", Kind.HISTOGRAM if self.buckets else Kind.COUNTER)
        if violation := self.kind.violation(self):
            raise ValueError(f"chart '{self.id}': {violation}")

    @property
    def columns(self) -> tuple[Dimension, ...]:
        """The numbers of each series, in the order of `ChartData.deltas`: dimensions, or buckets and the sum."""
        return self.kind.columns(self)

    def for_grouping(self, prefix: str, label: str) -> Chart:
        """Return this grouped chart as one grouping publishes it."""
        return replace(self, id=f"{prefix}.{self.id}", labels=(label,), grouped=False)


def _dimensions(chart: Chart) -> tuple[Dimension, ...]:
    return chart.dimensions


def _buckets(chart: Chart) -> tuple[Dimension, ...]:
    return chart.buckets.columns if chart.buckets else ()


def _needs_dimensions(chart: Chart) -> str:
    if chart.buckets:
        return f"a {chart.kind} has no buckets: remove kind or buckets"
    return "" if chart.dimensions else "dimensions: expected at least one Dimension"


def _needs_buckets(chart: Chart) -> str:
    if chart.dimensions:
        return "a histogram has no dimensions: remove dimensions"
    return "" if chart.buckets else "a histogram needs buckets"


Kind.COUNTER = Kind("counter", True, _dimensions, _needs_dimensions)
Kind.GAUGE = Kind("gauge", False, _dimensions, _needs_dimensions)
Kind.HISTOGRAM = Kind("histogram", True, _buckets, _needs_buckets)
KINDS = {kind.name: kind for kind in (Kind.COUNTER, Kind.GAUGE, Kind.HISTOGRAM)}
