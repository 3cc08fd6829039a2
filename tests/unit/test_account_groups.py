"""GroupAccount: the charts of one grouping add up to the total, and their totals never decrease."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ebpfmon import Buckets, Chart, ChartData, Dimension, Kind, Role, RowGroups, TableHarvest
from ebpfmon.pipeline.account import GroupAccount, GroupSums, sums_by
from ebpfmon.pipeline.schedule import TimeInterval

COUNTERS = ("calls", "some_bytes")
ROW = np.dtype([("tgid", "u8"), *((name, "u8") for name in COUNTERS)])
Row = tuple[int, int, int]  # group, calls, bytes


def chart(name: str, table: str = "t", kind: Kind = Kind.COUNTER, dimension: Dimension | None = None) -> Chart:
    return Chart(
        id=f"apps.{name}", title="", units="calls/s", family="f", priority=1, labels=("application",), table=table,
        kind=kind, dimensions=(dimension or Dimension.value(name),),
    )  # fmt: skip


CHARTS = tuple(chart(name) for name in COUNTERS)
DIFFERENCE = chart(
    "d", dimension=Dimension("each", "each", ("some_bytes",), ("calls",), negative=True)
)  # fmt: skip
NAMES = {n: f"group {n}" for n in range(1, 12)}
AMOUNTS = st.integers(0, 1 << 40)
ROWS = st.lists(st.tuples(st.integers(0, len(NAMES)), AMOUNTS, AMOUNTS), max_size=40)


def table(rows: Sequence[Row], overflow: int = 0) -> TableHarvest:
    """Return a table with rows of (group, calls, bytes), and this many calls (and twice as many bytes) as overflow."""
    array = np.array([(group, calls, size) for group, calls, size in rows], ROW)
    without = {"calls": overflow, "some_bytes": 2 * overflow}
    totals = {name: int(array[name].sum()) + without[name] for name in without}
    return TableHarvest(array, totals, without, overflow, 64)


class Groups:
    """The account of a grouping over the tables `t` and `u`, with a running clock."""

    def __init__(self, *charts: Chart, maximum: int = 200, names: Mapping[int, str] = NAMES) -> None:
        self.account_ = GroupAccount(charts, {"t": COUNTERS, "u": COUNTERS}, maximum)
        self.names, self.now_s = names, 0.0

    def account(self, elapsed_s: float = 1.0, **tables: TableHarvest) -> list[ChartData]:
        self.now_s += elapsed_s
        sums = {
            name: GroupSums(harvest.rows["tgid"].astype(np.uint64), harvest.counters.copy())
            for name, harvest in tables.items()
        }
        return self.account_.account(tables, sums, self.names, TimeInterval(self.now_s, elapsed_s))

    def deltas(self, *rows: Row, elapsed_s: float = 1.0) -> dict[str, int]:
        """Return the deltas of the first chart by group, without `other` and `overflow`."""
        (data, *_) = self.account(elapsed_s, t=table(rows))
        return {name: n for (role, name), n in amounts(data).items() if role is Role.ITEM}


def amounts(data: ChartData, column: int = 0) -> dict[tuple[Role, str], int]:
    found = {(s.role, s.labels[0]): int(s.deltas[column]) for s in data.series()}
    assert len(found) == len(data), "role and labels must be unique"
    assert data.index.roles[-2:] == (Role.OTHER, Role.OVERFLOW)
    return found


def deltas(data: ChartData, column: int = 0) -> dict[str, int]:
    return {name: number for (_, name), number in amounts(data, column).items()}


def totals(data: ChartData) -> dict[str, int]:
    return {s.labels[0]: s.totals[0] for s in data.series()}


@given(
    st.integers(0, 12),
    st.lists(
        st.tuples(ROWS, st.integers(0, 100), st.sampled_from([1.0, 60.0, 301.0])), min_size=1, max_size=8
    ),
)  # fmt: skip
def test_series_add_up_to_the_total_and_restart_only_with_a_new_start(
    maximum: int, intervals: list[tuple[list[Row], int, float]]
) -> None:
    groups = Groups(*CHARTS, maximum=maximum)
    running: dict[tuple[str, Role, str], tuple[float, int]] = {}
    last_s: dict[str, float] = {}
    for rows, overflow, elapsed_s in intervals:
        harvest = table(rows, overflow)
        begin_s, now_s = groups.now_s, groups.now_s + elapsed_s
        last_s |= {NAMES[group]: now_s for group, calls, _ in rows if group and calls}
        for data, name in zip(groups.account(elapsed_s, t=harvest), COUNTERS, strict=True):
            found = amounts(data)
            assert len(found) <= maximum + 2
            assert sum(found.values()) == harvest.totals[name]
            assert found[Role.OVERFLOW, "overflow"] == harvest.overflow[name]
            did = Counter[str]()
            for group, calls, size in rows:
                did[NAMES.get(group, "")] += calls if name == "calls" else size
            for series in data.series():
                (delta,), (total,) = series.deltas, series.totals
                key = (name, series.role, series.labels[0])
                start_s, before = running.get(key, (begin_s, 0))
                if series.role is Role.ITEM:
                    assert delta == did[series.labels[0]]
                    assert now_s - last_s[series.labels[0]] < 300, "a group idle for five minutes must expire"
                if series.start_s != start_s:
                    assert (series.role, series.start_s, before) == (Role.ITEM, begin_s, before), (
                        "only forgotten ones restart"
                    )
                    before = 0
                assert total == before + delta >= before
                running[key] = (series.start_s, total)


def test_each_group_has_the_counts_of_its_rows() -> None:
    calls, size = Groups(*CHARTS).account(t=table([(2, 3, 100), (3, 5, 0), (2, 4, 11), (0, 1, 1)], overflow=7))
    assert deltas(calls) == {"group 2": 7, "group 3": 5, "other": 1, "overflow": 7}
    assert deltas(size) == {"group 2": 111, "group 3": 0, "other": 1, "overflow": 14}
    assert calls.index is size.index


@given(ROWS, st.integers(0, 100))
def test_a_group_has_the_sum_of_its_rows_in_any_order(rows: list[Row], overflow: int) -> None:
    calls, size = Groups(*CHARTS).account(t=table(rows, overflow))
    for data, column, extra in ((calls, 1, overflow), (size, 2, 2 * overflow)):
        found = deltas(data)
        for name, delta in found.items():
            of_rows = sum(row[column] for row in rows if NAMES.get(row[0], "other") == name)
            # A group that only moved bytes is not active, so it is part of `other`.
            if name == "other":
                of_rows += sum(row[column] for row in rows if row[0] and NAMES[row[0]] not in found)
            assert delta == of_rows + (extra if name == "overflow" else 0), name


def test_a_dimension_is_the_sum_of_plus_less_the_sum_of_minus() -> None:
    (data,) = Groups(DIFFERENCE).account(t=table([(2, 3, 100), (3, 5, 1), (2, 1, 0)]))
    assert deltas(data) == {"group 2": 96, "group 3": -4, "other": 0, "overflow": 0}
    assert data.chart is DIFFERENCE


def test_several_dimensions_are_columns_of_one_series() -> None:
    both = Chart(
        id="apps.io", title="", units="", family="f", priority=1, labels=("application",), table="t",
        dimensions=(Dimension("calls", "calls", ("calls",)), Dimension("bytes", "bytes", ("some_bytes",))),
    )  # fmt: skip
    (data,) = Groups(both).account(t=table([(2, 3, 100), (3, 5, 1)], overflow=4))
    assert {s.labels[0]: s.deltas for s in data.series()} == {
        "group 2": (3, 100), "group 3": (5, 1), "other": (0, 0), "overflow": (4, 8),
    }  # fmt: skip


def test_groups_are_selected_by_all_tables_together_and_are_the_same_in_all() -> None:
    groups = Groups(CHARTS[0], chart("some_bytes", "u"), maximum=1)
    t, u = groups.account(t=table([(2, 5, 1), (3, 4, 1)]), u=table([(3, 4, 6), (2, 1, 1)], overflow=3))
    assert deltas(t) == {"group 3": 4, "other": 5, "overflow": 0}
    assert deltas(u) == {"group 3": 6, "other": 1, "overflow": 6}


def test_a_table_that_cannot_be_read_has_no_charts_and_keeps_its_totals() -> None:
    groups = Groups(CHARTS[0], chart("some_bytes", "u"))
    assert [d.chart.id for d in groups.account(t=table([(2, 5, 1)]), u=table([(2, 1, 7)]))] == [
        "apps.calls", "apps.some_bytes",
    ]  # fmt: skip
    for rows in ([(2, 1, 0)], [], []):
        assert [d.chart.id for d in groups.account(t=table(rows))] == ["apps.calls"]
    assert groups.account() == []
    calls, size = groups.account(t=table([]), u=table([]))
    assert (totals(calls)["group 2"], totals(size)["group 2"]) == (6, 7)


def test_an_idle_group_keeps_its_series() -> None:
    groups = Groups(*CHARTS)
    for rows in ([(2, 3, 0)], [(3, 5, 0)]):
        calls, _ = groups.account(t=table(rows))
    assert deltas(calls) == {"group 2": 0, "group 3": 5, "other": 0, "overflow": 0}
    assert list(totals(calls).values()) == [3, 5, 0, 0]


def test_the_busiest_groups_have_series_if_there_are_too_many() -> None:
    calls, _ = Groups(*CHARTS, maximum=2).account(t=table([(2, 1, 1 << 40), (3, 100, 0), (4, 50, 0)]))
    assert deltas(calls) == {"group 3": 100, "group 4": 50, "other": 1, "overflow": 0}


def test_similarly_active_groups_do_not_replace_each_other() -> None:
    groups, random = Groups(*CHARTS, maximum=5, names={n: str(n) for n in range(1, 21)}), np.random.default_rng(7)
    first = None
    for _ in range(300):
        found = list(groups.deltas(*((n, calls, 0) for n, calls in enumerate(random.integers(900, 1100, 20), 1))))
        first = first or found
        assert (found, len(found)) == (first, 5)


def test_a_group_that_becomes_twice_as_active_replaces_the_least_active() -> None:
    groups = Groups(*CHARTS, maximum=2)
    for _ in range(100):
        found = groups.deltas((2, 100, 0), (3, 50, 0), (4, 40, 0))
    assert list(found) == ["group 2", "group 3"]
    for _ in range(100):
        found = groups.deltas((2, 100, 0), (3, 50, 0), (4, 400, 0))
    assert list(found) == ["group 2", "group 4"]


def test_a_group_must_be_more_than_twice_as_active_to_replace_another() -> None:
    groups = Groups(*CHARTS, maximum=1)
    groups.deltas((2, 10, 0), elapsed_s=1e9)
    for calls, selected in ((20, "group 2"), (21, "group 3")):
        assert list(groups.deltas((2, 10, 0), (3, calls, 0), elapsed_s=1e9)) == [selected]


@pytest.mark.parametrize("elapsed_s", [0.5, 1.0, 20.0])
def test_activity_halves_each_minute_at_any_interval_length(elapsed_s: float) -> None:
    groups = Groups(*CHARTS, maximum=1)
    groups.deltas((2, 1000, 0), elapsed_s=elapsed_s)
    for _ in range(round(60 / elapsed_s) - 1):
        groups.deltas(elapsed_s=elapsed_s)
    assert list(groups.deltas((3, 999, 0), elapsed_s=elapsed_s)) == ["group 2"]
    assert list(groups.deltas((3, round(20 + elapsed_s * 20), 0), elapsed_s=elapsed_s)) == ["group 3"]


def test_rows_without_a_group_and_idle_groups_have_no_series() -> None:
    groups = Groups(*CHARTS)
    assert groups.deltas((RowGroups.OTHER, 50, 0), (1, 0, 5), (3, 1, 0)) == {"group 3": 1}
    assert groups.deltas((RowGroups.OTHER, 50, 0), (5, 7, 0)) == {"group 3": 0, "group 5": 7}, "there is room for more"


def test_groups_named_other_or_overflow_are_items() -> None:
    groups = Groups(*CHARTS, names={1: "other", 2: "overflow"})
    (calls, _) = groups.account(t=table([(1, 3, 0), (2, 5, 0), (0, 7, 0)], overflow=11))
    assert amounts(calls) == {
        (Role.ITEM, "overflow"): 5, (Role.ITEM, "other"): 3, (Role.OTHER, "other"): 7, (Role.OVERFLOW, "overflow"): 11,
    }  # fmt: skip


def test_a_group_expires_after_five_idle_minutes_and_returns_with_its_total_and_start() -> None:
    groups = Groups(*CHARTS)
    groups.deltas((1, 5, 0), (2, 1, 0))
    for _ in range(299):
        assert "group 1" in groups.deltas((2, 1, 0))
    assert groups.deltas((2, 1, 0)) == {"group 2": 1}
    calls, _ = groups.account(t=table([(1, 3, 0)]))
    assert totals(calls) == {"group 2": 301, "group 1": 8, "other": 0, "overflow": 0}
    assert calls.index.starts_s == (0.0, 0.0, 0.0, 0.0)


def test_a_series_keeps_its_name_after_attribution_has_forgotten_it() -> None:
    groups = Groups(*CHARTS)
    groups.deltas((1, 5, 0))
    groups.names = {2: "two"}
    assert groups.deltas((2, 1, 0)) == {"group 1": 0, "two": 1}
    groups.names = {}
    assert groups.deltas() == {"group 1": 0, "two": 0}


def test_the_index_is_the_same_object_until_the_series_change() -> None:
    groups = Groups(*CHARTS)
    rows = [[(1, 5, 0)], [(1, 7, 0)], [], [], [(1, 1, 0), (2, 1, 0)], [(2, 1, 0)]]
    indexes = [data.index for each in rows for data in groups.account(t=table(each))]
    assert len({id(index) for index in indexes[:8]}) == 1
    assert len({id(index) for index in indexes[8:]}) == 1
    assert indexes[0] is not indexes[8]


GAUGE = chart("under_way", kind=Kind.GAUGE, dimension=Dimension.value("calls", minus=("some_bytes",)))


def test_a_grouped_gauge_is_plus_less_minus_and_stays_while_idle() -> None:
    """In this gauge, each call begins something, and each byte ends something."""
    groups = Groups(GAUGE, CHARTS[0])
    assert groups.deltas((1, 5, 2), (2, 1, 1), (0, 4, 1)) == {"group 1": 3, "group 2": 0}
    (gauge, calls) = groups.account(t=table([(2, 4, 0)], overflow=0))
    assert deltas(gauge) == {"group 1": 3, "group 2": 4, "other": 3, "overflow": 0}
    assert set(totals(gauge).values()) == {0}
    assert totals(calls) == {"group 1": 5, "group 2": 5, "other": 4, "overflow": 0}
    for _ in range(400):  # A group with a gauge never expires.
        found = groups.deltas()
    assert found == {"group 1": 3, "group 2": 4}
    assert groups.deltas((1, 0, 3)) == {"group 1": 0, "group 2": 4}


def test_a_hidden_group_with_a_gauge_returns_after_attribution_has_forgotten_its_name() -> None:
    groups = Groups(GAUGE, CHARTS[0], maximum=1)
    groups.deltas((1, 5, 0), (2, 100, 100))
    assert groups.deltas((2, 10, 10)) == {"group 2": 0}
    groups.names = {}
    for _ in range(400):
        found = groups.deltas()
    assert found == {"group 1": 5}


def test_a_group_with_a_negative_gauge_keeps_its_name() -> None:
    groups = Groups(GAUGE, CHARTS[0])
    groups.deltas()
    groups.deltas((1, 0, 1))
    groups.names = {2: "two"}
    groups.deltas()
    groups.deltas((2, 1, 0))
    groups.names = {1: "one"}
    assert groups.deltas((1, 5, 0)) == {"two": 1, "one": 4}


@given(st.integers(0, 3), st.lists(st.tuples(ROWS, st.integers(0, 9)), max_size=8))
def test_grouped_gauges_add_up_to_the_total_gauge(maximum: int, intervals: list[tuple[list[Row], int]]) -> None:
    groups, truth, overflowed = Groups(GAUGE, *CHARTS, maximum=maximum), Counter[str](), 0
    for rows, overflow in intervals:
        for group, began, ended in rows:
            truth[NAMES.get(group, "nobody")] += began - ended
        overflowed -= overflow  # twice as many bytes as calls
        gauge, calls, _ = groups.account(t=table(rows, overflow))
        assert sum(deltas(gauge).values()) == sum(truth.values()) + overflowed
        assert sum(deltas(calls).values()) == sum(r[1] for r in rows) + overflow
        for (role, name), number in amounts(gauge).items():
            if role is Role.ITEM:
                assert number == truth[name]


def test_a_histogram_by_grouping_has_buckets_and_a_sum_for_each_group() -> None:
    buckets = Buckets(field="slot", bounds=(1,), units="ms", sum="some_ns", sum_units="ns")
    histogram = Chart(
        id="apps.times", title="", units="", family="f", priority=1, labels=("application",), table="t",
        buckets=buckets,
    )  # fmt: skip
    counters = ("slot_0", "slot_1", "some_ns")
    account = GroupAccount([histogram], {"t": counters}, 2)
    rows = np.array(
        [(1, 2, 3, 40), (2, 5, 0, 9), (0, 1, 0, 1)], [("group", "u8"), *((name, "u8") for name in counters)]
    )
    totals = {name: int(rows[name].sum()) + 7 for name in counters}
    harvest = TableHarvest(rows, totals, dict.fromkeys(counters, 7), 14, 64)
    sums = {"t": GroupSums(rows["group"].copy(), harvest.counters.copy())}
    for n in (1, 2):
        (data,) = account.account({"t": harvest}, sums, NAMES, TimeInterval(float(n), 1.0))
        found = {s.labels[0]: (s.histogram.counts, s.histogram.sum) for s in data.series()}
        assert found == {
            "group 1": ((2, 3), 40), "group 2": ((5, 0), 9), "other": ((1, 0), 1), "overflow": ((7, 7), 7),
        }  # fmt: skip
        assert [s.total_histogram.count for s in data.series()] == [5 * n, 5 * n, n, 14 * n]


@given(st.lists(st.tuples(st.integers(0, 70_000), AMOUNTS, AMOUNTS), max_size=40))
def test_rows_are_summed_by_their_number(rows: list[Row]) -> None:
    harvest = table(rows)
    found, sums = sums_by(harvest.rows["tgid"].astype(np.int64), harvest)
    expected: dict[int, Counter[int]] = {}
    for place, first, second in rows:
        expected.setdefault(place, Counter()).update({0: first, 1: second})
    assert {n: tuple(each) for n, each in zip(found.tolist(), sums.tolist(), strict=True)} == {
        n: (each[0], each[1]) for n, each in expected.items()
    }
