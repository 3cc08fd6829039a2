"""The process probe counts exactly, by process and in the totals."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import numpy as np
import pytest

from ebpfmon import LoadMode, Snapshot
from ebpfmon.kernel import attach_methods
from tests.kernel.support import (
    COUNTERS,
    PLAN,
    RELEASES_ARE_SEEN,
    Monitor,
    arguments,
    assert_counts,
    counts_of,
    expected_counts,
    require_attach_method,
    require_namespaces,
    run_workload,
)

SMALL = {
    "openat": 3, "open_fail": 2, "close_fail": 2, "read": 5, "readv": 2, "write": 7, "writev": 3, "unlink": 2,
    "unlink_fail": 3, "thread": 1, "process_fail": 3,
}  # fmt: skip


def assert_nothing_is_lost(snapshots: list[Snapshot]) -> None:
    """Assert for every interval that overflows are reported, and that every row has counts."""
    for snapshot in snapshots:
        table = snapshot.tables["process"].harvest
        assert table.overflow_calls or not any(table.overflow.values())
        counted = np.column_stack([table.rows[name] for name in COUNTERS])
        assert counted.any(axis=1).all(), table.rows[~counted.any(axis=1)]


@pytest.mark.parametrize("mode", LoadMode)
@pytest.mark.parametrize("attach", ["auto", *attach_methods.NAMES])
def test_a_process_is_counted_exactly(workload: Path, tmp_path: Path, attach: str, mode: LoadMode) -> None:
    if attach != "auto":
        require_attach_method(attach)
    with Monitor({"ebpfmon": {"load_mode": mode, "attach": attach}}) as monitor:
        tgid = run_workload(workload, tmp_path, PLAN)
        monitor.until_gone(lambda: np.array([tgid]), 38)
    monitor.assert_counts(monitor.of(tgid), expected_counts(PLAN, mode=mode))
    assert_nothing_is_lost(monitor.snapshots)


@pytest.mark.parametrize("attach", ["auto", *attach_methods.NAMES])
def test_many_threads_count_exactly_for_their_process(workload: Path, tmp_path: Path, attach: str) -> None:
    if attach != "auto":
        require_attach_method(attach)
    plan = {**PLAN, "fork": 3, "thread": 5}
    with Monitor({"ebpfmon": {"load_mode": "return", "attach": attach}}) as monitor:
        tgid = run_workload(workload, tmp_path, plan, workers=17)
        monitor.until_gone(lambda: np.array([tgid]), 17 * 6 + 1)
    monitor.assert_counts(monitor.of(tgid), expected_counts(plan, times=17))
    assert monitor.may_miss or all(s.complete for s in monitor.snapshots)
    assert_nothing_is_lost(monitor.snapshots)


def test_two_thousand_short_lived_processes_each_have_their_exact_row(workload: Path, tmp_path: Path) -> None:
    with Monitor() as monitor:
        tgid = run_workload(workload, tmp_path, SMALL, children=2000)
        monitor.until_gone(lambda: children_of(monitor.rows(), tgid), 4000)
    rows = monitor.rows()
    rows = rows[np.isin(rows["tgid"], children_of(rows, tgid))]
    lives = {(row["tgid"], row["start_ns"]) for row in rows}
    assert len(lives) == 2000
    expected = expected_counts(SMALL)
    for life in lives:
        own = rows[(rows["tgid"] == life[0]) & (rows["start_ns"] == life[1])]
        assert_counts({name: int(own[name].sum()) for name in COUNTERS}, expected)
    assert monitor.of(tgid)["processes_created"] == 2000
    assert_nothing_is_lost(monitor.snapshots)


@pytest.mark.parametrize("attach", ["auto", *attach_methods.NAMES])
def test_processes_that_share_a_cpu_are_counted_apart(workload: Path, tmp_path: Path, attach: str) -> None:
    if attach != "auto":
        require_attach_method(attach)
    with Monitor({"ebpfmon": {"load_mode": "return", "attach": attach}}) as monitor:
        tgid = run_workload(workload, tmp_path, {"turns": 5003}, pinned=1)
        monitor.until_gone(lambda: np.append(children_of(monitor.rows(), tgid), tgid), 2)
    (child,) = children_of(monitor.rows(), tgid)
    monitor.assert_counts(monitor.of(tgid), expected_counts({"turns": 5003}))
    done = {"read_calls": 5003, "read_bytes": 5003, "write_calls": 5003, "write_bytes": 2 * 5003}
    monitor.assert_counts(monitor.of(child), done)
    assert_nothing_is_lost(monitor.snapshots)


def test_a_short_comm_has_no_remainder_of_an_earlier_longer_one() -> None:
    if not RELEASES_ARE_SEEN:
        pytest.skip("this kernel does not count every release of a task")
    # The child has the long name until it calls execve(2). Its release makes its last row.
    script = "exec -a averylongcommand bash -c 'true & sleep 2.5; wait'"
    with Monitor() as monitor, subprocess.Popen(["bash", "-c", script]) as shell:

        def releases() -> np.ndarray:
            rows = monitor.rows()
            found: np.ndarray = rows[(rows["parent_tgid"] == shell.pid) & (rows["tasks_released"] > 0)]
            return found

        monitor.until(lambda: len(releases()) >= 2)
    assert set(releases()["comm"].tolist()) <= {b"bash", b"true", b"sleep"}


def children_of(rows: np.ndarray, tgid: int) -> np.ndarray:
    """Return the process IDs of a process's children. A row made by a release has no parent any more."""
    return np.unique(rows["tgid"][rows["parent_tgid"] == tgid])


