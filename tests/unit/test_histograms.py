"""Histograms: the slots in C, the buckets in Python, and the output of sinks."""

from __future__ import annotations

import ctypes
import json
import math
import re
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from ebpfmon import Buckets, Chart, ChartData, Dimension, Kind, to_json
from ebpfmon_sinks.http_json import views
from ebpfmon_sinks.http_json.metrics import choose_encoder, render
from ebpfmon_sinks.http_json.openapi import document
from ebpfmon_sinks.log.settings import LogSettings, message
from ebpfmon_sinks.plugins_d.stream import Stream
from ebpfmon_sinks.statsd.lines import Names, to_datagrams
from ebpfmon_sinks.statsd.settings import StatsdSettings
from tests.unit.netdata import Netdata
from tests.unit.support import chart, data, snapshot
from tests.unit.test_http_metrics import OPENMETRICS, parsed

HEADER = (Path(__file__).parents[2] / "bpf" / "ebpfmon.bpf.h").read_text()
TIMES = Buckets.log2("latency", 4, 0.5, "microseconds", sum="call_ns", sum_units="nanoseconds")
PLAIN = Buckets(field="size", bounds=(512, 4096), units="bytes")


def whole(*amounts: int, of: Buckets = TIMES) -> ChartData:
    shown = Chart(id="x.times", title="Times", units="calls/s", family="F", priority=1, buckets=of)
    return _with_totals(data(shown, *amounts))


def by_disk(other: tuple[int, ...] | None = None, **amounts: tuple[int, ...]) -> ChartData:
    shown = Chart(
        id="x.of_disks", title="Times", units="calls/s", family="F", priority=1, labels=("disk",), buckets=TIMES
    )
    return _with_totals(data(shown, series={(disk,): of for disk, of in amounts.items()}, other=other))


def _with_totals(of: ChartData) -> ChartData:
    """Return the chart with totals that are ten times its deltas."""
    return replace(of, totals=10 * of.deltas.astype(np.int64))


def metrics(*charts: ChartData, as_openmetrics: bool = False) -> str:
    encode, _ = choose_encoder(OPENMETRICS if as_openmetrics else "")
    return render(snapshot(charts=charts), 0, 0, encode).decode()


@pytest.fixture(scope="module")
def log2_slot(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int, int, int], int]:
    """Return log2_slot() of the BPF headers, compiled for this machine."""
    function = HEADER[HEADER.index("static __always_inline __u32 log2_slot") :]
    function = function[: function.index("\n}\n") + 3].replace("static __always_inline ", "")
    where = tmp_path_factory.mktemp("headers")
    text = f"typedef unsigned int __u32;\ntypedef unsigned long long __u64;\n{function}"
    (where / "slot.c").write_text(text)
    subprocess.run(["clang", "-shared", "-fPIC", "-o", where / "slot.so", where / "slot.c"], check=True)
    found = ctypes.CDLL(str(where / "slot.so")).log2_slot
    found.argtypes, found.restype = (ctypes.c_uint64, ctypes.c_uint64, ctypes.c_uint32), ctypes.c_uint32
    return lambda value, unit, slots: int(found(value, unit, slots))


@given(st.integers(0, (1 << 64) - 1) | st.integers(0, 5000), st.integers(1, 10**6), st.integers(2, 64))
def test_a_value_is_counted_in_the_slot_that_contains_it(
    log2_slot: Callable[[int, int, int], int], value: int, unit: int, slots: int
) -> None:
    slot = log2_slot(value, unit, slots)
    bounds = [-1, *(unit * 2**n for n in range(slots - 1)), math.inf]
    assert bounds[slot] < value <= bounds[slot + 1]


def test_the_bounds_in_python_are_those_of_the_slots_in_c(log2_slot: Callable[[int, int, int], int]) -> None:
    assert TIMES.bounds == (0.5, 1, 2)
    for n, bound in enumerate(TIMES.bounds):
        assert log2_slot(round(bound * 1000), 500, 4) == n
        assert log2_slot(round(bound * 1000) + 1, 500, 4) == n + 1


