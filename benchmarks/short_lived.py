"""Measure how many calls of short-lived processes a monitor sees, for lifetimes of 1 millisecond to 10 seconds."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import msgspec

from benchmarks import programs
from benchmarks.measure import Monitor, running
from benchmarks.monitors import ebpfmon, psutil
from benchmarks.result import Cell, Plot, Result, Table
from benchmarks.start import settings_file

METHOD = (
    "Short-lived processes, 16 at a time, make ten reads each, spread over their lifetime. Both monitors run at "
    "the same time and watch the same processes, and go on for two more seconds. 'Seen' is how many of the reads "
    'a monitor reported. ebpfmon runs with `[groups] by = ["process"]`, and its reads of the program are added '
    "up. For the psutil daemon it is the sum of read_count of the processes with the program's name."
)
CALLS = 10
_LIFETIMES_MS = (1, 10, 100, 1_000, 10_000)
_COMM = "bench-load"
Snapshot = dict[str, Any]


def run(quick: bool) -> Result:
    """Measure one lifetime after the other."""
    result = Result(name="short_lived", title="Calls of short-lived processes", method=METHOD)
    lifetimes_ms = [ms for ms in _LIFETIMES_MS if not quick or ms <= 1_000]
    with settings_file('[groups]\nby = ["process"]\n[plugins.network_viewer]\nenabled = false\n') as path:
        monitors: list[tuple[Monitor, Callable[[Snapshot], int]]] = [
            (ebpfmon("--config", path), _reads_of_ebpfmon),
            (psutil(), _reads_of_psutil),
        ]
        series: dict[str, list[tuple[float | str, float]]] = {monitor.name: [] for monitor, _ in monitors}
        rows: list[tuple[Cell, ...]] = []
        for ms in lifetimes_ms:
            count = min(1_000, max(16, 4_000 // ms * 16)) // (10 if quick else 1)
            made, lines = _run_processes([monitor for monitor, _ in monitors], count, ms)
            for (monitor, count_reads), monitor_lines in zip(monitors, lines, strict=True):
                seen = sum(count_reads(msgspec.json.decode(line)) for line in monitor_lines)
                percent = round(100 * seen / made, 2)
                rows.append((f"{ms:,} ms", count, monitor.name, made, seen, percent))
                series[monitor.name].append((ms, percent))
    columns = ("lifetime", "processes", "monitor", "reads made", "seen", "seen, %")
    result.tables.append(Table("Reads that each monitor saw", columns, rows))
    title = "Calls that each monitor saw (more is better)"
    result.plots.append(Plot("short_lived", title, "lifetime of a process, ms", "%", series, log="x"))
    return result


def _run_processes(monitors: list[Monitor], count: int, ms: int) -> tuple[int, list[list[bytes]]]:
    """Return how many reads the processes made, and the lines that each monitor printed meanwhile."""
    command = [programs.build("processes"), "short", str(count), str(ms), str(CALLS)]
    with ExitStack() as stack:
        runs = [stack.enter_context(running(monitor)) for monitor in monitors]
        made = int(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-1])
        time.sleep(2.2)
    return made, [[line for _, line in run.lines] for run in runs]


def _reads_of_ebpfmon(snapshot: Snapshot) -> int:
    return sum(
        dimension["delta"]
        for chart in snapshot["charts"]
        if chart["id"] == "processes.vfs_read_call"
        for series in chart["series"]
        if series["labels"] == {"process": _COMM}
        for dimension in series["dimensions"]
    )


def _reads_of_psutil(snapshot: Snapshot) -> int:
    return sum(process["read_count"] for process in snapshot["processes"] if process["name"] == _COMM)
