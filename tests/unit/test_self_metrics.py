"""The costs and losses of ebpfmon itself."""

from __future__ import annotations

import errno
import gc
import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from ebpfmon import Kind, TableHarvest
from ebpfmon.model import Harvest
from ebpfmon.pipeline.publish import SinkTask
from ebpfmon.pipeline.schedule import TimeInterval
from ebpfmon.pipeline.self_metrics import SelfMetrics
from ebpfmon.testing import RecordingSettings
from tests.unit.support import table

NOW = TimeInterval(1000.0, 1.0)
Numbers = dict[str, dict[str, dict[str, int | float]]]


def harvest(tables: dict[str, TableHarvest] | None = None) -> Harvest:
    return Harvest(time_s=0, elapsed_s=1, tables=tables or {}, swap_ns=7_200_400, drain_ns=500_000, missed_runs=3)


def numbers(
    metrics: SelfMetrics,
    given: Harvest,
    late_ticks: int = 0,
    attribution: dict[str, int] | None = None,
    what: str = "deltas",
) -> Numbers:
    """Return chart (without `ebpfmon.`) -> label -> dimension -> number."""
    return {
        data.chart.id.removeprefix("ebpfmon."): {
            ".".join(series.labels): dict(zip((c.id for c in data.chart.columns), getattr(series, what), strict=True))
            for series in data.series()
        }
        for data in metrics.charts(given, late_ticks, attribution or {}, NOW)
    }


@pytest.fixture
def sink() -> SinkTask:
    return SinkTask(RecordingSettings(name="s", into=[]))


def test_every_chart_has_one_series_or_one_per_table_or_sink(sink: SinkTask) -> None:
    charts = SelfMetrics(["a", "b"], [sink]).charts(harvest({"a": table([])}), 0, {}, NOW)
    assert {data.chart.family for data in charts} == {"ebpfmon"}
    assert len({data.chart.id for data in charts}) == len({data.chart.priority for data in charts}) == len(charts)
    series = {(): ((),), ("table",): (("a",), ("b",)), ("sink",): (("s",),)}
    for data in charts:
        assert data.index.labels == data.index.names == series[data.chart.labels], data.chart.id
        assert set(data.index.roles) == {"item"}
        assert set(data.index.starts_s) == {999.0}
        assert data.deltas.shape == data.totals.shape == (len(data.index), len(data.chart.columns))
    assert {data.chart.labels for data in charts} == series.keys()


def test_without_tables_and_sinks_their_charts_have_no_series() -> None:
    charts = SelfMetrics([], []).charts(harvest(), 0, {}, NOW)
    assert {len(data) for data in charts} == {0, 1}
    assert all(data.deltas.shape == data.totals.shape == (len(data), len(data.chart.columns)) for data in charts)


def test_harvest_times_rows_occupancy_and_overflow_come_from_the_harvest() -> None:
    rows = [(n, b"x", 1, 1) for n in range(16)]
    found = numbers(SelfMetrics(["a"], []), harvest({"a": table(rows, overflow_calls=5, capacity=64)}), 2)
    assert found["harvest_time"] == {"": {"swap": 7.2, "drain": 0.5}}
    assert found["lost"] == {"": {"late_ticks": 2, "missed_runs": 3}}
    assert found["rows"] == {"a": {"value": 16}}
    assert found["table_occupancy"] == {"a": {"value": 25.0}}
    assert found["overflow"] == {"a": {"value": 5}}
    status = Path("/proc/self/status").read_text()
    resident_kb = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS:"))
    assert found["memory"][""]["rss"] == pytest.approx(resident_kb * 1024 / 1e6, rel=0.05), "expected MB"


def test_the_numbers_of_attribution_are_published() -> None:
    own = {"looked_up": 5, "waiting": 2, "forgotten": 7}
    assert numbers(SelfMetrics([], []), harvest(), attribution=own)["attribution"] == {"": own}
    assert numbers(SelfMetrics([], []), harvest())["attribution"] == {"": dict.fromkeys(own, 0)}


