"""Sum rows that have the same key: the one engine for it. There may be many rows, so nothing loops over them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from ebpfmon.model.table import Rows

FEW = 64
"""Up to this many rows, Python is faster than numpy."""
_Number = TypeVar("_Number", np.int64, np.float64)


@dataclass(frozen=True, slots=True)
class Groups:
    """Rows sorted so that equal keys stand together. `order` (rows,) are the rows in that order, `starts` (groups,) is
    where in it each group begins. The order of the groups has no meaning."""

    order: NDArray[np.intp]
    starts: NDArray[np.intp]

    def __len__(self) -> int:
        return len(self.starts)

    @property
    def first(self) -> NDArray[np.intp]:
        """The first row of each group, (groups,)."""
        return np.minimum.reduceat(self.order, self.starts) if len(self) else self.starts

    @property
    def last(self) -> NDArray[np.intp]:
        """The last row of each group, (groups,)."""
        return np.maximum.reduceat(self.order, self.starts) if len(self) else self.starts

    def sums(self, numbers: NDArray[np.int64]) -> NDArray[np.int64]:
        """Sum numbers (rows, columns) by group: (groups, columns)."""
        return self.sums_in_order(numbers[self.order])

    def sums_in_order(self, numbers: NDArray[np.int64]) -> NDArray[np.int64]:
        """Sum numbers (rows, columns) that are in the order of `order` already."""
        if not len(self):
            return numbers[:0]
        summed: NDArray[np.int64] = np.add.reduceat(numbers, self.starts, axis=0)
        return summed

    @property
    def of_rows(self) -> NDArray[np.intp]:
        """The group of each row, (rows,)."""
        groups = np.empty(len(self.order), np.intp)
        groups[self.order] = np.repeat(np.arange(len(self)), np.diff(np.append(self.starts, len(self.order))))
        return groups


class Aggregator:
    """Find rows with equal keys by a hash of the keys: one sort is cheaper than one for each field.

    Keys come from the network: somebody who could tell which keys collide could make every interval slow. Nobody can,
    because the hash is universal and its multipliers are random; if keys collide nevertheless, they are drawn again.
    """

    def __init__(self, fields: int) -> None:
        self._multipliers = _multipliers(fields)

    def group(self, keys: NDArray[np.uint64]) -> Groups:
        """Group the rows of `keys`, (rows, fields)."""
        if keys.shape[1] == 1:
            numbers = keys[:, 0]
            # numpy sorts 16-bit numbers by radix, several times as fast
            small = not len(numbers) or numbers.max() < 1 << 16
            order = np.argsort(numbers.astype(np.uint16), kind="stable") if small else np.argsort(numbers)
            return Groups(order, np.flatnonzero(_changes(keys[order])))
        while True:
            hashes = _hash(keys, self._multipliers)
            order = np.argsort(hashes)
            of_hash, of_fields = _changes(hashes[order, np.newaxis]), _changes(keys[order])
            if np.array_equal(of_hash, of_fields):
                return Groups(order, np.flatnonzero(of_fields))
            self._multipliers = _multipliers(keys.shape[1])


def key_of(rows: Rows, fields: Sequence[str]) -> NDArray[np.uint64]:
    """Return integer fields of rows as u64 (rows, fields)."""
    columns = np.empty((len(rows), len(fields)), np.uint64)
    for n, name in enumerate(fields):
        columns[:, n] = rows[name]
    return columns


def concatenated(first: Rows, second: Rows) -> Rows:
    """Return the rows of both, which are of one type. numpy alone would copy them field by field, ten times as slow."""
    joined: Rows = np.concatenate((_raw(first), _raw(second))).view(second.dtype)
    return joined


def taken(rows: Rows, which: NDArray[np.intp] | NDArray[np.bool_]) -> Rows:
    """Return some of the rows, as fast as `concatenated`."""
    found: Rows = _raw(rows)[which].view(rows.dtype)
    return found


def at(values: NDArray[_Number], places: NDArray[np.intp]) -> NDArray[_Number]:
    """Return what `values` (n, ...) has at these places (m,), and 0 for negative ones: (m, ...)."""
    if not len(values):
        return np.zeros((len(places), *values.shape[1:]), values.dtype)
    found = values[np.maximum(places, 0)]
    found[places < 0] = 0
    return found


def _raw(rows: Rows) -> Rows:
    raw: Rows = np.ascontiguousarray(rows).view(f"V{rows.dtype.itemsize}")
    return raw


def _multipliers(fields: int) -> NDArray[np.uint64]:
    """Return random numbers for `_hash`: (2 * fields, 2)."""
    return np.frombuffer(os.urandom(32 * fields), np.uint64).reshape(2 * fields, 2)


def _hash(keys: NDArray[np.uint64], multipliers: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Return a hash of each row of (rows, fields): (rows,).

    Each half of it is a universal hash of all 32-bit halves of the fields (multiply-shift, Dietzfelbinger 1996).
    Products of whole fields would not do: a difference in their highest bits stays there whatever the multiplier is.
    """
    sums = keys.view(np.uint32) @ multipliers
    return (sums[:, 0] >> 32 << 32 | sums[:, 1] >> 32).astype(np.uint64, copy=False)


def _changes(values: NDArray[np.uint64]) -> NDArray[np.bool_]:
    """Return where a row of (rows, columns) differs from the row before it: (rows,), the first is true."""
    changes = np.ones(len(values), bool)
    changes[1:] = False
    for column in values.T:  # several times faster than any(axis=1)
        changes[1:] |= column[1:] != column[:-1]
    return changes
