"""What of the snapshots a sink gets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ebpfmon import ChartValues, Dimension, Kind, Owners, SinkSettings, Snapshot, TableHarvest, Value
from ebpfmon.pipeline.publish import SinkTask
from ebpfmon.pipeline.selection import Charts, joined
from tests.unit.support import chart, snapshot, table

READ, WRITE, OTHER = (Dimension(name, name, (name,)) for name in ("read", "write", "other"))


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
    given = Snapshot(
        host="h", time_s=1.0, elapsed_s=1.0, complete=True, charts=tuple(ChartValues(c, ()) for c in charts)
    )
    assert [c.chart.id for c in Charts(patterns).of(given).charts] == chosen.split()


@pytest.mark.parametrize("pattern", ["", "!", "ebpf io", "[a-z]", "a?", "!!x"])
def test_what_is_no_pattern_is_named(pattern: str) -> None:
    with pytest.raises(ValueError, match="expected a chart's id"):
        Charts([pattern])


def of(time_s: float, values: dict[str, tuple[int, int]], kind: Kind = Kind.COUNTER) -> Snapshot:
    """A snapshot of one chart: (delta, total) by dimension."""
    dimensions = {d.id: d for d in (READ, WRITE, OTHER)}
    shown = tuple(Value(dimensions[name], *amounts) for name, amounts in values.items())
    return Snapshot(
        host="h", time_s=time_s, elapsed_s=1.0, complete=True, charts=(ChartValues(chart(READ, kind=kind), shown),)
    )


def test_amounts_are_summed_totals_are_the_last_and_levels_too() -> None:
    first, second = of(1.0, {"read": (3, 3), "write": (5, 5)}), of(2.0, {"write": (7, 12), "other": (1, 1)})
    both = joined(first, replace(second, complete=False))
    assert (both.time_s, both.elapsed_s, both.complete) == (2.0, 2.0, False)
    (values,) = both.charts
    assert [(v.dimension.id, v.delta, v.total) for v in values.values] == [
        ("read", 3, 3), ("write", 12, 12), ("other", 1, 1),
    ]  # fmt: skip
    (level,) = joined(of(1.0, {"read": (3, 0)}, Kind.LEVEL), of(2.0, {"read": (4, 0)}, Kind.LEVEL)).charts
    assert [v.delta for v in level.values] == [4]


def test_a_chart_that_is_in_one_of_them_alone_is_there() -> None:
    first, second = of(1.0, {"read": (3, 3)}), replace(of(2.0, {}), charts=())
    assert [c.chart.id for c in joined(first, second).charts] == [c.chart.id for c in joined(second, first).charts]
    assert joined(first, second).charts[0].values[0].delta == 3


def test_rows_of_one_process_are_summed_and_keep_their_owner_by_name() -> None:
    rows = ([(1, b"a", 3, 30), (2, b"b", 5, 50)], [(2, b"b", 7, 70), (3, b"c", 11, 110)])
    tables = [table(r, overflow_calls=n) for n, r in enumerate(rows, 1)]
    owners = [
        Owners(("other", "overflow", "x", "y"), np.array([2, 3])),
        Owners(("other", "overflow", "y", "z"), np.array([2, 3])),
    ]
    first, second = (
        replace(snapshot("s"), tables={"process": t}, owners={"process": o})
        for t, o in zip(tables, owners, strict=True)
    )
    both = joined(first, second)
    found = both.tables["process"]
    counters = list(found.totals)
    by_process = {
        row["tgid"].item(): (row[counters[0]].item(), both.owners["process"].groups[owner])
        for row, owner in zip(found.rows, both.owners["process"].of_rows.tolist(), strict=True)
    }
    assert by_process == {1: (3, "x"), 2: (12, "y"), 3: (11, "z")}
    assert found.overflow_calls == 3
    for name in counters:
        assert found.totals[name] == sum(t.totals[name] for t in tables)
        assert int(found.rows[name].sum()) + found.overflow[name] == found.totals[name]
    nothing = replace(
        second, tables={"process": table([])}, owners={"process": Owners(("other", "overflow"), np.zeros(0, int))}
    )
    assert len(joined(nothing, nothing).tables["process"].rows) == 0


class Settings(SinkSettings, tag="some", frozen=True):
    pass


@given(st.lists(st.integers(1, 5), min_size=1, max_size=30), st.sampled_from([0, 2, 3, 10]))
def test_nothing_is_lost_between_intervals_of_another_length(steps: list[int], interval: int) -> None:
    task, time_s = SinkTask(Settings(interval=interval)), 1_000
    for step in steps:
        time_s += step
        task.put(of(time_s + 0.002, {"read": (step, 0)}))
        task.mailbox._size = 100
    task.close()
    got = list(task.mailbox._snapshots)
    assert sum(s.charts[0].values[0].delta for s in got) == sum(steps)
    assert sum(s.elapsed_s for s in got) == len(steps)
    if not interval:
        assert len(got) == len(steps)
    times = [s.time_s for s in got[:-1]]
    assert len({int(t // max(interval, 1)) for t in times}) == len(times)  # one for each of its intervals


def test_an_interval_ends_with_the_first_snapshot_of_the_next() -> None:
    task = SinkTask(Settings(interval=5))
    for time_s in (1001, 1002, 1004, 1005, 1006, 1010):
        task.put(of(time_s + 0.001, {"read": (1, 0)}))
    assert [int(s.time_s) for s in task.mailbox._snapshots] == [1001, 1005, 1010]


def test_a_table_of_another_kind_is_no_hindrance() -> None:
    dtype = np.dtype([("port", "<u4"), ("protocol", "<u4"), ("calls", "<u8")])
    rows = np.array([(443, 6, 2)], dtype)
    harvest = TableHarvest(rows, {"calls": 2}, {"calls": 0}, 0, 8)
    one = replace(snapshot("s"), tables={"inbound": harvest})
    both = joined(one, one).tables["inbound"]
    assert both.rows.tolist() == [(443, 6, 4)]
    assert both.totals == {"calls": 4}
