"""The parts of the kernel matrix that need no virtual machine: apt's output, the initramfs and the table."""

from __future__ import annotations

import lzma
import re
from pathlib import Path

import pytest

from tests.vm import fetch, initramfs, matrix, report
from tests.vm.configurations import CONFIGURATIONS, Configuration
from tests.vm.machine import Ended
from tests.vm.report import Run

MADISON = """
linux-image-5.10.0-30-amd64 |  5.10.218-1 | http://m/debian bullseye/main amd64 Packages
linux-image-5.10.0-32-amd64 |  5.10.223-1 | http://m/debian bullseye/main amd64 Packages
 linux-image-6.1.0-9-amd64 |    6.1.27-1 | http://m/debian bookworm/main amd64 Packages
linux-image-6.1.0-56-amd64 |   6.1.192-2 | http://m/debian-security bookworm-security/main amd64 Packages
linux-image-6.12.117+deb12-amd64 | 6.12.117-1 | http://m/debian-security bookworm-security/main amd64 Packages
linux-image-6.12.117+deb12-cloud-amd64 | 6.12.117-1 | http://m/debian-security bookworm-security/main amd64 Packages
linux-image-6.12-amd64 | 6.12.117-1 | http://m/debian bookworm/main amd64 Packages
linux-image-7.2.9+deb14-amd64 |   7.2.9-1 | http://m/debian sid/main amd64 Packages
linux-image-7.2.13+deb14-amd64 |   7.2.13-1 | http://m/debian sid/main amd64 Packages
""".strip()


@pytest.mark.parametrize(
    ("series", "release"),
    [
        ("5.10", "5.10.0-32-amd64"),
        ("6.1", "6.1.0-56-amd64"),
        ("6.12", "6.12.117+deb12-amd64"),
        ("7.2", "7.2.13+deb14-amd64"),
    ],
)
def test_the_newest_release_of_a_series_is_chosen_from_its_suite(series: str, release: str) -> None:
    assert fetch.choose(MADISON, series) == release


def test_sids_newest_kernel_is_used_for_the_rolling_series_and_for_no_other() -> None:
    moved = MADISON.replace("7.2.", "7.10.").replace("7.10.9", "7.9.9")
    assert fetch.choose(moved, "7.2") == "7.10.13+deb14-amd64"
    assert fetch.choose(MADISON.replace("sid/", "trixie/"), "7.2") is None
    assert fetch.choose(MADISON.replace("5.10.0", "5.11.0"), "5.10") is None
    assert fetch.choose("", "6.1") is None


def test_the_packages_of_a_kernel_come_from_its_dependencies() -> None:
    show = """
Package: linux-headers-7.2.13+deb14-amd64
Depends: gcc-16-for-host, linux-base (>= 4.12~), linux-base-7.2.13+deb14-amd64 (= 7.2.13-1), linux-kbuild-7.2.13+deb14

Package: linux-headers-6.12.117+deb12-amd64
Depends: linux-image-6.12.117+deb12-amd64 (= 6.12.117-1) | linux-image-6.12.117+deb12-amd64-unsigned (= 6.12.117-1)
"""
    assert fetch.parts(show) == {
        "linux-base-7.2.13+deb14-amd64",
        "linux-kbuild-7.2.13+deb14",
        "linux-image-6.12.117+deb12-amd64",
    }


@pytest.mark.parametrize(
    ("sources", "found"),
    [
        (
            "Types: deb\nURIs: http://mirror/debian\nSuites: bookworm\n\nURIs: http://mirror/debian-security\n",
            ("http://mirror/debian", "http://mirror/debian-security"),
        ),
        (
            "# deb http://old/debian bookworm main\ndeb [arch=amd64 trusted=no] http://mirror/debian bookworm main\n",
            ("http://mirror/debian", "http://deb.debian.org/debian-security"),
        ),
        (
            "deb http://archive.ubuntu.com/ubuntu noble main\n",
            ("http://deb.debian.org/debian", "http://deb.debian.org/debian-security"),
        ),
    ],
)
def test_the_hosts_own_mirror_is_used(sources: str, found: tuple[str, str]) -> None:
    assert fetch.mirrors(sources) == found


def unpack(archive: bytes) -> dict[str, tuple[int, bytes]]:
    """Return (mode, data) by name, read as the kernel's documentation specifies (buffer-format.rst)."""
    found = {}
    at = 0
    while at < len(archive):
        assert archive[at : at + 6] == b"070701"
        fields = [int(archive[at + 6 + 8 * i :][:8], 16) for i in range(13)]
        name = archive[at + 110 :][: fields[11] - 1].decode()
        start = at + (110 + fields[11] + 3) // 4 * 4
        found[name] = fields[1], archive[start : start + fields[6]]
        at = start + (fields[6] + 3) // 4 * 4
    return found


