"""The edges of what test_applications.py is about."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from ebpfmon import Chart, Dimension, Owners, Scope
from ebpfmon.pipeline.applications import Applications, Shown
from tests.unit.test_applications import CHARTS, NAMES, ROWS, deltas, interval

DIFFERENCE = Chart(
    id="apps.d", title="", units="", family="f", priority=1, scope=Scope.APPS,
    dimensions=(Dimension("each", "each", ("some_bytes",), ("calls",), negative=True),),
)  # fmt: skip


@given(ROWS, st.integers(0, 100))
def test_a_group_has_the_sum_of_its_rows_whatever_their_order(rows: list[tuple[int, int, int]], overflow: int) -> None:
    table, owners = interval(rows, overflow)
    calls, size = Applications({"t": CHARTS}, 200).account({"t": table}, {"t": owners}, 1.0)
    for values, column, extra in ((calls, 1, overflow), (size, 2, 2 * overflow)):
        for name, delta in deltas(values).items():
            of_rows = sum(row[column] for row in rows if NAMES[row[0]] == name)
            # a group that only moved bytes is not active: it is in `other`
            if name == "other":
                of_rows += sum(r[column] for r in rows if r[0] > 1 and NAMES[r[0]] not in deltas(values))
            assert delta == of_rows + (extra if name == "overflow" else 0), name


def test_a_dimension_is_the_sum_of_its_fields_less_those_that_it_takes_off_and_is_named_by_its_group() -> None:
    table, owners = interval([(2, 3, 100), (3, 5, 1), (2, 1, 0)])
    (values,) = Applications({"t": (DIFFERENCE,)}, 200).account({"t": table}, {"t": owners}, 1.0)
    assert deltas(values) == {"group 2": 96, "group 3": -4, "other": 0, "overflow": 0}
    assert values.values[1].dimension == Dimension("group 2", "group 2", ("some_bytes",), ("calls",), True)


def test_which_groups_are_shown_depends_on_all_tables_and_is_the_same_in_all() -> None:
    applications = Applications({"t": CHARTS[:1], "u": CHARTS[1:]}, 1)
    (first, owners), (second, others) = interval([(2, 5, 1), (3, 4, 1)]), interval([(3, 4, 6), (2, 1, 1)])
    t, u = applications.account({"t": first, "u": second}, {"t": owners, "u": others}, 1.0)
    assert (deltas(t), deltas(u)) == (
        {"group 3": 4, "other": 5, "overflow": 0},
        {"group 3": 6, "other": 1, "overflow": 0},
    )


def test_a_table_without_charts_or_owners_has_no_values() -> None:
    table, owners = interval([(2, 3, 100)])
    applications = Applications({"t": CHARTS}, 5)
    assert applications.account({"u": table}, {"u": owners}, 1.0) == []
    assert applications.account({"t": table}, {}, 1.0) == []


def test_an_id_that_is_another_groups_now_has_its_name_and_begins_at_nothing() -> None:
    applications = Applications({"t": CHARTS}, 2)
    table, owners = interval([(2, 100, 0), (3, 90, 0), (4, 7, 0)])
    applications.account({"t": table}, {"t": owners}, 1.0)
    applications.forget(frozenset({4}))
    table, owners = interval([(2, 1, 0), (4, 9000, 0)])
    renamed = Owners((*NAMES[:4], "new", *NAMES[5:]), owners.of_rows)
    calls, _ = applications.account({"t": table}, {"t": renamed}, 1.0)
    assert [(v.dimension.id, v.delta, v.total) for v in calls.values] == [
        ("group 2", 1, 101),
        ("new", 9000, 9000),
        ("other", 0, 7),
        ("overflow", 0, 0),
    ]


def test_what_is_forgotten_was_not_shown_and_was_least_active() -> None:
    shown = Shown(2)
    shown.choose(np.array([50, 60, 9, 8, 3, 1, 0, 2]), 1.0)
    assert shown.idlest(0.5) == {5, 6}
    assert shown.idlest(1.0) == {4, 5, 6, 7}
    assert shown.idlest(0.2) == frozenset()
    shown.forget(frozenset({4}))
    assert shown.idlest(0.5) == {4, 6}


def test_neither_other_nor_overflow_nor_who_does_nothing_has_a_dimension_of_its_own() -> None:
    shown = Shown(9)
    shown.choose(np.array([50, 60, 0, 1]), 1.0)
    assert shown.ids == [3]
    shown.choose(np.array([50, 60, 0, 0, 0, 7]), 1.0)
    assert shown.ids == [3, 5], "more groups may come"


def test_twice_as_active_is_more_than_twice() -> None:
    shown = Shown(1)
    shown.choose(np.array([0, 0, 10, 0]), 1e9)
    shown.choose(np.array([0, 0, 10, 20]), 1e9)
    assert shown.ids == [2]
    shown.choose(np.array([0, 0, 10, 21]), 1e9)
    assert shown.ids == [3]


def test_what_a_group_did_counts_half_after_a_minute_however_long_the_intervals() -> None:
    for elapsed_s in (0.5, 1.0, 20.0):
        shown = Shown(1)
        shown.choose(np.array([0, 0, 1000, 0]), elapsed_s)
        for _ in range(round(60 / elapsed_s) - 1):
            shown.choose(np.array([0, 0, 0, 0]), elapsed_s)
        shown.choose(np.array([0, 0, 0, 999]), elapsed_s)
        assert shown.ids == [2]
        shown.choose(np.array([0, 0, 0, 20 + elapsed_s * 20]), elapsed_s)
        assert shown.ids == [3]
