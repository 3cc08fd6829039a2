"""The pure parts of the kernel matrix: apt's answers, the initramfs, and what the table says."""

from __future__ import annotations

import lzma
from pathlib import Path

import pytest

from tests.vm import fetch, initramfs, matrix, report
from tests.vm.cells import CELLS, Cell
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
def test_a_series_is_its_newest_release_in_its_suite(series: str, release: str) -> None:
    assert fetch.choose(MADISON, series) == release


def test_what_is_newest_in_sid_stands_for_its_series_and_nothing_stands_for_another() -> None:
    moved = MADISON.replace("7.2.", "7.10.").replace("7.10.9", "7.9.9")
    assert fetch.choose(moved, "7.2") == "7.10.13+deb14-amd64"
    assert fetch.choose(MADISON.replace("sid/", "trixie/"), "7.2") is None
    assert fetch.choose(MADISON.replace("5.10.0", "5.11.0"), "5.10") is None
    assert fetch.choose("", "6.1") is None


def test_a_kernels_parts_are_found_in_its_dependencies() -> None:
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
def test_the_machines_own_mirror_is_taken(sources: str, found: tuple[str, str]) -> None:
    assert fetch.mirrors(sources) == found


def unpacked(archive: bytes) -> dict[str, tuple[int, bytes]]:
    """{name: (mode, data)}, read as the kernel's documentation has it (buffer-format.rst)."""
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


def test_the_archive_has_every_file_after_its_directories() -> None:
    files = {"init": b"#!/busybox sh", "vm/modules/00-9p.ko": b"\x7fELF1", "vm/empty": b""}
    found = unpacked(initramfs.cpio(files, programs=["init"]))
    assert list(found) == ["vm", "vm/modules", "init", "vm/modules/00-9p.ko", "vm/empty", "TRAILER!!!"]
    assert {name: data for name, (_, data) in found.items() if data} == {n: d for n, d in files.items() if d}
    assert [oct(found[name][0]) for name in ("vm", "init", "vm/empty")] == ["0o40755", "0o100755", "0o100644"]


def test_modules_come_after_what_they_need_and_what_is_built_in_is_left_out(tmp_path: Path) -> None:
    modules = {}
    for name, depends in {"9p": "netfs,9pnet", "9pnet": "", "netfs": "", "virtio_pci": "virtio-ring"}.items():
        modules[name] = tmp_path / f"{name}.ko.xz"
        modules[name].write_bytes(lzma.compress(f"license=GPL\0depends={depends}\0name={name}\0".encode()))
    modules["virtio_ring"] = tmp_path / "virtio_ring.ko"
    modules["virtio_ring"].write_bytes(b"nothing")
    found = initramfs.in_order(["virtio_pci", "9pnet", "9p", "overlay"], modules)
    assert [name.replace("-", "_") for name in found] == ["virtio_ring", "virtio_pci", "9pnet", "netfs", "9p"]
    assert found["9p"].startswith(b"license=GPL\0depends=netfs,9pnet")


CELL = Cell("core", "test_x", expect=("kprobe", "tracepoint"))
BY_ALL = ("trampoline", *CELL.expect)
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
    for method in CELL.expect
    if method in has
    for mode in report.MODES
]


def run(*cases: str, status: int = 0, cell: Cell = CELL) -> Run:
    tests = report.read(junit(*cases), cell, PROBES)
    return Run("6.1.0-56-amd64", cell, tests, report.judge(cell, Ended(status, 61.0), tests, PROBES), elapsed_s=61)


def square(shown: str, probe: str, method: str) -> str:
    lines = [[part.strip() for part in line.split(" | ")] for line in shown.splitlines() if line.startswith("|")]
    row = next(line for line in lines if probe in line)
    return row[lines[0].index(method)]


def squares(shown: str, probe: str) -> dict[str, str]:
    """Return what the table says of a probe, by attach method, without the empty squares."""
    found = {method: square(shown, probe, method) for method in report.METHODS}
    return {method: said for method, said in found.items() if said}