def test_the_archive_lists_directories_before_their_files() -> None:
    files = {"init": b"#!/busybox sh", "vm/modules/00-9p.ko": b"\x7fELF1", "vm/empty": b""}
    found = unpack(initramfs.cpio(files, programs=["init"]))
    assert list(found) == ["vm", "vm/modules", "init", "vm/modules/00-9p.ko", "vm/empty", "TRAILER!!!"]
    assert {name: data for name, (_, data) in found.items() if data} == {n: d for n, d in files.items() if d}
    assert [oct(found[name][0]) for name in ("vm", "init", "vm/empty")] == ["0o40755", "0o100755", "0o100644"]


def test_modules_come_after_their_dependencies_and_built_in_ones_are_left_out(tmp_path: Path) -> None:
    modules = {}
    for name, depends in {"9p": "netfs,9pnet", "9pnet": "", "netfs": "", "virtio_pci": "virtio-ring"}.items():
        modules[name] = tmp_path / f"{name}.ko.xz"
        modules[name].write_bytes(lzma.compress(f"license=GPL\0depends={depends}\0name={name}\0".encode()))
    modules["virtio_ring"] = tmp_path / "virtio_ring.ko"
    modules["virtio_ring"].write_bytes(b"nothing")
    found = initramfs.in_order(["virtio_pci", "9pnet", "9p", "overlay"], modules)
    assert [name.replace("-", "_") for name in found] == ["virtio_ring", "virtio_pci", "9pnet", "netfs", "9p"]
    assert found["9p"].startswith(b"license=GPL\0depends=netfs,9pnet")


CONFIGURATION = Configuration("core", "test_x", expect=("kprobe", "tracepoint"))
BY_ALL = ("trampoline", *CONFIGURATION.expect)
PROBES = {"network_viewer": BY_ALL, "process": BY_ALL, "syscalls": ("tracepoint",)}


def case(module: str, name: str, inside: str = "") -> str:
    return f'<testcase classname="tests.kernel.{module}" name="{name}" time="1">{inside}</testcase>'


def junit(*cases: str) -> str:
    return f'<testsuites><testsuite name="pytest">{"".join(cases)}</testsuite></testsuites>'


def skipped(reason: str) -> str:
    return f'<skipped type="pytest.skip" message="{reason}">more</skipped>'


ALL_PASSED = [
    case(f"test_{probe}_exact", f"test_exact[{method}-{mode}]")
    for probe, has in PROBES.items()
    for method in CONFIGURATION.expect
    if method in has
    for mode in report.MODES
]


def run(*cases: str, status: int = 0, configuration: Configuration = CONFIGURATION) -> Run:
    tests = report.read(junit(*cases), configuration, PROBES)
    return Run(
        "6.1.0-56-amd64",
        configuration,
        tests,
        report.judge(configuration, Ended(status, 61.0), tests, PROBES),
        elapsed_s=61,
    )


def table_cell(shown: str, probe: str, method: str) -> str:
    lines = [[part.strip() for part in line.split(" | ")] for line in shown.splitlines() if line.startswith("|")]
    row = next(line for line in lines if probe in line)
    return row[lines[0].index(method)]


def probe_cells(shown: str, probe: str) -> dict[str, str]:
    """Return a probe's table cells by attach method, without the empty ones."""
    found = {method: table_cell(shown, probe, method) for method in report.METHODS}
    return {method: text for method, text in found.items() if text}


def test_a_run_without_failures_passes() -> None:
    good = run(*ALL_PASSED, case("test_swap", "test_swap"))
    shown = report.table([good])
    assert not good.failed
    for probe in ("network_viewer", "process"):
        assert probe_cells(shown, probe) == dict.fromkeys(CONFIGURATION.expect, "passed")
    assert probe_cells(shown, "syscalls") == {"tracepoint": "passed"}
    assert table_cell(shown, "(any)", "automatic") == "passed"
    assert report.verdict([good]) == "ebpfmon: kernel matrix: 1 of 1 machines passed; 11 tests"


