"""Histograms: the kit's slots, the buckets that stand for them, and what sinks make of them."""

from __future__ import annotations

import ctypes
import json
import math
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from ebpfmon import Buckets, Chart, ChartValues, Dimension, Kind, Scope, Value, histograms, to_json
from ebpfmon_sinks.http_json import views
from ebpfmon_sinks.http_json.metrics import render as metrics
from ebpfmon_sinks.http_json.openapi import document
from ebpfmon_sinks.log import LogSettings, render
from ebpfmon_sinks.plugins_d_stream import Stream
from ebpfmon_sinks.statsd import Names, StatsdSettings, form
from tests.unit.netdata import Netdata
from tests.unit.support import snapshot
from tests.unit.test_http_metrics import parsed
from tests.unit.test_model import SCHEMA

KIT = (Path(__file__).parents[2] / "bpf" / "ebpfmon.bpf.h").read_text()
TIMES = Buckets.log2("latency", 4, 0.5, "microseconds", sum="call_ns", sum_units="nanoseconds")
PLAIN = Buckets(field="size", bounds=(512, 4096), units="bytes")


def chart(buckets: Buckets, scope: Scope = Scope.SYSTEM, key: str = "") -> Chart:
    id_ = "x.times" if scope is Scope.SYSTEM else "x.of_disks"
    return Chart(
        id=id_, title="Times", units="calls/s", family="F", priority=1, scope=scope, key=key, buckets=buckets,
        dimensions=buckets.dimensions,
    )  # fmt: skip


def whole(*amounts: int, of: Chart | None = None) -> ChartValues:
    of = of or chart(TIMES)
    return ChartValues(of, tuple(Value(d, a, 10 * a) for d, a in zip(of.dimensions, amounts, strict=True)))


def by_disk(key: str = "disk", **amounts: tuple[int, ...]) -> ChartValues:
    of = chart(TIMES, Scope.KEYS, key)
    return ChartValues(
        of,
        tuple(
            Value(Dimension(f"{disk}_{d.id}", f"{disk}_{d.name}", d.plus), a, 10 * a)
            for disk, of_disk in amounts.items()
            for d, a in zip(of.dimensions, of_disk, strict=True)
        ),
    )


@pytest.fixture(scope="module")
def log2_slot(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int, int, int], int]:
    """The kit's, compiled for this machine."""
    function = KIT[KIT.index("static __always_inline __u32 log2_slot") :]
    function = function[: function.index("\n}\n") + 3].replace("static __always_inline ", "")
    where = tmp_path_factory.mktemp("kit")
    text = f"typedef unsigned int __u32;\ntypedef unsigned long long __u64;\n{function}"
    (where / "kit.c").write_text(text)
    subprocess.run(["clang", "-shared", "-fPIC", "-o", where / "kit.so", where / "kit.c"], check=True)
    found = ctypes.CDLL(str(where / "kit.so")).log2_slot
    found.argtypes, found.restype = (ctypes.c_uint64, ctypes.c_uint64, ctypes.c_uint32), ctypes.c_uint32
    return lambda value, unit, slots: int(found(value, unit, slots))


@given(st.integers(0, (1 << 64) - 1) | st.integers(0, 5000), st.integers(1, 10**6), st.integers(2, 64))
def test_a_value_is_in_the_slot_whose_bounds_are_around_it(
    log2_slot: Callable[[int, int, int], int], value: int, unit: int, slots: int
) -> None:
    slot = log2_slot(value, unit, slots)
    bounds = [-1, *(unit * 2**n for n in range(slots - 1)), math.inf]
    assert bounds[slot] < value <= bounds[slot + 1]


def test_the_bounds_in_python_are_those_of_the_kits_slots(log2_slot: Callable[[int, int, int], int]) -> None:
    assert TIMES.bounds == (0.5, 1, 2)
    for n, bound in enumerate(TIMES.bounds):
        assert log2_slot(round(bound * 1000), 500, 4) == n
        assert log2_slot(round(bound * 1000) + 1, 500, 4) == n + 1


def test_a_histogram_has_a_dimension_for_each_bucket_and_one_for_the_sum() -> None:
    assert [(d.id, d.name, d.plus) for d in TIMES.dimensions] == [
        ("le_0.5", "0.5", ("latency_0",)), ("le_1", "1", ("latency_1",)), ("le_2", "2", ("latency_2",)),
        ("le_Inf", "+Inf", ("latency_3",)), ("sum", "sum", ("call_ns",)),
    ]  # fmt: skip
    assert [d.id for d in PLAIN.dimensions] == ["le_512", "le_4096", "le_Inf"]


