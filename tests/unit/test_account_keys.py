"""KeyAccount: the labelled series of a keyed table add up to the total and do not flicker."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from ebpfmon import VALUE, Chart, ChartData, Dimension, LabelSource, Role, Rows, TableHarvest
from ebpfmon.pipeline import aggregate
from ebpfmon.pipeline.account import KeyAccount
from ebpfmon.pipeline.schedule import TimeInterval

ROW = np.dtype(
    [("start_ns", "u8"), ("tgid", "u4"), ("port", "u2"), ("zone", "i2"), ("address", "u8"), ("calls", "u8"),
     ("some_bytes", "u8")]
)  # fmt: skip
FIELDS = ("address", "port", "zone")
COUNTERS = ("calls", "some_bytes")
EXCLUDED = 9  # An address that `Addresses` can exclude.

Row = tuple[int, int, int]  # address, calls, bytes


def chart(name: str, *dimensions: Dimension) -> Chart:
    return Chart(
        id=name, title="", units="", family="f", priority=1, labels=("host",), dimensions=dimensions, table="t"
    )


CALLS = chart("keys.calls", Dimension.value("calls"))
BYTES = chart(
    "keys.bytes",
    Dimension("in", "received", ("some_bytes",)),
    Dimension("net", "net", ("some_bytes",), ("calls",), negative=True),
)


@dataclass
class Addresses(LabelSource):
    """Labels each row by its address, with port and zone if they are not 0."""

    maximum: int = 3
    fields: tuple[str, ...] = FIELDS
    labels: tuple[str, ...] = ("host",)
    other: tuple[str, ...] = ()
    suffix: str = ""
    drops: bool = False
    asked: list[Rows] = field(default_factory=list)

    def included(self, rows: Rows) -> NDArray[np.bool_] | None:
        included: NDArray[np.bool_] | None = rows["address"] != EXCLUDED if self.drops else None
        return included

    def values(self, rows: Rows) -> Sequence[tuple[str, ...]]:
        keys = zip(*(rows[name].tolist() for name in FIELDS), strict=True)
        return [(f"{address}{f':{port}' if port else ''}{f'%{zone}' if zone else ''}",) for address, port, zone in keys]

    def names(self, rows: Rows) -> Sequence[tuple[str, ...]]:
        self.asked.append(rows.copy())
        return [(f"host {value}{self.suffix}",) for (value,) in self.values(rows)]


class RunningAccount:
    """The account of a table, with a running clock."""

    def __init__(self, charts: Sequence[Chart], labels: LabelSource) -> None:
        self.account_ = KeyAccount(charts, "t", COUNTERS, labels)
        self.now_s = 0.0

    def account(self, table: TableHarvest, elapsed_s: float = 1.0) -> list[ChartData]:
        self.now_s += elapsed_s
        return self.account_.account(table, TimeInterval(self.now_s, elapsed_s))


def harvest(rows: Rows, overflow: int = 0) -> TableHarvest:
    without = {"calls": overflow, "some_bytes": 2 * overflow}
    totals = {name: int(rows[name].sum()) + without[name] for name in without}
    return TableHarvest(rows, totals, without, overflow, 64)


def interval(rows: Sequence[Row] = (), overflow: int = 0) -> TableHarvest:
    """Return a table with each row from another process. This many calls (and twice as many bytes) are overflow."""
    return harvest(np.array([(7, n, 0, 0, a, c, b) for n, (a, c, b) in enumerate(rows)], ROW), overflow)


def by_label(data: ChartData, numbers: str) -> dict[str, int]:
    """Return the numbers of each series by label, or by `LABEL_COLUMN` if there are several columns."""
    found = {}
    for series in data.series():
        for column, number in zip(data.chart.columns, getattr(series, numbers), strict=True):
            id_ = series.labels[0] if column.id == VALUE else f"{series.labels[0]}_{column.id}"
            assert id_ not in found, "labels must be unique"
            found[id_] = int(number)
    return found


def deltas(data: ChartData) -> dict[str, int]:
    assert data.index.roles == (*(Role.ITEM,) * (len(data) - 1), Role.OTHER)
    return by_label(data, "deltas")


def totals(data: ChartData) -> dict[str, int]:
    return by_label(data, "totals")


def starts(data: ChartData) -> dict[str, float]:
    return {series.labels[0]: series.start_s for series in data.series()}


def account(running: RunningAccount, rows: Sequence[Row] = (), elapsed_s: float = 1.0, overflow: int = 0) -> ChartData:
    """Return the first chart of an interval."""
    return running.account(interval(rows, overflow), elapsed_s)[0]


def test_each_key_has_the_sum_over_processes_and_other_has_the_rest() -> None:
    calls, size = RunningAccount((CALLS, BYTES), Addresses(2)).account(
        interval([(1, 3, 100), (2, 1, 1), (3, 5, 7), (1, 4, 11)], overflow=20)
    )
    assert deltas(calls) == {"1": 7, "3": 5, "other": 21}
    assert deltas(size) == {"1_in": 111, "1_net": 104, "3_in": 7, "3_net": 2, "other_in": 41, "other_net": 20}


def test_all_charts_of_a_table_have_the_same_series() -> None:
    calls, size = RunningAccount((CALLS, BYTES), Addresses()).account(interval([(1, 3, 100)]))
    assert (calls.chart, size.chart) == (CALLS, BYTES)
    assert calls.index is size.index
    assert calls.index.labels == (("1",), ("other",))
    assert calls.index.names == (("host 1",), ("other",))
    assert calls.index.roles == (Role.ITEM, Role.OTHER)
    assert [list(s.deltas) for s in size.series()] == [[100, 97], [0, 0]]


def test_totals_are_sums_of_deltas_and_idle_keys_keep_their_position() -> None:
    each = RunningAccount((CALLS,), Addresses())
    account(each, [(2, 5, 0)], overflow=1)
    account(each, [(1, 900, 0)], overflow=2)
    data = account(each, [(1, 6, 0)], overflow=3)
    assert list(deltas(data).items()) == [("2", 0), ("1", 6), ("other", 3)]
    assert totals(data) == {"2": 5, "1": 906, "other": 6}


def test_keys_that_appear_together_are_ordered_by_activity() -> None:
    rows = [(1, 5, 0), (2, 7, 0), (3, 0, 6), (4, 9, 9)]
    assert list(deltas(account(RunningAccount((CALLS,), Addresses(9)), rows))) == ["4", "2", "3", "1", "other"]


def test_keys_that_differ_in_any_bit_of_any_field_are_different() -> None:
    top = 1 << 63
    keys = [(1, 0, 0), (1 | top, 0, 0), (1, 1 << 15, 0), (1 | top, 1 << 15, 0), (1, 0, -1), (1 << 32, 0, 0), (1, 0, 1)]
    rows = np.array([(n, n, port, zone, address, 1 << n, 0) for n, (address, port, zone) in enumerate(keys)], ROW)
    data = RunningAccount((CALLS,), Addresses(9)).account(harvest(np.concatenate((rows, rows[::-1]))))[0]
    assert deltas(data) == {
        "1": 2, str(1 | top): 4, "1:32768": 8, f"{1 | top}:32768": 16, "1%-1": 32, str(1 << 32): 64, "1%1": 128,
        "other": 0,
    }  # fmt: skip


def test_an_empty_table_has_only_other_with_zeros() -> None:
    keys = Addresses()
    each = RunningAccount((CALLS, BYTES), keys)
    for _ in range(3):
        calls, size = each.account(interval())
        assert (deltas(calls), deltas(size)) == ({"other": 0}, {"other_in": 0, "other_net": 0})
    assert {len(rows) for rows in keys.asked} == {0}
    calls, size = each.account(interval(overflow=5))
    calls, size = each.account(interval())
    assert (deltas(calls), totals(calls)) == ({"other": 0}, {"other": 5})


def test_keys_idle_for_long_expire_and_are_not_named_again() -> None:
    keys = Addresses(1)
    each = RunningAccount((CALLS,), keys)
    account(each, [(1, 500, 0), (2, 400, 0)])
    for hour in range(4):
        data = account(each, [], 3600.0)
        assert (deltas(data), totals(data)) == ({"other": 0}, {"other": 400}), hour
    assert [len(rows) for rows in keys.asked[1:]] == [0], "once, when they leave"
    assert deltas(account(each, [(1, 1, 0), (2, 2, 0)])) == {"2": 2, "other": 1}, "old activity must not count any more"


def test_overflow_is_part_of_other() -> None:
    each = RunningAccount((CALLS, BYTES), Addresses())
    each.account(interval(overflow=5))
    calls, size = each.account(interval(overflow=6))
    assert (deltas(calls), totals(calls)) == ({"other": 6}, {"other": 11})
    assert (deltas(size), totals(size)) == ({"other_in": 12, "other_net": 6}, {"other_in": 22, "other_net": 11})


def test_a_key_without_counts_has_no_series() -> None:
    assert deltas(account(RunningAccount((CALLS,), Addresses()), [(1, 0, 0), (2, 1, 0)])) == {"2": 1, "other": 0}


def test_excluded_rows_are_not_counted_anywhere() -> None:
    each = RunningAccount((CALLS,), Addresses(1, drops=True))
    assert deltas(account(each, [(EXCLUDED, 100, 0), (1, 2, 0), (2, 1, 0)], overflow=4)) == {"1": 2, "other": 5}
    data = account(each, [(EXCLUDED, 100, 0)], overflow=4)
    assert (deltas(data), totals(data)) == ({"1": 0, "other": 4}, {"1": 2, "other": 9})


def test_with_room_for_one_series_the_busiest_key_has_it() -> None:
    each = RunningAccount((CALLS,), Addresses(1))
    assert deltas(account(each, [(n, n, 0) for n in range(1, 100)])) == {"99": 99, "other": 98 * 99 // 2}
    assert deltas(account(each, [(50, 100, 0)])) == {"99": 0, "other": 100}, "50 + 100 is not twice 99"
    assert deltas(account(each, [(50, 100, 0)])) == {"50": 100, "other": 0}, "its earlier activity must count, too"


def test_without_room_for_series_everything_is_in_other() -> None:
    each = RunningAccount((CALLS,), Addresses(0))
    for _ in range(2):
        assert deltas(account(each, [(1, 2, 0), (2, 3, 0)])) == {"other": 5}


def test_a_key_expires_after_five_idle_minutes_and_returns_with_its_total_and_start() -> None:
    each = RunningAccount((CALLS,), Addresses())
    account(each, [(1, 5, 0), (2, 4, 0)])
    for _ in range(299):
        assert "1" in deltas(account(each, [(2, 1, 0)]))
    assert totals(account(each, [(2, 1, 0)])) == {"2": 304, "other": 0}
    data = account(each, [(1, 3, 0), (3, 1, 0)])
    assert list(totals(data).items()) == [("2", 304), ("1", 8), ("3", 1), ("other", 0)]
    assert starts(data) == {"2": 0.0, "1": 0.0, "3": 301.0, "other": 0.0}


def test_a_forgotten_key_returns_with_a_new_start_and_total() -> None:
    each = RunningAccount((CALLS,), Addresses(1))  # Two hidden keys are remembered.
    account(each, [(1, 5, 0)])
    assert totals(account(each, [(2, 90, 0), (3, 60, 0), (4, 50, 0)], 299.0)) == {"2": 90, "other": 110}
    assert list(deltas(account(each, [(5, 500, 0), (3, 60, 0), (4, 50, 0)], 301.0))) == ["5", "other"]
    data = account(each, [(1, 7000, 0)], 10.0)
    assert (totals(data)["1"], starts(data)["1"]) == (7000, 601.0)


def test_a_replaced_key_keeps_its_total_while_it_is_hidden() -> None:
    each = RunningAccount((CALLS,), Addresses(1))
    account(each, [(1, 5, 0)], 10.0)
    assert totals(account(each, [(1, 1, 0), (2, 1000, 0)], 10.0)) == {"2": 1000, "other": 1}
    data = account(each, [(1, 90000, 0)], 10.0)
    assert totals(data) == {"1": 90005, "other": 1}
    assert starts(data) == {"1": 0.0, "other": 0.0}


def test_a_key_that_was_active_within_five_minutes_stays() -> None:
    each = RunningAccount((CALLS,), Addresses())
    account(each, [(1, 5, 0)])
    for rows in ([], [(1, 1, 0)], []):
        data = account(each, rows, 299.0)
    assert totals(data) == {"1": 6, "other": 0}


def test_an_expired_key_makes_room_for_an_active_one() -> None:
    each = RunningAccount((CALLS,), Addresses(1))
    account(each, [(1, 500, 0), (2, 400, 0), (3, 1, 0)])
    assert deltas(account(each, [], 301.0)) == {"other": 0}, "2 was busy, but is idle now"
    assert deltas(account(each, [(3, 1, 0)])) == {"3": 1, "other": 0}


def test_a_key_more_than_twice_as_busy_replaces_the_least_busy() -> None:
    each = RunningAccount((CALLS,), Addresses(2))
    account(each, [(1, 100, 0), (2, 50, 0)], 1e9)
    assert deltas(account(each, [(1, 40, 0), (2, 10, 0), (3, 20, 0)], 1e9)) == {"1": 40, "2": 10, "other": 20}
    data = account(each, [(1, 10, 0), (2, 40, 0), (3, 21, 0)], 1e9)
    assert list(deltas(data).items()) == [("2", 40), ("3", 21), ("other", 10)]
    assert totals(data) == {"2": 100, "3": 21, "other": 30}, "the counts of a hidden key must stay in `other`"


def test_several_keys_can_be_replaced_at_once() -> None:
    each = RunningAccount((CALLS,), Addresses(4))
    account(each, [(1, 10, 0), (2, 11, 0), (3, 50, 0)])
    rows = [(1, 10, 0), (2, 10, 0), (3, 10, 0), (4, 500, 0), (5, 200, 0), (6, 100, 0), (7, 90, 0)]
    # There is room for 4. Then 5 replaces 1 and 6 replaces 2, but 7 is not twice as busy as 3.
    assert list(deltas(account(each, rows))) == ["3", "4", "5", "6", "other"]


def test_similarly_busy_keys_do_not_replace_each_other() -> None:
    each, random = RunningAccount((CALLS,), Addresses(5)), np.random.default_rng(7)
    first = None
    for _ in range(300):
        rows = [(n, calls, 0) for n, calls in enumerate(random.integers(900, 1100, 20).tolist())]
        shown = list(deltas(account(each, rows)))
        first = first or shown
        assert (shown, len(shown)) == (first, 6)


def test_two_equally_busy_keys_that_alternate_do_not_replace_each_other() -> None:
    each = RunningAccount((CALLS,), Addresses(1))
    account(each, [(1, 500, 0), (2, 499, 0)])
    for second in range(300):
        assert list(deltas(account(each, [(1 + second % 2, 500, 0)]))) == ["1", "other"]


@pytest.mark.parametrize("elapsed_s", [0.5, 1.0, 20.0])
@pytest.mark.parametrize(("calls", "shown"), [(10**9, "1"), (10**9 + 10**4, "2")])
def test_activity_halves_each_minute_at_any_interval_length(elapsed_s: float, calls: int, shown: str) -> None:
    each = RunningAccount((CALLS,), Addresses(1))
    account(each, [(1, 10**9, 0)])
    for _ in range(round(60 / elapsed_s) - 1):
        account(each, [(1, 1, 0)], elapsed_s)
    assert list(deltas(account(each, [(1, 1, 0), (2, calls, 0)], elapsed_s))) == [shown, "other"]


def test_only_the_busiest_hidden_keys_are_remembered() -> None:
    rows = [(1, 1000, 0), (2, 900, 0), (3, 899, 0), (4, 898, 0)]
    for busy, shown in ((3, "3"), (4, "1")):
        each = RunningAccount((CALLS,), Addresses(1))
        account(each, rows)
        assert list(deltas(account(each, [(busy, 1150, 0)]))) == [shown, "other"]


def test_names_are_requested_once_with_one_row_per_series() -> None:
    keys = Addresses(2)
    each = RunningAccount((CALLS, BYTES), keys)
    each.account(interval([(n, 10 * n, n) for n in range(50)]))
    each.account(interval([(48, 3, 3), (7, 1, 1)]))
    assert [rows.dtype for rows in keys.asked] == [ROW, ROW]
    for rows in keys.asked:
        assert (rows["address"].tolist(), rows["tgid"].tolist()) == ([49, 48], [49, 48]), "expected the first rows"


def test_a_formerly_hidden_key_is_named_by_its_own_row() -> None:
    keys = Addresses(1)
    each = RunningAccount((CALLS,), keys)
    account(each, [(1, 10, 0), (2, 9, 0)])
    assert deltas(account(each, [(3, 5, 0), (2, 90, 0)])) == {"2": 90, "other": 5}
    assert keys.asked[-1]["address"].tolist() == [2]


@pytest.mark.parametrize("then", [[(1, 3, 1)], []], ids=["active", "idle"])
def test_the_index_is_the_same_object_until_a_name_changes(then: list[Row]) -> None:
    keys = Addresses()
    each = RunningAccount((CALLS, BYTES), keys)
    account(each, [(1, 3, 1)])
    first, second, third = (each.account(interval(then))[1] for _ in range(3))
    assert first.index is second.index is third.index
    keys.suffix = ".example"
    calls, size = each.account(interval(then))
    assert calls.index is size.index is not third.index
    assert size.index.labels == first.index.labels
    assert size.index.names == (("host 1.example",), ("other",))
    assert totals(size) == {"1_in": 1 + 4 * len(then), "1_net": -2 - 8 * len(then), "other_in": 0, "other_net": 0}


def test_a_key_named_other_is_an_item() -> None:
    class Always(Addresses):
        def values(self, rows: Rows) -> Sequence[tuple[str, ...]]:
            return [("other",)] * len(rows)

    data = account(RunningAccount((CALLS,), Always()), [(1, 3, 0)], overflow=5)
    found = [(s.labels, s.role, s.deltas) for s in data.series()]
    assert found == [(("other",), Role.ITEM, (3,)), (("other",), Role.OTHER, (5,))]


def test_totals_continue_under_new_labels_that_define_the_same_series() -> None:
    running = RunningAccount((CALLS,), Addresses())
    account(running, [(1, 5, 0), (EXCLUDED, 7, 0)], overflow=2)
    again = Addresses(suffix="!", drops=False)
    assert running.account_.relabel(again)
    found = account(running, [(1, 1, 0)])
    assert totals(found) == {"1": 6, str(EXCLUDED): 7, "other": 2}
    assert found.index.names[:2] == (("host 9!",), ("host 1!",))
    for other in (Addresses(maximum=4), Addresses(labels=("address",)), Addresses(fields=("address",))):
        assert not running.account_.relabel(other)
    assert totals(account(running)) == totals(found)


def test_other_has_the_label_values_given_by_its_source() -> None:
    calls = replace(CALLS, labels=("port", "protocol"))
    for other, expected in (((), ("other", "other")), (("rest", "ALL"), ("rest", "ALL"))):
        source = Addresses(labels=("port", "protocol"), other=other)
        (data,) = RunningAccount((calls,), source).account(interval())
        assert (data.index.labels, data.index.names) == ((expected,), (expected,))


@pytest.mark.parametrize("differing", FIELDS)
def test_keys_with_colliding_hashes_are_separated_by_new_multipliers(
    differing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[np.ndarray] = []
    draw = aggregate._multipliers

    def multipliers(fields: int) -> np.ndarray:
        drawn.append(draw(fields) if len(drawn) >= 3 else np.zeros((2 * fields, 2), np.uint64))
        return drawn[-1]

    monkeypatch.setattr(aggregate, "_multipliers", multipliers)
    each = RunningAccount((CALLS,), Addresses())
    rows = np.array([(7, n, 1, 1, 1, calls, 0) for n, calls in enumerate((3, 5, 1, 2))], ROW)
    rows[differing] = [1, 2, 1, 2]
    second = {"address": "2:1%1", "port": "1:2%1", "zone": "1:1%2"}[differing]
    for _ in range(2):
        assert deltas(each.account(harvest(rows))[0]) == {second: 7, "1:1%1": 4, "other": 0}
    assert len(drawn) == 4, "multipliers must be drawn only until the keys are separated"


def test_a_full_table_is_summed_by_key() -> None:
    rows = np.zeros(65536, ROW)
    rows["address"] = np.random.default_rng(3).permutation(65536) % 1000
    rows["calls"] = rows["address"] + 1
    data = RunningAccount((CALLS,), Addresses(1000)).account(harvest(rows))[0]
    times = Counter(rows["address"].tolist())
    assert deltas(data) == {str(key): times[key] * (key + 1) for key in range(1000)} | {"other": 0}


ROWS = st.lists(st.tuples(st.integers(0, EXCLUDED), st.integers(0, 1 << 40), st.integers(0, 1 << 40)), max_size=25)
INTERVALS = st.lists(
    st.tuples(ROWS, st.integers(0, 100), st.sampled_from([1.0, 30.0, 301.0])), min_size=1, max_size=8
)  # fmt: skip


def calls_of(row: Row) -> int:
    return row[1]


def bytes_of(row: Row) -> int:
    return row[2]


def net_of(row: Row) -> int:
    return row[2] - row[1]


@given(st.integers(0, 6), st.booleans(), INTERVALS)
def test_series_are_exact_add_up_and_restart_only_with_a_new_start(
    maximum: int, drops: bool, intervals: list[tuple[list[Row], int, float]]
) -> None:
    each = RunningAccount((CALLS, BYTES), Addresses(maximum, drops=drops))
    running: dict[tuple[str, str], tuple[float, int]] = {}  # The last start and total of each series.
    for rows, overflow, elapsed_s in intervals:
        charts = each.account(interval(rows, overflow), elapsed_s)
        counted = [row for row in rows if not (drops and row[0] == EXCLUDED)]
        for data, column, extra, amount_of in (
            (charts[0], 0, 1, calls_of),
            (charts[1], 0, 2, bytes_of),
            (charts[1], 1, 1, net_of),
        ):
            found = {s.labels[0]: (s.deltas[column], s.totals[column], s.start_s) for s in data.series()}
            assert len(found) == len(data) <= maximum + 1
            assert list(found)[-1] == "other"
            expected = Counter(dict.fromkeys(found, 0))
            for row in counted:
                expected[str(row[0]) if str(row[0]) in found else "other"] += amount_of(row)
            expected["other"] += extra * overflow
            assert {name: delta for name, (delta, _, _) in found.items()} == expected
            assert data.sums()[data.chart.columns[column].id] == sum(map(amount_of, counted)) + extra * overflow
            for name, (delta, total, start_s) in found.items():
                key = (data.chart.columns[column].id, name)
                start_before_s, before = running.get(key, (each.now_s - elapsed_s, 0))
                if start_s == start_before_s:
                    assert total == before + delta, "the counts of a hidden key must stay in `other`"
                else:
                    assert name != "other"
                    assert start_s == each.now_s - elapsed_s, "a forgotten key must restart now"
                    assert total == delta
                running[key] = (start_s, total)


@given(st.integers(1, 6), ROWS)
def test_at_first_the_busiest_keys_fill_all_room(maximum: int, rows: list[Row]) -> None:
    activity: Counter[str] = Counter()
    for address, calls, size in rows:
        activity[str(address)] += calls + size
    busy = +activity
    selected = list(deltas(account(RunningAccount((CALLS,), Addresses(maximum)), rows)))[:-1]
    assert [busy[name] for name in selected] == [n for _, n in busy.most_common(maximum)]
