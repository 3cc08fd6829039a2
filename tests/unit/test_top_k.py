"""Top-K selection: the most active keys are selected, and the selection does not flicker."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ebpfmon.pipeline import top_k
from ebpfmon.pipeline.top_k import EXPIRY_S, Selection, TopK

ROW = np.dtype([("key", "u8")])


class Keys:
    """A top-K selection of numbers, and its last result."""

    def __init__(self, maximum: int) -> None:
        self.top = TopK(["key"], maximum)
        self.last: Selection | None = None

    def select(self, calls: Mapping[int, int], elapsed_s: float = 1.0) -> list[int]:
        rows = np.array([(key,) for key in calls], ROW)
        numbers = np.array([[n, 2 * n] for n in calls.values()], np.int64).reshape(-1, 2)
        self.last = self.top.select(rows, numbers, np.array([1.0, 0.0]), elapsed_s)
        return [int(key) for key in self.top.rows["key"]]

    @property
    def previous(self) -> list[int]:
        """The former index of each known key, or -1."""
        assert self.last is not None
        return list(range(len(self.last.sums))) if self.last.previous is None else self.last.previous.tolist()


def test_a_selection_has_the_former_index_and_the_counts_of_each_key() -> None:
    keys = Keys(2)
    assert keys.select({1: 5, 2: 9, 3: 4, 4: 1}) == [2, 1]
    assert keys.last is not None
    assert keys.previous == [-1, -1, -1, -1]
    assert keys.last.sums.tolist() == [[9, 18], [5, 10], [4, 8], [1, 2]]
    assert keys.select({1: 1, 5: 100}) == [2, 5], "1 was the least active"
    assert (keys.previous, keys.last.selected) == ([0, -1, 1, 2, 3], 2)
    assert keys.last.sums.tolist() == [[0, 0], [100, 200], [1, 2], [0, 0], [0, 0]]


def test_a_key_expires_after_five_minutes_at_any_interval_length() -> None:
    for elapsed_s in (1.0, 60.0, 299.0):
        keys = Keys(3)
        keys.select({1: 5, 2: 1})
        passed_s = 0.0
        while passed_s + elapsed_s < EXPIRY_S:
            assert keys.select({2: 1}, elapsed_s) == [1, 2]
            passed_s += elapsed_s
        assert keys.select({2: 1}, elapsed_s) == [2]
        assert keys.select({1: 1, 2: 1}) == [2, 1]


def test_age_equals_selecting_in_an_idle_interval() -> None:
    one, another = Keys(2), Keys(2)
    for keys in (one, another):
        keys.select({1: 10, 2: 30, 3: 9})
    for _ in range(30):
        assert one.top.age(1.0)
        assert another.select({}) == [2, 1]
    np.testing.assert_allclose(one.top._activity, another.top._activity)
    for _ in range(269):
        assert one.top.age(1.0)
    before = one.top._activity.copy()
    assert not one.top.age(1.0), "two keys expire"
    assert np.array_equal(before, one.top._activity), "a refused age() must change nothing"
    assert one.select({}) == []
    assert one.top.age(1e9), "no key is selected, so none can expire"


def test_a_hidden_key_that_was_selected_before_is_known_while_there_is_room() -> None:
    keys = Keys(2)
    keys.select({1: 5, 2: 5})
    keys.select({}, 1e6)
    assert keys.last is not None
    assert (keys.last.selected, keys.previous) == (0, [0, 1])
    keys.select({3: 1}, 1e6)
    assert keys.previous == [-1, 0, 1]
    keys.select(dict.fromkeys(range(10, 20), 1), 1e6)  # Two keys are selected, and four others are busier.
    assert len(keys.previous) == 6
    keys.select({1: 1}, 1e6)
    assert keys.previous[0] == -1, "it must be forgotten"


def test_a_never_selected_key_is_forgotten_ten_minutes_after_its_last_call() -> None:
    keys = Keys(1)
    keys.select({1: 5, 2: 1})
    assert keys.last is not None
    keys.select({1: 5}, 599.0)
    assert len(keys.previous) == 2
    keys.select({1: 5}, 2.0)
    assert len(keys.previous) == 1


def test_equally_active_keys_are_selected_in_the_order_of_their_rows() -> None:
    assert Keys(3).select(dict.fromkeys((7, 3, 9, 1), 5)) == [7, 3, 9]


def test_a_key_with_only_weightless_numbers_is_not_selected() -> None:
    top = TopK(["key"], 3)
    rows = np.array([(1,), (2,)], ROW)
    found = top.select(rows, np.array([[0, 9], [1, 0]]), np.array([1.0, 0.0]), 1.0)
    assert (top.rows["key"].tolist(), found.selected) == ([2], 1)


@given(
    st.integers(0, 4),
    st.lists(
        st.tuples(st.dictionaries(st.integers(0, 9), st.integers(0, 100), max_size=8), st.sampled_from([1.0, 60.0])),
        max_size=30,
    ),
)
def test_few_and_many_rows_give_the_same_selection(maximum: int, intervals: list[tuple[dict[int, int], float]]) -> None:
    few, many = Keys(maximum), Keys(maximum)
    for calls, elapsed_s in intervals:
        with pytest.MonkeyPatch.context() as patch:
            selected = few.select(calls, elapsed_s)
            patch.setattr(top_k, "FEW", -1)
            assert many.select(calls, elapsed_s) == selected
        assert few.last is not None
        assert many.last is not None
        assert few.previous == many.previous
        assert few.last.sums.tolist() == many.last.sums.tolist()
        np.testing.assert_allclose(few.top._activity, many.top._activity)
        assert few.top._idle_s.tolist() == many.top._idle_s.tolist()


@given(st.integers(0, 4), st.lists(st.dictionaries(st.integers(0, 9), st.integers(0, 100), max_size=8), max_size=12))
def test_the_selection_is_bounded_and_its_sums_are_exact(maximum: int, intervals: list[dict[int, int]]) -> None:
    keys, before, selected_before = Keys(maximum), list[int](), list[int]()
    for calls in intervals:
        selected = keys.select(calls, 10.0)
        assert keys.last is not None
        assert keys.top._rows is not None
        known = keys.top._rows["key"].tolist()
        assert known[: len(selected)] == selected
        assert (len(selected) <= maximum, len(known) <= 3 * maximum) == (True, True)
        assert len(set(known)) == len(known)
        assert keys.last.sums[:, 0].tolist() == [calls.get(key, 0) for key in known]
        for key, was in zip(known, keys.previous, strict=True):
            assert was == (before.index(key) if key in before else -1)
        if len(selected) < maximum:
            assert {key for key, n in calls.items() if n} <= set(selected), "there is room for all"
        stayed = [key for key in selected_before if key in selected]
        assert selected[: len(stayed)] == stayed, "keys that stay must keep their order"
        came = selected[len(stayed) :]
        assert all(calls[key] for key in came)
        before, selected_before = known, selected
