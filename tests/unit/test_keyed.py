"""The charts by key: they add up whatever is shown, and no dimension comes and goes from second to second."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ebpfmon import Chart, ChartValues, Dimension, Scope, TableHarvest
from ebpfmon.pipeline import aggregate as alike
from ebpfmon.pipeline.aggregate import Grouping
from ebpfmon.pipeline.keyed import Keyed

ROW = np.dtype(
    [("start_ns", "u8"), ("tgid", "u4"), ("port", "u2"), ("zone", "i2"), ("address", "u8"), ("calls", "u8"),
     ("some_bytes", "u8")]
)  # fmt: skip
FIELDS = ("address", "port", "zone")
UNWANTED = 9  # an address that does not count

Row = tuple[int, int, int]  # address, calls, bytes


def chart(name: str, *dimensions: Dimension) -> Chart:
    return Chart(id=name, title="", units="", family="f", priority=1, scope=Scope.KEYS, dimensions=dimensions)


CALLS = chart("keys.calls", Dimension("", "", ("calls",)))
BYTES = chart(
    "keys.bytes",
    Dimension("in", "received", ("some_bytes",)),
    Dimension("net", "net", ("some_bytes",), ("calls",), negative=True),
)


@dataclass
class Addresses:
    """Keys whose IDs are their addresses, with zone and port where those are not 0."""

    maximum: int = 3
    fields: tuple[str, ...] = FIELDS
    other: str = "other"
    suffix: str = ""
    drops: bool = False
    asked: list[np.ndarray] = field(default_factory=list)

    def wanted(self, rows: np.ndarray) -> np.ndarray | None:
        wanted: np.ndarray | None = rows["address"] != UNWANTED if self.drops else None
        return wanted

    def labels(self, rows: np.ndarray) -> Sequence[tuple[str, str]]:
        self.asked.append(rows.copy())
        keys = zip(*(rows[name].tolist() for name in FIELDS), strict=True)
        ids = [f"{address}{f':{port}' if port else ''}{f'%{zone}' if zone else ''}" for address, port, zone in keys]
        return [(each, f"host {each}{self.suffix}") for each in ids]


def harvest(rows: np.ndarray, overflow: int = 0) -> TableHarvest:
    without = {"calls": overflow, "some_bytes": 2 * overflow}
    totals = {name: int(rows[name].sum()) + without[name] for name in without}
    return TableHarvest(rows, totals, without, overflow, 64)


def interval(rows: Sequence[Row] = (), overflow: int = 0) -> TableHarvest:
    """Each row of another process; so many calls, and twice as many bytes, have no row."""
    return harvest(np.array([(7, n, 0, 0, a, c, b) for n, (a, c, b) in enumerate(rows)], ROW), overflow)


def deltas(values: ChartValues) -> dict[str, int]:
    found = {v.dimension.id: int(v.delta) for v in values.values}
    assert len(found) == len(values.values), "an ID stands for one dimension"
    return found


def totals(values: ChartValues) -> dict[str, int]:
    return {v.dimension.id: v.total for v in values.values}


def account(of: Keyed, rows: Sequence[Row] = (), elapsed_s: float = 1.0, overflow: int = 0) -> ChartValues:
    """The first chart's values."""
    return of.account(interval(rows, overflow), elapsed_s)[0]


def test_each_key_has_what_its_rows_did_whatever_the_process_and_the_rest_is_in_other() -> None:
    calls, size = Keyed((CALLS, BYTES), Addresses(2)).account(
        interval([(1, 3, 100), (2, 1, 1), (3, 5, 7), (1, 4, 11)], overflow=20), 1.0
    )
    assert deltas(calls) == {"1": 7, "3": 5, "other": 21}
    assert deltas(size) == {"1_in": 111, "1_net": 104, "3_in": 7, "3_net": 2, "other_in": 41, "other_net": 20}


