"""ebpfmon's own cost and losses."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from ebpfmon import Kind, TableHarvest
from ebpfmon.daemon.self_metrics import SelfMonitor
from ebpfmon.model.everything import Harvest
from ebpfmon.pipeline.accounting import Accounting
from ebpfmon.pipeline.publish import SinkTask
from ebpfmon_sinks.log import LogSettings
from tests.unit.support import table


def harvest(tables: dict[str, TableHarvest] | None = None) -> Harvest:
    return Harvest(time_s=0, elapsed_s=1, tables=tables or {}, swap_ns=7_200_400, drain_ns=500_000, missed_runs=3)


@pytest.fixture
def sink() -> SinkTask:
    return SinkTask(LogSettings(name="s"))


def test_every_dimension_of_every_chart_has_its_field(sink: SinkTask) -> None:
    monitor = SelfMonitor(["a", "b"], [sink])
    fields = monitor.fields(harvest({"a": table([]), "b": table([])}), 0)
    named = {f for c in monitor.charts() for d in c.dimensions for f in d.plus}
    assert named == {*fields, "looked_up", "waiting", "forgotten"}  # of attribution, if it is on
    assert {c.family for c in monitor.charts()} == {"ebpfmon"}
    assert len({c.id for c in monitor.charts()}) == len({c.priority for c in monitor.charts()}) == len(monitor.charts())


def test_harvest_times_rows_occupancy_and_overflow_are_those_of_the_harvest() -> None:
    rows = [(n, b"x", 1, 1) for n in range(16)]
    fields = SelfMonitor(["a"], []).fields(harvest({"a": table(rows, overflow_calls=5, capacity=64)}), 2)
    expected = {
        "swap": 7.2,
        "drain": 0.5,
        "late_ticks": 2,
        "missed_runs": 3,
        "a.rows": 16,
        "a.occupancy": 25.0,
        "a.overflow": 5,
    }
    assert expected.items() <= fields.items()
    status = Path("/proc/self/status").read_text()
    resident_kb = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS:"))
    assert fields["rss"] == pytest.approx(resident_kb * 1024 / 1e6, rel=0.05), "not in MB"


def test_what_a_sink_did_is_counted_by_interval_and_its_queue_is_a_level(sink: SinkTask) -> None:
    monitor, statistics = SelfMonitor([], [sink]), sink.statistics
    statistics.sent, statistics.dropped, statistics.errors, statistics.queue_length = 5, 2, 1, 4
    first = monitor.fields(harvest(), 0)
    statistics.sent, statistics.queue_length = 8, 1
    second = monitor.fields(harvest(), 0)
    assert [first[f"s.{n}"] for n in ("sent", "dropped", "errors", "queue")] == [5, 2, 1, 4]
    assert [second[f"s.{n}"] for n in ("sent", "dropped", "errors", "queue")] == [3, 0, 0, 1]
    kinds = {f: c.kind for c in monitor.charts() for d in c.dimensions for f in d.plus}
    assert (kinds["s.sent"], kinds["s.queue"]) == (Kind.COUNTER, Kind.LEVEL)


@pytest.mark.parametrize("used_s", [0.0004, 0.0006, 0.0123])
def test_the_cpu_time_of_many_ticks_is_all_of_it_however_little_each_took(
    monkeypatch: pytest.MonkeyPatch, used_s: float
) -> None:
    spent = [0.0]
    monkeypatch.setattr("resource.getrusage", lambda who: SimpleNamespace(ru_utime=spent[0], ru_stime=2 * spent[0]))
    monitor = SelfMonitor([], [])
    account = Accounting(monitor.charts())
    for _ in range(1000):
        spent[0] += used_s
        charts = account.account(monitor.fields(harvest(), 0))
    (cpu,) = (c for c in charts if c.chart.id == "ebpfmon.cpu")
    user, system = (v.total for v in cpu.values)
    assert user == pytest.approx(1e6 * used_s, abs=1)
    assert system == pytest.approx(2e6 * used_s, abs=1)