def test_a_failure_is_shown_in_its_cell_and_listed_below() -> None:
    broken = case(
        "test_process_exact", "test_more[kprobe-entry]", '<failure message="assert 1 == 2&#10;more">x</failure>'
    )
    bad = run(*ALL_PASSED, broken, status=1)
    shown = report.table([bad])
    assert bad.failed
    assert table_cell(shown, "process", "kprobe") == "FAILED"
    assert table_cell(shown, "network_viewer", "kprobe") == "passed"
    assert shown.splitlines()[-1] == (
        "- 6.1.0-56-amd64 core: FAILED test_process_exact::test_more[kprobe-entry]: assert 1 == 2"
    )
    assert report.verdict([bad]).endswith("0 of 1 machines passed, 1 FAILED; 11 tests")


def test_skipping_an_expected_attach_method_or_a_test_without_one_is_a_failure() -> None:
    for name in ("test_more[tracepoint-entry]", "test_more"):
        bad = run(*ALL_PASSED, case("test_process_exact", name, skipped("no tracepoints")))
        assert bad.failed
        assert "FAILED" in report.table([bad])
        assert "no tracepoints" in report.table([bad])


def test_an_allowed_skip_is_listed_and_is_no_failure() -> None:
    configuration = Configuration("core", "", expect=CONFIGURATION.expect, may_skip=("EPERM", "no 32-bit"))
    trampoline = case("test_process_exact", "test_it[trampoline-entry]", skipped("EPERM | no"))
    compat = case("test_process_exact", "test_compat", skipped("this kernel has no 32-bit programs"))
    shown = report.table([good := run(*ALL_PASSED, trampoline, compat, configuration=configuration)])
    assert not good.failed
    assert table_cell(shown, "process", "trampoline") == "refused by the kernel: EPERM \\| no"
    assert shown.splitlines()[-1].endswith(
        "skipped test_process_exact::test_compat: this kernel has no 32-bit programs"
    )
    assert run(*ALL_PASSED, trampoline.replace("trampoline", "kprobe"), configuration=configuration).failed


def test_a_kernel_may_lack_what_a_test_needs_whatever_the_attach_method() -> None:
    configuration = Configuration("core", "", expect=CONFIGURATION.expect, may_lack=("does not have it",))
    lacks = case("test_process_exact", "test_it[kprobe-mptcp]", skipped("this kernel does not have it: mptcp"))
    shown = report.table([good := run(*ALL_PASSED, lacks, configuration=configuration)])
    assert not good.failed
    assert probe_cells(shown, "process") == dict.fromkeys(CONFIGURATION.expect, "passed")
    assert "skipped test_process_exact::test_it[kprobe-mptcp]: this kernel does not have it: mptcp" in shown


