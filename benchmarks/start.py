"""Measure how long the daemon takes to start, how much memory it uses, and how much of that its imports use."""

from __future__ import annotations

import re
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

import msgspec

from benchmarks.measure import Running, bpf_usage, memory_mb, running
from benchmarks.monitors import ebpfmon
from benchmarks.render import format_median, format_range
from benchmarks.result import Cell, Result, Table, Target

METHOD = (
    "`ebpfmon run` starts with its default settings. The time to the first harvest is the time to the first line "
    "of output, minus the wait for the whole second at which the harvest is due. Memory is measured some seconds "
    "later, for the log sink only and for all sinks: JSON on standard output, Netdata's protocol on a socket, "
    "StatsD to a port that nobody reads, and an HTTP server."
)
_DESTINATIONS = 65_536
ALL_SINKS = """
[[sinks]]
type = "log"
format = "json"
[[sinks]]
type = "plugins_d"
socket = "{directory}/plugins.d.sock"
[[sinks]]
type = "statsd"
port = {port}
[[sinks]]
type = "http_json"
port = 0
"""
LOG_ONLY = '[[sinks]]\ntype = "log"\nformat = "json"\n'


def run(quick: bool) -> Result:
    """Start the daemon several times, then measure its memory."""
    result = Result(name="start", title="Start-up time and memory", method=METHOD)
    starts = [_first_harvest_s() for _ in range(3 if quick else 5)]
    rows: list[tuple[Cell, ...]] = []
    resident: dict[str, list[float]] = {}
    for name, settings in (("log sink only", LOG_ONLY), ("all sinks", ALL_SINKS)):
        samples = []
        for _ in range(1 if quick else 5):
            with settings_file(settings) as path, running(ebpfmon("--config", path)) as run:
                run.wait_for_lines(4 if quick else 7)
                samples.append(memory_mb(run.pid))
                kernel = bpf_usage(run.pid)
                mappings = _mappings(run)
        resident[name] = [rss for rss, _ in samples]
        pss = median(pss for _, pss in samples)
        usage = round(kernel.maps_mb, 1), kernel.maps, kernel.programs
        rows.append((name, round(median(resident[name]), 1), round(pss, 1), *usage))
        if name == "log sink only":
            result.tables.append(mappings)
    peak, destinations = _peak_with_destinations(_DESTINATIONS)
    rows.append((f"peak, with {destinations:,} destinations in an interval", round(peak, 1), None, None, None, None))
    columns = ("", "RSS, MB", "PSS, MB", "tables in the kernel, MB", "maps", "programs")
    result.tables.insert(0, Table("Memory", columns, rows))
    result.tables.insert(1, _imports())
    result.targets += [
        Target(
            "start to first harvest, with compiled BPF objects", round(median(starts), 2), 1, "s", format_range(starts)
        ),
        *(
            Target(f"resident memory, {name}", round(median(rss), 1), most, "MB", format_range(rss))
            for (name, rss), most in zip(resident.items(), (48, 72), strict=True)
        ),
        Target(
            "peak resident memory, 65,536 destinations in an interval",
            round(peak, 1) if destinations >= _DESTINATIONS else None,
            96,
            "MB",
        ),
    ]
    result.notes.append(f"Start to first harvest: {format_median(starts)} s, over {len(starts)} starts.")
    return result


@contextmanager
def settings_file(settings: str) -> Iterator[str]:
    """Write settings to a temporary file and yield its path.

    `{directory}` in the settings stands for the file's directory, and `{port}` for a UDP port that nobody reads.
    """
    with (
        tempfile.TemporaryDirectory(prefix="ebpfmon-bench-") as directory,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as unread,
    ):
        unread.bind(("127.0.0.1", 0))
        path = Path(directory) / "ebpfmon.toml"
        path.write_text(settings.replace("{directory}", directory).replace("{port}", str(unread.getsockname()[1])))
        yield str(path)


