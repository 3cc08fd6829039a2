"""Finding rows that are alike, fast: there may be many, and there is no loop over them."""

from __future__ import annotations

import os

import numpy as np


class Grouping:
    """Finds the rows that are alike, by a hash of their fields: one sort is cheaper than one by every field.

    Keys come from the network: who could tell which ones collide could make every interval slow. No one can, as the
    hash is universal and its multipliers are drawn at random; and where keys collide all the same, they are drawn anew.
    """

    def __init__(self, fields: int) -> None:
        self._multipliers = _multipliers(fields)

    def group(self, keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """`keys` is (rows, fields) of u64. Returns an order of the rows in which those that are alike stand together,
        and where in that order each such group begins. The order of the groups has no meaning."""
        while True:
            hashes = _hash(keys, self._multipliers)
            order = np.argsort(hashes)
            of_hash, of_fields = _changes(hashes[order, np.newaxis]), _changes(keys[order])
            if np.array_equal(of_hash, of_fields):
                return order, np.flatnonzero(of_fields)
            self._multipliers = _multipliers(keys.shape[1])


def _multipliers(fields: int) -> np.ndarray:
    """Random numbers for `_hash`: u64 (2 * fields, 2)."""
    return np.frombuffer(os.urandom(32 * fields), np.uint64).reshape(2 * fields, 2)


def _hash(keys: np.ndarray, multipliers: np.ndarray) -> np.ndarray:
    """Of each row of u64 (rows, fields), a u64 (rows,).

    Each half of it is a universal hash of all 32-bit halves of the fields (multiply-shift, Dietzfelbinger 1996).
    Products of whole fields would not do: a difference in their highest bits stays there whatever the multiplier is.
    """
    sums = keys.view(np.uint32) @ multipliers
    high: np.ndarray = sums[:, 0] >> 32 << 32 | sums[:, 1] >> 32
    return high


def _changes(values: np.ndarray) -> np.ndarray:
    """Where a row of (rows, columns) differs from that before it: bool (rows,), of which the first is true."""
    changes = np.ones(len(values), bool)
    changes[1:] = False
    for column in values.T:  # several times faster than any(axis=1)
        changes[1:] |= column[1:] != column[:-1]
    return changes
