"""SystemAccount: the charts without labels, from the totals of a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ebpfmon import Buckets, Chart, ChartData, Dimension, Kind, Role, TableHarvest
from ebpfmon.pipeline.account import SystemAccount
from ebpfmon.pipeline.schedule import TimeInterval
from tests.unit.support import chart

READ = Dimension("r", "read", ("reads",))
ZOMBIES = Dimension("z", "zombie", ("exits", "kills"), ("releases",))
COUNTERS = ("reads", "exits", "kills", "releases")
FIELDS = st.fixed_dictionaries({}, optional={n: st.integers(0, 1 << 55) for n in COUNTERS})
NOW = TimeInterval(1000.0, 1.0)


def account(*charts: Chart) -> SystemAccount:
    return SystemAccount([replace(each, table="t") for each in charts], "t", COUNTERS)


def counted(totals: Mapping[str, int], since_load: Mapping[str, int] | None = None) -> TableHarvest:
    rows = np.zeros(0, [(name, "u8") for name in COUNTERS])
    totals = dict.fromkeys(COUNTERS, 0) | dict(totals)
    return TableHarvest(rows, totals, dict.fromkeys(COUNTERS, 0), 0, 64, since_load or {})


def numbers(data: ChartData) -> list[tuple[int, int]]:
    """Return (delta, total) of each column of a chart with one series."""
    (series,) = data.series()
    assert (series.labels, series.role) == ((), Role.ITEM)
    return list(zip(map(int, series.deltas), series.totals, strict=True))


def after(system: SystemAccount, intervals: Sequence[Mapping[str, int]]) -> list[list[tuple[int, int]]]:
    """Return the numbers of each chart after these intervals."""
    for totals in intervals:
        charts = system.account(counted(totals), NOW)
    return [numbers(data) for data in charts]


@given(st.lists(FIELDS, min_size=1))
def test_every_total_is_the_sum_of_its_deltas(intervals: list[dict[str, int]]) -> None:
    system = account(chart(READ, ZOMBIES))
    history = [numbers(system.account(counted(fields), NOW)[0]) for fields in intervals]
    for n in range(2):
        assert history[-1][n][1] == sum(values[n][0] for values in history)


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
    assert after(account(chart(ZOMBIES)), [fields]) == [[(expected, expected)]]


def test_a_field_that_several_charts_show_is_counted_once() -> None:
    system = account(chart(READ), chart(READ, Dimension("both", "both", ("reads", "exits"))))
    alone, shared = after(system, [{"reads": 2, "exits": 3}, {"reads": 5, "exits": 7}])
    assert [total for _, total in (*alone, *shared)] == [7, 7, 17]


def test_charts_and_dimensions_keep_the_order_in_which_they_were_declared() -> None:
    charts = [replace(c, table="t") for c in (chart(ZOMBIES, READ), chart(READ, kind=Kind.GAUGE), chart(READ))]
    found = SystemAccount(charts, "t", COUNTERS).account(counted({"reads": 3}), NOW)
    assert [data.chart for data in found] == charts
    assert [column for column, _ in zip(found[0].chart.columns, numbers(found[0]), strict=True)] == [ZOMBIES, READ]
    assert [numbers(data) for data in found] == [[(0, 0), (3, 3)], [(0, 0)], [(3, 3)]]


def test_two_accounts_share_no_totals() -> None:
    one, other = account(chart(READ)), account(chart(READ))
    after(one, [{"reads": 4}])
    assert after(other, [{"reads": 1}]) == [[(1, 1)]]


def test_returned_charts_do_not_change_later() -> None:
    system = account(chart(READ))
    (first,) = system.account(counted({"reads": 4}), NOW)
    system.account(counted({"reads": 1}), NOW)
    assert numbers(first) == [(4, 4)]


def test_a_gauge_is_plus_less_minus_since_the_load_and_has_no_total() -> None:
    system = account(chart(ZOMBIES, kind=Kind.GAUGE), chart(READ))
    gauge, counter = system.account(
        counted({"exits": 1, "releases": 2, "reads": 5}, {"exits": 70, "releases": 60, "reads": 9}), NOW
    )
    assert (numbers(gauge), numbers(counter)) == ([(10, 0)], [(5, 5)])


def test_totals_start_with_the_first_interval() -> None:
    system = account(chart(READ))
    for n in range(3):
        (data,) = system.account(counted({"reads": n}), TimeInterval(1000.0 + n, 0.5))
        assert data.index.starts_s == (999.5,)


def test_the_index_is_the_same_object_in_every_interval_and_for_all_charts() -> None:
    system = account(chart(READ), chart(ZOMBIES))
    found = [data.index for n in (0, 0, 5, 7) for data in system.account(counted({"reads": n}), NOW)]
    assert len({id(index) for index in found}) == 1


def test_a_histogram_has_the_count_of_each_bucket_and_the_sum() -> None:
    buckets = Buckets(field="x", bounds=(1, 2), units="ms", sum="some_ns", sum_units="ns")
    histogram = Chart(id="x.y", title="", units="", family="f", priority=1, table="t", buckets=buckets)
    counters = ("x_0", "x_1", "x_2", "some_ns")
    system = SystemAccount([histogram], "t", counters)
    rows = np.zeros(0, [(name, "u8") for name in counters])
    for amounts in ((1, 2, 3, 4), (5, 0, 0, 7)):
        totals = dict(zip(counters, amounts, strict=True))
        (data,) = system.account(TableHarvest(rows, totals, dict.fromkeys(counters, 0), 0, 64), NOW)
    (series,) = data.series()
    assert (series.histogram.counts, series.histogram.sum) == ((5, 0, 0), 7)
    assert (series.total_histogram.counts, series.total_histogram.sum) == ((6, 2, 3), 11)


@given(st.lists(st.tuples(FIELDS, FIELDS), min_size=2), st.data())
def test_an_idle_interval_has_zeros_whatever_came_before(
    intervals: list[tuple[dict[str, int], dict[str, int]]], data: st.DataObject
) -> None:
    """An idle interval may reuse the charts of the one before, unless new sources have changed the gauges."""
    system, reads = account(chart(ZOMBIES, READ), chart(READ, kind=Kind.GAUGE)), 0
    for fields, since_load in intervals:
        seen = data.draw(st.sampled_from([fields, {}]))
        reads += seen.get("reads", 0)
        counters, gauges = system.account(counted(seen, since_load), NOW)
        assert numbers(counters)[1] == (seen.get("reads", 0), reads)
        assert numbers(gauges) == [(since_load.get("reads", 0), 0)]
