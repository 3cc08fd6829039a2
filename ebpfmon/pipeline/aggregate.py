"""Group rows by key and sum them. All code that does so uses this module.

There may be many rows, so nothing here loops over them in Python.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from ebpfmon.model.table import Rows

FEW = 64
"""Plain Python is faster than numpy up to this many rows."""
_Number = TypeVar("_Number", np.int64, np.float64)


@dataclass(frozen=True, slots=True)
class GroupedRows:
    """Rows sorted so that equal keys are adjacent.

    `order` (rows,) has the indices of the rows in that order, and `starts` (groups,) the position in `order` at which
    each group begins. The order of the groups has no meaning.
    """

    order: NDArray[np.intp]
    starts: NDArray[np.intp]

    def __len__(self) -> int:
        return len(self.starts)

    @property
    def first(self) -> NDArray[np.intp]:
        """The lowest row index of each group, (groups,)."""
        return np.minimum.reduceat(self.order, self.starts) if len(self) else self.starts

    @property
    def last(self) -> NDArray[np.intp]:
        """The highest row index of each group, (groups,)."""
        return np.maximum.reduceat(self.order, self.starts) if len(self) else self.starts

    def sums(self, numbers: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the sums by group, (groups, columns), of `numbers` (rows, columns)."""
        return self.sums_in_order(numbers[self.order])

    def sums_in_order(self, numbers: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the same as `sums`, for numbers that are already sorted by `order`."""
        if not len(self):
            return numbers[:0]
        summed: NDArray[np.int64] = np.add.reduceat(numbers, self.starts, axis=0)
        return summed

    @property
    def group_of_row(self) -> NDArray[np.intp]:
        """The group of each row, (rows,)."""
        groups = np.empty(len(self.order), np.intp)
        groups[self.order] = np.repeat(np.arange(len(self)), np.diff(np.append(self.starts, len(self.order))))
        return groups


class Aggregator:
    """Groups rows with equal keys by sorting a hash of the keys, because one sort is cheaper than one for each field.

    Keys may come from the network. An attacker who knew which keys collide could slow down every interval. Therefore
    the hash is universal, with random multipliers. If keys collide anyway, new multipliers are drawn.
    """

    def __init__(self, fields: int) -> None:
        self._multipliers = _multipliers(fields)

    def group(self, keys: NDArray[np.uint64]) -> GroupedRows:
        """Group the rows of `keys` (rows, fields)."""
        if keys.shape[1] == 1:
            numbers = keys[:, 0]
            # numpy uses radix sort for 16-bit numbers, which is several times faster.
            small = not len(numbers) or numbers.max() < 1 << 16
            order = np.argsort(numbers.astype(np.uint16), kind="stable") if small else np.argsort(numbers)
            return GroupedRows(order, np.flatnonzero(_changes(keys[order])))
        while True:
            hashes = _hash(keys, self._multipliers)
            order = np.argsort(hashes)
            hash_changes, key_changes = _changes(hashes[order, np.newaxis]), _changes(keys[order])
            if np.array_equal(hash_changes, key_changes):
                return GroupedRows(order, np.flatnonzero(key_changes))
            self._multipliers = _multipliers(keys.shape[1])


def key_columns(rows: Rows, fields: Sequence[str]) -> NDArray[np.uint64]:
    """Return these integer fields of the rows as u64 (rows, fields)."""
    columns = np.empty((len(rows), len(fields)), np.uint64)
    for n, name in enumerate(fields):
        columns[:, n] = rows[name]
    return columns


def concatenate_rows(first: Rows, second: Rows) -> Rows:
    """Return the rows of both arrays, which have the same dtype.

    This is ten times faster than np.concatenate, which copies structured arrays field by field.
    """
    rows: Rows = np.concatenate((_raw(first), _raw(second))).view(second.dtype)
    return rows


def take_rows(rows: Rows, selection: NDArray[np.intp] | NDArray[np.bool_]) -> Rows:
    """Return the rows at these indices, or under this mask. Faster than numpy, like `concatenate_rows`."""
    selected: Rows = _raw(rows)[selection].view(rows.dtype)
    return selected


def take_or_zero(values: NDArray[_Number], indices: NDArray[np.intp]) -> NDArray[_Number]:
    """Return the elements of `values` (n, ...) at `indices` (m,), and 0 for negative indices: (m, ...)."""
    if not len(values):
        return np.zeros((len(indices), *values.shape[1:]), values.dtype)
    taken = values[np.maximum(indices, 0)]
    taken[indices < 0] = 0
    return taken


def _raw(rows: Rows) -> Rows:
    raw: Rows = np.ascontiguousarray(rows).view(f"V{rows.dtype.itemsize}")
    return raw


def _multipliers(fields: int) -> NDArray[np.uint64]:
    """Return random multipliers for `_hash`: (2 * fields, 2)."""
    return np.frombuffer(os.urandom(32 * fields), np.uint64).reshape(2 * fields, 2)


def _hash(keys: NDArray[np.uint64], multipliers: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Return a hash (rows,) of each row of `keys` (rows, fields).

    Each half of the hash is a universal hash of all 32-bit halves of the fields (multiply-shift, Dietzfelbinger 1996).
    Multiplying whole fields is not enough: a difference in their highest bits stays there for every multiplier.
    """
    sums = keys.view(np.uint32) @ multipliers
    return (sums[:, 0] >> 32 << 32 | sums[:, 1] >> 32).astype(np.uint64, copy=False)


def _changes(values: NDArray[np.uint64]) -> NDArray[np.bool_]:
    """Return a mask (rows,) of the rows that differ from the row before. The first one is always true."""
    changes = np.ones(len(values), bool)
    changes[1:] = False
    for column in values.T:  # This is several times faster than any(axis=1).
        changes[1:] |= column[1:] != column[:-1]
    return changes
