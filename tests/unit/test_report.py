"""The verdict: what it is without a kernel that loads anything, and how it reads."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from ebpfmon import config
from ebpfmon.check import report
from ebpfmon.check.findings import Finding
from ebpfmon.check.report import Event, ProbeReport, Refusal, Report, check, render
from ebpfmon.errors import AttachError, KernelError, LoadError
from ebpfmon.kernel import attach, features
from ebpfmon.kernel.host import Config, Host
from ebpfmon.model import Loader
from ebpfmon.plugins import registry
from tests.unit.test_features import FULL

HOST = Host(Config(None, ()), None, None, None, None, None, None, None)
SEEN = Event("vfs_read", "kprobe", "vfs_read", ())
BLIND = Event("file_open", "", "", (Refusal("kprobe", "f1", "no"), Refusal("kprobe", "f2", "no")))


def report_of(*probes: ProbeReport, error: str | None = None) -> Report:
    found = (Finding("BTF", "none", ("a remedy that is long enough to need more than " + 9 * "one line, ",)),)
    return Report(report._status(probes), "0.1", "1.1", FULL, HOST, found, probes, error)


def lines(*probes: ProbeReport, error: str | None = None) -> list[str]:
    return list(render(report_of(*probes, error=error)))


@pytest.mark.parametrize(
    ("probes", "status", "said"),
    [
        ([ProbeReport("a", Loader.CORE, (SEEN, SEEN))], 0, "2 of 2 events can be seen"),
        ([ProbeReport("a", Loader.CORE, (SEEN, BLIND))], 1, "1 of 2 events can be seen"),
        ([ProbeReport("a", Loader.CORE, (SEEN,)), ProbeReport("b", error="no")], 1,
         "1 of 1 events can be seen; probe 'b' cannot be loaded"),
        ([ProbeReport("a", Loader.CORE, (BLIND,))], 2, "no event can be seen"),
        ([ProbeReport("b", error="no")], 2, "no event can be seen; probe 'b' cannot be loaded"),
        ([], 2, "no event can be seen"),
    ],
)  # fmt: skip
def test_the_status_and_the_first_line_say_how_much_is_seen(probes: list[ProbeReport], status: int, said: str) -> None:
    assert report_of(*probes).status == status
    assert lines(*probes)[0] == f"{'verdict':21}{said}"


def test_a_reason_that_several_share_is_said_once() -> None:
    other = Event("file_close", "tracepoint", "t", (Refusal("kprobe", "f3", "no"), Refusal("trampoline", "f3", "nor")))
    assert lines(ProbeReport("a", Loader.BCC, (BLIND, other)))[-9:] == [
        "",
        "probe 'a', loader bcc",
        f"{'  file_open':21}not seen",
        f"{'':21}no kprobe at f1, f2 (1)",
        f"{'  file_close':21}tracepoint at t",
        f"{'':21}no kprobe at f3 (1)",
        f"{'':21}no trampoline at f3 (2)",
        "  (1) no",
        "  (2) nor",
    ]


def test_lines_are_aligned_and_fit_into_a_ticket() -> None:
    shown = lines(ProbeReport("b", error="word " * 40), error="no")
    assert shown[1] == f"{'error':21}no"
    assert shown[4].startswith(f"{'':21}-> a remedy")
    assert shown[5].startswith(f"{'':24}one line")
    assert max(map(len, shown)) <= 100


def test_a_report_comes_back_from_json_as_it_was() -> None:
    said = report_of(ProbeReport("a", Loader.CORE, (SEEN, BLIND)), error="no")
    assert msgspec.json.decode(msgspec.json.encode(said), type=Report) == said


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
