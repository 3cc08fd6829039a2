"""Shared by the kernel tests: the daemon in a thread, and the counts that a workload must have."""

from __future__ import annotations

import resource
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
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

EBPFMON = [sys.executable, "-m", "ebpfmon"]
DEFAULTS = ("--config", "/dev/null")
"""Options for default settings, whatever the machine's own settings file says."""

COUNTERS = (
    "open_calls", "open_errors", "close_calls", "close_errors", "read_calls", "read_errors", "read_bytes",
    "write_calls", "write_errors", "write_bytes", "unlink_calls", "unlink_errors", "copy_file_range_calls",
    "copy_file_range_bytes", "sendfile_calls", "sendfile_bytes", "splice_calls", "splice_bytes", "copy_errors",
    "uring_read_calls", "uring_read_bytes", "uring_write_calls", "uring_write_bytes", "uring_errors",
    "processes_created", "processes_failed", "threads_created", "threads_failed", "tasks_exited", "tasks_released",
)  # fmt: skip
ERRORS = tuple(c for c in COUNTERS if c.endswith(("_errors", "_failed")))


def until(condition: Callable[[], object]) -> None:
    """Wait until a condition is true, which another process brings about."""
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def _releases_are_seen() -> bool:
    """Return whether every release of a task can be counted.

    In some sandboxes, the kernel protects PID 1 and runs no BPF program in its context. A task is
    released in a softirq, which may interrupt PID 1. No program then counts that release.
    """
    try:
        Path("/proc/1/io").read_text()
    except (PermissionError, FileNotFoundError):  # the latter if /proc hides processes of others
        return False
    return True


RELEASES_ARE_SEEN = _releases_are_seen()

# Each count is a different prime number, so that no count can be mistaken for another.
PLAN = {
    "open": 1009, "creat": 53, "openat": 211, "openat2": 59, "open_fail": 223, "close_fail": 101, "close_range": 61,
    "read": 2003, "read_end": 67, "pread": 307, "readv": 103, "preadv": 71, "preadv2": 73, "read_fail": 89,
    "write": 1511, "pwrite": 83, "writev": 107, "pwritev": 109, "pwritev2": 113, "write_fail": 97,
    "unlink": 127, "unlinkat": 131, "unlink_fail": 43, "rmdir": 137,
    "copy_file_range": 139, "sendfile": 149, "splice": 151, "copy_end": 157, "copy_fail": 163,
    "fork": 41, "thread": 37, "thread_fail": 7, "process_fail": 11, "thread3_fail": 13,
}  # fmt: skip


