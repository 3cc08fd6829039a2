"""Whose each call is: applications, users, cgroups; to the call, however short a life."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ebpfmon import Scope, Snapshot
from ebpfmon.grouping import execs
from tests.kernel.support import PLAN, RELEASES_ARE_SEEN, Monitor, expected, work

SMALL = {"open": 5, "read": 7, "write": 3, "unlink": 2}
# the chart of each counter, where nothing is summed
CHARTS = {
    "apps.file_open": "open_calls", "apps.file_open_error": "open_errors", "apps.file_closed": "close_calls",
    "apps.file_close_error": "close_errors", "apps.file_deleted": "unlink_calls",
    "apps.vfs_write_call": "write_calls", "apps.vfs_write_error": "write_errors",
    "apps.vfs_read_call": "read_calls", "apps.vfs_read_error": "read_errors", "apps.vfs_write_bytes": "write_bytes",
    "apps.vfs_read_bytes": "read_bytes", "apps.process_create": "processes_created",
    "apps.thread_create": "threads_created", "apps.task_close": "tasks_released",
}  # fmt: skip


def monitor(directory: Path, groups: str = "", **apps: Any) -> Monitor:
    """The daemon, with these groups."""
    if groups:
        file = directory / "groups.conf"
        file.write_text(groups)
        apps["groups"] = str(file)
    return Monitor({"apps": apps})


def charted(snapshots: Sequence[Snapshot], chart: str) -> dict[str, int]:
    """What each group has in a chart, over all intervals."""
    sums: dict[str, int] = {}
    for snapshot in snapshots:
        for found in snapshot.charts:
            if found.chart.id == chart:
                for value in found.values:
                    sums[value.dimension.name] = sums.get(value.dimension.name, 0) + int(value.delta)
    return sums


def assert_it_adds_up(snapshots: Sequence[Snapshot], *, all_are_shown: bool = True) -> None:
    """In every interval and for every chart: applications + other + overflow = the system's total.

    So do the running totals, as long as no group gives its place to another, and takes its own total with it.
    """
    running: dict[str, int] = {}
    for snapshot in snapshots:
        found = {c.chart.id: c for c in snapshot.charts if c.chart.scope is Scope.APPS}
        assert found.keys() == CHARTS.keys()
        totals = snapshot.tables["process"].totals
        for chart, counter in CHARTS.items():
            assert sum(v.delta for v in found[chart].values) == totals[counter], (chart, snapshot.time_s)
            running[chart] = running.get(chart, 0) + totals[counter]
            if all_are_shown:
                assert sum(v.total for v in found[chart].values) == running[chart], (chart, snapshot.time_s)
            assert [v.dimension.name for v in found[chart].values][-2:] == ["other", "overflow"]


def assert_charged(snapshots: Sequence[Snapshot], group: str, wanted: Mapping[str, int]) -> None:
    """A group did exactly this, in all charts."""
    found = {counter: charted(snapshots, chart).get(group, 0) for chart, counter in CHARTS.items()}
    wrong = {c: (n, wanted[c]) for c, n in found.items() if n != wanted[c]}
    released = wrong.pop("tasks_released", (0, 0))
    assert not wrong, wrong  # (found, wanted)
    assert released[0] == released[1] or not RELEASES_ARE_SEEN


def rows_of(watching: Monitor, group: str) -> np.ndarray:
    """All rows of a group so far."""
    found = []
    for snapshot in watching.snapshots:
        owners, rows = snapshot.owners["process"], snapshot.tables["process"].rows
        found.append(rows[owners.of_rows == owners.groups.index(group)] if group in owners.groups else rows[:0])
    return np.concatenate(found)


def exits(watching: Monitor, group: str) -> int:
    """How many tasks of a group have ended so far."""
    return int(rows_of(watching, group)["tasks_exited"].sum())


def test_three_thousand_short_lived_processes_are_all_their_pipelines(tmp_path: Path) -> None:
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
def test_a_daemons_work_and_its_threads_are_charged_to_the_daemon(
    workload: Path, tmp_path: Path, plan: Mapping[str, int]
) -> None:
    arguments = " ".join(f"{key}={count}" for key, count in plan.items())
    with monitor(tmp_path, "busy: workload\ninit: systemd init\n") as watching:
        # its parent ends at once, so that its parent is the first process
        subprocess.run(["sh", "-c", f"setsid sh -c 'sleep 0.3; exec {workload} {tmp_path} {arguments}' &"], check=True)
        tasks = plan.get("workers", 0) + plan.get("thread", 0) + plan.get("fork", 0) + 1
        watching.until(lambda: exits(watching, "busy") >= tasks)
        watching.until(
            lambda: charted(watching.snapshots, "apps.task_close").get("busy", 0) >= tasks * RELEASES_ARE_SEEN
        )
    times = plan.get("workers", 1)
    wanted = expected({k: n for k, n in plan.items() if k != "workers"}, times=times)
    wanted["tasks_released"] += plan.get("fork", 0)  # the forked children have the same name
    assert_charged(watching.snapshots, "busy", wanted)
    assert_it_adds_up(watching.snapshots)


def test_a_shells_child_is_charged_to_what_it_became_from_the_exec_on(workload: Path, tmp_path: Path) -> None:
    shell = tmp_path / "own-shell"  # others may run one, too
    shell.symlink_to("/bin/sh")
    with monitor(tmp_path, "tests: py*\nshell: own-shell\nbusy: workload\n") as watching:
        script = f"{workload} {tmp_path} open=1009 write=1511; echo > /dev/null; exit 0"
        subprocess.run([shell, "-c", script], check=True)
        watching.until(lambda: exits(watching, "shell") >= 1)
        watching.until(lambda: charted(watching.snapshots, "apps.task_close").get("busy", 0) >= RELEASES_ARE_SEEN)
    assert_charged(watching.snapshots, "busy", expected({"open": 1009, "write": 1511}))
    assert charted(watching.snapshots, "apps.process_create")["shell"] == 1
    assert_it_adds_up(watching.snapshots)


def test_a_command_line_names_a_process_of_a_millisecond(tmp_path: Path) -> None:
    with monitor(tmp_path, "mine: *--marked-so*\n") as watching:
        subprocess.run(["sh", "-c", "for i in $(seq 53); do /bin/true a --marked-so b; /bin/true; done"], check=True)
        # the shell's own command line has the words too, so all that it forks is its group's: but not another's
        for _ in range(13):
            subprocess.run(["/bin/true", "--marked-so"], check=True)
            subprocess.run(["/bin/true", "--not-marked"], check=True)
        watching.until(lambda: exits(watching, "mine") >= 2 * 53 + 2 + 13)
    assert exits(watching, "mine") == 2 * 53 + 2 + 13
    assert_it_adds_up(watching.snapshots)


@contextmanager
def running(*command: str | Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process that waits for a line before it does anything."""
    with subprocess.Popen(command, stdin=subprocess.PIPE) as process:
        try:
            yield process
        finally:
            process.kill()