def test_a_run_in_which_all_is_well_passes() -> None:
    good = run(*ALL_PASSED, case("test_swap", "test_swap"))
    shown = report.table([good])
    assert not good.failed
    for probe in ("network_viewer", "process"):
        assert squares(shown, probe) == dict.fromkeys(CELL.expect, "passed")
    assert squares(shown, "syscalls") == {"tracepoint": "passed"}
    assert square(shown, "(any)", "by itself") == "passed"
    assert report.verdict([good]) == "ebpfmon: kernel matrix: 1 of 1 machines passed; 11 tests"


def test_a_failure_is_shown_in_its_square_and_told_below() -> None:
    broken = case(
        "test_process_exact", "test_more[kprobe-entry]", '<failure message="assert 1 == 2&#10;more">x</failure>'
    )
    bad = run(*ALL_PASSED, broken, status=1)
    shown = report.table([bad])
    assert bad.failed
    assert square(shown, "process", "kprobe") == "FAILED"
    assert square(shown, "network_viewer", "kprobe") == "passed"
    assert shown.splitlines()[-1] == (
        "- 6.1.0-56-amd64 core: FAILED test_process_exact::test_more[kprobe-entry]: assert 1 == 2"
    )
    assert report.verdict([bad]).endswith("0 of 1 machines passed, 1 FAILED; 11 tests")


def test_an_attach_method_that_the_kernel_has_may_not_be_skipped_nor_may_a_test_of_none() -> None:
    for name in ("test_more[tracepoint-entry]", "test_more"):
        bad = run(*ALL_PASSED, case("test_process_exact", name, skipped("no tracepoints")))
        assert bad.failed
        assert "FAILED" in report.table([bad])
        assert "no tracepoints" in report.table([bad])


def test_what_may_be_skipped_is_no_failure_and_is_told() -> None:
    cell = Cell("core", "", expect=CELL.expect, may_skip=("EPERM", "no 32-bit"))
    trampoline = case("test_process_exact", "test_it[trampoline-entry]", skipped("EPERM | no"))
    compat = case("test_process_exact", "test_compat", skipped("this kernel has no 32-bit programs"))
    shown = report.table([good := run(*ALL_PASSED, trampoline, compat, cell=cell)])
    assert not good.failed
    assert square(shown, "process", "trampoline") == "refused by the kernel: EPERM \\| no"
    assert shown.splitlines()[-1].endswith(
        "skipped test_process_exact::test_compat: this kernel has no 32-bit programs"
    )
    assert run(*ALL_PASSED, trampoline.replace("trampoline", "kprobe"), cell=cell).failed


