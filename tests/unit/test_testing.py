"""`ebpfmon.testing`, the helpers for authors of plugins, behaves like the daemon."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import types
from contextlib import ExitStack
from dataclasses import replace
from typing import Any, ClassVar, Self, cast

import pytest

import ebpfmon_network_viewer
import ebpfmon_process
import ebpfmon_process.events
from ebpfmon import Chart, Dimension, Probe, Role, RowGroups, SinkSettings, Snapshot, testing
from ebpfmon.errors import ObjectError, PluginError
from ebpfmon.kernel import features
from ebpfmon.kernel.attach import LoadedProbe
from ebpfmon.plugins.registry import discover
from ebpfmon.testing import (
    FakeClock,
    RecordingSettings,
    RunningProbe,
    chart,
    check_plugin,
    data,
    deliver,
    keyed_table,
    process_table,
    skip_reason,
    snapshot,
    view,
)
from tests.unit.support import FakeEntryPoint, plugin
from tests.unit.test_harvest import FakeActiveBuffer, FakeTable, Steps

pytest_plugins = ["pytester"]


def test_all_lists_the_public_names() -> None:
    public = {n for n, v in vars(testing).items() if not n.startswith("_") and not isinstance(v, types.ModuleType)}
    assert set(testing.__all__) == public


def test_only_the_fixtures_need_pytest() -> None:
    code = "import sys; sys.modules['pytest'] = None; import ebpfmon.testing"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_shipped_plugins_are_valid() -> None:
    assert [p.name for p in check_plugin(ebpfmon_process).probes] == ["process"]
    assert [p.name for p in check_plugin(ebpfmon_network_viewer).probes] == ["network_viewer"]


def probe_of_process(*fields: str) -> Probe:
    """Return a probe with the object of the process probe and a chart of its own."""
    shown = Chart(
        id="x.y", title="", units="n/s", family="f", priority=1, dimensions=(Dimension("d", "d", fields),)
    )  # fmt: skip
    events = ebpfmon_process.events.EVENTS
    return Probe(name="p", package="ebpfmon_process", object="process", charts=(shown,), events=events)


def test_a_chart_of_a_missing_field_is_reported_without_root() -> None:
    assert check_plugin(plugin(probes=[probe_of_process("read_calls")]))
    with pytest.raises(PluginError, match=r"chart 'x\.y': table 'process' has no field 'reads'; it has open_calls, "):
        check_plugin(plugin(probes=[probe_of_process("read_calls", "reads")]))


def test_events_that_do_not_fit_the_object_are_reported_without_root() -> None:
    without = replace(probe_of_process("read_calls"), events=())
    with pytest.raises(ObjectError, match="probe 'p': no event uses program 'do_sys_openat2_fexit' of its object"):
        check_plugin(plugin(probes=[without]))


def test_a_missing_object_is_reported() -> None:
    with pytest.raises(ObjectError, match="no package 'nowhere'"):
        check_plugin(plugin(probes=[Probe(name="p", package="nowhere", object="p", charts=())]))


@pytest.mark.parametrize("broken", [plugin(version=99), plugin(probes=7), plugin(sinks=[int])])
def test_an_invalid_plugin_is_refused_with_the_message_of_the_daemon(broken: object) -> None:
    with pytest.raises(PluginError) as caught:
        check_plugin(broken)
    assert discover([FakeEntryPoint("broken", broken)]).left_out[0].error == str(caught.value)


def test_a_table_has_totals_of_its_rows_and_overflow() -> None:
    made = process_table(["calls", "bytes"], [{"tgid": 3, "calls": 5}, {"comm": b"cat", "bytes": 7}], overflow_calls=2)
    assert made.is_by_process
    assert made.rows[["tgid", "comm", "calls", "bytes"]].tolist() == [(3, b"", 5, 0), (0, b"cat", 0, 7)]
    assert (made.totals, made.overflow) == ({"calls": 7, "bytes": 7}, {"calls": 2, "bytes": 0})
    keyed = keyed_table([("port", "u2"), ("pad", "u2")], ["calls"], [{"port": 80, "calls": 1}])
    assert not keyed.is_by_process
    assert keyed.rows.tolist() == [(80, 0, 1)]


class SlowSettings(SinkSettings, tag="slow", frozen=True):
    """A sink that never finishes."""

    log: list[str]
    send_timeout_s: ClassVar[float | None] = 0.05

    def open(self) -> Any:
        return Slow(self.log)


class Slow:
    def __init__(self, log: list[str]) -> None:
        self._log = log

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._log.append(f"closed after {kind.__name__ if kind else 'nothing'}")

    async def send(self, snapshot: Snapshot) -> None:
        await asyncio.Event().wait()


def test_deliver_sends_snapshots_and_has_the_time_limits_of_the_daemon() -> None:
    got: list[Snapshot] = []
    asyncio.run(deliver(RecordingSettings(into=got), snapshot("a"), snapshot("b")))
    assert [s.host for s in got] == ["a", "b"]
    log: list[str] = []
    with pytest.raises(TimeoutError):
        asyncio.run(deliver(SlowSettings(log=log), snapshot()))
    assert log == ["closed after TimeoutError"]


def test_without_permission_the_fixture_skips_the_test_with_the_reason(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ebpfmon.testing.fixtures.skip_reason", lambda: "cannot load BPF programs: not permitted")
    pytester.makeconftest('pytest_plugins = ["ebpfmon.testing.fixtures"]')
    pytester.makepyfile("def test_it(counting): assert False\ndef test_clock(fake_clock): fake_clock.advance(1)")
    done = pytester.runpytest_inprocess("-rs")
    done.assert_outcomes(skipped=1, passed=1)
    done.stdout.fnmatch_lines("*cannot load BPF programs: not permitted*")


class FakeLoaded(ExitStack):
    """The part of LoadedProbe that `RunningProbe` uses."""

    def __init__(self, *stems: str) -> None:
        super().__init__()
        steps: Steps = []
        self.active_buffer = FakeActiveBuffer("", steps, FakeClock())
        self.tables = [FakeTable(stem, steps) for stem in stems]

    def missed_runs(self) -> int:
        return 0


def counting(*stems: str) -> RunningProbe:
    return RunningProbe(cast(LoadedProbe, FakeLoaded(*stems)))


def test_the_name_of_the_only_table_may_be_omitted() -> None:
    with counting("calls") as running:
        assert running.totals() == {"read_calls": 2, "read_bytes": 3}
        assert running.rows().tolist() == running.rows("calls")[:2].tolist()


def test_an_ambiguous_table_is_an_error_that_lists_the_tables() -> None:
    with counting("calls", "errors") as running:
        assert len(running.rows("errors")) == 1
        with pytest.raises(ValueError, match=r'^the probe has 2 tables; call rows\("calls"\) or rows\("errors"\)$'):
            running.rows()
        with pytest.raises(ValueError, match=r'^the probe has no table \'x\'; call totals\("calls"\) or '):
            running.totals("x")


def test_skip_reason_says_why_no_probe_can_be_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    bare = replace(features.detect(), capabilities=())
    monkeypatch.setattr(features, "detect", lambda: bare)
    assert skip_reason().startswith("cannot load BPF programs: not permitted")
    monkeypatch.setattr(features, "require_permission", lambda found: None)
    assert skip_reason() == ""


def test_chart_data_has_the_given_series() -> None:
    shown = chart(Dimension.value("reads"), labels=("program",))
    made = data(shown, series={("cat",): (3,), ("other",): (5,)}, other=(7,), overflow=(0,), names={("cat",): ("Cat",)})
    assert [(s.label_map, s.names, s.role, s.deltas, s.totals) for s in made.series()] == [
        ({"program": "cat"}, ("Cat",), Role.ITEM, (3,), (1000,)),
        ({"program": "other"}, ("other",), Role.ITEM, (5,), (1000,)),
        ({"program": "other"}, ("other",), Role.OTHER, (7,), (1000,)),
        ({"program": "overflow"}, ("overflow",), Role.OVERFLOW, (0,), (1000,)),
    ]
    assert len(data(chart(Dimension.value("reads")), 3)) == 1
    assert len(data(shown)) == 0


def test_a_view_has_the_given_group_of_each_row() -> None:
    made = view(
        process_table(["calls"], [{"tgid": n} for n in range(4)]), groups={"user": ["root", None, "root", "me"]}
    )
    groups = made.groups["user"]
    assert [groups.name(row) for row in range(4)] == ["root", None, "root", "me"]
    assert groups.ids[0] == groups.ids[2] != RowGroups.OTHER
