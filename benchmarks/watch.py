"""Runs a monitor, and looks at what it costs: its CPU time, its memory, its tables in the kernel, its ticks."""

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

ENDS_S = 10.0
READY_S = 60.0


@dataclass(frozen=True, slots=True)
class Monitor:
    """How one is started. One that `writes` prints a line at every tick; of any other only the process is seen."""

    name: str
    command: Sequence[str]
    writes: bool = True
    environment: Mapping[str, str] = field(default_factory=dict)
    settle_s: float = 0.5
    """How long it is left alone before it is measured, after its first line or its start."""


@dataclass(frozen=True, slots=True)
class Cost:
    """What a monitor used in a time, `seconds`, and held at its end. `jitter_ms` is the standard deviation of the time
    between its lines; memory is in 10^6 bytes."""

    seconds: float
    user_s: float
    system_s: float
    cpu_s: float
    rss_mb: float
    pss_mb: float
    jitter_ms: float | None
    lines: Sequence[bytes] = ()

    @property
    def per_30_s(self) -> float:
        """CPU seconds (user and system) that 30 seconds take."""
        return self.cpu_s * 30 / self.seconds


class Running:
    """A monitor that runs; its lines are taken from it at once, with the time at which each came."""

    def __init__(self, monitor: Monitor) -> None:
        self.monitor = monitor
        # as users run them: with compiled modules
        environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
        self._process = subprocess.Popen(
            monitor.command,
            stdin=subprocess.PIPE,  # some end when that does
            stdout=subprocess.PIPE if monitor.writes else subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env={**environment, **monitor.environment},
        )
        self.lines: list[tuple[float, bytes]] = []
        self.said: list[bytes] = []
        self._came = threading.Condition()
        self._errors = threading.Thread(target=self._read_errors, daemon=True)
        self._readers = [self._errors]
        if monitor.writes:
            self._readers.append(threading.Thread(target=self._read, daemon=True))
        for reader in self._readers:
            reader.start()

    @property
    def pid(self) -> int:
        """Of the monitor's (first) process."""
        return self._process.pid

    @property
    def ended(self) -> bool:
        """Whether it has, by itself."""
        return self._process.poll() is not None

    def wait_for_lines(self, count: int = 1) -> None:
        """Until so many have come. Raises RuntimeError if it ends before, or takes too long."""
        with self._came:
            done = self._came.wait_for(lambda: len(self.lines) >= count or self._process.poll() is not None, READY_S)
        if not done or len(self.lines) < count:
            raise RuntimeError(f"it says nothing: {self.last_words() or 'no line came'}")

    def last_words(self) -> str:
        """The last line that it wrote to standard error."""
        if self.ended:  # what it said last may still be on its way
            self._errors.join(ENDS_S)
        return self.said[-1].decode(errors="replace").strip() if self.said else ""

    def measure(self, seconds: float) -> Cost:
        """What it uses from now on, for so long."""
        before, first = usage(self.pid), len(self.lines)
        start = time.monotonic()
        time.sleep(seconds)
        after, elapsed = usage(self.pid), time.monotonic() - start
        rss, pss = memory_mb(self.pid)
        lines = self.lines[first:]
        return Cost(
            elapsed, after.user_s - before.user_s, after.system_s - before.system_s, after.cpu_s - before.cpu_s,
            rss, pss, jitter_ms([at for at, _ in lines]), [line for _, line in lines],
        )  # fmt: skip

    def stop(self) -> None:
        """End it, and read what it still has to say."""
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(ENDS_S)
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
            with self._came:
                self.lines.append((time.monotonic(), line))
                self._came.notify_all()
        with self._came:
            self._process.wait()
            self._came.notify_all()

    def _read_errors(self) -> None:
        assert self._process.stderr
        for line in self._process.stderr:
            self.said = [*self.said[-20:], line] if line.strip() else self.said


@contextmanager
def running(monitor: Monitor) -> Iterator[Running]:
    """A monitor that is past its start. Raises RuntimeError if it does not get there, OSError if there is none."""
    run = Running(monitor)
    try:
        if monitor.writes:
            run.wait_for_lines()
        time.sleep(monitor.settle_s)
        if run.ended:
            raise RuntimeError(f"it ended: {run.last_words()}")
        yield run
    finally:
        run.stop()


@contextmanager
def load(*command: str) -> Iterator[subprocess.Popen[bytes]]:
    """Something that says "ready" when it is, and runs meanwhile."""
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout
        try:
            if process.stdout.readline() != b"ready\n":
                raise RuntimeError(f"{' '.join(command)}: it is not ready")
            yield process
        finally:
            process.kill()


@dataclass(frozen=True, slots=True)
class Usage:
    """CPU time since the start: of a process, and of the children that it has waited for."""

    user_s: float
    system_s: float
    cpu_s: float
    """Both, by a clock that is more exact than their sum."""


def usage(pid: int) -> Usage:
    """Of a process with all its threads, also those that have ended."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    user, system, user_of_children, system_of_children = (int(n) / os.sysconf("SC_CLK_TCK") for n in fields[11:15])
    clock = ~pid << 3 | 2  # what clock_getcpuclockid(3) makes
    own = time.clock_gettime_ns(clock) / 1e9
    return Usage(user + user_of_children, system + system_of_children, own + user_of_children + system_of_children)


def memory_mb(pid: int) -> tuple[float, float]:
    """Resident and proportional memory in 10^6 bytes."""
    rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    rss, pss = (int(re.search(rf"^{name}:\s+(\d+)", rollup, re.M)[1]) for name in ("Rss", "Pss"))  # type: ignore[index]
    return rss * 1024 / 1e6, pss * 1024 / 1e6


def jitter_ms(times: Sequence[float]) -> float | None:
    """The standard deviation of what lies between them; None if that cannot be told."""
    between = [1000 * (b - a) for a, b in pairwise(times)]
    return statistics.stdev(between) if len(between) > 1 else None


@dataclass(frozen=True, slots=True)
class InKernel:
    """What a process holds in the kernel: memory of its maps in 10^6 bytes; how often its programs ran and how long,
    while the kernel kept count (`counting_runs`)."""

    maps: int
    maps_mb: float
    programs: int
    runs: int
    run_ns: int


def in_kernel(pid: int) -> InKernel:
    """By its descriptors of maps and programs."""
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
    return InKernel(len(maps), sum(maps.values()) / 1e6, len(programs), runs, run_ns)


@contextmanager
def counting_runs() -> Iterator[None]:
    """The kernel keeps count of the runs of BPF programs, which costs some 20 ns each."""
    switch = Path("/proc/sys/kernel/bpf_stats_enabled")
    before = switch.read_text()
    switch.write_text("1\n")
    try:
        yield
    finally:
        switch.write_text(before)
