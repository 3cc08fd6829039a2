"""Each call counts for what its process was when it made the call: its user, its name, its cgroup."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ebpfmon import LoadMode
from ebpfmon.kernel import attach_methods
from ebpfmon.model import Role
from tests.kernel.support import RELEASES_ARE_SEEN, Monitor, require_attach_method

GROUPINGS = ("user", "process", "application", "container")
METHODS = pytest.mark.parametrize("attach", ["auto", *attach_methods.NAMES])


@pytest.fixture
def cgroups() -> Iterator[tuple[Path, Path]]:
    """Two cgroups that exist during the test."""
    mounts = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
    top = next((Path(m[1]) for m in mounts if m[2] == "cgroup2"), None)
    if top is None:
        pytest.skip("no cgroup2 is mounted")
    made = [top / f"ebpfmon-{name}-{os.getpid()}.service" for name in ("one", "two")]
    try:
        for path in made:
            path.mkdir()
    except OSError as error:
        pytest.skip(f"cannot make a cgroup: {error}")
    yield made[0], made[1]
    for path in made:
        path.rmdir()


def monitor_of(attach: str = "auto", interval: int = 1) -> Monitor:
    """Return the daemon with all groupings."""
    if attach != "auto":
        require_attach_method(attach)
    return Monitor(
        {
            "ebpfmon": {"load_mode": LoadMode.ENTRY, "attach": attach, "interval": interval},
            "groups": {"by": [*GROUPINGS]},
        }
    )


def run(program: Path, *what: str) -> int:
    """Run the program to its end, and return its process ID."""
    with subprocess.Popen([program, *what]) as process:
        assert process.wait() == 0
    return process.pid


def reads(monitor: Monitor, tgid: int, *fields: str) -> Counter[tuple[Any, ...]]:
    """Return the reads of a process by the values of fields of its rows."""
    rows = monitor.rows()
    counts: Counter[tuple[Any, ...]] = Counter()
    for row in rows[(rows["tgid"] == tgid) & (rows["read_calls"] > 0)]:
        counts[tuple(row[field].item() for field in fields)] += int(row["read_calls"])
    return counts


def released(monitor: Monitor, tgid: int) -> Counter[bytes]:
    """Return how many tasks of a process were released, by the name in their rows."""
    rows = monitor.rows()
    counts: Counter[bytes] = Counter()
    for row in rows[(rows["tgid"] == tgid) & (rows["tasks_released"] > 0)]:
        counts[row["comm"].item()] += int(row["tasks_released"])
    return counts


def named(monitor: Monitor, program: Path, cgroup: Path) -> bool:
    """Write something in a cgroup, and return whether an earlier write counted for its name."""
    run(program, *[f"cgroup={cgroup}/cgroup.procs"] * 2)
    return monitor.total("containers.vfs_write_call", "value", container=cgroup.name) > 0


def user_named(monitor: Monitor, program: Path) -> bool:
    """Read something as a user, and return whether an earlier read counted for the user's name."""
    run(program, "euid=33", "read=1", "euid=0")
    return monitor.total("users.vfs_read_call", "value", user="www-data") > 0


@METHODS
@pytest.mark.parametrize("interval", [1, 10])
def test_a_name_a_user_and_a_cgroup_count_what_the_process_did_as_each(
    changes: Path, cgroups: tuple[Path, Path], attach: str, interval: int
) -> None:
    one, two = cgroups
    steps = (
        f"cgroup={one}/cgroup.procs", "name=first", "read=101", "name=second", "read=103",
        f"cgroup={two}/cgroup.procs", "read=107", "euid=33", "read=109", "euid=0", "read=113",
    )  # fmt: skip
    with monitor_of(attach, interval) as monitor:
        if interval == 1:  # Names are looked up once, which may take longer than an interval here.
            for path in cgroups:
                monitor.until(lambda path=path: named(monitor, changes, path))  # type: ignore[misc]
            monitor.until(lambda: user_named(monitor, changes))
        tgid = run(changes, *steps)
        if interval == 1:
            monitor.until(lambda: reads(monitor, tgid, "tgid").total() >= 533)
    ids = {path.stat().st_ino: path.name for path in cgroups}
    counted = reads(monitor, tgid, "comm", "uid", "cgroup_id")
    assert {(comm, uid, ids.get(cgroup)): n for (comm, uid, cgroup), n in counted.items()} == {
        (b"first", 0, one.name): 101,
        (b"second", 0, one.name): 103,
        (b"second", 0, two.name): 107 + 113,
        (b"second", 33, two.name): 109,
    }
    for name, expected in (("first", 101), ("second", 103 + 107 + 109 + 113)):
        assert monitor.total("processes.vfs_read_call", "value", process=name) == expected
    if interval == 1:  # Otherwise the names may not have been found yet.
        for path, expected in ((one, 101 + 103), (two, 107 + 109 + 113)):
            assert monitor.total("containers.vfs_read_call", "value", container=path.name) == expected
        assert monitor.total("users.vfs_read_call", "value", user="www-data") >= 109


