"""Processes that die by a signal count once, by process and signal, and OOM kills are counted separately."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from ebpfmon import LoadMode
from tests.kernel.support import Monitor

DEATHS = {signal.SIGKILL: 7, signal.SIGSEGV: 5, signal.SIGABRT: 3, signal.SIGTERM: 11, signal.SIGRTMIN: 2}
CGROUP = Path("/sys/fs/cgroup")
# One thread ends early. The others are killed while they wait.
THREADS = """
import ctypes, os, signal, threading
gone = threading.Thread(target=lambda: None); gone.start(); gone.join()
for _ in range(3):
    threading.Thread(target=signal.pause, daemon=True).start()
os.kill(os.getpid(), signal.SIGKILL)
"""


def settings(attach: str = "auto", mode: str = "entry") -> dict[str, object]:
    others = {name: {"enabled": False} for name in ("process", "network_viewer")}
    return {
        "ebpfmon": {"load_mode": mode, "attach": attach},
        "groups": {"by": ["process"]},
        "plugins": {**others, "oom_and_signals": {"enabled": True}},
    }


@pytest.fixture
def mortal(tmp_path: Path) -> Path:
    """A shell under a unique name."""
    program = tmp_path / "mortal"
    program.symlink_to("/bin/sh")
    return program


def deaths(rows: np.ndarray, comm: bytes) -> int:
    return int(rows["deaths"][rows["comm"] == comm].sum())


@pytest.mark.parametrize("mode", LoadMode)
@pytest.mark.parametrize("attach", ["tracepoint", "auto"])
def test_each_process_that_dies_by_a_signal_is_counted_once(attach: str, mode: LoadMode, mortal: Path) -> None:
    with Monitor(settings(attach, mode)) as monitor:
        for number, count in DEATHS.items():
            for _ in range(count):
                done = subprocess.run([mortal, "-c", f"ulimit -c 0; kill -{int(number)} $$"], check=False)
                assert done.returncode == -number
        assert subprocess.run([mortal, "-c", "exit 9"], check=False).returncode == 9
        assert subprocess.run([mortal, "-c", "trap '' TERM; kill -TERM $$"], check=False).returncode == 0
        monitor.until(lambda: deaths(monitor.rows("signals"), b"mortal") >= sum(DEATHS.values()))
    rows = monitor.rows("signals")
    own = rows[rows["comm"] == b"mortal"]
    for number in signal.valid_signals() - {0}:
        field = f"died_by_{int(number) if number < 32 else 0}"
        expected = sum(n for s, n in DEATHS.items() if s == number or (s >= 32 and number >= 32))
        assert own[field].sum() == expected, number
    assert own["deaths"].sum() == sum(DEATHS.values())
    assert not own["oom_kills"].any()
    assert monitor.total("processes.signal_deaths", "value", process="mortal") == sum(DEATHS.values())
    assert monitor.total("processes.signal_crashes", "value", process="mortal") == 5 + 3
    assert monitor.total("processes.signal_segfaults", "value", process="mortal") == 5
    assert monitor.total("ebpf.signal_deaths", "other") >= 2


def test_a_process_with_many_threads_dies_once() -> None:
    with Monitor(settings()) as monitor:
        with subprocess.Popen([sys.executable, "-c", THREADS]) as process:
            assert process.wait() == -signal.SIGKILL

        def own_rows() -> np.ndarray:
            rows = monitor.rows("signals")
            found: np.ndarray = rows[rows["tgid"] == process.pid]
            return found

        monitor.until(lambda: len(own_rows()) > 0)
    assert own_rows()["deaths"].sum() == own_rows()["died_by_9"].sum() == 1


@contextmanager
def little_memory(limit: int) -> Iterator[Path]:
    """Make a memory cgroup for the test, and yield its cgroup.procs. Skip the test if none can be made."""
    unified = (CGROUP / "cgroup.controllers").exists()
    parent = CGROUP if unified else CGROUP / "memory"
    own = parent / f"ebpfmon-test-{os.getpid()}"
    try:
        if unified:
            (parent / "cgroup.subtree_control").write_text("+memory")
        own.mkdir()
    except OSError as error:
        pytest.skip(f"cannot make a memory cgroup: {error}")
    try:
        (own / ("memory.max" if unified else "memory.limit_in_bytes")).write_text(str(limit))
        swap = own / ("memory.swap.max" if unified else "memory.swappiness")
        if swap.exists():
            swap.write_text("0")
        yield own / "cgroup.procs"
    finally:
        own.rmdir()


def test_oom_kills_are_distinguished_from_other_kills() -> None:
    with little_memory(24 << 20) as procs, Monitor(settings()) as monitor:
        hogs = []
        for _ in range(3):  # tail keeps the last line, which never ends.
            with subprocess.Popen(["sh", "-c", f"echo $$ >{procs}; exec tail /dev/zero"]) as process:
                assert process.wait() == -signal.SIGKILL
            hogs.append(process.pid)

        def own_rows() -> np.ndarray:
            rows = monitor.rows("signals")
            found: np.ndarray = rows[np.isin(rows["tgid"], hogs)]
            return found

        monitor.until(lambda: bool(own_rows()["oom_kills"].sum() >= 3))
    assert own_rows()["oom_kills"].sum() == own_rows()["died_by_9"].sum() == own_rows()["deaths"].sum() == 3
    assert own_rows()["oom_victims"].sum() == 3  # They requested the memory themselves.
    assert monitor.total("processes.oom_kills", "value", process="tail") == 3