def test_a_method_without_programs_may_be_skipped_unless_it_is_expected(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(report, "METHODS", (*report.METHODS, "invented"))
    invented = case("test_process_exact", "test_it[invented-entry]", skipped("the probe has no such program"))
    shown = report.table([good := run(*ALL_PASSED, invented)])
    assert not good.failed
    assert probe_cells(shown, "process") == dict.fromkeys(CONFIGURATION.expect, "passed")
    assert shown.splitlines()[-1].endswith(
        "skipped test_process_exact::test_it[invented-entry]: the probe has no such program"
    )
    expecting = Configuration("core", "", expect=(*CONFIGURATION.expect, "invented"))
    assert run(*ALL_PASSED, invented, configuration=expecting).failed
    assert run(*ALL_PASSED, invented.replace("invented", "trampoline")).failed


def test_the_table_has_a_column_for_every_attach_method(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "METHODS", (*report.METHODS, "invented"))
    head, _, *rows = report.table([run(*ALL_PASSED), Run("7.2", CONFIGURATION, skipped="apt has none")]).splitlines()
    assert [word.strip() for word in head.split("|")[4:-1]] == [*report.METHODS, "automatic", "tests", "time"]
    assert {row.count("|") for row in rows if row.startswith("|")} == {head.count("|")}


def test_a_passing_test_can_record_that_the_kernel_refused_a_method() -> None:
    why = '<properties><property name="refused_by_kernel" value="lockdown"/></properties>'
    configuration = Configuration("lockdown", "lockdown")
    good = run(case("test_restricted", "test_lockdown[process-kprobe]", why), configuration=configuration)
    assert not good.failed
    assert table_cell(report.table([good]), "process", "kprobe") == "refused by the kernel: lockdown"


def test_an_expected_attach_method_without_a_test_is_a_failure() -> None:
    bad = run(*(c for c in ALL_PASSED if "[kprobe-return]" not in c))
    assert bad.failure == "no test of network_viewer kprobe return, process kprobe return"
    none = run(*(c for c in ALL_PASSED if "process" not in c or "kprobe" not in c))
    assert table_cell(report.table([none]), "process", "kprobe") == "FAILED"


def test_the_attach_methods_of_a_probe_are_those_it_has_programs_for() -> None:
    found = matrix.attach_methods_of_probes()
    expected = {method for configuration in CONFIGURATIONS for method in configuration.expect}
    assert expected <= found["process"] & found["network_viewer"]
    assert found["syscalls"] == found["block_io"] == found["oom_and_signals"] == {"tracepoint"}


@pytest.mark.parametrize(
    ("ended", "failure"),
    [
        (Ended(5, 1), "no tests"),
        (Ended(4, 1), "exit status 4"),
        (Ended(1, 1), "exit status 1"),
        (Ended(None, 1, "the guest panicked", 2), "the guest panicked"),
    ],
)
def test_a_machine_that_ran_no_tests_has_failed(ended: Ended, failure: str) -> None:
    assert report.judge(CONFIGURATION, ended, (), PROBES) == failure
    bad = Run("6.1", CONFIGURATION, failure=failure)
    assert bad.failed
    assert f"- 6.1 core: FAILED: {failure}" in report.table([bad])


def test_a_kernel_that_could_not_be_fetched_is_listed_and_is_no_failure() -> None:
    absent = Run("7.2", CONFIGURATION, skipped="no kernel 7.2: apt finds none in Debian sid")
    assert not absent.failed
    assert "- 7.2 core: SKIPPED: no kernel 7.2: apt finds none in Debian sid" in report.table([absent])
    assert report.verdict([absent]) == "ebpfmon: kernel matrix: 0 of 1 machines passed, 1 SKIPPED; 0 tests"


def test_every_configuration_has_a_unique_name_and_known_kernels() -> None:
    assert len({configuration.name for configuration in CONFIGURATIONS}) == len(CONFIGURATIONS)
    assert all(set(configuration.kernels) <= set(fetch.SERIES) for configuration in CONFIGURATIONS)
    for configuration in CONFIGURATIONS:
        assert {*configuration.also_select, *configuration.leave_out} <= set(configuration.kernels)


def test_every_configuration_runs_under_each_of_its_kernels_and_is_in_the_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    done: list[tuple[str, str]] = []

    def run(self: matrix.Matrix, kernel: fetch.Kernel, configuration: Configuration) -> Run:
        done.append((kernel.series, configuration.name))
        return Run(kernel.release, configuration, (report.Outcome("test_x::test_it"),))

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(fetch, "fetch", lambda series: fetch.Kernel(series, f"{series}.1", tmp_path))
    monkeypatch.setattr(matrix, "attach_methods_of_probes", dict)
    monkeypatch.setattr(matrix, "_compile", lambda: None)
    monkeypatch.setattr("signal.signal", lambda *_: None)
    monkeypatch.setattr(matrix.Matrix, "run", run)
    assert matrix.main((), (), 1) == 0
    assert sorted(done) == sorted(
        (series, configuration.name) for configuration in CONFIGURATIONS for series in configuration.kernels
    )
    assert f"kernel matrix: {len(done)} of {len(done)} machines passed" in capsys.readouterr().out


def test_a_machine_runs_the_common_tests_with_those_added_and_without_those_left_out_for_its_kernel() -> None:
    configuration = Configuration("c", "a or b", also_select={"6.1": "c and d"})
    assert (configuration.selected("6.1"), configuration.selected("5.10")) == ("(a or b) or (c and d)", "(a or b)")
    configuration = Configuration("c", "a or b", also_select={"6.1": "c and d"}, leave_out={"6.1": "e", "7.2": "f"})
    assert configuration.selected("6.1") == "((a or b) or (c and d)) and not (e)"
    assert configuration.selected("7.2") == "((a or b)) and not (f)"


def test_every_word_of_a_selection_names_a_kernel_test() -> None:
    folder = Path(__file__).parent.parent / "kernel"
    names = " ".join(f"{path.name} {path.read_text()}" for path in folder.glob("*.py"))
    selections = {s for c in CONFIGURATIONS for s in (c.select, *c.also_select.values(), *c.leave_out.values())}
    words = {word for s in selections for word in re.findall(r"\w+", s)} - {"and", "or", "not"}
    assert [word for word in sorted(words) if word not in names] == []


def test_every_allowed_skip_reason_is_one_that_a_test_gives() -> None:
    folder = Path(__file__).parent.parent / "kernel"
    sources = " ".join(path.read_text() for path in folder.glob("*.py"))
    reasons = {reason for one in CONFIGURATIONS for reason in (*one.may_skip, *one.may_lack)}
    assert [reason for reason in sorted(reasons) if reason not in sources] == []
