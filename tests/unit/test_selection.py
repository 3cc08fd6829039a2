"""The charts and intervals that a sink gets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ebpfmon import Chart, ChartData, Dimension, Kind, Role, RowGroups, SeriesIndex, SinkSettings, Snapshot, TableView
from ebpfmon.pipeline.publish import SinkTask
from ebpfmon.pipeline.selection import ChartFilter, join_snapshots
from ebpfmon.testing import keyed_table, view
from tests.unit.support import chart, data, snapshot, table

READ = Dimension.value("read")


@pytest.mark.parametrize(
    ("patterns", "chosen"),
    [
        ((), "ebpf.io ebpf.exit apps.file_open ebpfmon.rows"),
        (("ebpf.*",), "ebpf.io ebpf.exit"),
        (("!apps.*",), "ebpf.io ebpf.exit ebpfmon.rows"),
        (("*", "!ebpf.io"), "ebpf.exit apps.file_open ebpfmon.rows"),
        (("!ebpf.io", "ebpf.*"), "ebpf.exit"),
        (("ebpf.io", "apps.file_open"), "ebpf.io apps.file_open"),
        (("nothing.*",), ""),
    ],
)
def test_an_exclusion_always_wins_and_exclusions_alone_include_the_rest(patterns: Sequence[str], chosen: str) -> None:
    charts = [replace(chart(READ), id=i) for i in ("ebpf.io", "ebpf.exit", "apps.file_open", "ebpfmon.rows")]
    given = snapshot(charts=[data(each, 1) for each in charts])
    assert [c.chart.id for c in ChartFilter(patterns).apply(given).charts] == chosen.split()


@pytest.mark.parametrize("pattern", ["", "!", "ebpf io", "[a-z]", "a?", "!!x"])
def test_an_invalid_pattern_is_an_error(pattern: str) -> None:
    with pytest.raises(ValueError, match="expected the id of a chart"):
        ChartFilter([pattern])


def charted(series: dict[str, tuple[int, int]], *, kind: Kind = Kind.COUNTER, start_s: float = 1.0) -> ChartData:
    """Return a chart by program with (delta, total) of each series. `*` is the series `other`."""
    by_program: Chart = chart(READ, labels=("program",), kind=kind)
    labels = tuple(("other" if name == "*" else name,) for name in series)
    roles = tuple(Role.OTHER if name == "*" else Role.ITEM for name in series)
    index = SeriesIndex(labels=labels, names=labels, roles=roles, starts_s=(start_s,) * len(series))
    deltas, totals = np.array([*series.values()], np.int64).reshape(-1, 2).T[..., np.newaxis]
    return ChartData(chart=by_program, index=index, deltas=deltas, totals=totals)


def snapshot_at(time_s: float, series: dict[str, tuple[int, int]], kind: Kind = Kind.COUNTER) -> Snapshot:
    """Return a snapshot with one chart by program."""
    return replace(snapshot(charts=[charted(series, kind=kind)]), time_s=time_s, elapsed_s=1.0)


def series_of(given: Snapshot) -> list[tuple[str, int, int]]:
    """Return (label, delta, total) of each series of the only chart."""
    (only,) = given.charts
    return [
        ("*" if s.role is Role.OTHER else s.labels[0], int(s.deltas[0]), s.totals[0]) for s in only.series()
    ]  # fmt: skip


def test_amounts_are_summed_and_totals_and_gauges_are_the_last() -> None:
    first = snapshot_at(1.0, {"read": (3, 3), "write": (5, 5), "*": (2, 2)})
    second = snapshot_at(2.0, {"write": (7, 12), "new": (1, 1), "*": (1, 3)})
    both = join_snapshots(first, replace(second, complete=False))
    assert (both.time_s, both.elapsed_s, both.complete) == (2.0, 2.0, False)
    assert series_of(both) == [("read", 3, 3), ("write", 12, 12), ("new", 1, 1), ("*", 3, 3)], "other must be last"
    former = snapshot_at(1.0, {"read": (3, 0), "*": (9, 0)}, Kind.GAUGE)
    gauges = join_snapshots(former, snapshot_at(2.0, {"*": (4, 0)}, Kind.GAUGE))
    assert series_of(gauges) == [("*", 4, 0)]


def test_a_program_named_other_is_distinct_from_the_series_other() -> None:
    both = join_snapshots(
        snapshot_at(1.0, {"other": (3, 3), "*": (2, 2)}),
        snapshot_at(
            2.0,
            {
                "*": (7, 9),
            },
        ),
    )
    assert series_of(both) == [("other", 3, 3), ("*", 9, 9)]
    assert both.charts[0].index.labels == (("other",), ("other",))


def test_the_index_is_kept_if_the_series_are_the_same() -> None:
    first, second = snapshot_at(1.0, {"a": (3, 3), "*": (0, 0)}), snapshot_at(2.0, {"a": (5, 8), "*": (1, 1)})
    shared = replace(second.charts[0], index=first.charts[0].index)
    for last in (second, replace(second, charts=(shared,))):
        both = join_snapshots(first, last)
        assert series_of(both) == [("a", 8, 8), ("*", 1, 1)]
        assert both.charts[0].index is last.charts[0].index
    assert series_of(first) == [("a", 3, 3), ("*", 0, 0)], "joining must not change its arguments"


def test_a_chart_in_only_one_interval_is_kept() -> None:
    first, second = snapshot_at(1.0, {"read": (3, 3)}), replace(snapshot_at(2.0, {}), charts=())
    for both in (join_snapshots(first, second), join_snapshots(second, first)):
        assert series_of(both) == [("read", 3, 3)]


AMOUNTS = st.dictionaries(st.sampled_from("abcdefg"), st.integers(0, 1 << 40), max_size=5)


@given(st.lists(st.tuples(AMOUNTS, st.integers(0, 99)), min_size=2, max_size=6))
def test_joined_deltas_are_the_sums_over_all_intervals(intervals: list[tuple[dict[str, int], int]]) -> None:
    totals, both = dict.fromkeys("abcdefg*", 0), None
    for time_s, (amounts, other) in enumerate(intervals):
        series = {}
        for name, amount in {**amounts, "*": other}.items():
            totals[name] += amount
            series[name] = (amount, totals[name])
        now = snapshot_at(float(time_s), series)
        both = join_snapshots(both, now) if both else now
    assert both
    assert series_of(both)[-1][0] == "*"
    assert {name: (delta, total) for name, delta, total in series_of(both)} == {
        name: (totals[name], totals[name]) for name in {*"*", *(name for amounts, _ in intervals for name in amounts)}
    }


def test_rows_of_one_process_are_summed_and_keep_their_groups_by_name() -> None:
    rows = ([(1, b"a", 3, 30), (2, b"b", 5, 50)], [(2, b"b", 7, 70), (3, b"c", 11, 110)])
    tables = [table(each, overflow_calls=n) for n, each in enumerate(rows, 1)]
    views = [
        TableView(
            harvest=tables[0],
            groups={
                "application": RowGroups(np.array([20, 30], np.uint64), {20: "x", 30: "y"}),
                "user": RowGroups(np.array([5, 0], np.uint64), {5: "root"}),
            },
        ),
        TableView(
            harvest=tables[1],
            groups={
                "application": RowGroups(np.array([30, 40], np.uint64), {30: "y", 40: "z"}),
                "user": RowGroups(np.array([0, 6], np.uint64), {6: "daemon"}),
            },
        ),
    ]
    both = join_snapshots(*(snapshot(tables={"process": each}) for each in views)).tables["process"]
    harvest, counters = both.harvest, list(both.harvest.totals)
    by_process = {
        row["tgid"].item(): (row[counters[0]].item(), *(both.groups[g].name(n) for g in ("application", "user")))
        for n, row in enumerate(harvest.rows)
    }
    assert by_process == {1: (3, "x", "root"), 2: (12, "y", None), 3: (11, "z", "daemon")}
    assert harvest.overflow_calls == 3
    for name in counters:
        assert harvest.totals[name] == sum(t.totals[name] for t in tables)
        assert int(harvest.rows[name].sum()) + harvest.overflow[name] == harvest.totals[name]
    nothing = snapshot(tables={"process": view(table([]), groups={"application": []})})
    assert len(join_snapshots(nothing, nothing).tables["process"].harvest.rows) == 0


def test_shared_names_of_groups_are_not_copied() -> None:
    one = snapshot(tables={"process": view(table([(1, b"a", 3, 30)]), groups={"user": ["x"]})})
    both = join_snapshots(join_snapshots(one, one), one)
    assert both.tables["process"].groups["user"].names is one.tables["process"].groups["user"].names


def test_groupings_of_only_one_interval_are_left_out() -> None:
    """This happens when a reload changes the groupings."""
    one, another = (
        snapshot(tables={"process": view(table([(1, b"a", 3, 30)]), groups={by: ["x"]})}) for by in ("user", "process")
    )
    assert join_snapshots(one, another).tables["process"].groups == {}


class Settings(SinkSettings, tag="some", frozen=True):
    pass


@given(st.lists(st.integers(1, 5), min_size=1, max_size=30), st.sampled_from([0, 2, 3, 10]))
def test_no_counts_are_lost_with_longer_intervals(steps: list[int], interval: int) -> None:
    task, time_s = SinkTask(Settings(interval=interval)), 1_000
    for step in steps:
        time_s += step
        task.put(snapshot_at(time_s + 0.002, {"read": (step, 0)}))
        task.mailbox._size = 100
    task.close()
    got = list(task.mailbox._snapshots)
    assert sum(s.charts[0].sums()["value"] for s in got) == sum(steps)
    assert sum(s.elapsed_s for s in got) == len(steps)
    if not interval:
        assert len(got) == len(steps)
    times = [s.time_s for s in got[:-1]]
    assert len({int(t // max(interval, 1)) for t in times}) == len(times), "expected one snapshot per interval"


def test_an_interval_ends_with_the_first_snapshot_of_the_next() -> None:
    task = SinkTask(Settings(interval=5))
    for time_s in (1001, 1002, 1004, 1005, 1006, 1010):
        task.put(snapshot_at(time_s + 0.001, {"read": (1, 0)}))
    assert [int(s.time_s) for s in task.mailbox._snapshots] == [1001, 1005, 1010]


def test_an_interval_ends_after_its_length_even_if_the_clock_is_set_back_again_and_again() -> None:
    task, time_s = SinkTask(Settings(interval=60)), 6_000.0
    task.mailbox._size = 1000
    for n in range(3600):
        time_s += 1 if n % 50 else -50  # the next multiple of 60 never comes
        task.put(snapshot_at(time_s + 0.001, {"read": (1, 0)}))
    got = [round(s.elapsed_s) for s in task.mailbox._snapshots]
    assert max(got) == 60
    assert sum(got) > 3600 - 60


@pytest.mark.parametrize("early_s", [0.0, 0.004])
def test_an_interval_ends_once_even_if_the_tick_came_milliseconds_early(early_s: float) -> None:
    task = SinkTask(Settings(interval=5))
    for time_s in range(1001, 1013):
        task.put(snapshot_at(time_s - early_s, {"read": (1, 0)}))
    assert [round(s.time_s) for s in task.mailbox._snapshots] == [1001, 1005, 1010]


def test_tables_with_keys_of_their_own_are_summed_too() -> None:
    key = [("port", "<u4"), ("protocol", "<u4")]
    one = snapshot(tables={"inbound": view(keyed_table(key, ["calls"], [{"port": 443, "protocol": 6, "calls": 2}]))})
    both = join_snapshots(one, one).tables["inbound"].harvest
    assert both.rows.tolist() == [(443, 6, 4)]
    assert both.totals == {"calls": 4}
