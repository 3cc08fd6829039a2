"""The result of a benchmark: tables, plots and targets, stored as JSON under build/bench/."""

from __future__ import annotations

import os
import platform
import subprocess
import time
from pathlib import Path

import msgspec

ROOT = Path(__file__).resolve().parent.parent
OUT = ROOT / "build" / "bench"
Cell = str | int | float | None


class Machine(msgspec.Struct, frozen=True):
    """The machine that a benchmark ran on, and when."""

    processor: str
    cpus: int
    memory_mb: int
    kernel: str
    machine: str
    python: str
    load_average: float
    """The load average of one minute before the benchmark began, caused by other programs."""
    date: str
    commit: str


class Table(msgspec.Struct, frozen=True):
    """A table. Numbers are already rounded for display, and None is an empty cell."""

    title: str
    columns: tuple[str, ...]
    rows: list[tuple[Cell, ...]]
    note: str = ""


class Plot(msgspec.Struct, frozen=True):
    """A plot: lines over a numeric x, or horizontal bars by name."""

    name: str
    title: str
    x: str
    y: str
    series: dict[str, list[tuple[float | str, float]]]
    kind: str = "lines"
    log: str = ""
    """The axes with a logarithmic scale: "", "x", "y" or "xy"."""
    spread: dict[str, list[float]] = {}
    """The length of the error bar to both sides of each point, by series. Only for bars."""


class Target(msgspec.Struct, frozen=True):
    """A performance target, which is met if `value` is at most `limit`."""

    name: str
    value: float | None
    """The measured value, or None if it could not be measured on this machine."""
    limit: float
    unit: str = ""
    """The unit of value and limit. Without one they are ratios."""
    rounds: str = ""
    """The variation between rounds, which shows how noisy the machine was."""

    @property
    def verdict(self) -> str:
        """Whether the target is met. A negative value is noise, because every cost is positive."""
        if self.value is None:
            return "not measured"
        return "too noisy" if self.value < 0 else "met" if self.value <= self.limit else "MISSED"


class Result(msgspec.Struct, kw_only=True):
    """The result of one benchmark."""

    name: str
    title: str
    method: str
    """How the numbers were measured and what they mean, for the report."""
    tables: list[Table] = msgspec.field(default_factory=list)
    plots: list[Plot] = msgspec.field(default_factory=list)
    targets: list[Target] = msgspec.field(default_factory=list)
    notes: list[str] = msgspec.field(default_factory=list)
    """Remarks for the report, one paragraph each."""
    skipped: dict[str, str] = msgspec.field(default_factory=dict)
    """The reason for each thing that could not be measured on this machine."""
    quick: bool = False
    machine: Machine | None = None
    duration_s: float = 0.0


def describe_machine() -> Machine:
    """Return a description of this machine and its current load."""
    cpuinfo = Path("/proc/cpuinfo").read_text()
    models = [line.partition(":")[2].strip() for line in cpuinfo.splitlines() if line.startswith("model name")]
    return Machine(
        processor=models[0] if models else platform.machine(),
        cpus=len(os.sched_getaffinity(0)),
        memory_mb=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 1_000_000,
        kernel=os.uname().release,
        machine=os.uname().machine,
        python=platform.python_version(),
        load_average=round(os.getloadavg()[0], 1),
        date=time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        commit=_commit(),
    )


def _commit() -> str:
    """Return the checked-out commit, or an empty string if git is not installed."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(ROOT), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()

    try:
        changed = git("status", "--porcelain", "--untracked-files=no")
        return git("rev-parse", "--short=12", "HEAD") + (" with local changes" if changed else "")
    except FileNotFoundError:
        return ""


def save(result: Result, out: Path = OUT) -> Path:
    """Write a result to NAME.json and return the path."""
    out.mkdir(parents=True, exist_ok=True)
    path = out / f"{result.name}.json"
    path.write_bytes(msgspec.json.format(msgspec.json.encode(result)) + b"\n")
    return path


def load(path: Path) -> Result:
    """Read a result that `save` wrote. Raises msgspec.DecodeError."""
    return msgspec.json.decode(path.read_bytes(), type=Result)