def test_http_publishes_the_bounds_and_its_openapi_document_describes_them() -> None:
    given_ = snapshot(charts=[whole(1, 2, 3, 4, 5), whole(1, 2, 3, of=PLAIN)])
    declared = json.loads(views.charts(given_))
    openapi = document()
    schema = {**openapi["components"]["schemas"]["ChartsJson"], "components": openapi["components"]}
    Draft202012Validator(schema).validate(declared)
    assert [c["bounds"] for c in declared["charts"]] == [c.bounds for c in to_json(given_).charts]
    declared["charts"][0]["bounds"] = {"units": "x"}
    assert not Draft202012Validator(schema).is_valid(declared)


@pytest.mark.parametrize("as_openmetrics", [False, True])
def test_prometheus_gets_a_histogram_in_base_units(as_openmetrics: bool) -> None:
    charts = whole(1, 2, 3, 4, 5000), by_disk(sda=(1, 0, 0, 1, 7), sdb=(0, 0, 2, 0, 9))
    text = metrics(*charts, as_openmetrics=as_openmetrics)
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


def test_two_charts_with_the_same_metric_name_are_summed_for_prometheus() -> None:
    text = metrics(whole(1, 2, 3, 4, 5), whole(9, 9, 9, 9, 9), as_openmetrics=True)
    assert text.count("ebpfmon_x_times_seconds_count") == 1
    assert re.search(r"^ebpfmon_x_times_seconds_count 460(\.0)?$", text, re.M)


def test_prometheus_gets_counters_and_gauges_by_label() -> None:
    columns = Dimension("read", "read", ("r",)), Dimension.value("w")
    charts = [
        _with_totals(
            data(
                chart(column, id=f"ebpf.{kind}", units="requests", labels=("disk",), kind=kind), series={("sda",): (3,)}
            )
        )
        for column, kind in zip(columns, (Kind.COUNTER, Kind.GAUGE), strict=True)
    ]
    text = metrics(*map(_with_totals, charts))
    assert 'ebpfmon_counter_requests_total{dimension="read",disk="sda"} 30.0' in text
    assert 'ebpfmon_gauge_requests{disk="sda"} 3.0' in text


def test_netdata_gets_a_heatmap_per_series() -> None:
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
    (datagram,) = to_datagrams(snapshot(charts=[whole(1, 0, 3, 4, 5000), by_disk(sda=(1, 0, 0, 0, 7))]),
                       Names("none"), settings)  # fmt: skip
    lines = set(datagram.decode().split("\n"))
    assert {"ebpfmon.x.times.0_5:1|c", "ebpfmon.x.times._inf:4|c", "ebpfmon.x.times.sum:5000|c"} <= lines
    assert not [line for line in lines if re.match(r"ebpfmon\.x\.times\.1:", line)]
    charts, settings = [by_disk(sda=(1, 0, 0, 0, 7))], StatsdSettings(tags="influx")
    (datagram,) = to_datagrams(snapshot(charts=charts), Names("influx"), settings)
    assert "ebpfmon.x.of_disks,disk=sda,dimension=0.5:1|c" in datagram.decode().split("\n")


def test_the_log_has_a_line_with_quantiles_per_series() -> None:
    given_ = snapshot(charts=[whole(90, 9, 0, 1, 5), by_disk(sda=(0, 0, 0, 3, 7), sdb=(4, 0, 0, 0, 9), sdc=(0,) * 5)])
    lines = [" ".join(line.split()) for line in message(given_, LogSettings(destinations=2)).split("\n")]
    assert "F Times p50 <= 0.5 p90 <= 0.5 p99 <= 1 microseconds of 200 calls/s" in lines
    assert "F Times: sdb p50 <= 0.5 p90 <= 0.5 p99 <= 0.5 microseconds of 8 calls/s" in lines
    assert "F Times: sda p50 > 2 p90 > 2 p99 > 2 microseconds of 6 calls/s" in lines
    assert not any("sdc" in line for line in lines)