def test_every_template_becomes_a_dimension_of_every_key_and_of_other() -> None:
    calls, size = Keyed((CALLS, BYTES), Addresses()).account(interval([(1, 3, 100)]), 1.0)
    assert (calls.chart, size.chart) == (CALLS, BYTES)
    assert [v.dimension for v in calls.values] == [
        Dimension("1", "host 1", ("calls",)),
        Dimension("other", "other", ("calls",)),
    ]
    assert [v.dimension for v in size.values] == [
        Dimension("1_in", "host 1_received", ("some_bytes",)),
        Dimension("1_net", "host 1_net", ("some_bytes",), ("calls",), negative=True),
        Dimension("other_in", "other_received", ("some_bytes",)),
        Dimension("other_net", "other_net", ("some_bytes",), ("calls",), negative=True),
    ]


def test_totals_are_the_sums_of_the_deltas_and_who_is_idle_keeps_its_dimension_and_its_place() -> None:
    each = Keyed((CALLS,), Addresses())
    account(each, [(2, 5, 0)], overflow=1)
    account(each, [(1, 900, 0)], overflow=2)
    values = account(each, [(1, 6, 0)], overflow=3)
    assert list(deltas(values).items()) == [("2", 0), ("1", 6), ("other", 3)]
    assert totals(values) == {"2": 5, "1": 906, "other": 6}


def test_keys_that_come_together_stand_in_the_order_of_their_activity() -> None:
    rows = [(1, 5, 0), (2, 7, 0), (3, 0, 6), (4, 9, 9)]
    assert list(deltas(account(Keyed((CALLS,), Addresses(9)), rows))) == ["4", "2", "3", "1", "other"]


def test_keys_are_told_apart_by_every_field_to_the_highest_bit() -> None:
    top = 1 << 63
    keys = [(1, 0, 0), (1 | top, 0, 0), (1, 1 << 15, 0), (1 | top, 1 << 15, 0), (1, 0, -1), (1 << 32, 0, 0), (1, 0, 1)]
    rows = np.array([(n, n, port, zone, address, 1 << n, 0) for n, (address, port, zone) in enumerate(keys)], ROW)
    values = Keyed((CALLS,), Addresses(9)).account(harvest(np.concatenate((rows, rows[::-1]))), 1.0)[0]
    assert deltas(values) == {
        "1": 2, str(1 | top): 4, "1:32768": 8, f"{1 | top}:32768": 16, "1%-1": 32, str(1 << 32): 64, "1%1": 128,
        "other": 0,
    }  # fmt: skip


def test_nothing_at_all_is_other_at_nothing() -> None:
    keys = Addresses()
    each = Keyed((CALLS, BYTES), keys)
    for _ in range(3):
        calls, size = each.account(interval(), 1.0)
        assert (deltas(calls), deltas(size)) == ({"other": 0}, {"other_in": 0, "other_net": 0})
    assert [len(rows) for rows in keys.asked] == [0], "it is as it was"
    calls, size = each.account(interval(overflow=5), 1.0)
    calls, size = each.account(interval(), 1.0)
    assert (deltas(calls), totals(calls)) == ({"other": 0}, {"other": 5})


def test_keys_that_did_nothing_for_long_are_forgotten_and_cost_nothing_any_more() -> None:
    keys = Addresses(1)
    each = Keyed((CALLS,), keys)
    account(each, [(1, 500, 0), (2, 400, 0)])
    for hour in range(4):
        values = account(each, [], 3600.0)
        assert (deltas(values), totals(values)) == ({"other": 0}, {"other": 400}), hour
    asked = len(keys.asked)
    account(each)
    assert len(keys.asked) == asked
    assert deltas(account(each, [(1, 1, 0), (2, 2, 0)])) == {"2": 2, "other": 1}, "what they did no longer counts"


def test_what_found_no_row_is_in_other() -> None:
    each = Keyed((CALLS, BYTES), Addresses())
    each.account(interval(overflow=5), 1.0)
    calls, size = each.account(interval(overflow=6), 1.0)
    assert (deltas(calls), totals(calls)) == ({"other": 6}, {"other": 11})
    assert (deltas(size), totals(size)) == ({"other_in": 12, "other_net": 6}, {"other_in": 22, "other_net": 11})


def test_a_key_that_counts_nothing_has_no_dimension() -> None:
    assert deltas(account(Keyed((CALLS,), Addresses()), [(1, 0, 0), (2, 1, 0)])) == {"2": 1, "other": 0}


