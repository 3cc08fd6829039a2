"""Levels by key: whatever comes and goes, each key's is what began of it and has not ended."""

from __future__ import annotations

from collections import Counter

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from ebpfmon import Chart, Dimension, Kind, Scope, TableHarvest
from ebpfmon.pipeline.gauges import Levels
from ebpfmon.pipeline.keyed import Keyed

ROW = np.dtype([("disk", "u4"), ("zone", "u4"), ("began", "u8"), ("ended", "u8"), ("some_ns", "u8")])
LEVEL = Chart(
    id="x.level", title="", units="requests", family="f", priority=1, scope=Scope.KEYS, kind=Kind.LEVEL,
    dimensions=(Dimension("", "", ("began",), ("ended",)),),
)  # fmt: skip
CALLS = Chart(
    id="x.calls", title="", units="calls/s", family="f", priority=2, scope=Scope.KEYS,
    dimensions=(Dimension("", "", ("began",)),),
)  # fmt: skip


class Disks:
    fields, other = ("disk", "zone"), "other"

    def __init__(self, maximum: int) -> None:
        self.maximum = maximum

    def wanted(self, rows: np.ndarray) -> None: ...

    def labels(self, rows: np.ndarray) -> list[tuple[str, str]]:
        return [(str(disk), f"disk{disk}") for disk in rows["disk"].tolist()]


def harvest(rows: list[tuple[int, int, int]], unseen: tuple[int, int] = (0, 0), some_ns: int = 0) -> TableHarvest:
    """Rows of (disk, began, ended), and what found no row."""
    array = np.array([(d, 0, b, e, some_ns) for d, b, e in rows], ROW) if rows else np.zeros(0, ROW)
    overflow = {"began": unseen[0], "ended": unseen[1], "some_ns": 0}
    totals = {n: int(array[n].sum()) + overflow[n] for n in overflow}
    return TableHarvest(array, totals, overflow, 0, 64)


def levels(keyed: Keyed, table: TableHarvest, elapsed_s: float = 1) -> dict[str, int]:
    found = next(c for c in keyed.account(table, elapsed_s) if c.chart.kind is Kind.LEVEL)
    assert all(v.total == 0 for v in found.values)
    return {v.dimension.name: int(v.delta) for v in found.values}


def test_a_level_stays_where_nothing_happens_and_ends_with_what_ended() -> None:
    keyed = Keyed([CALLS, LEVEL], Disks(3))
    assert levels(keyed, harvest([(1, 5, 2), (2, 1, 1)])) == {"disk1": 3, "disk2": 0, "other": 0}
    assert levels(keyed, harvest([(2, 4, 0)])) == {"disk1": 3, "disk2": 4, "other": 0}
    for _ in range(200):  # it is not given up, while one that has none is
        found = levels(keyed, harvest([]))
    assert found == {"disk1": 3, "disk2": 4, "other": 0}
    assert levels(keyed, harvest([(1, 0, 3)])) == {"disk1": 0, "disk2": 4, "other": 0}
    for _ in range(100):
        found = levels(keyed, harvest([(2, 1, 1)]))
    assert found == {"disk2": 4, "other": 0}


def test_what_found_no_row_is_in_other() -> None:
    keyed = Keyed([CALLS, LEVEL], Disks(3))
    assert levels(keyed, harvest([(1, 5, 2)], unseen=(7, 3))) == {"disk1": 3, "other": 4}


def test_a_key_that_is_shown_anew_has_the_level_that_it_had_while_it_was_hidden() -> None:
    keyed = Keyed([CALLS, LEVEL], Disks(1))
    assert levels(keyed, harvest([(1, 1000, 1000), (2, 3, 0)])) == {"disk1": 0, "other": 3}
    for _ in range(100):
        found = levels(keyed, harvest([(2, 2, 2)]))
    assert found == {"disk2": 3, "other": 0}


def test_time_does_not_say_who_does_most() -> None:
    keyed = Keyed([CALLS], Disks(1))
    waits = np.array([(1, 0, 1, 1, 10**12), (2, 0, 50, 50, 9)], ROW)
    totals = {n: int(waits[n].sum()) for n in ("began", "ended", "some_ns")}
    (found,) = keyed.account(TableHarvest(waits, totals, dict.fromkeys(totals, 0), 0, 64), 1)
    assert [v.dimension.name for v in found.values] == ["disk2", "other"]


@given(
    st.lists(st.lists(st.tuples(st.integers(0, 8), st.integers(0, 9), st.integers(0, 9)), max_size=6), max_size=12),
    st.integers(1, 4),
)
def test_they_add_up_to_all_that_is_under_way(intervals: list[list[tuple[int, int, int]]], maximum: int) -> None:
    keyed, truth = Keyed([CALLS, LEVEL], Disks(maximum)), Counter[str]()
    for rows in intervals:
        unique = list({disk: (disk, began, ended) for disk, began, ended in rows}.values())
        truth.update({f"disk{d}": b - e for d, b, e in unique})
        found = levels(keyed, harvest(unique))
        assert sum(found.values()) == sum(truth.values())
        assert all(level == truth[name] for name, level in found.items() if name != "other")


def test_what_began_before_its_source_took_over_is_known() -> None:
    levels_ = Levels([LEVEL], ("disk", "zone"))
    levels_.harvest(harvest([(1, 5, 2)]))
    levels_.harvest(harvest([(1, 0, 1), (3, 1, 1)], unseen=(1, 0)))
    assert levels_.rows is not None
    assert levels_.rows["disk"].tolist() == [1]
    assert levels_.values.tolist() == [[2]]
    assert levels_.total.tolist() == [3]
