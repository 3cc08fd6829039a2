"""Fields become deltas, totals and levels."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ebpfmon import Dimension, Kind
from ebpfmon.pipeline.accounting import Accounting
from tests.unit.support import chart

READ = Dimension("r", "read", ("reads",))
ZOMBIES = Dimension("z", "zombie", ("exits", "kills"), ("releases",))
FIELDS = st.fixed_dictionaries(
    {}, optional={n: st.integers(0, 1 << 63) for n in ("reads", "exits", "kills", "releases")}
)


@given(st.lists(FIELDS, min_size=1))
def test_every_total_is_the_sum_of_its_deltas(intervals: list[dict[str, int]]) -> None:
    account = Accounting([chart(READ, ZOMBIES)])
    history = [account.account(fields)[0].values for fields in intervals]
    for n in range(2):
        assert history[-1][n].total == sum(values[n].delta for values in history)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"exits": 5, "kills": 3, "releases": 7}, 1),
        ({"releases": 7}, -7),
        ({"reads": 9}, 0),
        ({}, 0),
    ],
)
def test_a_dimension_is_the_sum_of_plus_less_the_sum_of_minus(fields: dict[str, int], expected: int) -> None:
    (values,) = Accounting([chart(ZOMBIES)]).account(fields)
    assert (values.values[0].delta, values.values[0].total) == (expected, expected)


def test_a_field_that_several_charts_show_is_counted_once() -> None:
    account = Accounting([chart(READ), chart(READ, Dimension("both", "both", ("reads", "exits")))])
    account.account({"reads": 2, "exits": 3})
    alone, shared = account.account({"reads": 5, "exits": 7})
    assert [v.total for v in (*alone.values, *shared.values)] == [7, 7, 17]


def test_a_level_is_what_it_is_now_and_has_no_total() -> None:
    account = Accounting([chart(READ, kind=Kind.LEVEL)])
    account.account({"reads": 11.5})
    (values,) = account.account({"reads": 2.25})
    assert (values.values[0].delta, values.values[0].total) == (2.25, 0)


def test_charts_and_dimensions_keep_the_order_in_which_they_were_declared() -> None:
    charts = [chart(ZOMBIES, READ), chart(READ, kind=Kind.LEVEL)]
    given_back = Accounting(charts).account({})
    assert [c.chart for c in given_back] == charts
    assert [v.dimension for v in given_back[0].values] == [ZOMBIES, READ]


def test_two_accounts_share_no_totals() -> None:
    one, other = Accounting([chart(READ)]), Accounting([chart(READ)])
    one.account({"reads": 4})
    assert other.account({"reads": 1})[0].values[0].total == 1


def test_a_level_over_a_table_is_what_began_less_what_ended_since_the_load() -> None:
    account = Accounting([chart(ZOMBIES, kind=Kind.LEVEL), chart(READ)])
    level, counter = account.account({"exits": 1, "releases": 2, "reads": 5}, {"exits": 70, "releases": 60, "reads": 9})
    assert (level.values[0].delta, level.values[0].total) == (10, 0)
    assert (counter.values[0].delta, counter.values[0].total) == (5, 5)


@given(st.lists(st.tuples(FIELDS, FIELDS), min_size=2), st.data())
def test_whatever_came_before_an_interval_in_which_nothing_happened_says_so(
    intervals: list[tuple[dict[str, int], dict[str, int]]], data: st.DataObject
) -> None:
    """Its values may be those of the interval before."""
    quiet = {"reads": 0, "exits": 0}
    charts = [chart(ZOMBIES, READ), chart(READ, kind=Kind.LEVEL)]
    account, reads = Accounting(charts), 0
    for fields, levels in intervals:
        seen = data.draw(st.sampled_from([fields, quiet]))
        reads += seen.get("reads", 0)
        counted, level = account.account(seen, levels)
        assert (counted.values[1].delta, counted.values[1].total) == (seen.get("reads", 0), reads)
        assert level.values[0].delta == levels.get("reads", 0)
