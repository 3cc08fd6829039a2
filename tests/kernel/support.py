"""What the kernel tests share: the daemon in a thread with a recording sink, and what a workload must count as."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ebpfmon import ChartData, LoadMode, TableHarvest
from ebpfmon.errors import AttachError
from ebpfmon.kernel import attach, features
from ebpfmon.kernel.attach import LoadOptions
from ebpfmon.kernel.libbpf import Libbpf
from ebpfmon.plugins import registry
from ebpfmon.testing import RunningDaemon

COUNTERS = (
    "open_calls", "open_errors", "close_calls", "close_errors", "read_calls", "read_errors", "read_bytes",
    "write_calls", "write_errors", "write_bytes", "unlink_calls", "unlink_errors", "processes_created",
    "processes_failed", "threads_created", "threads_failed", "tasks_exited", "tasks_released",
)  # fmt: skip
ERRORS = tuple(c for c in COUNTERS if c.endswith(("_errors", "_failed")))


def _releases_are_seen() -> bool:
    """Some sandboxes' kernels shield PID 1 from everybody, and run no BPF program on top of it. A task is released in
    a softirq, on top of whatever runs there: if that is PID 1, no program can see it."""
    try:
        Path("/proc/1/io").read_text()
    except PermissionError:
        return False
    return True


RELEASES_ARE_SEEN = _releases_are_seen()

# every count is another prime, so that no two can be mistaken for each other
PLAN = {
    "open": 1009, "creat": 53, "openat": 211, "openat2": 59, "open_fail": 223, "close_fail": 101, "close_range": 61,
    "read": 2003, "read_end": 67, "pread": 307, "readv": 103, "preadv": 71, "preadv2": 73, "read_fail": 89,
    "write": 1511, "pwrite": 83, "writev": 107, "pwritev": 109, "pwritev2": 113, "write_fail": 97,
    "unlink": 127, "unlinkat": 131, "unlink_fail": 43, "rmdir": 137,
    "fork": 41, "thread": 37, "thread_fail": 7, "process_fail": 11, "thread3_fail": 13,
}  # fmt: skip


def counts_of(plan: Mapping[str, int]) -> dict[str, int]:
    """What one run of a plan counts as, without the process's own end."""

    def did(*keys: str) -> int:
        return sum(plan.get(key, 0) for key in keys)

    compat = bool(did("compat_read", "compat_write", "compat_open"))
    opened = did("open", "creat", "openat", "openat2", "compat_open") + 3 + compat  # /dev/null twice, /dev/zero
    vectors = did("readv", "preadv", "preadv2"), did("writev", "pwritev", "pwritev2")
    return {
        "open_calls": opened + did("open_fail"),
        "open_errors": did("open_fail"),
        "close_calls": opened + did("close_fail", "close_range"),
        "close_errors": did("close_fail"),
        "read_calls": did("read", "read_end", "pread", "read_fail", "compat_read", "turns") + vectors[0],
        "read_errors": did("read_fail"),
        "read_bytes": 97 * did("read")
        + 89 * did("pread")
        + 131 * vectors[0]
        + 17 * did("compat_read")
        + 2 * did("turns"),
        "write_calls": did("write", "pwrite", "write_fail", "compat_write", "turns") + vectors[1],
        "write_errors": did("write_fail"),
        "write_bytes": 83 * did("write")
        + 79 * did("pwrite")
        + 131 * vectors[1]
        + 19 * did("compat_write")
        + did("turns"),
        "unlink_calls": did("unlink", "unlinkat", "unlink_fail"),
        "unlink_errors": did("unlink_fail"),
        "processes_created": did("fork") + bool(did("turns")),
        "processes_failed": did("process_fail"),
        "threads_created": did("thread"),
        "threads_failed": did("thread_fail", "thread3_fail"),
        "tasks_exited": did("thread"),
        "tasks_released": did("thread"),
    }


def expected(plan: Mapping[str, int], *, times: int = 1, mode: LoadMode = LoadMode.RETURN) -> dict[str, int]:
    """What a whole process counts as that runs a plan `times` times, each in a thread of its own if more than 1."""
    counts = {name: count * times for name, count in counts_of(plan).items()}
    threads = times if times > 1 else 0
    counts["threads_created"] += threads
    counts["tasks_exited"] += threads + 1
    counts["tasks_released"] += threads + 1
    return {name: 0 if mode is LoadMode.ENTRY and name in ERRORS else count for name, count in counts.items()}