def test_what_ran_before_is_looked_up_once_and_its_children_inherit(tmp_path: Path) -> None:
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
    asked = charted(watching.snapshots, "ebpfmon.attribution")["looked up"]
    assert asked, "the shell was looked up in /proc"


def test_by_user(workload: Path, tmp_path: Path) -> None:
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
    with monitor(tmp_path, by="user") as watching:
        subprocess.run(command, check=True)
        watching.until(lambda: exits(watching, "nobody") >= 1)
        watching.until(lambda: charted(watching.snapshots, "apps.task_close").get("nobody", 0) >= RELEASES_ARE_SEEN)
    found = charted(watching.snapshots, "apps.file_open")
    assert found["nobody"] >= 1009 + 3
    assert found["root"]
    assert_it_adds_up(watching.snapshots)


def test_by_process(workload: Path, tmp_path: Path) -> None:
    with monitor(tmp_path, by="process") as watching:
        tgid = work(workload, tmp_path, PLAN)
        watching.until_gone(lambda: np.array([tgid]), 38)
        watching.until(lambda: exits(watching, "workload") >= 38 + 41)
    wanted = expected(PLAN)
    wanted["tasks_released"] += PLAN["fork"]
    assert_charged(watching.snapshots, "workload", wanted)
    assert_it_adds_up(watching.snapshots)


def test_by_cgroup(workload: Path, tmp_path: Path) -> None:
    mounts = [line.split() for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    top = next((Path(m[4]) for m in mounts if m[m.index("-") + 1] == "cgroup2"), None)
    own = top / "ebpfmon-test.service" if top else Path("/nowhere")
    try:
        own.mkdir()
    except OSError as error:
        pytest.skip(f"no cgroup can be made: {error}")
    try:
        with monitor(tmp_path, by="cgroup") as watching:
            script = f"echo $$ > {own}/cgroup.procs; exec {workload} {tmp_path} open=1009 write=1511"
            subprocess.run(["sh", "-c", script], check=True)
            watching.until(lambda: exits(watching, "ebpfmon-test.service") >= 1)
        found = charted(watching.snapshots, "apps.vfs_write_call")
        assert found["ebpfmon-test.service"] in (1511, 1512)  # the shell's own, as it moves
        assert_it_adds_up(watching.snapshots)
    finally:
        own.rmdir()


def test_where_applications_are_turned_off_the_kernel_keeps_no_rows(workload: Path, tmp_path: Path) -> None:
    with Monitor({"apps": {"enabled": False}}) as watching:
        work(workload, tmp_path, {"thread_fail": 1009})
    assert sum(s.tables["process"].totals["threads_failed"] for s in watching.snapshots) == 1009
    for snapshot in watching.snapshots:
        assert not len(snapshot.tables["process"].rows)
        assert snapshot.tables["process"].capacity == 1
        assert not snapshot.tables["process"].overflow_calls
        assert not snapshot.owners
        assert not [c for c in snapshot.charts if c.chart.scope is Scope.APPS]


def test_it_adds_up_when_tables_are_too_small(workload: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(execs, "SIZE", 8)
    with Monitor(
        {"apps": {"by": "app"}, "plugins": {"process": {"table_size": 16}, "network_viewer": {"enabled": False}}}
    ) as watching:
        subprocess.run(["sh", "-c", f"for i in $(seq 307); do {workload} {tmp_path} open=3; done"], check=True)
        watching.until(lambda: charted(watching.snapshots, "ebpfmon.overflow").get("execs", 0) > 0)
    assert_it_adds_up(watching.snapshots)
    assert charted(watching.snapshots, "apps.file_open")["overflow"] > 0


def test_no_more_groups_are_shown_than_may_be(tmp_path: Path) -> None:
    programs = []
    for n in range(23):
        programs.append(tmp_path / f"program-{n}")
        programs[-1].symlink_to("/bin/true")
    with monitor(tmp_path, by="process", maximum=7) as watching:
        for _ in range(3):
            for program in programs:
                subprocess.run([program], check=True)
            seen = len(watching.snapshots)
            watching.until(lambda seen=seen: len(watching.snapshots) > seen)  # type: ignore[misc]
    assert_it_adds_up(watching.snapshots, all_are_shown=False)
    shown = [
        [v.dimension.name for v in c.values]
        for s in watching.snapshots
        for c in s.charts
        if c.chart.id == "apps.file_open"
    ]
    assert all(len(names) <= 7 + 2 for names in shown)
    assert charted(watching.snapshots, "apps.file_open")["other"]
