"""Charts as Prometheus metrics."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.metrics_core import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from ebpfmon import Chart, Dimension, Kind, Role, Snapshot
from ebpfmon.pipeline.publish import SinkTask
from ebpfmon.pipeline.self_metrics import SelfMetrics
from ebpfmon.plugins import registry
from ebpfmon.text import printable
from ebpfmon_sinks.http_json.metrics import choose_encoder, in_base_units, name_of, render, type_of
from ebpfmon_sinks.http_json.settings import HttpJsonSettings
from tests.unit.http_support import DISKS, LATENCY, SNAPSHOT, chart, data

OPENMETRICS = "application/openmetrics-text; version=1.0.0"
SHIPPED = [
    *(
        each.for_grouping("apps", "application") if each.grouped else each
        for probe in registry.discover().probes.values()
        for each in probe.charts
    ),
    *SelfMetrics(["process"], [SinkTask(HttpJsonSettings())]).declared,
]


def snapshot_of_built_in_charts() -> Snapshot:
    """Return a snapshot with every built-in chart, each with one series whose numbers all differ."""
    charts = []
    for of in SHIPPED:
        numbers = np.arange(1, len(of.columns) + 1)
        charts.append(data(of, (("x",) * len(of.labels), numbers, 10 * numbers)))
    return replace(SNAPSHOT, charts=tuple(charts))


def text_of(snapshot: Snapshot | None, *, as_openmetrics: bool = False) -> str:
    encode, _ = choose_encoder(OPENMETRICS if as_openmetrics else "")
    return render(snapshot, 1, 2, encode).decode()


def parsed(text: str, as_openmetrics: bool) -> list[Metric]:
    """Return the metrics as the parser of prometheus_client reads them."""
    return list(parse_openmetrics(text) if as_openmetrics else parse_text(text))  # type: ignore[no-untyped-call]


def samples(snapshot: Snapshot | None, *, as_openmetrics: bool = False) -> dict[str, dict[str, float]]:
    """Return values by metric and joined label values."""
    found: dict[str, dict[str, float]] = {}
    for family in parsed(text_of(snapshot, as_openmetrics=as_openmetrics), as_openmetrics):
        for sample in family.samples:
            labels = " ".join(sample.labels.values())
            assert labels not in found.setdefault(sample.name, {}), "a series is exported twice"
            found[sample.name][labels] = sample.value
    return found


@pytest.mark.parametrize("as_openmetrics", [False, True])
def test_counters_are_totals_in_base_units_and_gauges_are_gauges(as_openmetrics: bool) -> None:
    found = samples(SNAPSHOT, as_openmetrics=as_openmetrics)
    assert found["ebpfmon_io_calls_total"] == {"read": 1058, "write": 7}
    assert found["ebpfmon_apps_vfs_write_calls_total"] == {"web": 70, "other": 510}
    assert found["ebpfmon_cpu_seconds_total"] == {"user": 1.234}
    assert found["ebpfmon_harvest_time_seconds"] == {"swap": 0.012345}
    assert found["ebpfmon_difference"] == {"d": -17}
    assert found["ebpfmon_snapshot_time_seconds"] == {"": 1.7e9}
    assert found["ebpfmon_http_streams_cut_total"] == {"": 2}
    assert found["process_resident_memory_bytes"][""] > 1e6
    assert found["process_cpu_seconds_total"][""] > 0
    assert found["ebpfmon_build_info"].values()


def test_labels_are_those_of_the_chart_and_the_dimension_unless_it_is_the_only_one() -> None:
    text = text_of(SNAPSHOT)
    assert 'ebpfmon_apps_vfs_write_calls_total{application="web"} 70.0' in text
    assert 'ebpfmon_apps_vfs_write_calls_total{application="other"} 510.0' in text
    assert 'ebpfmon_io_calls_total{dimension="read"} 1058.0' in text
    dimensions = (Dimension("read", "read", ("r",)), Dimension("write", "write", ("w",)))
    kinds = (Kind.COUNTER, Kind.GAUGE)
    charts = [
        data(chart(f"ebpf.{kind}", "requests", *dimensions, labels=("disk",), kind=kind), (("sda",), (3, 4), (30, 40)))
        for kind in kinds
    ]
    text = text_of(replace(SNAPSHOT, charts=tuple(charts)))
    assert 'ebpfmon_counter_requests_total{dimension="read",disk="sda"} 30.0' in text
    assert 'ebpfmon_gauge_requests{dimension="write",disk="sda"} 4.0' in text


def test_unbounded_charts_and_processes_are_not_exported() -> None:
    text = text_of(SNAPSHOT)
    assert "192.0.2.1" not in text
    assert "outbound" not in text
    assert "nginx" not in text


@pytest.mark.parametrize("as_openmetrics", [False, True])
def test_a_histogram_has_cumulative_buckets_in_base_units(as_openmetrics: bool) -> None:
    families = parsed(text_of(SNAPSHOT, as_openmetrics=as_openmetrics), as_openmetrics)
    (family,) = (f for f in families if f.type == "histogram")
    assert family.name == "ebpfmon_disk_latency_seconds"
    found = {(s.name.partition("_seconds")[2], s.labels["disk"], s.labels.get("le")): s.value for s in family.samples}
    assert {le: found["_bucket", "sda", le] for le in ("0.000128", "0.000256", "+Inf")} == {
        "0.000128": 10, "0.000256": 15, "+Inf": 17,
    }  # fmt: skip
    assert found["_count", "sda", None] == 17
    assert found["_sum", "sda", None] == pytest.approx(0.007)
    assert found["_count", "other", None] == 0


def test_a_histogram_may_lack_a_sum_and_labels() -> None:
    of = chart("ebpf.size", "operations/s", buckets=replace(LATENCY, units="bytes", sum="", sum_units=""))
    found = samples(replace(SNAPSHOT, charts=(data(of, ((), (1, 1, 1), (1, 2, 3))),)))
    assert found["ebpfmon_size_bytes_bucket"] == {"128.0": 1, "256.0": 3, "+Inf": 6}
    assert "ebpfmon_size_bytes_sum" not in found


def test_before_the_first_snapshot_only_metrics_of_the_process_are_exported() -> None:
    found = samples(None)
    assert "ebpfmon_snapshot_time_seconds" not in found
    assert found["process_cpu_seconds_total"]


@pytest.mark.parametrize(
    ("id_", "units", "name"),
    [
        ("ebpf.io", "calls/s", "ebpfmon_io_calls"), ("ebpf.io_bytes", "bytes/s", "ebpfmon_io_bytes"),
        ("apps.vfs_write_call", "calls/s", "ebpfmon_apps_vfs_write_calls"),
        ("apps.bandwidth_sent", "bytes/s", "ebpfmon_apps_bandwidth_sent_bytes"),
        ("ip.inbound_conn", "connections/s", "ebpfmon_ip_inbound_conn_connections"),
        ("ebpfmon.rows", "rows", "ebpfmon_rows"), ("ebpfmon.memory", "MB", "ebpfmon_memory_bytes"),
        ("ebpfmon.table_occupancy", "%", "ebpfmon_table_occupancy_ratio"),
        ("ebpfmon.cpu", "milliseconds/s", "ebpfmon_cpu_seconds"), ("a-b.c d", "", "ebpfmon_a_b_c_d"),
        ("disk.ops", "I/O operations/s", "ebpfmon_disk_ops_I_O_operations"),
    ],
)  # fmt: skip
def test_a_metric_is_named_by_the_id_and_units_of_its_chart(id_: str, units: str, name: str) -> None:
    assert name_of(chart(id_, units)) == name


def test_every_built_in_chart_is_exported_under_a_unique_name() -> None:
    named = [c for c in SHIPPED if not c.unbounded]
    names = [name_of(c) for c in named]
    assert len(set(names)) == len(names)
    families = {family.name: family for family in parsed(text_of(snapshot_of_built_in_charts()), False)}
    for of, name in zip(named, names, strict=True):
        columns = len(of.buckets.bounds) + 1 if of.buckets else len(of.columns)
        found = [s for s in families[name].samples if s.name.removeprefix(name) not in ("_count", "_sum")]
        assert (families[name].type, len(found)) == (type_of(of), columns), of.id


def test_promtool_finds_no_problem_in_any_built_in_metric() -> None:
    promtool = shutil.which("promtool")
    if not promtool:
        pytest.skip("promtool is not installed (Debian's prometheus)")
    done = subprocess.run(
        [promtool, "check", "metrics"],
        input=text_of(snapshot_of_built_in_charts()).encode(),
        capture_output=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


def test_series_with_equal_names_and_labels_are_summed() -> None:
    of = chart("ebpf.io", "calls/s", labels=("a",))
    charts = (data(of, (("x",), (1,), (5,)), (("x",), (1,), (6,))), data(of, (("x",), (1,), (7,))))
    assert samples(replace(SNAPSHOT, charts=charts))["ebpfmon_io_calls_total"] == {"x": 18}
    twice = data(DISKS, (("sda",), (1, 0, 2, 5), (1, 0, 2, 5)), (("sda",), (1, 0, 2, 5), (1, 0, 2, 5)))
    assert samples(replace(SNAPSHOT, charts=(twice,)))["ebpfmon_disk_latency_seconds_count"] == {"sda": 6}


def test_only_the_first_of_two_types_with_the_same_name_is_exported() -> None:
    counter, gauge = (chart("ebpf.io", "calls/s", labels=("a",), kind=k) for k in (Kind.COUNTER, Kind.GAUGE))
    charts = (data(counter, (("x",), (1,), (5,))), data(gauge, (("y",), (3,), (0,))))
    found = samples(replace(SNAPSHOT, charts=charts))
    assert found["ebpfmon_io_calls_total"] == {"x": 5}
    assert "ebpfmon_io_calls" not in found


def test_only_the_first_of_two_histograms_with_the_same_name_but_other_bounds_is_exported() -> None:
    other: Chart = replace(DISKS, buckets=replace(LATENCY, bounds=(1, 2)))
    charts = (data(DISKS, (("sda",), (1, 0, 2, 5), (1, 0, 2, 5))), data(other, (("sdb",), (1, 0, 2, 5), (1, 0, 2, 5))))
    assert samples(replace(SNAPSHOT, charts=charts))["ebpfmon_disk_latency_seconds_count"] == {"sda": 3}


@given(
    st.lists(st.text(), min_size=1, unique=True),
    st.text(),
    st.text() | st.sampled_from(["%", "milliseconds/s", "MB"]),
    st.text(),
    st.booleans(),
)
def test_metrics_with_any_names_can_be_parsed(
    names: list[str], id_: str, units: str, title: str, as_openmetrics: bool
) -> None:
    made = replace(chart(id_, units, labels=("application",)), title=title)
    charts = (data(made, *(((name,), (1,), (10**12 + n,)) for n, name in enumerate(names))),)
    families = parsed(text_of(replace(SNAPSHOT, charts=charts), as_openmetrics=as_openmetrics), as_openmetrics)
    assert any(f.name.startswith("ebpfmon_snapshot_time") for f in families)
    (found,) = (f for f in families for s in f.samples[:1] if "application" in s.labels)
    shown = [s.labels["application"] for s in found.samples]
    assert len({*shown}) == len(names)
    assert all(label.startswith(printable(name)) for name, label in zip(names, shown, strict=True))
    total = sum(10**12 + n for n in range(len(names)))
    assert sum(s.value for s in found.samples) == pytest.approx(in_base_units(total, units), rel=1e-12)


def test_an_application_named_other_has_its_own_series() -> None:
    """If it were added to the series `other`, that total would decrease when the application is removed."""
    of = chart("apps.x", "calls/s", labels=("application",))
    rest = {"other": Role.OTHER, "overflow": Role.OVERFLOW}
    made = data(of, *(((name,), (1,), (n,)) for n, name in enumerate(["other", "overflow", "a", *rest], 1)))
    index = replace(made.index, roles=(*(Role.ITEM,) * 3, *rest.values()))
    found = samples(replace(SNAPSHOT, charts=(replace(made, index=index),)))["ebpfmon_apps_x_calls_total"]
    assert {n: found.pop(n) for n in ("a", *rest)} == {"a": 3, "other": 4, "overflow": 5}
    assert {label.partition("~")[0]: value for label, value in found.items()} == {"other": 1, "overflow": 2}


def test_names_that_become_equal_when_made_printable_keep_separate_series() -> None:
    of = chart("apps.x", "calls/s", labels=("application",))
    (first,) = samples(replace(SNAPSHOT, charts=(data(of, (("a\nb",), (1,), (1,))),)))["ebpfmon_apps_x_calls_total"]
    names = ["a\nb", "a\tb", "a?b", first]
    made = data(of, *(((name,), (1,), (n,)) for n, name in enumerate(names)))
    found = samples(replace(SNAPSHOT, charts=(made,)))["ebpfmon_apps_x_calls_total"]
    assert sorted(found.values()) == [0, 1, 2, 3]
    assert (found[first], found["a?b"]) == (0, 2)


def test_no_total_decreases_when_an_application_is_replaced_by_another() -> None:
    """The series of the replaced application ends, and no other total decreases."""
    of = chart("apps.x", "calls/s", labels=("application",))
    first = data(of, (("a",), (5,), (50,)), (("b",), (1,), (10,)), (("other",), (2,), (20,)))
    second = data(of, (("a",), (5,), (55,)), (("c",), (9,), (9,)), (("other",), (0,), (20,)))
    old, new = (samples(replace(SNAPSHOT, charts=(d,)))["ebpfmon_apps_x_calls_total"] for d in (first, second))
    assert new.keys() == {"a", "c", "other"}
    assert all(new[name] >= old[name] for name in old.keys() & new.keys())