def counts_of(plan: Mapping[str, int]) -> dict[str, int]:
    """Return the counts of one run of a plan, without the exit of the process itself."""

    def times_of(*keys: str) -> int:
        return sum(plan.get(key, 0) for key in keys)

    compat = bool(times_of("compat_read", "compat_write", "compat_open", "compat_close_range", "compat_copy"))
    copies = sum(
        map(bool, (times_of("copy_file_range", "sendfile", "splice", "copy_end", "copy_fail"), times_of("compat_copy")))
    )
    opened = times_of("open", "creat", "openat", "openat2", "compat_open") + 3 + compat  # /dev/null twice, /dev/zero
    opened += 2 * copies  # two files, deleted at the end, and a pipe
    vectors = times_of("readv", "preadv", "preadv2"), times_of("writev", "pwritev", "pwritev2")
    return {
        "open_calls": opened + times_of("open_fail"),
        "open_errors": times_of("open_fail"),
        "close_calls": opened + times_of("close_fail", "close_range", "compat_close_range") + 2 * copies,
        "close_errors": times_of("close_fail"),
        "read_calls": times_of("read", "read_end", "pread", "read_fail", "compat_read", "turns") + vectors[0],
        "read_errors": times_of("read_fail"),
        "read_bytes": 97 * times_of("read")
        + 89 * times_of("pread")
        + 131 * vectors[0]
        + 17 * times_of("compat_read")
        + 2 * times_of("turns"),
        "write_calls": times_of("write", "pwrite", "write_fail", "compat_write", "turns") + vectors[1],
        "write_errors": times_of("write_fail"),
        "write_bytes": 83 * times_of("write")
        + 79 * times_of("pwrite")
        + 131 * vectors[1]
        + 19 * times_of("compat_write")
        + times_of("turns"),
        "unlink_calls": times_of("unlink", "unlinkat", "unlink_fail") + 2 * copies,
        "unlink_errors": times_of("unlink_fail"),
        "copy_file_range_calls": times_of("copy_file_range", "compat_copy", "copy_fail"),
        "copy_file_range_bytes": 101 * times_of("copy_file_range") + 41 * times_of("compat_copy"),
        "sendfile_calls": times_of("sendfile", "copy_end", "copy_fail") + 2 * times_of("compat_copy"),
        "sendfile_bytes": 103 * times_of("sendfile") + (43 + 47) * times_of("compat_copy"),
        "splice_calls": 2 * times_of("splice", "compat_copy") + times_of("copy_fail"),
        "splice_bytes": 2 * (107 * times_of("splice") + 53 * times_of("compat_copy")),
        "copy_errors": 3 * times_of("copy_fail"),
        "uring_read_calls": 0,
        "uring_read_bytes": 0,
        "uring_write_calls": 0,
        "uring_write_bytes": 0,
        "uring_errors": 0,
        "processes_created": times_of("fork") + bool(times_of("turns")),
        "processes_failed": times_of("process_fail"),
        "threads_created": times_of("thread"),
        "threads_failed": times_of("thread_fail", "thread3_fail"),
        "tasks_exited": times_of("thread"),
        "tasks_released": times_of("thread"),
    }


def expected_counts(plan: Mapping[str, int], *, times: int = 1, mode: LoadMode = LoadMode.RETURN) -> dict[str, int]:
    """Return the counts of a whole process that runs a plan `times` times, in that many threads if more than 1."""
    counts = {name: count * times for name, count in counts_of(plan).items()}
    threads = times if times > 1 else 0
    counts["threads_created"] += threads
    counts["tasks_exited"] += threads + 1
    counts["tasks_released"] += threads + 1
    return {name: 0 if mode is LoadMode.ENTRY and name in ERRORS else count for name, count in counts.items()}


class Monitor(RunningDaemon):
    """The daemon in a thread. `settings` is TOML as a dict. Leaving the context harvests the last interval."""

    def __init__(self, settings: Mapping[str, Any] | None = None) -> None:
        # Most tests need the rows of one probe only, and BCC takes long to compile each object.
        merged = {
            "ebpfmon": {"load_mode": "return"},
            "groups": {"by": ["process"]},
            "plugins": {"network_viewer": {"enabled": False}},
            **(settings or {}),
            "sinks": [],
        }
        super().__init__(merged)
        forced = self.settings.ebpfmon.attach
        self.may_miss = forced == "trampoline" and features.detect().preemptible is not False
        """Whether the forced programs can be preempted here. The kernel then skips some runs, and reports it."""

    def rows(self, table: str = "process") -> np.ndarray:
        """Return the rows of a table in all intervals so far."""
        return super().rows(table)

    def harvests(self, table: str = "process") -> list[TableHarvest]:
        """Return the harvests of a table in all intervals so far."""
        return [s.tables[table].harvest for s in self.snapshots]

    def charts(self, id: str) -> list[ChartData]:
        """Return a chart from each snapshot so far that has it."""
        return [data for s in self.snapshots if (data := s.chart(id))]

    @property
    def missed_runs(self) -> int:
        """The number of program runs that the kernel reports as missed."""
        return int(self.total("ebpfmon.lost", "missed_runs"))

    def of(self, tgid: int, comm: bytes = b"workload") -> dict[str, int]:
        """Return the counters of a process, summed over all intervals."""
        return counted(self.rows(), tgid, comm)

    def until_gone(self, tgids: Callable[[], np.ndarray], tasks: int) -> None:
        """Wait until `tasks` exits and releases of these processes were counted.

        If program runs may be missed, wait for three intervals at most.
        """
        releases = tasks if RELEASES_ARE_SEEN else 0
        enough = len(self.snapshots) + 3

        def gone() -> bool:
            rows = self.rows()
            own = rows[np.isin(rows["tgid"], tgids())]
            seen = bool(own["tasks_exited"].sum() >= tasks and own["tasks_released"].sum() >= releases)
            return seen or (self.may_miss and len(self.snapshots) >= enough)

        self.until(gone)

    def assert_counts(self, actual: Mapping[str, int], expected: Mapping[str, int]) -> None:
        """Assert that every counter is exact, or that the snapshots are marked incomplete."""
        if self.may_miss and any(actual[name] != expected[name] for name in expected):
            assert all(actual[name] <= expected[name] for name in expected), (actual, expected)
            assert not all(s.complete for s in self.snapshots), (actual, expected)
        else:
            assert_counts(actual, expected)