def test_the_user_is_the_effective_one_as_in_ps(changes: Path) -> None:
    with monitor_of() as monitor:
        tgid = run(changes, "uid=33", "read=127", "euid=33", "read=131")
        monitor.until(lambda: reads(monitor, tgid, "tgid").total() >= 258)
    assert reads(monitor, tgid, "uid") == {(0,): 127, (33,): 131}


def test_a_setuid_program_counts_for_its_owner_until_it_becomes_the_user(changes: Path) -> None:
    with tempfile.TemporaryDirectory() as directory:
        os.chmod(directory, 0o755)
        program = Path(shutil.copy(changes, directory))
        program.chmod(0o4755)
        as_user = ["setpriv", "--reuid=33", "--regid=33", "--clear-groups", str(program)]
        with monitor_of(interval=5) as monitor:
            with subprocess.Popen([*as_user, "read=173", "euid=33", "read=179", "euid=0", "read=181"]) as process:
                status = process.wait()
            if status:
                pytest.skip("the temporary directory is mounted with nosuid")
    own = reads(monitor, process.pid, "comm", "uid")
    assert {uid: count for (comm, uid), count in own.items() if comm == b"changes"} == {0: 173 + 181, 33: 179}


def test_a_thread_counts_for_the_name_of_its_process(changes: Path) -> None:
    with monitor_of() as monitor:
        tgid = run(changes, "name=whole", "thread=137", "name=later", "thread=139")
        monitor.until(lambda: reads(monitor, tgid, "tgid").total() >= 276)
    assert reads(monitor, tgid, "comm") == {(b"whole",): 137, (b"later",): 139}


def test_a_release_counts_for_the_process_if_thousands_of_threads_end_at_once(changes: Path) -> None:
    threads = 6007  # more than the kernel part remembers between the exit of a thread and its release
    with monitor_of() as monitor:
        tgid = run(changes, f"threads={threads}")
        monitor.until_gone(lambda: np.array([tgid]), threads + 1)
        monitor.until(lambda: released(monitor, tgid).total() > threads / 2)
    counted = released(monitor, tgid)
    assert counted.keys() == {b"changes"}
    assert counted.total() == threads + 1 or (not RELEASES_ARE_SEEN and counted.total() <= threads + 1)


def test_a_shorter_name_is_not_followed_by_the_rest_of_the_longer_one(changes: Path) -> None:
    with monitor_of() as monitor:
        tgid = run(changes, "name=fifteen-letters", "read=149", "name=x", "read=151", "name=eight-le", "read=157")
        monitor.until(lambda: reads(monitor, tgid, "tgid").total() >= 457)
    assert reads(monitor, tgid, "comm") == {(b"fifteen-letters",): 149, (b"x",): 151, (b"eight-le",): 157}


def test_a_program_with_a_reserved_name_is_an_item(changes: Path) -> None:
    with monitor_of() as monitor:
        tgid = run(changes, "name=overflow", "read=163", "name=other", "read=167")
        monitor.until(lambda: reads(monitor, tgid, "tgid").total() >= 330)
    counted: Counter[tuple[Role, str]] = Counter()
    for data in monitor.charts("processes.vfs_read_call"):
        for series in data.series():
            counted[series.role, series.labels[0]] += int(series.deltas[0])
    # Another program may have such a name, too.
    assert counted[Role.ITEM, "overflow"] >= 163
    assert counted[Role.ITEM, "other"] >= 167
    assert not counted[Role.OVERFLOW, "overflow"]
