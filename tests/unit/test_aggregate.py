"""Rows with the same key are summed."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from ebpfmon.pipeline import aggregate
from ebpfmon.pipeline.aggregate import Aggregator, concatenate_rows, key_columns, take_rows

U64 = st.integers(0, (1 << 64) - 1) | st.integers(0, 3) | st.sampled_from([1 << 63, 1 << 32, (1 << 63) + 1])
ROWS = st.integers(1, 4).flatmap(
    lambda width: st.lists(st.tuples(st.tuples(*[U64] * width), st.integers(-9, 1 << 40)), min_size=0, max_size=40).map(
        lambda rows: (width, rows)
    )
)


def array(width: int, keys: list[tuple[int, ...]]) -> NDArray[np.uint64]:
    return np.array(keys, np.uint64).reshape(len(keys), width)


@given(ROWS)
def test_rows_with_equal_keys_are_summed(
    sample: tuple[int, list[tuple[tuple[int, ...], int]]]
) -> None:  # fmt: skip
    width, rows = sample
    keys = [key for key, _ in rows]
    groups = Aggregator(width).group(array(width, keys))
    sums = groups.sums(np.array([[n, 1] for _, n in rows], np.int64).reshape(-1, 2))
    expected, times = Counter[tuple[int, ...]](), Counter(keys)
    for key, number in rows:
        expected[key] += number
    assert {keys[first]: tuple(both) for first, both in zip(groups.first.tolist(), sums.tolist(), strict=True)} == {
        key: (expected[key], times[key]) for key in times
    }
    assert len(groups) == len(times)
    assert [keys[n] for n in groups.last.tolist()] == [keys[n] for n in groups.first.tolist()]
    for key, first, last in zip(
        (keys[n] for n in groups.first), groups.first.tolist(), groups.last.tolist(), strict=True
    ):
        assert (first, last) == (keys.index(key), len(keys) - 1 - keys[::-1].index(key))
    assert [keys[groups.first[n]] for n in groups.group_of_row.tolist()] == keys


def test_multipliers_are_random_and_use_all_bits_of_the_keys() -> None:
    one, another = Aggregator(3), Aggregator(3)
    assert not np.array_equal(one._multipliers, another._multipliers)
    assert one._multipliers.shape == (6, 2)
    # The keys differ only in the highest bits, which would cancel each other in a sum of products of whole fields.
    top = np.array([[a << 63, b << 63, c << 63] for a in (0, 1) for b in (0, 1) for c in (0, 1)], np.uint64)
    assert len(set(aggregate._hash(top, one._multipliers).tolist())) == 8


def test_keys_with_colliding_hashes_are_separated_by_new_multipliers(monkeypatch: pytest.MonkeyPatch) -> None:
    draw, drawn = aggregate._multipliers, list[int]()

    def multipliers(fields: int) -> NDArray[np.uint64]:
        drawn.append(fields)
        return draw(fields) if len(drawn) >= 3 else np.zeros((2 * fields, 2), np.uint64)

    monkeypatch.setattr(aggregate, "_multipliers", multipliers)
    aggregator = Aggregator(2)
    keys = array(2, [(1, 1), (1, 2), (1, 1), (2, 1)])
    for _ in range(2):
        assert len(aggregator.group(keys)) == 3
    assert drawn == [2, 2, 2], "multipliers must be drawn only until the keys are separated"


def test_rows_are_concatenated_and_taken_as_numpy_would() -> None:
    dtype = np.dtype([("a", "u4"), ("b", "i2"), ("pad", "u2"), ("c", "S8")])
    first, second = np.array([(1, -1, 0, b"x"), (2, -2, 0, b"y")], dtype), np.array([(3, -3, 0, b"z")], dtype)
    assert concatenate_rows(first, second).tolist() == [*first.tolist(), *second.tolist()]
    assert concatenate_rows(first[:0], second[:0]).dtype == dtype
    assert take_rows(first, np.array([1, 0, 1])).tolist() == first[[1, 0, 1]].tolist()
    assert take_rows(first, np.array([False, True])).tolist() == first[1:].tolist()
    assert take_rows(first[::2], np.array([0])).tolist() == first[:1].tolist()


def test_key_columns_keep_all_bits_of_the_fields() -> None:
    rows = np.array([(1, -1, 1 << 63)], [("a", "u2"), ("b", "i2"), ("c", "u8")])
    assert key_columns(rows, ("c", "a", "b")).tolist() == [[1 << 63, 1, (1 << 64) - 1]]
    assert key_columns(rows, ()).shape == (1, 0)