class Monitor(RunningDaemon):
    """The daemon, in a thread. `settings` is TOML as a dict; leaving the context harvests the last interval."""

    def __init__(self, settings: Mapping[str, Any] | None = None) -> None:
        # most tests want one probe's rows and nothing else: BCC takes long for each object that it compiles
        wanted = {
            "ebpfmon": {"load_mode": "return"},
            "groups": {"by": ["process"]},
            "plugins": {"network_viewer": {"enabled": False}},
            **(settings or {}),
            "sinks": [],
        }
        super().__init__(wanted)
        asked_for = self.settings.ebpfmon.attach
        self.may_miss = asked_for == "trampoline" and features.detect().preemptible is not False
        """Whether programs were asked for that this kernel preempts: it leaves out some of their runs, and says so."""

    def rows(self, table: str = "process") -> np.ndarray:
        """All rows of a table so far, of all intervals."""
        return super().rows(table)

    def harvests(self, table: str = "process") -> list[TableHarvest]:
        """What a table counted in each interval so far."""
        return [s.tables[table].harvest for s in self.snapshots]

    def charts(self, id: str) -> list[ChartData]:
        """A chart in each interval so far that has it."""
        return [data for s in self.snapshots if (data := s.chart(id))]

    @property
    def missed_runs(self) -> int:
        """How many runs of programs the kernel says that it left out."""
        return int(self.total("ebpfmon.lost", "missed_runs"))

    def of(self, tgid: int) -> dict[str, int]:
        """What a process did, over all intervals."""
        return counted(self.rows(), tgid)

    def until_gone(self, tgids: Callable[[], np.ndarray], tasks: int) -> None:
        """Wait until so many tasks of these processes, which have ended, were seen to exit and were released a moment
        later; where such a run may be left out, long enough."""
        releases = tasks if RELEASES_ARE_SEEN else 0
        enough = len(self.snapshots) + 3

        def gone() -> bool:
            rows = self.rows()
            own = rows[np.isin(rows["tgid"], tgids())]
            seen = bool(own["tasks_exited"].sum() >= tasks and own["tasks_released"].sum() >= releases)
            return seen or (self.may_miss and len(self.snapshots) >= enough)

        self.until(gone)

    def assert_counts(self, found: Mapping[str, int], wanted: Mapping[str, int]) -> None:
        """Every counter is exactly right, or what nobody could count is said to be missing."""
        if self.may_miss and any(found[name] != wanted[name] for name in wanted):
            assert all(found[name] <= wanted[name] for name in wanted), (found, wanted)
            assert not all(s.complete for s in self.snapshots), (found, wanted)
        else:
            assert_counts(found, wanted)


def assert_counts(found: Mapping[str, int], wanted: Mapping[str, int]) -> None:
    """Every counter is exactly right."""
    wrong = {name: (found[name], wanted[name]) for name in wanted if found[name] != wanted[name]}
    released = wrong.pop("tasks_released", (0, 0))
    assert not wrong, wrong  # (found, wanted)
    assert released[0] <= released[1]
    assert released[0] == released[1] or not RELEASES_ARE_SEEN, released


def counted(rows: np.ndarray, tgid: int) -> dict[str, int]:
    """The counters of one workload process, summed. What it did before execve(2) made it one is not its own."""
    own = rows[(rows["tgid"] == tgid) & (rows["comm"] == b"workload")]
    return {name: int(own[name].sum()) for name in COUNTERS}


def require_attach_method(method: str) -> None:
    """Skip the test if this kernel does not allow an attach method: that is for `test_attach_methods.py` to judge."""
    probe, options = registry.discover().probes["process"], LoadOptions(attach_method=method)
    try:
        attach.load(probe, Libbpf(), features.detect(), options).close()
    except AttachError as error:
        pytest.skip(str(error))


def arguments(plan: Mapping[str, int], **more: int) -> list[str]:
    """A plan as the workload's arguments."""
    return [f"{key}={count}" for key, count in {**plan, **more}.items()]


def require_open_tree(user: str) -> None:
    """Skip the test if a user may not read this tree, or its Python."""
    command = [
        "setpriv",
        f"--reuid={user}",
        "--regid=nogroup",
        "--clear-groups",
        "--inh-caps=-all",
        "--bounding-set=-all",
    ]
    if subprocess.run([*command, sys.executable, "-c", "import ebpfmon"], check=False).returncode:
        pytest.skip("only root can enter this tree, or its Python")


def work(program: Path, where: Path, plan: Mapping[str, int], **more: int) -> int:
    """Run the workload to its end; returns its tgid."""
    with subprocess.Popen([program, where, *arguments(plan, **more)]) as process:
        assert process.wait() == 0
    return process.pid
