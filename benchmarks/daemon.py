"""What the whole daemon costs: start, memory, and CPU against a psutil loop, over idle processes."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

PSUTIL_LOOP = Path(__file__).with_name("psutil_loop.py")
EBPFMON = [sys.executable, "-m", "ebpfmon", "run", "--json"]
PSUTIL = [sys.executable, str(PSUTIL_LOOP)]


@contextmanager
def idle_processes(count: int) -> Iterator[None]:
    """So many processes that do nothing."""
    idle = [subprocess.Popen(["sleep", "3600"]) for _ in range(count)]
    try:
        yield
    finally:
        for process in idle:
            process.kill()
        for process in idle:
            process.wait()


def first_snapshot_s() -> float:
    """From the start of `ebpfmon run` to its first snapshot, in seconds. Up to one of them is the wait for the tick."""
    start = time.monotonic()
    with subprocess.Popen(EBPFMON, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout
        json.loads(process.stdout.readline())
        took = time.monotonic() - start
        process.terminate()
    return took


def cost(command: list[str], seconds: float) -> tuple[float, float]:
    """CPU seconds and resident megabytes (10^6 bytes) of a monitor that runs so long, its start left out."""
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout
        process.stdout.readline()
        drain = subprocess.Popen(["cat"], stdin=process.stdout, stdout=subprocess.DEVNULL)
        try:
            seen = psutil.Process(process.pid)
            before = seen.cpu_times()
            time.sleep(seconds)
            after, memory = seen.cpu_times(), seen.memory_info().rss / 1e6
        finally:
            process.terminate()
            process.wait()
            drain.wait()
    return after.user + after.system - before.user - before.system, memory