def test_dimensions_that_are_not_those_of_the_buckets_are_refused() -> None:
    for wrong in ({"dimensions": TIMES.dimensions[1:]}, {"dimensions": TIMES.dimensions, "kind": Kind.LEVEL}):
        with pytest.raises(ValueError, match=r"chart 'x': a histogram counts, and has the dimensions of its buckets"):
            Chart(id="x", title="", units="", family="", priority=1, buckets=TIMES, **wrong)


def test_it_is_told_apart_by_key_and_its_quantiles_are_bounds() -> None:
    assert list(histograms(whole(1, of=Chart(
        id="y", title="", units="", family="", priority=1, dimensions=(Dimension("a", "a", ()),))))) == []  # fmt: skip
    (one,) = histograms(whole(90, 9, 0, 1, 777))
    assert (one.id, one.name, one.count) == ("", "", 100)
    assert [one.quantile(part) for part in (0, 0.5, 0.9, 0.91, 0.99, 1)] == [0.5, 0.5, 0.5, 1, 1, math.inf]
    assert one.sum
    assert one.sum.delta == 777
    first, second = histograms(by_disk(sda=(1, 2, 3, 4, 5), other=(0, 0, 0, 0, 0)))
    assert (first.id, first.name, [v.delta for v in first.counts]) == ("sda", "sda", [1, 2, 3, 4])
    assert (second.name, second.count) == ("other", 0)
    assert math.isnan(second.quantile(0.5))


def test_json_has_the_bounds() -> None:
    written = to_json(snapshot(charts=[whole(1, 2, 3, 4, 5), whole(1, 2, 3, of=chart(PLAIN))]))
    Draft202012Validator(SCHEMA).validate(written)
    times, sizes = written["charts"]
    assert times["buckets"] == {"units": "microseconds", "bounds": [0.5, 1, 2], "sum_units": "nanoseconds"}
    assert sizes["buckets"] == {"units": "bytes", "bounds": [512, 4096]}
    assert [d["delta"] for d in times["dimensions"]] == [1, 2, 3, 4, 5]
    wrong = {**written, "charts": [{**times, "buckets": {"units": "x"}}]}
    assert not Draft202012Validator(SCHEMA).is_valid(wrong)


def test_http_declares_the_bounds_and_says_so_in_its_openapi_document() -> None:
    given_ = snapshot(charts=[whole(1, 2, 3, 4, 5), whole(1, 2, 3, of=chart(PLAIN))])
    declared = json.loads(views.charts(given_))
    openapi = document()
    said = {**openapi["components"]["schemas"]["Charts"], "components": openapi["components"]}
    Draft202012Validator(said).validate(declared)
    assert [c["buckets"] for c in declared["charts"]] == [c["buckets"] for c in to_json(given_)["charts"]]
    declared["charts"][0]["buckets"] = {"units": "x"}
    assert not Draft202012Validator(said).is_valid(declared)


@pytest.mark.parametrize("as_openmetrics", [False, True])
def test_prometheus_gets_a_histogram_in_base_units(as_openmetrics: bool) -> None:
    given_ = snapshot(charts=[whole(1, 2, 3, 4, 5000), by_disk(sda=(1, 0, 0, 1, 7), sdb=(0, 0, 2, 0, 9))])
    text = metrics(given_, 0, 0, as_openmetrics=as_openmetrics).decode()
    families = [f for f in parsed(text, as_openmetrics) if f.name.startswith("ebpfmon_x_")]
    assert [(f.name, f.type) for f in families] == [
        ("ebpfmon_x_times_seconds", "histogram"), ("ebpfmon_x_of_disks_seconds", "histogram"),
    ]  # fmt: skip
    found = {
        (s.name.partition("_seconds")[2], s.labels.get("disk"), s.labels.get("le")): s.value
        for f in families for s in f.samples
    }  # fmt: skip
    assert found["_bucket", None, "5e-07"] == 10
    assert [found["_bucket", None, le] for le in ("1e-06", "2e-06", "+Inf")] == [30, 60, 100]
    assert found["_count", None, None] == 100
    assert found["_sum", None, None] == pytest.approx(50_000 / 1e9)
    assert [found["_bucket", "sda", le] for le in ("5e-07", "+Inf")] == [10, 20]
    assert found["_count", "sdb", None] == 20
    assert found["_sum", "sdb", None] == pytest.approx(90 / 1e9)


