"""Charts with buckets, as sinks need them: a histogram for the whole, or for each key. Pure."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass

from ebpfmon.model.everything import Buckets, ChartValues, Scope, Value


@dataclass(frozen=True, slots=True)
class Histogram:
    """`counts` has a value for each bucket, in order; `sum` is that of all values, if it is counted. `id` and `name`
    are the key's, empty for the whole."""

    of: Buckets
    id: str
    name: str
    counts: tuple[Value, ...]
    sum: Value | None

    @property
    def count(self) -> int:
        """How many values there were in the interval."""
        return int(sum(value.delta for value in self.counts))

    def quantile(self, part: float) -> float:
        """The bound that this part (0 to 1) of the interval's values do not exceed; inf if that is beyond all bounds.
        NaN if there was no value."""
        wanted, bounds = part * self.count, (*self.of.bounds, math.inf)
        if not self.count:
            return math.nan
        running = itertools.accumulate(value.delta for value in self.counts)
        return next(bound for bound, reached in zip(bounds, running, strict=True) if reached >= wanted and reached)


def histograms(values: ChartValues) -> Iterator[Histogram]:
    """The histograms of a chart that has buckets, `other` last where it is one by key; none of one that has not."""
    of, templates = values.chart.buckets, values.chart.dimensions
    if not of:
        return
    by_key, buckets = values.chart.scope is Scope.KEYS, len(of.bounds) + 1
    for start in range(0, len(values.values), len(templates)):
        each = values.values[start : start + len(templates)]
        first, template = each[0].dimension, templates[0]
        key = first.id.removesuffix(f"_{template.id}"), first.name.removesuffix(f"_{template.name}")
        yield Histogram(of, *(key if by_key else ("", "")), each[:buckets], each[buckets] if of.sum else None)
