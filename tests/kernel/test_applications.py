"""Each call counts for the right application, program, user and container, however short-lived the process."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ebpfmon import Chart, Dimension, Snapshot
from ebpfmon.grouping import execs
from ebpfmon.grouping.registry import groupings
from ebpfmon.model import Role
from ebpfmon.plugins import registry
from tests.kernel.support import PLAN, RELEASES_ARE_SEEN, Monitor, expected_counts, run_workload

SMALL = {"open": 5, "read": 7, "write": 3, "unlink": 2}
# The charts that show a single counter.
CHARTS = {
    "file_open": "open_calls", "file_open_error": "open_errors", "file_closed": "close_calls",
    "file_close_error": "close_errors", "file_deleted": "unlink_calls",
    "vfs_write_call": "write_calls", "vfs_write_error": "write_errors",
    "vfs_read_call": "read_calls", "vfs_read_error": "read_errors", "vfs_write_bytes": "write_bytes",
    "vfs_read_bytes": "read_bytes", "process_create": "processes_created",
    "thread_create": "threads_created", "task_close": "tasks_released",
}  # fmt: skip
ALL = tuple(groupings())


def monitor(directory: Path, groups: str = "", **settings: Any) -> Monitor:
    """Return a monitor with this groups file and these settings of `[groups]`."""
    if groups:
        file = directory / "groups.conf"
        file.write_text(groups)
        settings["file"] = str(file)
    return Monitor({"groups": settings})


def charted(snapshots: Sequence[Snapshot], chart: str) -> Counter[str]:
    """Return the sum of each group in a chart, over all intervals."""
    sums: Counter[str] = Counter()
    for snapshot in snapshots:
        data = snapshot.chart(chart)
        for series in data.series() if data else ():
            (label,) = series.labels
            sums[label] += int(sum(series.deltas))
    return sums


def counted(snapshot: Snapshot, dimension: Dimension) -> int:
    """Return the system's total of a dimension, from the per-process table that has its counters."""
    fields = {*dimension.plus, *dimension.minus}
    harvests = [view.harvest for view in snapshot.tables.values() if view.harvest.is_by_process]
    (totals,) = (harvest.totals for harvest in harvests if fields <= harvest.totals.keys())
    return sum(totals[f] for f in dimension.plus) - sum(totals[f] for f in dimension.minus)


def assert_it_adds_up(snapshots: Sequence[Snapshot], *names: str, all_are_shown: bool = True) -> None:
    """Assert that in every interval and chart of these groupings, all series add up to the system's total.

    If every group has a series (`all_are_shown`), the running totals must add up too.
    """
    running: Counter[tuple[str, str]] = Counter()
    declared = {c.id: c for probe in registry.discover().probes.values() for c in probe.charts if c.grouped}
    prefixes = [groupings()[name].prefix for name in names or ("application",)]
    for snapshot in snapshots:
        grouped = {c.chart.id: c for c in snapshot.charts if set(c.chart.labels) & groupings().keys()}
        by_process = [view.harvest.totals for view in snapshot.tables.values() if view.harvest.is_by_process]
        there = [
            name for name, chart in declared.items() if any(_fields(chart) <= totals.keys() for totals in by_process)
        ]
        assert {f"{prefix}.{name}" for prefix in prefixes for name in CHARTS} <= grouped.keys()
        assert grouped.keys() == {f"{prefix}.{name}" for prefix in prefixes for name in there}
        for id_, data in grouped.items():
            assert data.index.roles[-2:] == (Role.OTHER, Role.OVERFLOW)
            for column, dimension in enumerate(data.chart.columns):
                total = counted(snapshot, dimension)
                assert data.deltas[:, column].sum() == total, (id_, snapshot.time_s)
                running[id_, dimension.id] += total
                if all_are_shown:
                    assert data.totals[:, column].sum() == running[id_, dimension.id], (id_, snapshot.time_s)


def _fields(chart: Chart) -> set[str]:
    return {field for dimension in chart.columns for field in (*dimension.plus, *dimension.minus)}


def assert_group_counts(
    snapshots: Sequence[Snapshot], group: str, expected: Mapping[str, int], grouping: str = "application"
) -> None:
    """Assert the exact counts of a group in all charts."""
    prefix = groupings()[grouping].prefix
    found = {counter: charted(snapshots, f"{prefix}.{chart}")[group] for chart, counter in CHARTS.items()}
    wrong = {c: (n, expected[c]) for c, n in found.items() if n != expected[c]}
    released = wrong.pop("tasks_released", (0, 0))
    assert not wrong, wrong  # (found, expected)
    assert released[0] == released[1] or not RELEASES_ARE_SEEN


