"""The report of `ebpfmon check` and its text, without loading anything into the kernel."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
import pytest

from ebpfmon import config
from ebpfmon.check import report
from ebpfmon.check.findings import Finding
from ebpfmon.check.report import Event, ProbeReport, Refusal, Report, check, render
from ebpfmon.daemon.probes import reason_of
from ebpfmon.errors import AttachError, KernelError, LoadError
from ebpfmon.kernel import attach, features
from ebpfmon.kernel.host import Config, Host
from ebpfmon.model import Loader, Probe, ProbeSettings, Setup
from ebpfmon.plugins import registry
from ebpfmon.plugins.registry import Registry
from tests.unit.test_features import FULL

HOST = Host(Config(None, ()), None, None, None, None, None, None, None)
ATTACHED = Event("vfs_read", "kprobe", "vfs_read", ())
UNATTACHED = Event("file_open", "", "", (Refusal("kprobe", "f1", "no"), Refusal("kprobe", "f2", "no")))


def report_of(*probes: ProbeReport, error: str | None = None) -> Report:
    findings = (Finding("BTF", "none", ("a remedy that is long enough to need more than " + 9 * "one line, ",)),)
    return Report(report._status(probes), "0.1", "1.1", FULL, HOST, findings, probes, error)


def lines(*probes: ProbeReport, error: str | None = None) -> list[str]:
    return list(render(report_of(*probes, error=error)))


@pytest.mark.parametrize(
    ("probes", "status", "result"),
    [
        ([ProbeReport("a", Loader.CORE, (ATTACHED, ATTACHED))], 0, "2 of 2 events can be attached"),
        ([ProbeReport("a", Loader.CORE, (ATTACHED, UNATTACHED))], 1, "1 of 2 events can be attached"),
        ([ProbeReport("a", Loader.CORE, (ATTACHED,)), ProbeReport("b", error="no")], 1,
         "1 of 1 events can be attached; probe 'b' cannot be loaded"),
        ([ProbeReport("a", Loader.CORE, (UNATTACHED,))], 2, "no event can be attached"),
        ([ProbeReport("b", error="no")], 2, "no event can be attached; probe 'b' cannot be loaded"),
        ([], 2, "no probe is enabled"),
    ],
)  # fmt: skip
def test_the_status_and_the_first_line_say_how_many_events_are_attached(
    probes: list[ProbeReport], status: int, result: str
) -> None:
    assert report_of(*probes).status == status
    assert lines(*probes)[0] == f"{'result':24}{result}"


def test_a_reason_shared_by_several_events_is_printed_once() -> None:
    other = Event("file_close", "tracepoint", "t", (Refusal("kprobe", "f3", "no"), Refusal("trampoline", "f3", "nor")))
    assert lines(ProbeReport("a", Loader.BCC, (UNATTACHED, other)))[-9:] == [
        "",
        "probe 'a', loader bcc",
        f"{'  file_open':24}not attached",
        f"{'':24}rejected: kprobe at f1, f2 (1)",
        f"{'  file_close':24}tracepoint at t",
        f"{'':24}rejected: kprobe at f3 (1)",
        f"{'':24}rejected: trampoline at f3 (2)",
        "  (1) no",
        "  (2) nor",
    ]


@pytest.mark.parametrize("length", [20, 21, 22, 23, 30, 44])
def test_the_columns_of_a_probe_are_as_wide_as_its_longest_name(length: int) -> None:
    event, other = (msgspec.structs.replace(ATTACHED, event=name) for name in ("e" * length, "o"))
    shown = lines(ProbeReport("a", Loader.CORE, (event, other)))[-2:]
    assert shown == [f"  {'e' * length}  kprobe at vfs_read", f"  {'o':{length}}  kprobe at vfs_read"]


def test_a_name_that_is_too_long_for_the_columns_is_followed_by_two_spaces() -> None:
    event, other = (msgspec.structs.replace(ATTACHED, event=name) for name in ("e" * 70, "o"))
    shown = lines(ProbeReport("a", Loader.CORE, (event, other)))[-2:]
    assert shown == [f"  {'e' * 70}  kprobe at vfs_read", f"  {'o':44}  kprobe at vfs_read"]


def test_a_probe_whose_set_up_fails_is_in_the_report(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(settings: ProbeSettings) -> Setup:
        raise SystemExit(7)

    found = Registry(probes={"bad": Probe(name="bad", package="x", object="b", charts=(), setup=fail)})
    found.probes["good"] = Probe(name="good", package="x", object="g", charts=())
    monkeypatch.setattr(report, "_report", lambda probe, *_: ProbeReport(probe.name, Loader.CORE, (ATTACHED,)))
    monkeypatch.setattr(features, "require_permission", lambda _: None)
    tried = check(config.validate({"groups": {"by": []}, "sinks": []}, "e.toml", found), found)
    assert (tried.status, [p.name for p in tried.probes]) == (1, ["good", "bad"])
    assert tried.probes[1].error == "cannot set up probe 'bad': SystemExit: 7"


def test_a_probe_is_named_once_in_its_line() -> None:
    error = KernelError("probe 'b': its object has no table")
    assert reason_of(Probe(name="b", package="x", object="b", charts=()), error) == "its object has no table"


def test_lines_are_aligned_and_have_at_most_100_columns() -> None:
    shown = lines(ProbeReport("b", error="word " * 40), error="no")
    assert shown[1] == f"{'error':24}no"
    assert shown[4].startswith(f"{'':24}-> a remedy")
    assert re.match(r" {27}\S", shown[5])
    assert max(map(len, shown)) <= 100


def test_a_report_decoded_from_json_equals_the_original() -> None:
    report_ = report_of(ProbeReport("a", Loader.CORE, (ATTACHED, UNATTACHED)), error="no")
    assert msgspec.json.decode(msgspec.json.encode(report_), type=Report) == report_


@pytest.mark.parametrize(
    ("error", "errno"), [(LoadError("no", errno=13), 13), (AttachError("no", errno=1), 1), (KernelError("no"), 0)]
)
def test_a_probe_that_cannot_be_loaded_has_the_error_and_the_kernels_answer(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, error: KernelError, errno: int
) -> None:
    def refuse(*_: object) -> None:
        raise error

    monkeypatch.setattr(attach, "load", refuse)
    monkeypatch.setattr(features, "detect", lambda: FULL)
    monkeypatch.setattr("ebpfmon.config.reading.DEFAULT_PATH", tmp_path / "none")
    found = registry.discover()
    tried = check(config.read(None, found, config.CommandLine({}, json=False)), found)
    assert (tried.status, tried.error) == (2, None)
    assert ProbeReport("process", error="no", errno=errno) in tried.probes
    assert {p.name: p.error for p in tried.probes} == dict.fromkeys(["network_viewer", "process", "execs"], "no")
