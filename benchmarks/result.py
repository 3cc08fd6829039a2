"""The result of a benchmark: tables, plots and bars, as JSON under build/bench/."""

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
    """Where and when something was measured."""

    processor: str
    cpus: int
    memory_mb: int
    kernel: str
    machine: str
    python: str
    load: float
    """The machine's load average when the measuring began: what else was running."""
    date: str
    commit: str


class Table(msgspec.Struct, frozen=True):
    """Rows under columns; numbers are as precise as they are to be shown. None: there is no such number."""

    title: str
    columns: tuple[str, ...]
    rows: list[tuple[Cell, ...]]
    note: str = ""


class Plot(msgspec.Struct, frozen=True):
    """Numbers to be looked at: lines over a numeric x, or bars over names."""

    name: str
    title: str
    x: str
    y: str
    series: dict[str, list[tuple[float | str, float]]]
    kind: str = "lines"
    log: str = ""
    """The logarithmic axes: "", "x", "y" or "xy"."""
    spread: dict[str, list[float]] = {}
    """By series: how far off each point may be, to both sides. Of bars alone."""


class Bar(msgspec.Struct, frozen=True):
    """A number to hold: `value` must not be above `bar`. None: it could not be measured here. No unit: a ratio."""

    what: str
    value: float | None
    bar: float
    unit: str = ""
    in_rounds: str = ""
    """How far it went from round to round: what the machine's noise makes of it."""

    @property
    def verdict(self) -> str:
        """Whether it holds. What is negative is above nothing by less than the noise."""
        if self.value is None:
            return "not measured"
        return "too noisy" if self.value < 0 else "held" if self.value <= self.bar else "MISSED"


class Result(msgspec.Struct, kw_only=True):
    """The results of one benchmark."""

    name: str
    title: str
    method: str
    tables: list[Table] = msgspec.field(default_factory=list)
    plots: list[Plot] = msgspec.field(default_factory=list)
    bars: list[Bar] = msgspec.field(default_factory=list)
    notes: list[str] = msgspec.field(default_factory=list)
    """What was learned, one paragraph each."""
    skipped: dict[str, str] = msgspec.field(default_factory=dict)
    """What could not be measured here, and why."""
    quick: bool = False
    machine: Machine | None = None
    took_s: float = 0.0


def look_at_machine() -> Machine:
    """This machine, now."""
    cpuinfo = Path("/proc/cpuinfo").read_text()
    models = [line.partition(":")[2].strip() for line in cpuinfo.splitlines() if line.startswith("model name")]
    return Machine(
        processor=models[0] if models else platform.machine(),
        cpus=len(os.sched_getaffinity(0)),
        memory_mb=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 1_000_000,
        kernel=os.uname().release,
        machine=os.uname().machine,
        python=platform.python_version(),
        load=round(os.getloadavg()[0], 1),
        date=time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        commit=_commit(),
    )


def _commit() -> str:
    def git(*arguments: str) -> str:
        command = ["git", "-C", str(ROOT), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()

    try:
        changed = git("status", "--porcelain", "--untracked-files=no")
        return git("rev-parse", "--short=12", "HEAD") + (" and changes" if changed else "")
    except FileNotFoundError:
        return ""


def save(result: Result, out: Path = OUT) -> Path:
    """Write it to NAME.json."""
    out.mkdir(parents=True, exist_ok=True)
    path = out / f"{result.name}.json"
    path.write_bytes(msgspec.json.format(msgspec.json.encode(result)) + b"\n")
    return path


def load(path: Path) -> Result:
    """Read what `save` wrote. Raises msgspec.DecodeError."""
    return msgspec.json.decode(path.read_bytes(), type=Result)