def rows_of(watching: Monitor, group: str, grouping: str = "application") -> np.ndarray:
    """Return all rows of a group so far."""
    found = []
    for snapshot in watching.snapshots:
        view = snapshot.tables["process"]
        groups = view.groups[grouping]
        ids = [id_ for id_, name in groups.names.items() if name == group]
        found.append(view.harvest.rows[np.isin(groups.ids, ids)])
    return np.concatenate(found)


def exits(watching: Monitor, group: str, grouping: str = "application") -> int:
    """Return how many tasks of a group have exited so far."""
    return int(rows_of(watching, group, grouping)["tasks_exited"].sum())


def test_three_thousand_short_lived_processes_count_for_their_shell(tmp_path: Path) -> None:
    with monitor(tmp_path, "loop: '*for i in $(seq 3000)*'\n") as watching:
        subprocess.run(["sh", "-c", "for i in $(seq 3000); do /bin/true; done"], check=True)
        watching.until(lambda: exits(watching, "loop") >= 3002)  # 3,000, seq, and the shell itself
    assert_it_adds_up(watching.snapshots)
    assert charted(watching.snapshots, "apps.process_create")["loop"] == 3001
    assert exits(watching, "loop") == 3002
    rows = rows_of(watching, "loop")
    ran = rows[rows["comm"] == b"true"]
    assert len({(r["start_ns"], r["tgid"], r["exec_id"]) for r in ran}) == 3000


@pytest.mark.parametrize("plan", [PLAN, {**SMALL, "workers": 17}], ids=["one thread", "many threads"])
def test_the_work_of_a_daemon_and_its_threads_counts_for_the_daemon(
    workload: Path, tmp_path: Path, plan: Mapping[str, int]
) -> None:
    arguments = " ".join(f"{key}={count}" for key, count in plan.items())
    with monitor(tmp_path, "busy: workload\ninit: systemd init\n") as watching:
        # Its parent ends at once, so that it becomes a child of PID 1.
        subprocess.run(["sh", "-c", f"setsid sh -c 'sleep 0.3; exec {workload} {tmp_path} {arguments}' &"], check=True)
        tasks = plan.get("workers", 0) + plan.get("thread", 0) + plan.get("fork", 0) + 1
        watching.until(lambda: exits(watching, "busy") >= tasks)
        watching.until(lambda: charted(watching.snapshots, "apps.task_close")["busy"] >= tasks * RELEASES_ARE_SEEN)
    times = plan.get("workers", 1)
    expected = expected_counts({k: n for k, n in plan.items() if k != "workers"}, times=times)
    expected["tasks_released"] += plan.get("fork", 0)  # The forked children have the same name.
    assert_group_counts(watching.snapshots, "busy", expected)
    assert_it_adds_up(watching.snapshots)


def test_an_orphan_counts_for_its_new_program_from_execve_on(workload: Path, tmp_path: Path) -> None:
    # Its parent has ended before its first counted call, and it runs longer than an interval.
    script = """
import os, sys
parent = os.getpid()
if os.fork():
    os._exit(0)
while os.getppid() == parent:
    pass
for _ in range(101):
    os.close(os.open("/dev/null", os.O_RDONLY))
os.execv(sys.argv[1], sys.argv[1:])
"""
    with monitor(tmp_path, "busy: workload\n") as watching:
        command = [sys.executable, "-c", script, str(workload), str(tmp_path), "storm=3", "workers=1"]
        subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
        watching.until(lambda: exits(watching, "busy") >= 2)
    assert charted(watching.snapshots, "apps.file_open")["busy"] == 1
    assert charted(watching.snapshots, "apps.file_closed")["busy"] == 0
    assert_it_adds_up(watching.snapshots)


def test_a_child_counts_for_its_new_program_from_execve_on(workload: Path, tmp_path: Path) -> None:
    shell = tmp_path / "own-shell"  # Other processes may run a shell too.
    shell.symlink_to("/bin/sh")
    with monitor(tmp_path, "tests: py*\nshell: own-shell\nbusy: workload\n") as watching:
        script = f"{workload} {tmp_path} open=1009 write=1511; echo > /dev/null; exit 0"
        subprocess.run([shell, "-c", script], check=True)
        watching.until(lambda: exits(watching, "shell") >= 1)
        watching.until(lambda: charted(watching.snapshots, "apps.task_close")["busy"] >= RELEASES_ARE_SEEN)
    assert_group_counts(watching.snapshots, "busy", expected_counts({"open": 1009, "write": 1511}))
    assert charted(watching.snapshots, "apps.process_create")["shell"] == 1
    assert_it_adds_up(watching.snapshots)