def test_a_method_that_a_probe_has_no_programs_for_may_be_skipped_unless_it_is_expected(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(report, "METHODS", (*report.METHODS, "invented"))
    invented = case("test_process_exact", "test_it[invented-entry]", skipped("the probe has no such program"))
    shown = report.table([good := run(*ALL_PASSED, invented)])
    assert not good.failed
    assert squares(shown, "process") == dict.fromkeys(CELL.expect, "passed")
    assert shown.splitlines()[-1].endswith(
        "skipped test_process_exact::test_it[invented-entry]: the probe has no such program"
    )
    expecting = Cell("core", "", expect=(*CELL.expect, "invented"))
    assert run(*ALL_PASSED, invented, cell=expecting).failed
    assert run(*ALL_PASSED, invented.replace("invented", "trampoline")).failed


def test_the_table_has_a_column_for_every_attach_method(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "METHODS", (*report.METHODS, "invented"))
    head, _, *rows = report.table([run(*ALL_PASSED), Run("7.2", CELL, skipped="apt has none")]).splitlines()
    assert [word.strip() for word in head.split("|")[4:-1]] == [*report.METHODS, "by itself", "tests", "time"]
    assert {row.count("|") for row in rows if row.startswith("|")} == {head.count("|")}


def test_a_test_may_say_that_the_kernel_refused_rightly() -> None:
    why = '<properties><property name="refused_by_kernel" value="lockdown"/></properties>'
    cell = Cell("lockdown", "lockdown")
    good = run(case("test_cells", "test_lockdown[process-kprobe]", why), cell=cell)
    assert not good.failed
    assert square(report.table([good]), "process", "kprobe") == "refused by the kernel: lockdown"


def test_an_attach_method_that_was_not_tested_has_failed() -> None:
    bad = run(*(c for c in ALL_PASSED if "[kprobe-return]" not in c))
    assert bad.failure == "no test of network_viewer kprobe return, process kprobe return"
    none = run(*(c for c in ALL_PASSED if "process" not in c or "kprobe" not in c))
    assert square(report.table([none]), "process", "kprobe") == "FAILED"


def test_a_probe_is_asked_for_no_more_than_it_has_programs_for() -> None:
    found = matrix.attach_methods_of_probes()
    expected = {method for cell in CELLS for method in cell.expect}
    assert expected <= found["process"] & found["network_viewer"]
    assert found["syscalls"] == found["block_io"] == found["oom_and_signals"] == {"tracepoint"}


@pytest.mark.parametrize(
    ("ended", "said"),
    [
        (Ended(5, 1), "no tests"),
        (Ended(4, 1), "exit status 4"),
        (Ended(1, 1), "exit status 1"),
        (Ended(None, 1, "the guest panicked", 2), "the guest panicked"),
    ],
)
def test_a_machine_without_tests_has_failed(ended: Ended, said: str) -> None:
    assert report.judge(CELL, ended, (), PROBES) == said
    bad = Run("6.1", CELL, failure=said)
    assert bad.failed
    assert f"- 6.1 core: FAILED: {said}" in report.table([bad])


def test_a_kernel_that_cannot_be_had_is_told_loudly_and_is_no_failure() -> None:
    absent = Run("7.2", CELL, skipped="find a kernel 7.2: apt has none in sid")
    assert not absent.failed
    assert "- 7.2 core: SKIPPED: find a kernel 7.2: apt has none in sid" in report.table([absent])
    assert report.verdict([absent]) == "ebpfmon: kernel matrix: 0 of 1 machines passed, 1 SKIPPED; 0 tests"


def test_every_cell_has_kernels_that_there_are_and_a_name_of_its_own() -> None:
    assert len({cell.name for cell in CELLS}) == len(CELLS)
    assert all(set(cell.kernels) <= set(fetch.SERIES) for cell in CELLS)
    assert all(set(cell.more) <= set(cell.kernels) for cell in CELLS)


def test_every_cell_is_run_under_each_of_its_kernels_and_the_table_shows_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    done: list[tuple[str, str]] = []

    def run(self: matrix.Matrix, kernel: fetch.Kernel, cell: Cell) -> Run:
        done.append((kernel.series, cell.name))
        return Run(kernel.release, cell, (report.Outcome("test_x::test_it"),))

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(fetch, "fetch", lambda series: fetch.Kernel(series, f"{series}.1", tmp_path))
    monkeypatch.setattr(matrix, "attach_methods_of_probes", dict)
    monkeypatch.setattr(matrix, "_compile", lambda: None)
    monkeypatch.setattr("signal.signal", lambda *_: None)
    monkeypatch.setattr(matrix.Matrix, "run", run)
    assert matrix.main((), (), 1) == 0
    assert sorted(done) == sorted((series, cell.name) for cell in CELLS for series in cell.kernels)
    assert f"kernel matrix: {len(done)} of {len(done)} machines passed" in capsys.readouterr().out


def test_a_machine_has_what_is_selected_under_every_kernel_and_what_is_more_under_its_own() -> None:
    cell = Cell("c", "a or b", more={"6.1": "c and d"})
    assert (cell.selected("6.1"), cell.selected("5.10")) == ("(a or b) or (c and d)", "(a or b)")
