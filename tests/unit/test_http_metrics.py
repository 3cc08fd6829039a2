"""Charts as Prometheus metrics."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.metrics_core import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

import ebpfmon_process
from ebpfmon import ChartValues, Dimension, Kind, Scope, Snapshot, Value
from ebpfmon.daemon.self_metrics import SelfMonitor
from ebpfmon.pipeline.publish import SinkTask
from ebpfmon_network_viewer.charts import CHARTS as NETWORK
from ebpfmon_sinks.http_json.metrics import is_counter, name_of, render
from ebpfmon_sinks.http_json.settings import HttpJsonSettings
from tests.unit.http_support import APP, SNAPSHOT, chart, valued

SHIPPED = [*ebpfmon_process.CHARTS, *NETWORK, *SelfMonitor(["process"], [SinkTask(HttpJsonSettings())]).charts()]


def full() -> Snapshot:
    """All charts that there are, each dimension with a value of its own."""
    return replace(
        SNAPSHOT,
        charts=tuple(
            ChartValues(c, tuple(Value(d, n, 10 * n) for n, d in enumerate(c.dimensions, 1))) for c in SHIPPED
        ),
    )


def parsed(text: str, as_openmetrics: bool) -> list[Metric]:
    """As somebody else's parser reads it."""
    return list(parse_openmetrics(text) if as_openmetrics else parse_text(text))  # type: ignore[no-untyped-call]


def samples(snapshot: Snapshot | None, *, as_openmetrics: bool = False) -> dict[str, dict[str, float]]:
    """Values by metric and label."""
    text = render(snapshot, 1, 2, as_openmetrics=as_openmetrics).decode()
    found: dict[str, dict[str, float]] = {}
    for family in parsed(text, as_openmetrics):
        for sample in family.samples:
            (label,) = sample.labels.values() or [""]
            assert label not in found.setdefault(sample.name, {}), "a series twice"
            found[sample.name][label] = sample.value
    return found


@pytest.mark.parametrize("as_openmetrics", [False, True])
def test_counters_are_totals_in_base_units_and_levels_are_gauges(as_openmetrics: bool) -> None:
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


def test_no_remote_address_and_no_process_is_a_label() -> None:
    text = render(SNAPSHOT, 0, 0, as_openmetrics=False).decode()
    assert "192.0.2.1" not in text
    assert "outbound" not in text
    assert "nginx" not in text


def test_before_the_first_snapshot_there_is_the_process_itself() -> None:
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
def test_a_name_follows_from_id_and_units(id_: str, units: str, name: str) -> None:
    assert name_of(chart(id_, units, Scope.SYSTEM, APP))[0] == name


def test_every_chart_that_is_shipped_has_a_name_of_its_own_and_is_there() -> None:
    named = [c for c in SHIPPED if c.scope is not Scope.KEYS]
    names = [name_of(c)[0] for c in named]
    assert len(set(names)) == len(names)
    found = samples(full())
    for of, name in zip(named, names, strict=True):
        assert len(found[f"{name}_total" if is_counter(of) else name]) == len(of.dimensions), of.id


def test_promtool_has_nothing_to_say() -> None:
    promtool = shutil.which("promtool")
    if not promtool:
        pytest.skip("promtool is not installed (Debian's prometheus)")
    text = render(full(), 1, 2, as_openmetrics=False)  # it reads plain text alone
    done = subprocess.run([promtool, "check", "metrics"], input=text, capture_output=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


def test_two_series_of_one_name_are_one() -> None:
    of = chart("ebpf.io", "calls/s", Scope.SYSTEM, APP)
    twice = replace(SNAPSHOT, charts=(valued(of, ("x", 1, 5), ("x", 1, 6)), valued(of, ("x", 1, 7))))
    assert samples(twice)["ebpfmon_io_calls_total"] == {"x": 18}


def test_two_types_of_one_name_are_the_first() -> None:
    counter, level = (chart("ebpf.io", "calls/s", Scope.SYSTEM, APP, kind=k) for k in Kind)
    found = samples(replace(SNAPSHOT, charts=(valued(counter, ("x", 1, 5)), valued(level, ("y", 3, 0)))))
    assert found["ebpfmon_io_calls_total"] == {"x": 5}
    assert "ebpfmon_io_calls" not in found


@given(
    st.lists(st.text(), min_size=1, unique=True),
    st.text(),
    st.text() | st.sampled_from(["%", "milliseconds/s", "MB"]),
    st.text(),
    st.booleans(),
)
def test_whatever_things_are_called_it_can_be_read(
    names: list[str], id_: str, units: str, title: str, as_openmetrics: bool
) -> None:
    made = replace(chart(id_, units, Scope.APPS, APP), title=title)
    values = tuple(Value(Dimension(n, n, ()), 1, 10**12 + n_) for n_, n in enumerate(names))
    text = render(replace(SNAPSHOT, charts=(ChartValues(made, values),)), 0, 0, as_openmetrics=as_openmetrics).decode()
    families = parsed(text, as_openmetrics)
    assert any(f.name.startswith("ebpfmon_snapshot_time") for f in families)
    (found,) = (f for f in families for s in f.samples[:1] if "app" in s.labels)
    _, times, by = name_of(made)
    assert sum(s.value for s in found.samples) == pytest.approx(sum(v.total for v in values) * times / by, rel=1e-12)


def test_totals_never_fall_when_an_application_gives_its_place_to_another() -> None:
    """Its series ends, and nobody else's total is smaller for it."""
    of = chart("apps.x", "calls/s", Scope.APPS, APP)
    before = samples(replace(SNAPSHOT, charts=(valued(of, ("a", 5, 50), ("b", 1, 10), ("other", 2, 20)),)))
    after = samples(replace(SNAPSHOT, charts=(valued(of, ("a", 5, 55), ("c", 9, 9), ("other", 0, 20)),)))
    old, new = before["ebpfmon_apps_x_calls_total"], after["ebpfmon_apps_x_calls_total"]
    assert new.keys() == {"a", "c", "other"}
    assert all(new[name] >= old[name] for name in old.keys() & new.keys())