def assert_counts(actual: Mapping[str, int], expected: Mapping[str, int]) -> None:
    """Assert that every counter is exact."""
    wrong = {name: (actual[name], expected[name]) for name in expected if actual[name] != expected[name]}
    released = wrong.pop("tasks_released", (0, 0))
    assert not wrong, wrong  # (actual, expected)
    assert released[0] <= released[1]
    assert released[0] == released[1] or not RELEASES_ARE_SEEN, released


def counted(rows: np.ndarray, tgid: int, comm: bytes = b"workload") -> dict[str, int]:
    """Return the summed counters of a workload process, without what it did before its execve(2)."""
    own = rows[(rows["tgid"] == tgid) & (rows["comm"] == comm)]
    return {name: int(own[name].sum()) for name in COUNTERS}


def require_attach_method(method: str) -> None:
    """Skip the test if this kernel refuses an attach method. test_attach_methods.py checks that it does so rightly."""
    probe, options = registry.discover().probes["process"], LoadOptions(attach_method=method)
    try:
        attach.load(probe, Libbpf(), features.detect(), options).close()
    except AttachError as error:
        pytest.skip(str(error))


def counts_io_uring() -> bool:
    """Return whether the requests of io_uring can be counted on this kernel."""
    probe = registry.discover().probes["process"]
    with attach.load(probe, Libbpf(), features.detect(), LoadOptions()) as loaded:
        return any(choice.event == "io_uring" and choice.chosen for choice in loaded.choices)


def arguments(plan: Mapping[str, int], **more: int) -> list[str]:
    """Return a plan as arguments of the workload."""
    return [f"{key}={count}" for key, count in {**plan, **more}.items()]


def require_namespaces(*command: str) -> None:
    """Skip the test if unshare(1) cannot make the namespaces of a command, such as a mount namespace in a chroot."""
    command = command or ("unshare", "--mount")
    done = subprocess.run([*command, "true"], stderr=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        pytest.skip(f"cannot make a namespace here, as in a chroot ({done.stderr.strip()}); a whole machine can")


def require_open_tree(user: str) -> None:
    """Skip the test if a user may not read this tree or its Python."""
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


def run_workload(program: Path, where: Path, plan: Mapping[str, int], **more: int) -> int:
    """Run the workload, and return its process ID when it has ended."""
    with subprocess.Popen([program, where, *arguments(plan, **more)]) as process:
        assert process.wait() == 0
    return process.pid


def remove_memlock_limit() -> None:
    """Remove the limit of locked memory. Before Linux 5.11, tables count, and only CAP_SYS_RESOURCE may raise it."""
    with suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_MEMLOCK, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