def test_counts_of_a_sink_are_per_interval_and_its_queue_is_a_gauge(sink: SinkTask) -> None:
    metrics, statistics = SelfMetrics([], [sink]), sink.statistics
    statistics.sent, statistics.dropped, statistics.errors, statistics.queue_length = 5, 2, 1, 4
    names = ("sinks_sent", "sinks_dropped", "sinks_errors", "sinks_queue")
    first = numbers(metrics, harvest())
    statistics.sent, statistics.queue_length = 8, 1
    second = numbers(metrics, harvest())
    totals = numbers(metrics, harvest(), what="totals")
    assert [first[name]["s"]["value"] for name in names] == [5, 2, 1, 4]
    assert [second[name]["s"]["value"] for name in names] == [3, 0, 0, 1]
    assert [totals[name]["s"]["value"] for name in names] == [8, 2, 1, 0]
    kinds = {data.chart.id: data.chart.kind for data in metrics.charts(harvest(), 0, {}, NOW)}
    assert (kinds["ebpfmon.sinks_sent"], kinds["ebpfmon.sinks_queue"]) == (Kind.COUNTER, Kind.GAUGE)


def test_indexes_are_the_same_objects_in_every_interval(sink: SinkTask) -> None:
    metrics = SelfMetrics(["a"], [sink])
    indexes = [data.index for _ in range(2) for data in metrics.charts(harvest(), 0, {}, NOW)]
    assert len({id(index) for index in indexes}) == 3


@pytest.mark.parametrize("used_s", [0.0004, 0.0006, 0.0123])
def test_cpu_time_adds_up_even_if_each_tick_takes_less_than_a_millisecond(
    monkeypatch: pytest.MonkeyPatch, used_s: float
) -> None:
    spent = [0.0]
    monkeypatch.setattr("resource.getrusage", lambda who: SimpleNamespace(ru_utime=spent[0], ru_stime=2 * spent[0]))
    metrics = SelfMetrics([], [])
    for _ in range(1000):
        spent[0] += used_s
        total = numbers(metrics, harvest(), what="totals")["cpu"][""]
    assert total == {"user": pytest.approx(1e6 * used_s, abs=1), "system": pytest.approx(2e6 * used_s, abs=1)}


def test_totals_continue_after_a_reload(sink: SinkTask) -> None:
    other = SinkTask(RecordingSettings(name="t", into=[]))
    sink.statistics.sent = other.statistics.sent = 5
    former = SelfMetrics(["a", "b"], [sink, other])
    numbers(former, harvest(), 2)
    sink.statistics.sent = 6
    replaced = SinkTask(RecordingSettings(name="t", into=[]))
    replaced.statistics.sent = 1
    metrics = SelfMetrics(["b", "c"], [replaced, sink])
    metrics.take_over(former)
    charts = {data.chart.id: data for data in metrics.charts(harvest(), 3, {}, TimeInterval(1010.0, 1.0))}
    sent = charts["ebpfmon.sinks_sent"]
    assert sent.index.labels == (("t",), ("s",))
    assert (sent.deltas.tolist(), sent.totals.tolist()) == ([[1], [1]], [[6], [6]])
    assert charts["ebpfmon.lost"].totals.tolist() == [[5, 6]]
    assert charts["ebpfmon.lost"].index.starts_s == (999.0,)
    assert charts["ebpfmon.overflow"].index.starts_s == (999.0, 1009.0)


def test_memory_is_left_out_while_it_cannot_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_descriptor(*_: object) -> int:
        raise OSError(errno.EMFILE, "too many open files")

    metrics = SelfMetrics([], [])
    with monkeypatch.context() as patched:
        patched.setattr(os, "open", no_descriptor)
        found = numbers(metrics, harvest())
        assert "memory" not in found
        assert "cpu" in found
    assert numbers(metrics, harvest())["memory"][""]["rss"] > 1


def test_no_tick_after_the_first_needs_a_descriptor_even_after_a_reload(monkeypatch: pytest.MonkeyPatch) -> None:
    metrics = SelfMetrics([], [])
    first = numbers(metrics, harvest())["memory"][""]["rss"]
    monkeypatch.delattr(os, "open")
    reloaded = SelfMetrics([], [])
    reloaded.take_over(metrics)
    for each in (metrics, reloaded):
        assert numbers(each, harvest())["memory"][""]["rss"] == pytest.approx(first, rel=0.2)


def test_the_file_with_the_memory_is_closed_with_its_reader() -> None:
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(20):
        numbers(SelfMetrics([], []), harvest())
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) < before + 20
