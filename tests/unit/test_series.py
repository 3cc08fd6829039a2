"""Charts, series and histograms."""

from __future__ import annotations

import math
from typing import Any

import pytest

from ebpfmon import Buckets, Chart, ChartData, Dimension, Kind, Role, SeriesIndex
from ebpfmon.model import KINDS
from tests.unit.support import chart, data, snapshot

TIMES = Buckets.log2("latency", 4, 0.5, "microseconds", sum="call_ns", sum_units="nanoseconds")
PLAIN = Buckets(field="size", bounds=(512, 4096), units="bytes")
IN, OUT = Dimension("in", "received", ("r",)), Dimension("out", "sent", ("s",), negative=True)


def histogram(buckets: Buckets, *labels: str) -> Chart:
    return Chart(id="x.times", title="", units="calls/s", family="F", priority=1, labels=labels, buckets=buckets)


def test_a_chart_without_labels_has_one_series_without_label_values() -> None:
    (series,) = data(chart(IN, OUT), 3, 5).series()
    assert (series.labels, series.names, series.label_map, series.role) == ((), (), {}, Role.ITEM)
    assert (series.deltas, series.totals) == ((3, 5), (1000, 1000))
    assert all(type(number) is int for number in (*series.deltas, *series.totals)), "numbers must be plain ints"


def test_series_have_label_values_and_display_names() -> None:
    ports = data(
        chart(IN, OUT, labels=("port", "protocol")),
        series={("443", "TCP"): (1, 2), ("53", "UDP"): (3, 4)},
        names={("443", "TCP"): ("https", "TCP")},
        other=(5, 6),
        overflow=(7, 8),
    )
    https, dns, other, overflow = ports.series()
    assert https.label_map == {"port": "443", "protocol": "TCP"}
    assert (https.names, dns.names) == (("https", "TCP"), ("53", "UDP"))
    assert [s.role for s in (https, dns, other, overflow)] == [Role.ITEM, Role.ITEM, Role.OTHER, Role.OVERFLOW]
    assert other.labels == ("other", "other")
    assert len(ports) == 4
    assert ports.sums() == {"in": 16, "out": 20}


def test_a_program_may_be_named_other() -> None:
    programs = data(chart(IN, labels=("program",)), series={("other",): (1,)}, other=(2,))
    assert programs.index.keys == [(Role.ITEM, ("other",)), (Role.OTHER, ("other",))]


def test_a_gauge_may_be_a_fraction_and_has_no_total() -> None:
    (series,) = data(chart(IN, kind=Kind.GAUGE), 2.25).series()
    assert (series.deltas, series.totals) == ((2.25,), (0,))


def test_indexes_with_the_same_series_are_equal() -> None:
    one, another = (data(chart(IN, labels=("a",)), series={("x",): (n,)}).index for n in (1, 2))
    assert one == another
    assert one is not another
    assert one != SeriesIndex(labels=one.labels, names=one.names, roles=one.roles, starts_s=(1.0,))


def test_a_histogram_has_a_column_for_each_bucket_and_one_for_the_sum() -> None:
    assert [(c.id, c.name, c.plus) for c in histogram(TIMES).columns] == [
        ("le_0.5", "0.5", ("latency_0",)), ("le_1", "1", ("latency_1",)), ("le_2", "2", ("latency_2",)),
        ("le_Inf", "+Inf", ("latency_3",)), ("sum", "sum", ("call_ns",)),
    ]  # fmt: skip
    assert [c.id for c in histogram(PLAIN).columns] == ["le_512", "le_4096", "le_Inf"]


def test_a_histogram_of_a_series_has_counts_a_sum_and_quantiles_that_are_bounds() -> None:
    (series,) = data(histogram(TIMES), 90, 9, 0, 1, 777).series()
    now = series.histogram
    assert (now.counts, now.count, now.sum) == ((90, 9, 0, 1), 100, 777)
    assert [now.quantile(part) for part in (0, 0.5, 0.9, 0.91, 0.99, 1)] == [0.5, 0.5, 0.5, 1, 1, math.inf]
    assert (series.total_histogram.counts, series.total_histogram.sum) == ((1000,) * 4, 1000)
    first, other = data(histogram(TIMES, "disk"), series={("sda",): (1, 2, 3, 4, 5)}, other=(0,) * 5).series()
    assert first.histogram.counts == (1, 2, 3, 4)
    assert other.histogram.count == 0
    assert math.isnan(other.histogram.quantile(0.5))
    (plain,) = data(histogram(PLAIN), 1, 2, 3).series()
    assert (plain.histogram.counts, plain.histogram.sum) == ((1, 2, 3), None)


def test_only_charts_with_buckets_have_histograms() -> None:
    (series,) = data(chart(IN), 1).series()
    with pytest.raises(AssertionError, match=r"chart 'x\.io' has no buckets"):
        _ = series.histogram


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({}, "dimensions: expected at least one Dimension"),
        ({"kind": Kind.GAUGE}, "dimensions: expected at least one Dimension"),
        ({"buckets": TIMES, "dimensions": (IN,)}, "a histogram has no dimensions: remove dimensions"),
        (
            {"buckets": TIMES, "dimensions": TIMES.columns},
            "a histogram has no dimensions: remove dimensions",
        ),
        ({"buckets": TIMES, "kind": Kind.GAUGE}, "a gauge has no buckets: remove kind or buckets"),
        ({"buckets": TIMES, "kind": Kind.COUNTER}, "a counter has no buckets: remove kind or buckets"),
        ({"kind": Kind.HISTOGRAM}, "a histogram needs buckets"),
        (
            {"kind": Kind.HISTOGRAM, "dimensions": (IN,)},
            "a histogram has no dimensions: remove dimensions",
        ),
    ],
)
def test_contradictory_kind_dimensions_and_buckets_are_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match="chart 'x': ") as caught:
        Chart(id="x", title="", units="", family="", priority=1, **wrong)
    assert str(caught.value).startswith(f"chart 'x': {message}")


def test_the_default_kind_is_counter_or_histogram() -> None:
    assert chart(IN).kind is Kind.COUNTER
    assert histogram(TIMES).kind is Kind.HISTOGRAM


def test_kinds_are_found_by_name_and_gauges_are_not_cumulative() -> None:
    assert all(str(kind) == name for name, kind in KINDS.items())
    assert {"counter": Kind.COUNTER, "gauge": Kind.GAUGE, "histogram": Kind.HISTOGRAM}.items() <= KINDS.items()
    assert [kind.cumulative for kind in (Kind.COUNTER, Kind.GAUGE, Kind.HISTOGRAM)] == [True, False, True]


def test_a_grouped_chart_becomes_one_chart_per_grouping() -> None:
    reads = Chart(
        id="reads", title="t", units="", family="", priority=7, dimensions=(IN,), grouped=True, table="process"
    )
    one = reads.for_grouping("users", "user")
    assert (one.id, one.labels, one.grouped) == ("users.reads", ("user",), False)
    assert (one.title, one.priority, one.columns, one.table) == ("t", 7, reads.columns, "process")


def test_a_snapshot_finds_its_charts_by_id() -> None:
    expected = data(chart(IN, id="a.b"), 1)
    given = snapshot(charts=[data(chart(IN, id="a.a"), 1), expected])
    assert given.chart("a.b") is expected
    assert given.chart("a.c") is None
    assert isinstance(given.charts[0], ChartData)