def test_rows_that_are_not_wanted_are_nowhere() -> None:
    each = Keyed((CALLS,), Addresses(1, drops=True))
    assert deltas(account(each, [(UNWANTED, 100, 0), (1, 2, 0), (2, 1, 0)], overflow=4)) == {"1": 2, "other": 5}
    values = account(each, [(UNWANTED, 100, 0)], overflow=4)
    assert (deltas(values), totals(values)) == ({"1": 0, "other": 4}, {"1": 2, "other": 9})


def test_of_one_that_may_be_shown_it_is_the_busiest() -> None:
    each = Keyed((CALLS,), Addresses(1))
    assert deltas(account(each, [(n, n, 0) for n in range(1, 100)])) == {"99": 99, "other": 98 * 99 // 2}
    assert deltas(account(each, [(50, 100, 0)])) == {"99": 0, "other": 100}, "50 + 100 is not twice 99"
    assert deltas(account(each, [(50, 100, 0)])) == {"50": 100, "other": 0}, "what it did before is remembered"


def test_where_none_may_be_shown_all_is_other() -> None:
    each = Keyed((CALLS,), Addresses(0))
    for _ in range(2):
        assert deltas(account(each, [(1, 2, 0), (2, 3, 0)])) == {"other": 5}


def test_a_key_that_did_nothing_for_a_minute_is_given_up_and_begins_anew_when_it_comes_back() -> None:
    each = Keyed((CALLS,), Addresses())
    account(each, [(1, 5, 0), (2, 4, 0)])
    for _ in range(59):
        assert "1" in deltas(account(each, [(2, 1, 0)]))
    assert totals(account(each, [(2, 1, 0)])) == {"2": 64, "other": 0}
    values = account(each, [(1, 3, 0)])
    assert list(totals(values).items()) == [("2", 64), ("1", 3), ("other", 0)]


def test_a_key_that_did_something_within_the_minute_stays() -> None:
    each = Keyed((CALLS,), Addresses())
    account(each, [(1, 5, 0)])
    for rows in ([], [(1, 1, 0)], []):
        values = account(each, rows, 59.0)
    assert totals(values) == {"1": 6, "other": 0}


def test_the_place_of_one_that_is_given_up_is_for_one_that_does_something() -> None:
    each = Keyed((CALLS,), Addresses(1))
    account(each, [(1, 500, 0), (2, 400, 0), (3, 1, 0)])
    assert deltas(account(each, [], 61.0)) == {"other": 0}, "2 was busy, but is not now"
    assert deltas(account(each, [(3, 1, 0)])) == {"3": 1, "other": 0}


def test_who_is_more_than_twice_as_busy_takes_the_place_of_the_least_busy() -> None:
    each = Keyed((CALLS,), Addresses(2))
    account(each, [(1, 100, 0), (2, 50, 0)], 1e9)
    assert deltas(account(each, [(1, 40, 0), (2, 10, 0), (3, 20, 0)], 1e9)) == {"1": 40, "2": 10, "other": 20}
    values = account(each, [(1, 10, 0), (2, 40, 0), (3, 21, 0)], 1e9)
    assert list(deltas(values).items()) == [("2", 40), ("3", 21), ("other", 10)]
    assert totals(values) == {"2": 100, "3": 21, "other": 30}, "what 3 did when it was hidden was of `other`"


def test_several_change_places_at_once_the_busiest_with_the_least_busy() -> None:
    each = Keyed((CALLS,), Addresses(4))
    account(each, [(1, 10, 0), (2, 11, 0), (3, 50, 0)])
    rows = [(1, 10, 0), (2, 10, 0), (3, 10, 0), (4, 500, 0), (5, 200, 0), (6, 100, 0), (7, 90, 0)]
    # room for 4; then 5 against 1, 6 against 2, and 7 against 3, which is not half as busy
    assert list(deltas(account(each, rows))) == ["3", "4", "5", "6", "other"]


def test_keys_that_are_about_as_busy_do_not_change_places() -> None:
    each, random = Keyed((CALLS,), Addresses(5)), np.random.default_rng(7)
    first = None
    for _ in range(300):
        rows = [(n, calls, 0) for n, calls in enumerate(random.integers(900, 1100, 20).tolist())]
        shown = list(deltas(account(each, rows)))
        first = first or shown
        assert (shown, len(shown)) == (first, 6)


def test_two_equals_that_take_turns_do_not_change_places() -> None:
    each = Keyed((CALLS,), Addresses(1))
    account(each, [(1, 500, 0), (2, 499, 0)])
    for second in range(300):
        assert list(deltas(account(each, [(1 + second % 2, 500, 0)]))) == ["1", "other"]


@pytest.mark.parametrize("elapsed_s", [0.5, 1.0, 20.0])
@pytest.mark.parametrize(("calls", "shown"), [(10**9, "1"), (10**9 + 10**4, "2")])
def test_what_a_key_did_counts_half_after_a_minute_however_long_the_intervals(
    elapsed_s: float, calls: int, shown: str
) -> None:
    each = Keyed((CALLS,), Addresses(1))
    account(each, [(1, 10**9, 0)])
    for _ in range(round(60 / elapsed_s) - 1):
        account(each, [(1, 1, 0)], elapsed_s)
    assert list(deltas(account(each, [(1, 1, 0), (2, calls, 0)], elapsed_s))) == [shown, "other"]


def test_of_the_hidden_keys_only_the_busiest_are_remembered() -> None:
    rows = [(1, 1000, 0), (2, 900, 0), (3, 899, 0), (4, 898, 0)]
    for busy, shown in ((3, "3"), (4, "1")):
        each = Keyed((CALLS,), Addresses(1))
        account(each, rows)
        assert list(deltas(account(each, [(busy, 1150, 0)]))) == [shown, "other"]


def test_names_are_asked_for_once_with_a_row_of_each_key_that_is_shown() -> None:
    keys = Addresses(2)
    each = Keyed((CALLS, BYTES), keys)
    each.account(interval([(n, 10 * n, n) for n in range(50)]), 1.0)
    each.account(interval([(48, 3, 3), (7, 1, 1)]), 1.0)
    assert [rows.dtype for rows in keys.asked] == [ROW, ROW]
    for rows in keys.asked:
        assert (rows["address"].tolist(), rows["tgid"].tolist()) == ([49, 48], [49, 48]), "the first that were seen"


def test_a_key_that_was_hidden_is_named_by_its_own_row() -> None:
    keys = Addresses(1)
    each = Keyed((CALLS,), keys)
    account(each, [(1, 10, 0), (2, 9, 0)])
    assert deltas(account(each, [(3, 5, 0), (2, 90, 0)])) == {"2": 90, "other": 5}
    assert keys.asked[-1]["address"].tolist() == [2]


def test_dimensions_are_the_same_objects_until_the_name_changes() -> None:
    keys = Addresses()
    each = Keyed((CALLS, BYTES), keys)
    first, second = ([v.dimension for v in each.account(interval([(1, 3, 1)]), 1.0)[1].values] for _ in range(2))
    assert all(a is b for a, b in zip(first, second, strict=True))
    keys.suffix = ".example"
    third = each.account(interval([(1, 3, 1)]), 1.0)[1]
    assert [v.dimension.name for v in third.values][:2] == ["host 1.example_received", "host 1.example_net"]
    assert [v.total for v in third.values] == [3, -6, 0, 0]


@pytest.mark.parametrize("differing", FIELDS)
def test_keys_whose_hashes_collide_are_told_apart_with_other_multipliers(
    differing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[np.ndarray] = []
    draw = alike._multipliers

    def multipliers(fields: int) -> np.ndarray:
        drawn.append(draw(fields) if len(drawn) >= 3 else np.zeros((2 * fields, 2), np.uint64))
        return drawn[-1]

    monkeypatch.setattr(alike, "_multipliers", multipliers)
    each = Keyed((CALLS,), Addresses())
    rows = np.array([(7, n, 1, 1, 1, calls, 0) for n, calls in enumerate((3, 5, 1, 2))], ROW)
    rows[differing] = [1, 2, 1, 2]
    second = {"address": "2:1%1", "port": "1:2%1", "zone": "1:1%2"}[differing]
    for _ in range(2):
        assert deltas(each.account(harvest(rows), 1.0)[0]) == {second: 7, "1:1%1": 4, "other": 0}
    assert len(drawn) == 4, "until they do, and no more"


def test_who_does_not_know_the_multipliers_cannot_make_keys_collide() -> None:
    one, another = Grouping(3), Grouping(3)
    assert not np.array_equal(one._multipliers, another._multipliers)
    assert one._multipliers.shape == (6, 2)
    # differences in the highest bits alone, which cancel each other in a sum of products
    top = np.array([[a << 63, b << 63, c << 63] for a in (0, 1) for b in (0, 1) for c in (0, 1)], np.uint64)
    assert len(set(alike._hash(top, one._multipliers).tolist())) == 8


def test_as_many_rows_as_a_table_holds_are_summed_by_key() -> None:
    rows = np.zeros(65536, ROW)
    rows["address"] = np.random.default_rng(3).permutation(65536) % 1000
    rows["calls"] = rows["address"] + 1
    values = Keyed((CALLS,), Addresses(1000)).account(harvest(rows), 1.0)[0]
    times = Counter(rows["address"].tolist())
    assert deltas(values) == {str(key): times[key] * (key + 1) for key in range(1000)} | {"other": 0}


ROWS = st.lists(st.tuples(st.integers(0, UNWANTED), st.integers(0, 1 << 40), st.integers(0, 1 << 40)), max_size=25)
INTERVALS = st.lists(
    st.tuples(ROWS, st.integers(0, 100), st.sampled_from([1.0, 30.0, 61.0])), min_size=1, max_size=8
)  # fmt: skip


def calls_of(row: Row) -> int:
    return row[1]


def bytes_of(row: Row) -> int:
    return row[2]


def net_of(row: Row) -> int:
    return row[2] - row[1]


@given(st.integers(0, 6), st.booleans(), INTERVALS)
def test_whatever_is_shown_it_is_right_and_adds_up(
    maximum: int, drops: bool, intervals: list[tuple[list[Row], int, float]]
) -> None:
    each = Keyed((CALLS, BYTES), Addresses(maximum, drops=drops))
    running: dict[str, int] = {}
    for rows, overflow, elapsed_s in intervals:
        calls, size = each.account(interval(rows, overflow), elapsed_s)
        counted = [row for row in rows if not (drops and row[0] == UNWANTED)]
        for values, suffix, extra, of in (
            (calls, "", 1, calls_of),
            (size, "_in", 2, bytes_of),
            (size, "_net", 1, net_of),
        ):
            found = [v for v in values.values if values is calls or v.dimension.id.endswith(suffix)]
            shown = [v.dimension.id.removesuffix(suffix) for v in found]
            assert len(shown) == len(set(shown)) <= maximum + 1
            assert shown[-1] == "other"
            expected = Counter(dict.fromkeys(shown, 0))
            for row in counted:
                expected[str(row[0]) if str(row[0]) in shown else "other"] += of(row)
            expected["other"] += extra * overflow
            assert [v.delta for v in found] == [expected[name] for name in shown]
            assert sum(v.delta for v in found) == sum(map(of, counted)) + extra * overflow
            before = {name: running.pop(f"{name}{suffix}", 0) for name in [*map(str, range(UNWANTED + 1)), "other"]}
            assert [v.total for v in found] == [before[name] + expected[name] for name in shown]
            running |= {v.dimension.id: v.total for v in found}


@given(st.integers(1, 6), ROWS)
def test_at_first_the_busiest_are_shown_as_many_as_there_is_room_for(maximum: int, rows: list[Row]) -> None:
    activity: Counter[str] = Counter()
    for address, calls, size in rows:
        activity[str(address)] += calls + size
    busy = +activity
    shown = list(deltas(account(Keyed((CALLS,), Addresses(maximum)), rows)))[:-1]
    assert [busy[name] for name in shown] == [n for _, n in busy.most_common(maximum)]
