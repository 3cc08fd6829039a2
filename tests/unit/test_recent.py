"""Recent, a dictionary that forgets old entries."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ebpfmon.grouping.recent import Recent

KEYS = st.integers(0, 30)


@given(st.integers(1, 8), st.lists(st.tuples(KEYS, st.booleans()), max_size=200))
def test_recently_used_entries_are_kept_and_the_size_is_bounded(bound: int, uses: list[tuple[int, bool]]) -> None:
    recent: Recent[int, int] = Recent(bound)
    order: list[int] = []
    for key, write in uses:
        if write or recent.get(key) is None:
            recent[key] = key * 10 + 1
        order = [k for k in order if k != key] + [key]
        assert len(recent) <= 2 * bound
        assert all(last in recent for last in order[-bound:])
    assert all(recent.get(key) == key * 10 + 1 for key in order[-bound:])


def test_forgotten_entries_are_counted() -> None:
    recent: Recent[int, int] = Recent(2)
    for key in range(1, 6):
        recent[key] = key
    assert recent.forgotten == 2
    assert [key for key in range(1, 6) if key in recent] == [3, 4, 5]
