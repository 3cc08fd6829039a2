"""System calls by name, error and latency, and calls that do not return.

Other processes make calls at the same time, so tests of exact counts use call numbers that no kernel has.
"""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import textwrap
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from ebpfmon import LoadMode
from ebpfmon_syscalls.charts import SLOTS
from tests.kernel.support import Monitor

CALLS, BLOCKED = 1009, 5
# Threads that each block in one call, a number of calls that no kernel has, and an execve(2) from a thread.
CALLER = textwrap.dedent("""
    import ctypes, os, sys, threading, time
    syscall = ctypes.CDLL(None, use_errno=True).syscall
    number, count, threads, exec_from_thread = map(int, sys.argv[1:])
    for _ in range(threads):
        threading.Thread(target=lambda: ctypes.CDLL(None).pause(), daemon=True).start()
    for _ in range(count):
        assert syscall(number) == -1 and ctypes.get_errno() == 38
    if exec_from_thread == 1:
        threading.Thread(target=lambda: os.execv("/bin/true", ["true"])).start()
        ctypes.CDLL(None).pause()
    print("ready", flush=True)
    sys.stdin.read()
    os._exit(0)
""")
EXIT_GROUP = {"x86_64": 231, "aarch64": 94}[os.uname().machine]
EXECVE = {"x86_64": 59, "aarch64": 221}[os.uname().machine]


def settings(attach: str = "auto", mode: str = "entry") -> dict[str, object]:
    others = {name: {"enabled": False} for name in ("process", "network_viewer")}
    return {
        "ebpfmon": {"load_mode": mode, "attach": attach},
        "groups": {"by": []},
        "plugins": {**others, "syscalls": {"enabled": True, "maximum_dimensions": 10000}},
    }


def own_number() -> int:
    """Return the number of a system call that no other process makes."""
    return 1 << 24 | os.getpid()


def caller(number: int, count: int, threads: int = 0, exec_from_thread: int = 0) -> subprocess.Popen[str]:
    arguments = [sys.executable, "-c", CALLER, *map(str, (number, count, threads, exec_from_thread))]
    return subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def of_call(rows: np.ndarray, number: int) -> np.ndarray:
    found: np.ndarray = rows[(rows["number"] == number) & (rows["compat"] == 0)]
    return found


def under_way(monitor: Monitor, number: int) -> int:
    rows = of_call(monitor.rows("syscalls"), number)
    return int(rows["calls"].sum()) - int(rows["ended"].sum()) - int(rows["unfollowed"].sum())


def ended(monitor: Monitor, number: int) -> bool:
    """Return whether no such call is in progress. Each missed run that the kernel reports may hide an end."""
    return under_way(monitor, number) <= monitor.missed_runs


def names(monitor: Monitor) -> set[str]:
    """Return the calls that have a series of their own."""
    return {name for c in monitor.charts("ebpf.syscall_calls") for (name,) in c.index.labels}


@pytest.mark.parametrize("mode", LoadMode)
@pytest.mark.parametrize("attach", ["tracepoint", "auto"])
def test_each_call_is_counted_with_its_error_and_its_latency(attach: str, mode: LoadMode) -> None:
    number = own_number()
    with Monitor(settings(attach, mode)) as monitor:
        with caller(number, CALLS) as process:
            process.communicate("")
        monitor.until(lambda: bool(of_call(monitor.rows("syscalls"), number)["ended"].sum() >= CALLS))
    assert not monitor.missed_runs
    rows = of_call(monitor.rows("syscalls"), number)
    for counter in ("calls", "ended", "errors"):
        assert rows[counter].sum() == CALLS, counter
    assert sum(rows[f"latency_{n}"].sum() for n in range(SLOTS)) == CALLS
    assert rows["call_ns"].sum() > CALLS
    errors = of_call(monitor.rows("syscall_errors"), number)
    assert set(errors["error"]) == {38}
    assert errors["failures"].sum() == CALLS
    shown = {s.labels: s.totals for c in monitor.charts("ebpf.syscall_errors") for s in c.series()}
    assert shown[f"number {number}", "ENOSYS"] == (CALLS,)
    assert {"execve", "exit_group", "read"} <= names(monitor)


def test_the_gauge_is_calls_that_began_and_have_not_ended() -> None:
    with caller(own_number(), 0) as early, Monitor(settings()) as monitor:
        assert early.stdout
        assert early.stdout.readline() == "ready\n"  # It waits in read(2), since before ebpfmon started or soon after.
        with caller(own_number(), 1, BLOCKED) as process:
            assert process.stdout
            assert process.stdout.readline() == "ready\n"
            number = 34 if os.uname().machine == "x86_64" else 73  # pause(2), which is ppoll(2) on aarch64
            monitor.until(lambda: under_way(monitor, number) >= BLOCKED)
            process.send_signal(signal.SIGKILL)
        with caller(own_number(), 1, 0, 1) as process:  # The thread that calls execve(2) becomes the first one.
            process.communicate("")
        early.communicate("")
        for never_returns in (EXIT_GROUP, EXECVE):
            monitor.until(partial(ended, monitor, never_returns))
    never = of_call(monitor.rows("syscalls"), EXIT_GROUP)
    assert never["calls"].sum() >= 2
    assert not any(never[f"latency_{n}"].any() for n in range(SLOTS))
    totals = [table.totals for table in monitor.harvests("syscalls")]
    grown = [t["calls"] - t["ended"] - t["unfollowed"] for t in totals]
    system = [c.sums()["calls"] for c in monitor.charts("ebpf.syscalls_under_way")]
    assert system == list(itertools.accumulate(grown))
    by_name = monitor.charts("ebpf.syscall_under_way")
    assert [c.sums()["now"] for c in by_name] == system
    if not monitor.missed_runs:
        assert min(c.deltas.min() for c in by_name) >= 0


def test_calls_of_32_bit_programs_have_names_of_their_own(workload: Path, tmp_path: Path) -> None:
    if os.uname().machine != "x86_64":
        pytest.skip("this machine has no 32-bit calls")
    with Monitor(settings()) as monitor:
        done = subprocess.run([workload, tmp_path, "compat_read=17"], check=False)
        if done.returncode:
            pytest.skip("this kernel has no 32-bit calls")

        def reads() -> int:
            rows = monitor.rows("syscalls")
            return int(rows["ended"][(rows["compat"] == 1) & (rows["number"] == 3)].sum())

        monitor.until(lambda: reads() >= 17)
    assert "read (32-bit)" in names(monitor)
