"""How long the daemon takes to start, what memory it holds then, and which of its imports take it."""

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

import msgspec

from benchmarks.monitors import ebpfmon
from benchmarks.render import between, middle
from benchmarks.result import Bar, Cell, Result, Table
from benchmarks.watch import Running, in_kernel, memory_mb, running

METHOD = (
    "`ebpfmon run` with its default settings; with every sink (JSON in a file, Netdata's protocol on a socket, "
    "StatsD to a port that nobody reads, HTTP served), memory after some seconds. The first harvest is "
    "the first line that comes, less the wait for the whole second on which it is due."
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
LOG_ALONE = '[[sinks]]\ntype = "log"\nformat = "json"\n'


def run(quick: bool) -> Result:
    """Start it some times, then look at its memory."""
    found = Result(name="start", title="Starting, and memory", method=METHOD)
    starts = [_first_harvest_s() for _ in range(3 if quick else 5)]
    rows: list[tuple[Cell, ...]] = []
    resident = {}
    for name, settings in (("log sink alone", LOG_ALONE), ("all sinks", ALL_SINKS)):
        with configured(settings) as path, running(ebpfmon("--config", path)) as run:
            run.wait_for_lines(4 if quick else 7)
            rss, pss = memory_mb(run.pid)
            resident[name] = rss
            kernel = in_kernel(run.pid)
            rows.append((name, round(rss, 1), round(pss, 1), round(kernel.maps_mb, 1), kernel.maps, kernel.programs))
            if name == "log sink alone":
                found.tables.append(_mapped(run))
    peak, seen = _peak_with_destinations(_DESTINATIONS)
    rows.append((f"peak, with {seen:,} destinations in an interval", round(peak, 1), None, None, None, None))
    columns = ("", "RSS, MB", "PSS, MB", "tables in the kernel, MB", "maps", "programs")
    found.tables.insert(0, Table("Memory", columns, rows))
    found.tables.insert(1, _imports())
    found.bars += [
        Bar("start to first harvest, compiled objects", round(min(starts), 2), 1, "s", between(starts)),
        Bar("resident memory, log sink alone", round(resident["log sink alone"], 1), 48, "MB"),
        Bar("resident memory, all sinks", round(resident["all sinks"], 1), 72, "MB"),
        Bar(
            "peak resident memory, 65,536 destinations at once",
            round(peak, 1) if seen >= _DESTINATIONS else None,
            96,
            "MB",
        ),
    ]
    said = f"{middle(starts)} s, of {len(starts)} starts"
    found.notes.append(f"Start to first harvest: {said}. The bar is for the fastest, as other programs run as well.")
    return found


@contextmanager
def configured(settings: str) -> Iterator[str]:
    """The path of a file with these settings; in them `{directory}` is that of the file, `{port}` a UDP port that
    nobody reads."""
    with (
        tempfile.TemporaryDirectory(prefix="ebpfmon-bench-") as directory,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as unread,
    ):
        unread.bind(("127.0.0.1", 0))
        path = Path(directory) / "ebpfmon.toml"
        path.write_text(settings.replace("{directory}", directory).replace("{port}", str(unread.getsockname()[1])))
        yield str(path)


def _first_harvest_s() -> float:
    """From exec to the first line, less the time for which it waited for the second that the harvest was due at."""
    start, at = time.monotonic(), time.time()
    run = Running(ebpfmon())
    try:
        run.wait_for_lines()
        came, line = run.lines[0]
    finally:
        run.stop()
    snapshot = msgspec.json.decode(line)
    began_waiting = float(snapshot["time"] - snapshot["elapsed_s"])  # when its programs began to count
    return began_waiting - at + came - start - float(snapshot["time"] - at)


def _peak_with_destinations(count: int) -> tuple[float, int]:
    """Peak resident megabytes when one process sends to so many addresses (of 127/8) within an interval, which is long
    enough for that on a busy machine too, and how many were seen in the fullest interval. All of them are to be shown,
    in a table that has room for them."""
    settings = f'[plugins.network_viewer]\nips = "*"\ntable_size = {1 << (count - 1).bit_length()}\n'
    with configured(f"[ebpfmon]\ninterval = 4\n{settings}") as path, running(ebpfmon("--config", path)) as run:
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


def _mapped(run: Running) -> Table:
    """Which files and heaps the memory of a process is."""
    sizes: Counter[str] = Counter()
    name = ""
    for line in Path(f"/proc/{run.pid}/smaps").read_text().splitlines():
        if mapping := re.match(r"[0-9a-f]+-[0-9a-f]+ \S+ \S+ \S+ \S+\s*(.*)$", line):
            name = Path(mapping[1]).name or "anonymous: Python's objects"
        elif line.startswith("Rss:"):
            sizes[name] += int(line.split()[1])
    rows: list[tuple[Cell, ...]] = [(name, round(kb * 1024 / 1e6, 2)) for name, kb in sizes.most_common(12)]
    return Table("Where the resident memory is, log sink alone", ("mapping", "RSS, MB"), rows)


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
    """What each import adds, in the order in which they come."""
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
    note = "The last two only where a sink serves or posts HTTP."
    return Table("What imports add", ("import", "RSS, MB"), rows, note)
