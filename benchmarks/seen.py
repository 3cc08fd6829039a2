"""Calls seen of calls made, for processes that live from a millisecond to ten seconds."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import msgspec

from benchmarks import programs
from benchmarks.monitors import ebpfmon, psutil
from benchmarks.result import Cell, Plot, Result, Table
from benchmarks.start import configured
from benchmarks.watch import Monitor, running

METHOD = (
    "Processes come one after the other, 16 at once, and make ten reads each, spread over their life. Both monitors "
    'look at the same ones. ebpfmon runs with `[groups] by = ["process"]`, and its reads of that program are added up; '
    "of the psutil daemon it is read_count of the processes of that name. Both go on for two more seconds."
)
CALLS = 10
_LIVES_MS = (1, 10, 100, 1_000, 10_000)
_COMM = "bench-load"
Snapshot = dict[str, Any]


def run(quick: bool) -> Result:
    """One lifetime after the other."""
    found = Result(name="seen", title="Calls seen of calls made", method=METHOD)
    lives = [ms for ms in _LIVES_MS if not quick or ms <= 1_000]
    with configured('[groups]\nby = ["process"]\n[plugins.network_viewer]\nenabled = false\n') as path:
        monitors: list[tuple[Monitor, Callable[[Snapshot], int]]] = [
            (ebpfmon("--config", path), _of_ebpfmon),
            (psutil(), _of_psutil),
        ]
        series: dict[str, list[tuple[float | str, float]]] = {monitor.name: [] for monitor, _ in monitors}
        rows: list[tuple[Cell, ...]] = []
        for ms in lives:
            count = min(1_000, max(16, 4_000 // ms * 16)) // (10 if quick else 1)
            made, lines = _try([monitor for monitor, _ in monitors], count, ms)
            for (monitor, seen_in), of_monitor in zip(monitors, lines, strict=True):
                seen = sum(seen_in(msgspec.json.decode(line)) for line in of_monitor)
                part = round(100 * seen / made, 2)
                rows.append((f"{ms:,} ms", count, monitor.name, made, seen, part))
                series[monitor.name].append((ms, part))
    columns = ("each lives", "processes", "monitor", "reads made", "seen", "seen, %")
    found.tables.append(Table("Reads seen of reads made", columns, rows))
    found.plots.append(Plot("seen", "Calls seen of calls made", "a process lives, ms", "%", series, log="x"))
    return found


def _try(monitors: list[Monitor], count: int, ms: int) -> tuple[int, list[list[bytes]]]:
    """How many reads were made, and what each monitor wrote meanwhile."""
    command = [programs.build("processes"), "lives", str(count), str(ms), str(CALLS)]
    with ExitStack() as stack:
        runs = [stack.enter_context(running(monitor)) for monitor in monitors]
        made = int(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-1])
        time.sleep(2.2)
    return made, [[line for _, line in run.lines] for run in runs]


def _of_ebpfmon(snapshot: Snapshot) -> int:
    return sum(
        dimension["delta"]
        for chart in snapshot["charts"]
        if chart["id"] == "processes.vfs_read_call"
        for series in chart["series"]
        if series["labels"] == {"process": _COMM}
        for dimension in series["dimensions"]
    )


def _of_psutil(snapshot: Snapshot) -> int:
    return sum(process["read_count"] for process in snapshot["processes"] if process["name"] == _COMM)
