"""What the whole daemon costs: start, memory, and CPU against a psutil loop, over idle processes."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import NamedTemporaryFile

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


def memory_with_destinations(count: int) -> tuple[float, int]:
    """Peak resident megabytes of the daemon when one process sends to so many addresses (of 127/8) within a second,
    and how many it saw in the fullest interval. All of them are to be shown, in a table that has room for them."""
    settings = f'[plugins.network_viewer]\nips = "*"\ntable_size = {1 << (count - 1).bit_length()}\n'
    with NamedTemporaryFile("w", suffix=".toml") as file:
        file.write(settings)
        file.flush()
        with subprocess.Popen(
            [*EBPFMON, "--config", file.name], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        ) as process:
            assert process.stdout
            process.stdout.readline()
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
                for n in range(count):
                    sender.sendto(b"x", (f"127.{1 + (n >> 16)}.{n >> 8 & 255}.{n & 255}", 9))
            time.sleep(2.5)
            status = Path(f"/proc/{process.pid}/status").read_text()
            process.terminate()
            snapshots = [json.loads(line) for line in process.stdout]
    peak_kb = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))
    rows = [
        d["value"] for s in snapshots for c in s["charts"] if c["id"] == "ebpfmon.rows" for d in c["dimensions"]
        if d["id"] == "outbound"
    ]  # fmt: skip
    return peak_kb * 1024 / 1e6, max(rows)
