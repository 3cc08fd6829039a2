"""Gauges by key: each is the number of begun requests minus the number of ended ones."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ebpfmon import Chart, Dimension, Kind, LabelSource, Rows, TableHarvest
from ebpfmon.pipeline import gauges as module
from ebpfmon.pipeline.account import KeyAccount
from ebpfmon.pipeline.gauges import Gauges, sign_matrix
from ebpfmon.pipeline.schedule import TimeInterval

COUNTERS = ("began", "ended", "some_ns")
ROW = np.dtype([("disk", "u4"), ("zone", "u4"), *((name, "u8") for name in COUNTERS)])
NOW = TimeInterval(1000.0, 1.0)
GAUGE = Chart(
    id="x.gauge", title="", units="requests", family="f", priority=1, labels=("disk",), kind=Kind.GAUGE, table="t",
    dimensions=(Dimension.value("began", minus=("ended",)),),
)  # fmt: skip
CALLS = Chart(
    id="x.calls", title="", units="calls/s", family="f", priority=2, labels=("disk",), table="t",
    dimensions=(Dimension.value("began"),),
)  # fmt: skip


class Disks(LabelSource):
    fields, labels = ("disk", "zone"), ("disk",)

    def __init__(self, maximum: int) -> None:
        self.maximum = maximum

    def values(self, rows: Rows) -> Sequence[tuple[str, ...]]:
        return [(f"disk{disk}",) for disk in rows["disk"].tolist()]


def account(maximum: int, *charts: Chart) -> KeyAccount:
    return KeyAccount(charts or (CALLS, GAUGE), "t", COUNTERS, Disks(maximum))


def harvest(rows: list[tuple[int, int, int]], unseen: tuple[int, int] = (0, 0)) -> TableHarvest:
    """Return a table with rows of (disk, began, ended), and `unseen` (began, ended) as overflow."""
    array = np.array([(d, 0, b, e, 0) for d, b, e in rows], ROW) if rows else np.zeros(0, ROW)
    overflow = dict(zip(COUNTERS, (*unseen, 0), strict=True))
    totals = {n: int(array[n].sum()) + overflow[n] for n in overflow}
    return TableHarvest(array, totals, overflow, 0, 64)


def gauges(disks: KeyAccount, table: TableHarvest) -> dict[str, int]:
    found = next(data for data in disks.account(table, NOW) if data.chart.kind is Kind.GAUGE)
    assert not found.totals.any()
    return {series.labels[0]: int(series.deltas[0]) for series in found.series()}


def test_a_gauge_stays_while_idle_and_falls_when_requests_end() -> None:
    disks = account(3)
    assert gauges(disks, harvest([(1, 5, 2), (2, 1, 1)])) == {"disk1": 3, "disk2": 0, "other": 0}
    assert gauges(disks, harvest([(2, 4, 0)])) == {"disk1": 3, "disk2": 4, "other": 0}
    for _ in range(400):  # A key with a gauge does not expire.
        found = gauges(disks, harvest([]))
    assert found == {"disk1": 3, "disk2": 4, "other": 0}
    assert gauges(disks, harvest([(1, 0, 3)])) == {"disk1": 0, "disk2": 4, "other": 0}
    for _ in range(300):
        found = gauges(disks, harvest([(2, 1, 1)]))
    assert found == {"disk2": 4, "other": 0}


def test_overflow_is_part_of_other() -> None:
    disks = account(3)
    assert gauges(disks, harvest([(1, 5, 2)], unseen=(7, 3))) == {"disk1": 3, "other": 4}
    assert gauges(disks, harvest([], unseen=(0, 1))) == {"disk1": 3, "other": 3}
    for _ in range(3):
        assert gauges(disks, harvest([])) == {"disk1": 3, "other": 3}


def test_overflow_stays_in_other_if_no_key_has_a_gauge() -> None:
    disks = account(3)
    for unseen in ((7, 3), (0, 0), (0, 0), (0, 0)):
        assert gauges(disks, harvest([], unseen)) == {"other": 4}


def test_a_newly_selected_key_has_the_gauge_that_it_had_while_hidden() -> None:
    disks = account(1)
    assert gauges(disks, harvest([(1, 1000, 1000), (2, 3, 0)])) == {"disk1": 0, "other": 3}
    for _ in range(400):
        found = gauges(disks, harvest([(2, 2, 2)]))
    assert found == {"disk2": 3, "other": 0}


def test_time_is_not_activity() -> None:
    waits = np.array([(1, 0, 1, 1, 10**12), (2, 0, 50, 50, 9)], ROW)
    totals = {n: int(waits[n].sum()) for n in COUNTERS}
    (found,) = account(1, CALLS).account(TableHarvest(waits, totals, dict.fromkeys(totals, 0), 0, 64), NOW)
    assert found.index.labels == (("disk2",), ("other",))


def test_an_account_under_new_settings_continues_the_gauges() -> None:
    former, account_ = account(3), account(3)
    gauges(former, harvest([(1, 5, 2)], unseen=(1, 0)))
    account_.take_over(former)
    assert gauges(account_, harvest([(1, 1, 0)])) == {"disk1": 4, "other": 1}


def test_counts_from_before_a_switch_of_sources_affect_only_gauges() -> None:
    disks = account(3)
    disks.reset_gauges([harvest([(1, 5, 2)]), harvest([(2, 1, 0)], unseen=(1, 0))])
    calls, gauge = disks.account(harvest([(1, 1, 0)]), NOW)
    assert {s.labels[0]: s.deltas[0] for s in gauge.series()} == {"disk1": 4, "disk2": 1, "other": 1}
    assert {s.labels[0]: s.totals[0] for s in calls.series()} == {"disk1": 1, "disk2": 0, "other": 0}


@given(
    st.lists(st.lists(st.tuples(st.integers(0, 8), st.integers(0, 9), st.integers(0, 9)), max_size=6), max_size=12),
    st.integers(1, 4),
)
def test_gauges_add_up_to_the_total_gauge(intervals: list[list[tuple[int, int, int]]], maximum: int) -> None:
    disks, truth = account(maximum), Counter[str]()
    for rows in intervals:
        unique = list({disk: (disk, began, ended) for disk, began, ended in rows}.values())
        truth.update({f"disk{d}": b - e for d, b, e in unique})
        found = gauges(disks, harvest(unique))
        assert sum(found.values()) == sum(truth.values())
        assert all(gauge == truth[name] for name, gauge in found.items() if name != "other")


def add(kept: Gauges, table: TableHarvest) -> None:
    kept.add(table.rows, table.counters, np.array([*table.totals.values()], np.int64))


def test_a_key_whose_gauges_are_0_is_not_kept() -> None:
    kept = Gauges([CALLS, GAUGE], ("disk", "zone"), COUNTERS)
    add(kept, harvest([(1, 5, 2)]))
    add(kept, harvest([(1, 0, 1), (3, 1, 1), (4, 2, 0)], unseen=(1, 0)))
    add(kept, harvest([(4, 0, 2)]))
    assert kept.rows is not None
    assert kept.rows["disk"].tolist() == [1]
    assert kept.values.tolist() == [[2]]
    assert kept.total.tolist() == [3]


def test_the_highest_gauges_are_kept_if_there_are_too_many_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MAX_KEYS", 2)
    kept = Gauges([GAUGE], ("disk", "zone"), COUNTERS)
    add(kept, harvest([(1, 5, 0), (2, 1, 0), (3, 0, 7)]))
    assert kept.rows is not None
    assert dict(zip(kept.rows["disk"].tolist(), kept.values[:, 0].tolist(), strict=True)) == {3: -7, 1: 5}
    assert kept.total.tolist() == [-1], "the total must include all keys"


def test_the_sign_matrix_has_how_often_each_counter_counts() -> None:
    columns = [Dimension("a", "a", ("x", "y", "y"), ("z",)), Dimension("b", "b", ("z",), ("z",))]
    assert sign_matrix(columns, ("x", "y", "z", "w")).tolist() == [[1, 0], [2, 0], [-1, 0], [0, 0]]
    assert sign_matrix([], ("x", "y")).shape == (2, 0)
