"""Recent: edge cases."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ebpfmon.grouping.recent import Recent


@given(st.integers(1, 8), st.lists(st.tuples(st.integers(0, 30), st.booleans()), max_size=200))
def test_every_entry_is_known_or_counted_as_forgotten(bound: int, uses: list[tuple[int, bool]]) -> None:
    recent: Recent[int, int] = Recent(bound)
    came = 0
    for key, write in uses:
        if write:
            came += key not in recent
            recent[key] = key
        else:
            assert recent.get(key) == (key if key in recent else None)
        assert len(recent) + recent.forgotten == came
        assert not any(key in recent._old for key in recent.young), "a key must be in one dictionary only"


def test_a_falsy_value_is_a_value() -> None:
    recent: Recent[str, int] = Recent(1)
    recent["a"], recent["b"] = 0, 0
    assert recent.get("a") == 0
    assert "a" in recent.young, "a used key must be among the young ones"


def test_a_new_value_replaces_the_old_one() -> None:
    recent: Recent[str, int] = Recent(1)
    recent["a"], recent["b"] = 1, 1
    recent["a"] = 2
    assert (recent.get("a"), len(recent)) == (2, 2)
    recent["a"] = 3
    assert (recent.get("a"), recent.forgotten) == (3, 0)


def test_the_bound_may_grow() -> None:
    recent: Recent[int, int] = Recent(1)
    recent[0] = 0
    recent.bound = 10
    for key in range(10):
        recent[key] = key
    assert (len(recent.young), recent.forgotten) == (10, 0)
