"""What else one could take: side by side, over idle processes."""

from __future__ import annotations

import socket
import tempfile
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from benchmarks import programs
from benchmarks.monitors import Peer, all_of_them
from benchmarks.result import Bar, Cell, Plot, Result, Table
from benchmarks.watch import Cost, load, running

METHOD = (
    "Each runs alone over so many idle processes, once a second, as its own defaults have it; what it writes is "
    "read at once, and who must be asked is asked once a second. CPU time is that of its process and of the "
    "children that it has waited for, its start left out, scaled to 30 s (a core has 30 s). What the programs of "
    "those that use eBPF cost the others is in the piece 'workloads'."
)
_EXPORTER = "process_names:\n  - name: '{{.Comm}}'\n    cmdline: ['.+']\n"


def run(quick: bool) -> Result:
    """Every peer over every number of processes."""
    found = Result(name="peers", title="Side by side", method=METHOD)
    seconds, counts = (3.0, (100,)) if quick else (10.0, (1_000, 5_000))
    costs: dict[tuple[str, int], Cost] = {}
    peers = all_of_them()
    for count in counts:
        with load(programs.build("processes"), "idle", str(count)):
            for peer in peers:
                if peer.why_not:
                    found.skipped[peer.name] = peer.why_not
                    continue
                try:
                    with asked(peer) as monitor, running(monitor.monitor) as run:
                        costs[peer.name, count] = run.measure(seconds)
                except (RuntimeError, OSError) as error:
                    found.skipped[f"{peer.name}, {count:,} processes"] = str(error)
    rows: list[tuple[Cell, ...]] = []
    series: dict[str, list[tuple[float | str, float]]] = {f"{count:,} idle processes": [] for count in counts}
    for peer in peers:
        for count in counts:
            cost = costs.get((peer.name, count))
            if cost:
                rows.append(
                    (peer.name, count, round(cost.per_30_s, 3), round(cost.rss_mb, 1), round(cost.pss_mb, 1), peer.sees)
                )
                series[f"{count:,} idle processes"].append((peer.name, cost.per_30_s))
    columns = ("", "idle processes", "CPU s per 30 s", "RSS, MB", "PSS, MB", "sees")
    found.tables.append(Table("CPU time and memory", columns, rows))
    found.plots.append(Plot("peers", "CPU time", "", "CPU s per 30 s", series, kind="bars", log="y"))
    for count, bar in ((1_000, 1 / 10), (5_000, 1 / 40)):
        ours, theirs = costs.get(("ebpfmon", count)), costs.get(("apps.plugin (Netdata)", count))
        ratio = round(ours.per_30_s / theirs.per_30_s, 4) if ours and theirs else None
        found.bars.append(Bar(f"CPU with {count:,} idle processes, against apps.plugin", ratio, bar))
    return found


@contextmanager
def asked(peer: Peer) -> Iterator[Peer]:
    """A peer that is asked once a second, if it must be: with the port and the configuration that it gets."""
    if not peer.is_asked:
        yield peer
        return
    with socket.socket() as free, tempfile.NamedTemporaryFile("w", suffix=".yml") as file, ExitStack() as stack:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        free.close()
        file.write(_EXPORTER)
        file.flush()
        stop = threading.Event()
        asking = threading.Thread(target=_ask, args=(f"http://127.0.0.1:{port}/metrics", stop))
        asking.start()
        stack.callback(asking.join)
        stack.callback(stop.set)
        yield peer.at(port, Path(file.name))


def _ask(url: str, stop: threading.Event) -> None:
    while not stop.wait(1):
        try:
            with urllib.request.urlopen(url, timeout=30) as answer:  # an address of our own
                answer.read()
        except OSError:
            continue  # not there yet
