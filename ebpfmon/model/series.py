"""The numbers of a chart in one interval: arrays inside ebpfmon, `Series` objects for sinks. No I/O."""

from __future__ import annotations

import enum
import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from ebpfmon.model.chart import Buckets, Chart

if TYPE_CHECKING:  # The command line must limit numpy's threads before numpy is imported.
    import numpy as np
    from numpy.typing import NDArray

Numbers: TypeAlias = "NDArray[np.int64 | np.float64]"
"""Counters are integers; gauges may be floats."""


class Role(enum.StrEnum):
    """What a series stands for. Its labels alone cannot tell, because a program may be called `other`."""

    ITEM = "item"
    """The item that the labels name."""
    OTHER = "other"
    """The sum of everything without a series of its own."""
    OVERFLOW = "overflow"
    """Events that found no free row in the kernel's table, so their item is unknown."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SeriesIndex:
    """The series of a chart: their labels, names, roles and starts.

    All charts of one table share an index. Successive intervals usually share it, too, while the series stay the same,
    so sinks may cache by its identity.

    All four tuples have one element per series. `labels` are the values that identify a series, one for each label of
    the chart. `names` are display names for the same values, such as a host name for an address; they may improve over
    time. `starts_s` is when the totals of each series began, in seconds since the epoch.
    """

    labels: tuple[tuple[str, ...], ...]
    names: tuple[tuple[str, ...], ...]
    roles: tuple[Role, ...]
    starts_s: tuple[float, ...]

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def keys(self) -> list[tuple[Role, tuple[str, ...]]]:
        """The role and labels of each series, which together are unique within a chart."""
        return list(zip(self.roles, self.labels, strict=True))


@dataclass(frozen=True, slots=True)
class Histogram:
    """The distribution of values in one interval or since the start. `counts` has one number for each bucket."""

    buckets: Buckets
    counts: tuple[int, ...]
    sum: int | None

    @property
    def count(self) -> int:
        """The number of values."""
        return sum(self.counts)

    def quantile(self, fraction: float) -> float:
        """Return the smallest bound that at least this fraction (0 to 1) of the values do not exceed.

        Return inf if that needs the last bucket, which has no bound, and NaN if there are no values.
        """
        if not self.count:
            return math.nan
        bounds, rank = (*self.buckets.bounds, math.inf), fraction * self.count
        return next(b for b, n in zip(bounds, itertools.accumulate(self.counts), strict=True) if n >= rank and n)


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """One series of a chart in one interval. `deltas` and `totals` are in the order of `Chart.columns`.

    For a counter or a histogram, `deltas` are the amounts of the interval and `totals` the amounts since `start_s`.
    For a gauge, `deltas` are its values and `totals` are zeros.
    """

    chart: Chart
    labels: tuple[str, ...]
    names: tuple[str, ...]
    role: Role
    start_s: float
    deltas: tuple[int | float, ...]
    totals: tuple[int, ...]

    @property
    def label_map(self) -> dict[str, str]:
        """The label values by label name; empty if the chart has no labels."""
        return dict(zip(self.chart.labels, self.labels, strict=True))

    @property
    def numbers(self) -> dict[str, int | float]:
        """The amounts of the interval, or the values of a gauge, by column id."""
        return dict(zip((column.id for column in self.chart.columns), self.deltas, strict=True))

    @property
    def histogram(self) -> Histogram:
        """The histogram of the interval. Only charts with buckets have one."""
        return self._histogram(self.deltas)

    @property
    def total_histogram(self) -> Histogram:
        """The histogram since `start_s`. Only charts with buckets have one."""
        return self._histogram(self.totals)

    def _histogram(self, numbers: tuple[int | float, ...]) -> Histogram:
        buckets = self.chart.buckets
        assert buckets, f"chart '{self.chart.id}' has no buckets"
        count = len(buckets.bounds) + 1
        return Histogram(buckets, tuple(map(int, numbers[:count])), int(numbers[count]) if buckets.sum else None)


@dataclass(frozen=True, slots=True, kw_only=True)
class ChartData:
    """One chart in one interval, with its series as arrays.

    `deltas` and `totals` have the shape (series, columns): series in the order of `index`, columns in the order of
    `chart.columns`. Series with the role `other` or `overflow` come last. The deltas of all series add up to the total
    of the whole system.
    """

    chart: Chart
    index: SeriesIndex
    deltas: Numbers
    totals: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.index)

    def series(self) -> Iterator[Series]:
        """Yield each series as an object."""
        index = self.index
        rows = zip(
            index.labels, index.names, index.roles, index.starts_s, self.deltas.tolist(), self.totals.tolist(),
            strict=True,
        )  # fmt: skip
        for labels, names, role, start_s, deltas, totals in rows:
            yield Series(
                chart=self.chart, labels=labels, names=names, role=role, start_s=start_s, deltas=tuple(deltas),
                totals=tuple(totals),
            )  # fmt: skip

    def sums(self) -> Mapping[str, int | float]:
        """Return the sum of each column over all series, by column id."""
        return dict(zip((c.id for c in self.chart.columns), self.deltas.sum(axis=0).tolist(), strict=True))