def test_totals_are_exact_for_calls_that_only_the_workload_makes(workload: Path, tmp_path: Path) -> None:
    plan = {"thread_fail": 1009, "process_fail": 2003}
    with Monitor() as monitor:
        run_workload(workload, tmp_path, plan)
    totals = [table.totals for table in monitor.harvests()]
    assert sum(t["threads_failed"] for t in totals) == 1009
    assert sum(t["processes_failed"] for t in totals) == 2003


@pytest.mark.parametrize("attach", ["auto", *attach_methods.NAMES])
def test_calls_of_32_bit_programs_are_counted(workload: Path, tmp_path: Path, attach: str) -> None:
    plan = {"compat_read": 101, "compat_write": 103, "compat_open": 107, "compat_close_range": 109, "compat_copy": 113}
    if attach != "auto":
        require_attach_method(attach)
    with Monitor({"ebpfmon": {"load_mode": "return", "attach": attach}}) as monitor:
        if subprocess.run([workload, tmp_path, "compat_read=1"], check=False).returncode:
            pytest.skip("this kernel does not run 32-bit programs")
        tgid = run_workload(workload, tmp_path, plan)
        monitor.until_gone(lambda: np.array([tgid]), 1)
    monitor.assert_counts(monitor.of(tgid), expected_counts(plan))


@pytest.mark.parametrize("attach", ["auto", *attach_methods.NAMES])
def test_a_copy_in_a_stacked_file_system_counts_once(workload: Path, tmp_path: Path, attach: str) -> None:
    if attach != "auto":
        require_attach_method(attach)
    require_namespaces()
    plan = {"copy_file_range": 139, "sendfile": 149, "splice": 151}
    script = (
        'mount -t tmpfs none "$1" && mkdir "$1/below" "$1/above" "$1/work" "$1/merged" &&'
        'mount -t overlay -o "lowerdir=$1/below,upperdir=$1/above,workdir=$1/work" none "$1/merged" || exit 77;'
        'exec "$2" "$1/merged" $3'
    )
    with Monitor({"ebpfmon": {"load_mode": "return", "attach": attach}}) as monitor:
        command = [
            "unshare",
            "--mount",
            "sh",
            "-c",
            script,
            "sh",
            str(tmp_path),
            str(workload),
            " ".join(arguments(plan)),
        ]
        with subprocess.Popen(command) as process:
            if process.wait() == 77:
                pytest.skip("overlayfs cannot be mounted here; the machines of the matrix can")
            assert process.returncode == 0
        monitor.until_gone(lambda: np.array([process.pid]), 1)
    counters = tuple(plan)
    expected = {name: count for name, count in expected_counts(plan).items() if name.startswith(counters)}
    monitor.assert_counts(monitor.of(process.pid), expected)