def test_prometheus_gets_no_key_that_has_no_name() -> None:
    text = metrics(snapshot(charts=[by_disk("", sda=(1, 0, 0, 1, 7))]), 0, 0, as_openmetrics=False).decode()
    assert "sda" not in text


def test_of_two_charts_of_one_name_prometheus_gets_the_first() -> None:
    text = metrics(snapshot(charts=[whole(1, 2, 3, 4, 5), whole(9, 9, 9, 9, 9)]), 0, 0, as_openmetrics=True).decode()
    assert text.count("ebpfmon_x_times_seconds_count") == 1
    assert "ebpfmon_x_times_seconds_count 100.0" in text or "ebpfmon_x_times_seconds_count 100" in text


def test_prometheus_gets_counters_and_levels_by_key() -> None:
    templates = (Dimension("read", "read", ("r",)), Dimension("", "", ("w",)))
    charts = [
        ChartValues(
            Chart(id=f"ebpf.{kind}", title="", units="requests", family="", priority=1, scope=Scope.KEYS, kind=kind,
                  key="disk", dimensions=templates[n:n + 1]),
            (Value(Dimension(f"sda{'' if n else '_read'}", f"sda{'' if n else '_read'}", ()), 3, 30),),
        )
        for n, kind in enumerate((Kind.COUNTER, Kind.LEVEL))
    ]  # fmt: skip
    text = metrics(snapshot(charts=charts), 0, 0, as_openmetrics=False).decode()
    assert 'ebpfmon_counter_requests_total{dimension="read",disk="sda"} 30.0' in text
    assert 'ebpfmon_level_requests{disk="sda"} 3.0' in text


def test_netdata_gets_a_heatmap_for_the_whole_and_for_each_key() -> None:
    stream, netdata = Stream(1), Netdata()
    for n in range(3):
        given_ = snapshot(charts=[whole(n, 2, 3, 4, 5000), by_disk(sda=(n, 0, 0, 1, 7), sdb=(0, 0, 2, 0, 9))])
        stream.add(given_)
        netdata.read(stream.update(1))
    assert set(netdata.charts) == {"x.times", "x.of_disks_sda", "x.of_disks_sdb"}
    for id_, context in {"x.times": "x.times", "x.of_disks_sda": "x.of_disks", "x.of_disks_sdb": "x.of_disks"}.items():
        assert netdata.charts[id_].declared[3:5] == [context, "heatmap"]
        assert [d.name for d in netdata.charts[id_].dims.values()] == ["0.5", "1", "2", "+Inf"]
    assert netdata.charts["x.of_disks_sdb"].shows("le_2") == [2, 2]


def test_statsd_gets_counters() -> None:
    settings = StatsdSettings()
    (datagram,) = form(snapshot(charts=[whole(1, 0, 3, 4, 5000), by_disk(sda=(1, 0, 0, 0, 7))]),
                       Names("none"), settings)  # fmt: skip
    lines = set(datagram.decode().split("\n"))
    assert {"ebpfmon.x.times.0_5:1|c", "ebpfmon.x.times._inf:4|c", "ebpfmon.x.times.sum:5000|c"} <= lines
    assert not [line for line in lines if re.match(r"ebpfmon\.x\.times\.1:", line)]
    (datagram,) = form(snapshot(charts=[by_disk(sda=(1, 0, 0, 0, 7))]), Names("influx"), StatsdSettings(tags="influx"))
    assert "ebpfmon.x.of_disks,disk=sda,dimension=0.5:1|c" in datagram.decode().split("\n")


def test_the_log_has_a_line_for_each_that_says_how_long_half_and_nearly_all_took() -> None:
    given_ = snapshot(charts=[whole(90, 9, 0, 1, 5), by_disk(sda=(0, 0, 0, 3, 7), sdb=(4, 0, 0, 0, 9), sdc=(0,) * 5)])
    lines = [" ".join(line.split()) for line in render(given_, LogSettings(destinations=2))]
    assert "F Times p50 <= 0.5 p90 <= 0.5 p99 <= 1 microseconds of 200 calls/s" in lines
    assert "F Times: sdb p50 <= 0.5 p90 <= 0.5 p99 <= 0.5 microseconds of 8 calls/s" in lines
    assert "F Times: sda p50 > 2 p90 > 2 p99 > 2 microseconds of 6 calls/s" in lines
    assert not any("sdc" in line for line in lines)
