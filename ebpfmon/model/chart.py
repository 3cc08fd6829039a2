"""Declare charts: which numbers are looked at together, and what tells their series apart. Data only."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import ClassVar, Self

VALUE = "value"
"""The id of the dimension of a chart that shows one number. Such a dimension needs no name of its own: sinks that join
ids, and tags, leave it out."""


@dataclass(frozen=True, slots=True)
class Dimension:
    """One number of each series: the sum of the fields `plus`, less the sum of the fields `minus`.

    A field is one of the probe's counters by its name in C. `negative` asks sinks whose users expect it (Netdata's) to
    draw the number below zero; the number itself stays as it is.
    """

    id: str
    name: str
    plus: tuple[str, ...]
    minus: tuple[str, ...] = ()
    negative: bool = False

    @classmethod
    def value(cls, *plus: str, minus: tuple[str, ...] = (), negative: bool = False) -> Self:
        """Return the only dimension of a chart that shows one number."""
        return cls(VALUE, VALUE, plus, minus, negative)


@dataclass(frozen=True, kw_only=True)  # without slots, which leave no place for what `cached_property` keeps
class Buckets:
    """Say what the counters of a histogram stand for.

    Counter `field[n]` in C counts the values that are at most `bounds[n]` and above the bound before; the last counter
    counts the values above all bounds. Bounds ascend and are in `units`. `sum` names the counter that has the sum of
    all values, in `sum_units`, if there is one.
    """

    field: str
    bounds: tuple[float, ...]
    units: str
    sum: str = ""
    sum_units: str = ""

    @classmethod
    def log2(cls, field: str, slots: int, first: float, units: str, *, sum: str = "", sum_units: str = "") -> Self:
        """Return the buckets of `log2_slot(value, unit, slots)` in C: up to `first` (its unit), twice that and so
        on."""
        bounds = tuple(first * 2**n for n in range(slots - 1))
        return cls(field=field, bounds=bounds, units=units, sum=sum, sum_units=sum_units or units)

    @cached_property
    def columns(self) -> tuple[Dimension, ...]:
        """One column for each bucket, named after its bound, then one of id `sum` if the sum is counted."""
        names = [*(f"{bound:.15g}" for bound in self.bounds), "+Inf"]
        each = [Dimension(f"le_{name.strip('+')}", name, (f"{self.field}_{n}",)) for n, name in enumerate(names)]
        return (*each, *([Dimension("sum", "sum", (self.sum,))] if self.sum else []))


@dataclass(frozen=True, slots=True)
class Kind:
    """What the numbers of a chart are. COUNTER, GAUGE and HISTOGRAM are all there are; `KINDS` lists them.

    `cumulative` numbers are what happened in the interval, and have a total; others are what is at its end. `columns`
    returns the numbers that each series of a chart has. `violation` says what is wrong with a chart of this kind, or
    nothing.
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
    """Numbers that are looked at together, over the fields of one of the probe's tables: `table`, or its first.

    - Without `labels` it has one series: the system's total.
    - With `labels` it has a series for each row label that the probe's `LabelSource` gives to the rows of the table.
    - A `grouped` chart is declared once and published once for each grouping that the user chose: its id has no type
      (`vfs_read_call` becomes `apps.vfs_read_call` with the label `application`).

    `dimensions` are the numbers of each series; a histogram has `buckets` instead. `return_only` charts exist in load
    mode `return` alone. `separator` joins label values for backends without labels. An `unbounded` chart has label
    values without limit over time, such as remote addresses: backends that store every combination for ever leave it
    out.
    """

    id: str
    title: str
    units: str
    family: str
    priority: int
    dimensions: tuple[Dimension, ...] = ()
    kind: Kind = None  # type: ignore[assignment]  # COUNTER, or HISTOGRAM if there are buckets
    labels: tuple[str, ...] = ()
    grouped: bool = False
    table: str = ""
    return_only: bool = False
    buckets: Buckets | None = None
    separator: str = ":"
    unbounded: bool = False

    def __post_init__(self) -> None:
        """Raise ValueError if the kind, the dimensions and the buckets do not go together."""
        if self.kind is None:
            object.__setattr__(self, "kind", Kind.HISTOGRAM if self.buckets else Kind.COUNTER)
        if violation := self.kind.violation(self):
            raise ValueError(f"chart '{self.id}': {violation}")

    @property
    def columns(self) -> tuple[Dimension, ...]:
        """The numbers of each series, in the order of `ChartData.deltas`: the dimensions, or the buckets and the
        sum."""
        return self.kind.columns(self)

    def of_grouping(self, prefix: str, label: str) -> Chart:
        """Return a grouped chart as one grouping publishes it."""
        return replace(self, id=f"{prefix}.{self.id}", labels=(label,), grouped=False)


def _dimensions(chart: Chart) -> tuple[Dimension, ...]:
    return chart.dimensions


def _buckets(chart: Chart) -> tuple[Dimension, ...]:
    return chart.buckets.columns if chart.buckets else ()


def _needs_dimensions(chart: Chart) -> str:
    if chart.buckets:
        return f"a {chart.kind} has no buckets: leave out kind, or the buckets"
    return "" if chart.dimensions else "dimensions: expected at least one Dimension"


def _needs_buckets(chart: Chart) -> str:
    if chart.dimensions:
        return "a histogram has buckets, and no dimensions"
    return "" if chart.buckets else "a histogram needs buckets"


Kind.COUNTER = Kind("counter", True, _dimensions, _needs_dimensions)
Kind.GAUGE = Kind("gauge", False, _dimensions, _needs_dimensions)
Kind.HISTOGRAM = Kind("histogram", True, _buckets, _needs_buckets)
KINDS = {kind.name: kind for kind in (Kind.COUNTER, Kind.GAUGE, Kind.HISTOGRAM)}