def test_strace_counts_the_same(workload: Path, tmp_path: Path) -> None:
    report = tmp_path / "strace"
    subprocess.run(["strace", "-c", "-f", "-o", report, workload, tmp_path, *arguments(PLAN)], check=True)
    traced: dict[str, tuple[int, int]] = {}
    for line in report.read_text().splitlines():
        match = re.match(r" *[\d.]+ +[\d.]+ +\d+ +(\d+) +(\d+)? +(\w+)$", line)
        if match:
            traced[match[3]] = int(match[1]), int(match[2] or 0)

    def calls(*names: str) -> tuple[int, int]:
        return sum(traced[n][0] for n in names), sum(traced[n][1] for n in names)

    expected = counts_of(PLAN)
    assert calls("open", "openat", "openat2", "creat") == (expected["open_calls"], expected["open_errors"])
    assert calls("close", "close_range") == (expected["close_calls"], expected["close_errors"])
    reads = calls("read", "pread64", "readv", "preadv", "preadv2")
    assert reads == (expected["read_calls"], expected["read_errors"])
    writes = calls("write", "pwrite64", "writev", "pwritev", "pwritev2")
    assert writes == (expected["write_calls"], expected["write_errors"])
    unlinks = calls("unlink", "unlinkat")
    assert unlinks == (expected["unlink_calls"] + PLAN["rmdir"], expected["unlink_errors"])
    copies = "copy_file_range", "sendfile", "splice"
    assert calls(*copies) == (sum(expected[f"{call}_calls"] for call in copies), expected["copy_errors"])


def test_a_table_of_64_rows_under_a_thousand_processes_loses_nothing(workload: Path, tmp_path: Path) -> None:
    with Monitor({"plugins": {"process": {"table_size": 64}}}) as monitor:
        run_workload(workload, tmp_path, SMALL, children=1000)
    tables = monitor.harvests()
    assert max(len(t.rows) for t in tables) == 64
    assert sum(t.overflow_calls for t in tables) > 0
    # Only the workload has failing forks, so the total of the machine is known.
    assert sum(t.totals["processes_failed"] for t in tables) == 3000
    assert sum(t.overflow["processes_failed"] + int(t.rows["processes_failed"].sum()) for t in tables) == 3000
    assert all(s.complete for s in monitor.snapshots)
    assert_nothing_is_lost(monitor.snapshots)


def test_a_row_identifies_its_process_and_execve_begins_another() -> None:
    with (
        Monitor() as monitor,
        subprocess.Popen(["sh", "-c", ": < /dev/null; exec cat /dev/null"], user=1234) as process,
    ):
        process.wait()
    rows = monitor.rows()
    shell, cat = (rows[(rows["tgid"] == process.pid) & (rows["comm"] == comm)] for comm in (b"sh", b"cat"))
    assert set(cat["exec_id"]) == {shell["exec_id"][0] + 1}
    assert set(cat["start_ns"]) == set(shell["start_ns"])
    assert cat["read_calls"].sum() > 0
    assert {int(p) for p in cat["parent_tgid"][cat["read_calls"] > 0]} == {os.getpid()}
    assert set(cat["uid"]) == {1234}
    ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])  # The start time of this process.
    assert cat["start_ns"][0] / 1e9 >= ticks / os.sysconf("SC_CLK_TCK")


def test_a_row_has_the_cgroup_of_its_process() -> None:
    mounts = [line.split() for line in Path("/proc/self/mounts").read_text().splitlines()]
    group = Path(next(m[1] for m in mounts if m[2] == "cgroup2")) / f"ebpfmon-test-{os.getpid()}"
    group.mkdir()
    try:
        with Monitor() as monitor:
            script = f"echo $$ > {group}/cgroup.procs; exec cat /dev/null"
            with subprocess.Popen(["sh", "-c", script]) as process:
                process.wait()
        rows = monitor.rows()
        cat = rows[(rows["tgid"] == process.pid) & (rows["comm"] == b"cat") & (rows["read_calls"] > 0)]
        assert set(cat["cgroup_id"]) == {group.stat().st_ino}
    finally:
        group.rmdir()