def test_a_command_line_matches_a_process_of_a_millisecond(tmp_path: Path) -> None:
    with monitor(tmp_path, "mine: *--marked-so*\n") as watching:
        subprocess.run(["sh", "-c", "for i in $(seq 53); do /bin/true a --marked-so b; /bin/true; done"], check=True)
        # The shell's own command line matches too, so its children belong to the group. Other children do not.
        for _ in range(13):
            subprocess.run(["/bin/true", "--marked-so"], check=True)
            subprocess.run(["/bin/true", "--not-marked"], check=True)
        watching.until(lambda: exits(watching, "mine") >= 2 * 53 + 2 + 13)
    assert exits(watching, "mine") == 2 * 53 + 2 + 13
    assert_it_adds_up(watching.snapshots)


@contextmanager
def running(*command: str | Path) -> Iterator[subprocess.Popen[bytes]]:
    """Start a process that waits for a line of input, and kill it at the end."""
    with subprocess.Popen(command, stdin=subprocess.PIPE) as process:
        try:
            yield process
        finally:
            process.kill()


def test_an_older_process_is_looked_up_once_and_its_children_inherit_its_group(tmp_path: Path) -> None:
    script = "read go; for i in $(seq 101); do /bin/true; done; read stay"
    with running("sh", "-c", script, "older-than-ebpfmon") as older:
        with monitor(tmp_path, "older: *older-than-ebpfmon*\n") as watching:
            assert older.stdin
            older.stdin.write(b"go\n")
            older.stdin.flush()
            watching.until(lambda: exits(watching, "older") >= 102)
        assert exits(watching, "older") == 102
        assert charted(watching.snapshots, "apps.process_create")["older"] == 102
        assert_it_adds_up(watching.snapshots)
    assert watching.total("ebpfmon.attribution", "looked_up"), "the shell was looked up in /proc"


