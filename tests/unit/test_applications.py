"""The charts by application: they add up, and no dimension comes and goes from second to second."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from ebpfmon import Chart, ChartValues, Dimension, Owners, Scope, TableHarvest
from ebpfmon.pipeline.applications import Applications, Shown

ROW = np.dtype([("tgid", "u8"), ("calls", "u8"), ("some_bytes", "u8")])
CHARTS = tuple(
    Chart(
        id=f"apps.{field}", title="", units="calls/s", family="f", priority=1, scope=Scope.APPS,
        dimensions=(Dimension("each", "each", (field,)),),
    )
    for field in ("calls", "some_bytes")
)  # fmt: skip
NAMES = ("other", "overflow", *(f"group {n}" for n in range(2, 12)))
AMOUNTS = st.integers(0, 1 << 40)
ROWS = st.lists(st.tuples(st.integers(0, len(NAMES) - 1), AMOUNTS, AMOUNTS), max_size=40)


def interval(rows: Sequence[tuple[int, int, int]], overflow: int = 0) -> tuple[TableHarvest, Owners]:
    """Rows of (group, calls, bytes), and so many calls and bytes of nobody."""
    array = np.array([(1, calls, size) for _, calls, size in rows], ROW)
    without = {"calls": overflow, "some_bytes": 2 * overflow}
    totals = {name: int(array[name].sum()) + without[name] for name in without}
    return TableHarvest(array, totals, without, overflow, 64), Owners(NAMES, np.array([r[0] for r in rows], np.int64))


def deltas(values: ChartValues) -> dict[str, int]:
    return {v.dimension.name: int(v.delta) for v in values.values}


@given(st.integers(1, 12), st.lists(st.tuples(ROWS, st.integers(0, 100)), min_size=1, max_size=8))
def test_all_dimensions_add_up_to_the_systems_total_and_so_do_running_totals_unless_groups_changed_places(
    maximum: int, intervals: list[tuple[list[tuple[int, int, int]], int]]
) -> None:
    applications = Applications({"t": CHARTS}, maximum)
    running: Mapping[str, int] = {"calls": 0, "some_bytes": 0}
    for rows, overflow in intervals:
        table, owners = interval(rows, overflow)
        running = {name: running[name] + table.totals[name] for name in running}
        charts = applications.account({"t": table}, {"t": owners}, 1.0)
        for values, name in zip(charts, running, strict=True):
            assert sum(v.delta for v in values.values) == table.totals[name]
            total = sum(v.total for v in values.values)
            assert total == running[name] or (total < running[name] and maximum < len(NAMES) - 2)
            assert len(values.values) <= maximum + 2
            assert [v.dimension.name for v in values.values][-2:] == ["other", "overflow"]


def test_each_group_has_what_its_rows_did() -> None:
    table, owners = interval([(2, 3, 100), (3, 5, 0), (2, 4, 11), (0, 1, 1)], overflow=7)
    calls, size = Applications({"t": CHARTS}, 200).account({"t": table}, {"t": owners}, 1.0)
    assert deltas(calls) == {"group 2": 7, "group 3": 5, "other": 1, "overflow": 7}
    assert deltas(size) == {"group 2": 111, "group 3": 0, "other": 1, "overflow": 14}


def test_a_group_that_is_shown_stays_when_it_is_idle() -> None:
    applications = Applications({"t": CHARTS}, 200)
    for rows in ([(2, 3, 0)], [(3, 5, 0)]):
        table, owners = interval(rows)
        calls, _ = applications.account({"t": table}, {"t": owners}, 1.0)
    assert deltas(calls) == {"group 2": 0, "group 3": 5, "other": 0, "overflow": 0}
    assert [v.total for v in calls.values] == [3, 5, 0, 0]


def test_the_busiest_are_shown_where_not_all_can_be() -> None:
    table, owners = interval([(2, 1, 1 << 40), (3, 100, 0), (4, 50, 0)])
    calls, _ = Applications({"t": CHARTS}, 2).account({"t": table}, {"t": owners}, 1.0)
    assert deltas(calls) == {"group 3": 100, "group 4": 50, "other": 1, "overflow": 0}


def test_groups_that_are_about_as_active_do_not_change_places() -> None:
    shown, random = Shown(5), np.random.default_rng(7)
    shown.choose(np.array([0, 0, *random.integers(900, 1100, 20)]), 1.0)
    first = list(shown.ids)
    for _ in range(300):
        shown.choose(np.array([0, 0, *random.integers(900, 1100, 20)]), 1.0)
        assert shown.ids == first


def test_what_has_become_twice_as_active_takes_the_place_of_the_least_active() -> None:
    shown = Shown(2)
    for _ in range(100):
        shown.choose(np.array([0, 0, 100, 50, 40]), 1.0)
    assert shown.ids == [2, 3]
    for _ in range(100):
        shown.choose(np.array([0, 0, 100, 50, 400]), 1.0)
    assert shown.ids == [2, 4]


def test_a_group_that_was_forgotten_begins_anew() -> None:
    applications = Applications({"t": CHARTS}, 2)
    table, owners = interval([(2, 9, 0), (3, 8, 0), (4, 7, 0), (5, 6, 0)])
    applications.account({"t": table}, {"t": owners}, 1.0)
    idle = applications.idlest(0.5)
    assert idle
    assert not idle & {2, 3}
    applications.forget(idle)
    table, owners = interval([(2, 1, 0)])
    calls, _ = applications.account({"t": table}, {"t": owners}, 1.0)
    assert {v.dimension.name: v.total for v in calls.values} == {
        "group 2": 10,
        "group 3": 8,
        "other": 13,
        "overflow": 0,
    }
