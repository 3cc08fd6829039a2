"""Numbers out of noisy samples. Pure."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from typing import NamedTuple, TypeVar

T = TypeVar("T")


class Spread(NamedTuple):
    """A median, and half the distance between the quartiles: how far off a typical sample is."""

    median: float
    spread: float


def spread(samples: Sequence[float]) -> Spread:
    """Of at least one sample."""
    if len(samples) < 2:
        return Spread(samples[0], 0.0)
    low, middle, high = statistics.quantiles(samples, n=4, method="inclusive")
    return Spread(middle, (high - low) / 2)


def quick(samples: Sequence[float]) -> float:
    """The first quartile: what else runs makes many samples slower, but the fastest of all may be one that a virtual
    machine's clock, which leaves out the time that its host took, made too short."""
    return statistics.quantiles(samples, n=4, method="inclusive")[0] if len(samples) > 1 else samples[0]


def above(samples: Sequence[float], base: Sequence[float]) -> Spread:
    """By how much samples are above those that were taken in the same rounds: so that the machine's drift cancels."""
    return spread([sample - other for sample, other in zip(samples, base, strict=True)])


def lost(samples: Sequence[float], base: Sequence[float]) -> Spread:
    """What part of a throughput is lost, in %, against the same rounds' base."""
    return spread([100 * (1 - sample / other) for sample, other in zip(samples, base, strict=True)])


def interleaved(things: Sequence[T], rounds: int) -> Iterator[tuple[int, T]]:
    """Every thing once a round, with the round's number; every other round backwards, so that none is always first."""
    for n in range(rounds):
        for thing in things if n % 2 == 0 else reversed(things):
            yield n, thing


def significant(value: float, digits: int = 3) -> float | int:
    """As many digits as there is something behind."""
    rounded = float(f"{value:.{digits}g}")
    return int(rounded) if rounded.is_integer() and abs(rounded) >= 10 ** (digits - 1) else rounded
