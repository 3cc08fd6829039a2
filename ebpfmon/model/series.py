"""Series: the numbers of a chart in one interval. Arrays inside, objects at the edge. No I/O."""

from __future__ import annotations

import enum
import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from ebpfmon.model.chart import Buckets, Chart

if TYPE_CHECKING:  # numpy starts threads when it is imported: the command line says first how many
    import numpy as np
    from numpy.typing import NDArray

Numbers: TypeAlias = "NDArray[np.int64 | np.float64]"


class Role(enum.StrEnum):
    """What a series stands for. It is not a name: a program may be called `other`."""

    ITEM = "item"
    """What its labels say."""
    OTHER = "other"
    """Everything that has no series of its own."""
    OVERFLOW = "overflow"
    """Events that found no row in the kernel's table, so nobody knows whose they are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SeriesIndex:
    """Which series a chart has. The charts of one table share it, and so do intervals while nothing changes: two equal
    indexes of successive intervals are usually the same object, so sinks may cache by it.

    All are of one length. `labels` are the values that identify each series, one for each of the chart's labels;
    `names` are the same values as people read them (a host's name for its address), and may become better with time.
    `starts_s` is when each series' totals began, in seconds since the epoch.
    """

    labels: tuple[tuple[str, ...], ...]
    names: tuple[tuple[str, ...], ...]
    roles: tuple[Role, ...]
    starts_s: tuple[float, ...]

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def keys(self) -> list[tuple[Role, tuple[str, ...]]]:
        """What tells the series of a chart apart."""
        return list(zip(self.roles, self.labels, strict=True))


@dataclass(frozen=True, slots=True)
class Histogram:
    """How values of one interval, or of a total, are distributed. `counts` has one number for each bucket."""

    of: Buckets
    counts: tuple[int, ...]
    sum: int | None

    @property
    def count(self) -> int:
        """How many values there were."""
        return sum(self.counts)

    def quantile(self, part: float) -> float:
        """Return the bound that this part (0 to 1) of the values do not exceed: inf if that is beyond all bounds, NaN
        if there was no value."""
        if not self.count:
            return math.nan
        bounds, wanted = (*self.of.bounds, math.inf), part * self.count
        return next(b for b, n in zip(bounds, itertools.accumulate(self.counts), strict=True) if n >= wanted and n)


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """One series of a chart in one interval. `deltas` and `totals` follow `Chart.columns`.

    Of a counter and a histogram `deltas` are the interval's amounts and `totals` what they have come to since
    `start_s`; of a gauge `deltas` are its values and `totals` zeros.
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
        """The label values by label name; a chart without labels has none."""
        return dict(zip(self.chart.labels, self.labels, strict=True))

    @property
    def numbers(self) -> dict[str, int | float]:
        """The interval's amounts, or the gauges, by the id of their column."""
        return dict(zip((column.id for column in self.chart.columns), self.deltas, strict=True))

    @property
    def histogram(self) -> Histogram:
        """The interval's histogram. Only charts with buckets have one."""
        return self._histogram(self.deltas)

    @property
    def total_histogram(self) -> Histogram:
        """The histogram since `start_s`. Only charts with buckets have one."""
        return self._histogram(self.totals)

    def _histogram(self, numbers: tuple[int | float, ...]) -> Histogram:
        of = self.chart.buckets
        assert of, f"chart '{self.chart.id}' has no buckets"
        buckets = len(of.bounds) + 1
        return Histogram(of, tuple(map(int, numbers[:buckets])), int(numbers[buckets]) if of.sum else None)


@dataclass(frozen=True, slots=True, kw_only=True)
class ChartData:
    """A chart in one interval: its series as arrays.

    `deltas` and `totals` are (series, columns), the columns as `chart.columns`, the rows as `index`. Series of role
    `other` and `overflow` come last. The deltas of all series add up to the system's.
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
        """Return the sum over all series of each column, by its id."""
        return dict(zip((c.id for c in self.chart.columns), self.deltas.sum(axis=0).tolist(), strict=True))