def test_each_call_counts_for_the_user_of_its_process(workload: Path, tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    for directory in (tmp_path, *tmp_path.parents, workload.parent):
        if directory.stat().st_uid == os.getuid() and directory != Path("/"):
            directory.chmod(directory.stat().st_mode | 0o011)
    workload.chmod(0o755)
    command = [
        "setpriv",
        "--reuid=nobody",
        "--regid=nogroup",
        "--clear-groups",
        str(workload),
        str(tmp_path),
        "open=1009",
    ]
    with monitor(tmp_path, by=["user"]) as watching:
        subprocess.run(command, check=True)
        watching.until(lambda: exits(watching, "nobody", "user") >= 1)
        watching.until(lambda: charted(watching.snapshots, "users.task_close")["nobody"] >= RELEASES_ARE_SEEN)
    found = charted(watching.snapshots, "users.file_open")
    assert found["nobody"] >= 1009 + 3
    assert found["root"]
    assert_it_adds_up(watching.snapshots, "user")


def test_each_call_counts_for_the_program_of_its_process(workload: Path, tmp_path: Path) -> None:
    with monitor(tmp_path, by=["process"]) as watching:
        tgid = run_workload(workload, tmp_path, PLAN)
        watching.until_gone(lambda: np.array([tgid]), 38)
        watching.until(lambda: exits(watching, "workload", "process") >= 38 + 41)
    expected = expected_counts(PLAN)
    expected["tasks_released"] += PLAN["fork"]
    assert_group_counts(watching.snapshots, "workload", expected, "process")
    assert_it_adds_up(watching.snapshots, "process")


def test_each_call_counts_for_the_container_of_its_process(workload: Path, tmp_path: Path) -> None:
    mounts = [line.split() for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    top = next((Path(m[4]) for m in mounts if m[m.index("-") + 1] == "cgroup2"), None)
    own = top / "ebpfmon-test.service" if top else Path("/nowhere")
    try:
        own.mkdir()
    except OSError as error:
        pytest.skip(f"cannot make a cgroup: {error}")
    try:
        with monitor(tmp_path, by=["container"]) as watching:
            script = f"echo $$ > {own}/cgroup.procs; exec {workload} {tmp_path} open=1009 write=1511"
            subprocess.run(["sh", "-c", script], check=True)
            watching.until(lambda: exits(watching, "ebpfmon-test.service", "container") >= 1)
        found = charted(watching.snapshots, "containers.vfs_write_call")
        assert found["ebpfmon-test.service"] in (1511, 1512)  # One more is the shell's own, to cgroup.procs.
        assert_it_adds_up(watching.snapshots, "container")
    finally:
        own.rmdir()


def test_all_groupings_at_once_add_up_and_count_the_same_calls(workload: Path, tmp_path: Path) -> None:
    file = tmp_path / "groups.conf"
    file.write_text("busy: own-workload\n")
    program, shell = tmp_path / "own-workload", tmp_path / "own-shell"  # Other processes may run the originals.
    program.symlink_to(workload)
    shell.symlink_to("/bin/sh")
    settings = {
        "groups": {"by": list(ALL), "file": str(file)},
        "plugins": {"network_viewer": {"ips": "*"}, "oom_and_signals": {"enabled": True}},
    }
    with Monitor(settings) as watching:
        # The first calls of a user count for `other`, until the name of the user is known.
        watching.until(lambda: _shows_root(watching))
        script = "for i in $(seq 101); do /bin/true; done; kill -9 $$"
        for _ in range(3):  # Each run is in an interval of its own.
            tgid = run_workload(program, tmp_path, PLAN)
            subprocess.run([shell, "-c", script], check=False)
            _send_to_self()
            seen = len(watching.snapshots)
            watching.until(lambda seen=seen: len(watching.snapshots) > seen)  # type: ignore[misc]
        watching.until_gone(lambda: np.array([tgid]), 38)
        watching.until(lambda: exits(watching, "busy") >= 3 * (38 + 41))
    expected = {counter: 3 * n for counter, n in expected_counts(PLAN).items()}
    expected["tasks_released"] += 3 * PLAN["fork"]
    assert_group_counts(watching.snapshots, "busy", expected)
    assert_group_counts(watching.snapshots, "own-workload", expected, "process")
    for chart, counter in CHARTS.items():
        assert charted(watching.snapshots, f"users.{chart}")["root"] >= expected[counter] * (
            counter != "tasks_released" or RELEASES_ARE_SEEN
        )
    assert charted(watching.snapshots, "processes.signal_kills")["own-shell"] == 3
    assert charted(watching.snapshots, "users.bandwidth_udp_send")["root"] >= 3 * 53
    assert_it_adds_up(watching.snapshots, *ALL)


def _shows_root(watching: Monitor) -> bool:
    subprocess.run(["true"], check=True)  # root's calls in this interval
    return "root" in charted(watching.snapshots, "users.file_open")


def _send_to_self() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
        one.bind(("127.0.0.1", 0))
        for _ in range(53):
            one.sendto(b"hello", one.getsockname())
            one.recv(5)


def test_without_groupings_the_kernel_keeps_no_rows(workload: Path, tmp_path: Path) -> None:
    with Monitor({"groups": {"by": []}}) as watching:
        run_workload(workload, tmp_path, {"thread_fail": 1009})
    assert sum(s.tables["process"].harvest.totals["threads_failed"] for s in watching.snapshots) == 1009
    for snapshot in watching.snapshots:
        table = snapshot.tables["process"]
        assert not len(table.harvest.rows)
        assert table.harvest.capacity == 1
        assert not table.harvest.overflow_calls
        assert not table.groups
        prefixes = {chart.chart.id.partition(".")[0] for chart in snapshot.charts}
        assert not prefixes & {grouping.prefix for grouping in groupings().values()}


def test_charts_add_up_when_tables_are_too_small(
    workload: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(execs, "SIZE", 8)
    with Monitor(
        {"groups": {"by": list(ALL)}, "plugins": {"process": {"table_size": 16}, "network_viewer": {"enabled": False}}}
    ) as watching:
        subprocess.run(["sh", "-c", f"for i in $(seq 307); do {workload} {tmp_path} open=3; done"], check=True)
        watching.until(lambda: charted(watching.snapshots, "ebpfmon.overflow")["execs"] > 0)
    assert_it_adds_up(watching.snapshots, *ALL)
    assert charted(watching.snapshots, "apps.file_open")["overflow"] > 0


def test_no_more_groups_are_shown_than_the_maximum(tmp_path: Path) -> None:
    programs = []
    for n in range(23):
        programs.append(tmp_path / f"program-{n}")
        programs[-1].symlink_to("/bin/true")
    with monitor(tmp_path, by=["process"], maximum=7) as watching:
        for _ in range(3):
            for program in programs:
                subprocess.run([program], check=True)
            seen = len(watching.snapshots)
            watching.until(lambda seen=seen: len(watching.snapshots) > seen)  # type: ignore[misc]
    assert_it_adds_up(watching.snapshots, "process", all_are_shown=False)
    shown = [chart for s in watching.snapshots if (chart := s.chart("processes.file_open"))]
    assert len(shown) == len(watching.snapshots)
    assert all(len(chart) <= 7 + 2 for chart in shown)
    assert charted(watching.snapshots, "processes.file_open")["other"]
