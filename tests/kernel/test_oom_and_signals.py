"""Processes that die by a signal are counted once each, whose they were and by which; OOM kills as what they are."""

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
# a thread ends before the others, the first one while others go on, and all are killed
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
    """A shell by a name of its own."""
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
        wanted = sum(n for s, n in DEATHS.items() if s == number or (s >= 32 and number >= 32))
        assert own[field].sum() == wanted, number
    assert own["deaths"].sum() == sum(DEATHS.values())
    assert not own["oom_kills"].any()
    assert monitor.total("processes.signal_deaths", "value", process="mortal") == sum(DEATHS.values())
    assert monitor.total("processes.signal_crashes", "value", process="mortal") == 5 + 3
    assert monitor.total("processes.signal_segfaults", "value", process="mortal") == 5
    assert monitor.total("ebpf.signal_deaths", "other") >= 2


def test_a_process_of_many_threads_dies_once() -> None:
    with Monitor(settings()) as monitor:
        with subprocess.Popen([sys.executable, "-c", THREADS]) as process:
            assert process.wait() == -signal.SIGKILL

        def of_it() -> np.ndarray:
            rows = monitor.rows("signals")
            found: np.ndarray = rows[rows["tgid"] == process.pid]
            return found

        monitor.until(lambda: len(of_it()) > 0)
    assert of_it()["deaths"].sum() == of_it()["died_by_9"].sum() == 1


@contextmanager
def little_memory(limit: int) -> Iterator[Path]:
    """A memory cgroup of the test's own: its cgroup.procs. Skips where this kernel or this container has none."""
    unified = (CGROUP / "cgroup.controllers").exists()
    parent = CGROUP if unified else CGROUP / "memory"
    own = parent / f"ebpfmon-test-{os.getpid()}"
    try:
        if unified:
            (parent / "cgroup.subtree_control").write_text("+memory")
        own.mkdir()
    except OSError as error:
        pytest.skip(f"no memory cgroup can be made: {error}")
    try:
        (own / ("memory.max" if unified else "memory.limit_in_bytes")).write_text(str(limit))
        swap = own / ("memory.swap.max" if unified else "memory.swappiness")
        if swap.exists():
            swap.write_text("0")
        yield own / "cgroup.procs"
    finally:
        own.rmdir()


def test_who_is_killed_as_there_is_no_memory_left_is_told_from_who_is_killed() -> None:
    with little_memory(24 << 20) as procs, Monitor(settings()) as monitor:
        hogs = []
        for _ in range(3):  # tail keeps the last line, which has no end
            with subprocess.Popen(["sh", "-c", f"echo $$ >{procs}; exec tail /dev/zero"]) as process:
                assert process.wait() == -signal.SIGKILL
            hogs.append(process.pid)

        def of_them() -> np.ndarray:
            rows = monitor.rows("signals")
            found: np.ndarray = rows[np.isin(rows["tgid"], hogs)]
            return found

        monitor.until(lambda: bool(of_them()["oom_kills"].sum() >= 3))
    assert of_them()["oom_kills"].sum() == of_them()["died_by_9"].sum() == of_them()["deaths"].sum() == 3
    assert of_them()["oom_victims"].sum() == 3  # they asked for it themselves
    assert monitor.total("processes.oom_kills", "value", process="tail") == 3
