"""Statistics for noisy samples. Pure functions."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from typing import NamedTuple, TypeVar

T = TypeVar("T")


class Spread(NamedTuple):
    """A median, and half the interquartile range as the deviation of a typical sample."""

    median: float
    spread: float


def spread(samples: Sequence[float]) -> Spread:
    """Return the median and half the interquartile range of one or more samples."""
    if len(samples) < 2:
        return Spread(samples[0], 0.0)
    low, middle, high = statistics.quantiles(samples, n=4, method="inclusive")
    return Spread(middle, (high - low) / 2)


def first_quartile(samples: Sequence[float]) -> float:
    """Return the first quartile of some durations.

    Other programs only make samples longer, so a low quantile is closer to the true duration than the median. The
    minimum is not used, because the clock of a virtual machine can make single samples too short.
    """
    return statistics.quantiles(samples, n=4, method="inclusive")[0] if len(samples) > 1 else samples[0]


def difference(samples: Sequence[float], base: Sequence[float]) -> Spread:
    """Return the differences between samples and base of the same rounds, which cancels slow drift of the machine."""
    return spread([sample - other for sample, other in zip(samples, base, strict=True)])


def loss_percent(samples: Sequence[float], base: Sequence[float]) -> Spread:
    """Return the loss of throughput in %, relative to the base of the same rounds."""
    return spread([100 * (1 - sample / other) for sample, other in zip(samples, base, strict=True)])


def interleaved(items: Sequence[T], rounds: int) -> Iterator[tuple[int, T]]:
    """Yield the number of each round with every item.

    Every other round is in reverse order, so that no item is always the first.
    """
    for n in range(rounds):
        for item in items if n % 2 == 0 else reversed(items):
            yield n, item


def significant(value: float, digits: int = 3) -> float | int:
    """Return a value rounded to its significant digits."""
    rounded = float(f"{value:.{digits}g}")
    return int(rounded) if rounded.is_integer() and abs(rounded) >= 10 ** (digits - 1) else rounded
