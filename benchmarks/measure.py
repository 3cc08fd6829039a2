"""Run a monitor and measure its CPU time, its memory, its kernel tables and the regularity of its ticks."""

from __future__ import annotations

import os
import re
import signal
import statistics
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

_STOP_TIMEOUT_S = 10.0
_LINE_TIMEOUT_S = 60.0


@dataclass(frozen=True, slots=True)
class Monitor:
    """How to start a monitor."""

    name: str
    command: Sequence[str]
    writes: bool = True
    """Whether it prints a line at every tick."""
    environment: Mapping[str, str] = field(default_factory=dict)
    warm_up_s: float = 0.5
    """The time to wait before measuring, after its first line (or its start, if it prints none)."""


@dataclass(frozen=True, slots=True)
class Cost:
    """The CPU time that a monitor used within `seconds`, and its memory (in 10^6 bytes) at the end."""

    seconds: float
    user_s: float
    system_s: float
    cpu_s: float
    rss_mb: float
    pss_mb: float
    jitter_ms: float | None
    """The standard deviation of the time between its lines."""
    lines: Sequence[bytes] = ()

    @property
    def per_30_s(self) -> float:
        """The CPU time (user and system) scaled to 30 seconds."""
        return self.cpu_s * 30 / self.seconds


class Running:
    """A running monitor. Its lines are read at once and kept with the times of their arrival."""

    def __init__(self, monitor: Monitor) -> None:
        self.monitor = monitor
        # Users' Python caches compiled modules, so let it do that here.
        environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
        self._process = subprocess.Popen(
            monitor.command,
            stdin=subprocess.PIPE,  # Some monitors exit when their input closes, so keep it open.
            stdout=subprocess.PIPE if monitor.writes else subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env={**environment, **monitor.environment},
        )
        self.lines: list[tuple[float, bytes]] = []
        self.errors: list[bytes] = []
        self._arrival = threading.Condition()
        self._error_reader = threading.Thread(target=self._read_errors, daemon=True)
        self._readers = [self._error_reader]
        if monitor.writes:
            self._readers.append(threading.Thread(target=self._read, daemon=True))
        for reader in self._readers:
            reader.start()

    @property
    def pid(self) -> int:
        """The process id of the monitor."""
        return self._process.pid

    @property
    def ended(self) -> bool:
        """Whether the monitor has exited."""
        return self._process.poll() is not None

    def wait_for_lines(self, count: int = 1) -> None:
        """Wait for a total number of lines. Raises RuntimeError if the monitor exits first or takes too long."""
        with self._arrival:
            done = self._arrival.wait_for(
                lambda: len(self.lines) >= count or self._process.poll() is not None, _LINE_TIMEOUT_S
            )
        if not done or len(self.lines) < count:
            raise RuntimeError(f"it printed too few lines: {self.last_error() or 'no error message'}")

    def last_error(self) -> str:
        """Return the last line that the monitor wrote to standard error."""
        if self.ended:  # The reader may not have seen the last line yet.
            self._error_reader.join(_STOP_TIMEOUT_S)
        return self.errors[-1].decode(errors="replace").strip() if self.errors else ""

    def measure(self, seconds: float) -> Cost:
        """Measure the costs of the monitor for a number of seconds from now."""
        before, first = usage(self.pid), len(self.lines)
        start = time.monotonic()
        time.sleep(seconds)
        after, elapsed = usage(self.pid), time.monotonic() - start
        rss, pss = memory_mb(self.pid)
        lines = self.lines[first:]
        return Cost(
            elapsed, after.user_s - before.user_s, after.system_s - before.system_s, after.cpu_s - before.cpu_s,
            rss, pss, jitter_ms([time_s for time_s, _ in lines]), [line for _, line in lines],
        )  # fmt: skip

    def stop(self) -> None:
        """Stop the monitor and read the rest of its output."""
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(_STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        for reader in self._readers:
            reader.join()
        for stream in (self._process.stdin, self._process.stdout, self._process.stderr):
            if stream:
                stream.close()

    def _read(self) -> None:
        assert self._process.stdout
        for line in self._process.stdout:
            with self._arrival:
                self.lines.append((time.monotonic(), line))
                self._arrival.notify_all()
        with self._arrival:
            self._process.wait()
            self._arrival.notify_all()

    def _read_errors(self) -> None:
        assert self._process.stderr
        for line in self._process.stderr:
            self.errors = [*self.errors[-20:], line] if line.strip() else self.errors


@contextmanager
def running(monitor: Monitor) -> Iterator[Running]:
    """Start a monitor, let it warm up, and stop it at the end.

    Raises RuntimeError if it does not start, and OSError if its program does not exist.
    """
    run = Running(monitor)
    try:
        if monitor.writes:
            run.wait_for_lines()
        time.sleep(monitor.warm_up_s)
        if run.ended:
            raise RuntimeError(f"it exited: {run.last_error()}")
        yield run
    finally:
        run.stop()


@contextmanager
def load(*command: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run a workload in the background, and wait until it prints "ready". Raises RuntimeError if it does not."""
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout
        try:
            if process.stdout.readline() != b"ready\n":
                raise RuntimeError(f"{' '.join(command)} did not become ready")
            yield process
        finally:
            process.kill()


@dataclass(frozen=True, slots=True)
class Usage:
    """The CPU time of a process since its start, including children that it has waited for."""

    user_s: float
    system_s: float
    cpu_s: float
    """The sum of both, from a clock that is more precise than they are."""


def usage(pid: int) -> Usage:
    """Return the CPU time of a process with all its threads, including threads that have ended."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    user, system, user_of_children, system_of_children = (int(n) / os.sysconf("SC_CLK_TCK") for n in fields[11:15])
    clock = ~pid << 3 | 2  # The clock id that clock_getcpuclockid(3) returns.
    own = time.clock_gettime_ns(clock) / 1e9
    return Usage(user + user_of_children, system + system_of_children, own + user_of_children + system_of_children)


def memory_mb(pid: int) -> tuple[float, float]:
    """Return the resident and the proportional set size of a process, in 10^6 bytes."""
    rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    rss, pss = (int(re.search(rf"^{name}:\s+(\d+)", rollup, re.M)[1]) for name in ("Rss", "Pss"))  # type: ignore[index]
    return rss * 1024 / 1e6, pss * 1024 / 1e6


def jitter_ms(times: Sequence[float]) -> float | None:
    """Return the standard deviation of the intervals between times, or None for fewer than two intervals."""
    intervals = [1000 * (b - a) for a, b in pairwise(times)]
    return statistics.stdev(intervals) if len(intervals) > 1 else None


@dataclass(frozen=True, slots=True)
class BpfUsage:
    """The BPF maps and programs of a process."""

    maps: int
    maps_mb: float
    """The memory of the maps in 10^6 bytes."""
    programs: int
    runs: int
    """How often the programs ran while `run_statistics` was active."""
    run_ns: int
    """How long they ran in total."""


def bpf_usage(pid: int) -> BpfUsage:
    """Return the BPF maps and programs that a process has open."""
    maps: dict[str, int] = {}
    programs: dict[str, tuple[int, int]] = {}
    for path in Path(f"/proc/{pid}/fdinfo").iterdir():
        try:
            info = dict(line.split(":\t", 1) for line in path.read_text().splitlines() if ":\t" in line)
        except FileNotFoundError:
            continue
        if "map_id" in info:
            maps[info["map_id"]] = int(info.get("memlock", 0))
        elif "prog_id" in info and "prog_type" in info:
            programs[info["prog_id"]] = int(info.get("run_cnt", 0)), int(info.get("run_time_ns", 0))
    runs, run_ns = (sum(numbers) for numbers in zip(*programs.values(), strict=True)) if programs else (0, 0)
    return BpfUsage(len(maps), sum(maps.values()) / 1e6, len(programs), runs, run_ns)


@contextmanager
def run_statistics() -> Iterator[None]:
    """Let the kernel count and time the runs of BPF programs, which adds about 20 ns to each run."""
    switch = Path("/proc/sys/kernel/bpf_stats_enabled")
    before = switch.read_text()
    switch.write_text("1\n")
    try:
        yield
    finally:
        switch.write_text(before)