def _first_harvest_s() -> float:
    """Return the seconds from the start to the first line, without the wait for the second at which it is due."""
    start, start_time = time.monotonic(), time.time()
    run = Running(ebpfmon())
    try:
        run.wait_for_lines()
        arrived, line = run.lines[0]
    finally:
        run.stop()
    snapshot = msgspec.json.decode(line)
    began_waiting = float(snapshot["time"] - snapshot["elapsed_s"])  # When its programs began to count.
    return began_waiting - start_time + arrived - start - float(snapshot["time"] - start_time)


def _peak_with_destinations(count: int) -> tuple[float, int]:
    """Send from one process to a number of addresses (of 127.0.0.0/8) within an interval.

    Return the peak resident memory in MB, and the number of destinations in the fullest interval. The interval is long
    enough for all of them even on a busy machine, all are selected, and the table has room for them.
    """
    settings = f'[plugins.network_viewer]\nips = "*"\ntable_size = {1 << (count - 1).bit_length()}\n'
    with settings_file(f"[ebpfmon]\ninterval = 4\n{settings}") as path, running(ebpfmon("--config", path)) as run:
        run.wait_for_lines(len(run.lines) + 1)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            for n in range(count):
                sender.sendto(b"x", (f"127.{1 + (n >> 16)}.{n >> 8 & 255}.{n & 255}", 9))
        run.wait_for_lines(len(run.lines) + 2)
        status = Path(f"/proc/{run.pid}/status").read_text()
        snapshots = [msgspec.json.decode(line) for _, line in run.lines]
    peak_kb = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))
    rows = [
        series["dimensions"][0]["value"]
        for snapshot in snapshots
        for chart in snapshot["charts"]
        if chart["id"] == "ebpfmon.rows"
        for series in chart["series"]
        if series["labels"] == {"table": "outbound"}
    ]
    return peak_kb * 1024 / 1e6, max(rows)


def _mappings(run: Running) -> Table:
    """Return the mappings with the most resident memory."""
    sizes: Counter[str] = Counter()
    name = ""
    for line in Path(f"/proc/{run.pid}/smaps").read_text().splitlines():
        if mapping := re.match(r"[0-9a-f]+-[0-9a-f]+ \S+ \S+ \S+ \S+\s*(.*)$", line):
            name = Path(mapping[1]).name or "anonymous (Python's objects)"
        elif line.startswith("Rss:"):
            sizes[name] += int(line.split()[1])
    rows: list[tuple[Cell, ...]] = [(name, round(kb * 1024 / 1e6, 2)) for name, kb in sizes.most_common(12)]
    return Table("Resident memory by mapping, log sink only", ("mapping", "RSS, MB"), rows)


_IMPORTS = """
import sys
def rss():
    with open("/proc/self/smaps_rollup") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("Rss"))
last = rss()
print("the interpreter", last)
for name in sys.argv[1:]:
    __import__(name)
    now = rss()
    print(name, now - last)
    last = now
"""


def _imports() -> Table:
    """Return the memory that each import adds, in this order."""
    names = [
        "dataclasses",
        "logging",
        "msgspec",
        "numpy",
        "importlib.metadata",
        "pluggy",
        "ebpfmon.cli.main",
        "asyncio",
    ]
    names += ["ebpfmon_sinks.log", "ebpfmon_sinks.statsd", "ebpfmon_sinks.plugins_d.settings", "ebpfmon_network_viewer"]
    names += ["aiohttp", "prometheus_client"]
    done = subprocess.run(
        [sys.executable, "-c", _IMPORTS, *names], capture_output=True, text=True, check=True,
        env={"OPENBLAS_NUM_THREADS": "1"},
    )  # fmt: skip
    rows: list[tuple[Cell, ...]] = []
    for line in done.stdout.splitlines():
        name, _, kb = line.rpartition(" ")
        rows.append((name, round(int(kb) * 1024 / 1e6, 2)))
    note = "The last two are only imported if a sink serves or posts HTTP."
    return Table("Memory that imports add", ("import", "RSS, MB"), rows, note)
