"""How the cost of a tick grows: with rows, dimensions, sinks and CPUs."""

from __future__ import annotations

import asyncio
import ctypes
import resource
import socket
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from benchmarks.result import OUT, Bar, Cell, Plot, Result, Table
from benchmarks.rows import fill, harvested, loaded
from benchmarks.statistics import spread
from ebpfmon import Probe, Scope, SinkSettings, Snapshot, registry
from ebpfmon.attribution.lookup import Found
from ebpfmon.attribution.naming import ByProcess
from ebpfmon.flow.accounting import Accounting
from ebpfmon.flow.applications import Applications
from ebpfmon.flow.attribution import Attribution
from ebpfmon.flow.keyed import Keyed
from ebpfmon.kernel import tables
from ebpfmon.model import TableHarvest

METHOD = (
    "Rows are put into a real table of the kernel, as so many active processes or destinations would, and taken out "
    "of it; CPU time of the thread that does it, median of the rounds, the first one left out. Sinks get the "
    "snapshots of that tick: log to /dev/null, the others to nobody (StatsD's datagrams are not read, HTTP has no "
    "client)."
)
_PROCESSES = (100, 1_000, 10_000, 100_000)
_DESTINATIONS = 65_536
_DRAIN_IN_C = Path(__file__).parent / "c" / "drain.c"


def run(quick: bool) -> Result:
    """Everything, one after the other."""
    found = Result(name="scale", title="How a tick grows", method=METHOD)
    probes = registry.discover().probes
    rounds = 5 if quick else 21
    _processes(found, probes["process"], _PROCESSES[: 3 if quick else None], rounds)
    _destinations(found, probes["network_viewer"], (1_000, 10_000) if quick else (1_000, 10_000, _DESTINATIONS), rounds)
    _cpus(found, rounds * 10)
    _sinks(found, probes["process"], rounds)
    return found


def median_ms(action: Callable[[], object], rounds: int, before: Callable[[], object] = lambda: None) -> float:
    """CPU milliseconds of this thread for an action."""
    times = []
    for _ in range(rounds + 1):
        before()
        start = time.thread_time_ns()
        action()
        times.append((time.thread_time_ns() - start) / 1e6)
    return spread(times[1:]).median


def _processes(found: Result, probe: Probe, counts: Sequence[int], rounds: int) -> None:
    rows: list[tuple[Cell, ...]] = []
    series: dict[str, list[tuple[float | str, float]]] = {"drain": [], "attribution": [], "accounting": []}
    of_10_000 = None
    for count in counts:
        drain, attribute, account = _tick(probe, count, rounds)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6
        total = drain + attribute + account
        rows.append((count, round(drain, 3), round(attribute, 3), round(account, 3), round(total, 3), round(peak)))
        for name, value in zip(series, (drain, attribute, account), strict=True):
            series[name].append((count, round(value, 4)))
        of_10_000 = round(total, 2) if count == 10_000 else of_10_000
    columns = ("active processes", "drain, ms", "attribution, ms", "accounting, ms", "all three, ms", "peak RSS, MB")
    found.tables.append(Table("A tick, by active processes", columns, rows))
    found.plots.append(Plot("scale", "CPU time of a tick", "active processes", "ms", series, log="xy"))
    found.bars.append(Bar("drain, attribution, accounting of 10,000 active processes, CPU", of_10_000, 10, "ms"))
    with loaded(probe, 10_000) as in_kernel:
        table, side = in_kernel.tables[0], in_kernel.interval.side ^ 1
        ours = median_ms(lambda: table.drain(side), rounds, lambda: fill(in_kernel, table, side, 10_000))
        in_c = _drain_in_c(in_kernel.object.map_info(f"{table.stem}_rows_{side}", "fd"), table)
        theirs = median_ms(in_c, rounds, lambda: fill(in_kernel, table, side, 10_000))
    rows = [("ebpfmon", round(ours, 3)), ("C, one call", round(theirs, 3))]
    found.tables.append(Table("A drain of 10,000 rows, against C", ("", "CPU, ms"), rows))
    found.bars.append(Bar("drain of 10,000 rows, against a C loop over the same map", round(ours / theirs, 2), 1.3))


def _tick(probe: Probe, count: int, rounds: int) -> tuple[float, float, float]:
    """CPU milliseconds of drain, attribution (of processes that are known) and accounting."""
    charts = {scope: [c for c in probe.charts if c.scope is scope] for scope in Scope}
    times = []
    with loaded(probe, count) as in_kernel:
        table = in_kernel.tables[0]
        accounting, attribution = Accounting(charts[Scope.SYSTEM]), Attribution({"process": ByProcess()}, "process")
        applications = Applications({"process": probe.charts}, 200)
        for _ in range(rounds + 1):
            side = in_kernel.interval.side ^ 1
            fill(in_kernel, table, side, count)
            start = time.thread_time_ns()
            harvest = {"process": table.drain(side)}
            drained = time.thread_time_ns()
            owners = attribution.own(attribution.look(harvest), Found())
            owned = time.thread_time_ns()
            accounting.account(harvest["process"].totals)
            applications.account(harvest, owners, 1.0)
            times.append((drained - start, owned - drained, time.thread_time_ns() - owned))
            assert len(harvest["process"].rows) == count
    drain, attribute, account = (spread(stage).median / 1e6 for stage in zip(*times[1:], strict=True))
    return drain, attribute, account


def _drain_in_c(fd: int, table: tables.Table) -> Callable[[], int]:
    """The same map, emptied by C: what there is to be done, and no more."""
    import subprocess

    library = OUT / "bin" / "drain.so"
    library.parent.mkdir(parents=True, exist_ok=True)
    subprocess.run(["gcc", "-O2", "-Wall", "-shared", "-fPIC", "-o", library, _DRAIN_IN_C, "-lbpf"], check=True)
    drain = ctypes.CDLL(str(library)).drain
    size = ctypes.c_uint32(table.dtype.itemsize)
    sums = (ctypes.c_uint64 * len(table.counters))()
    return lambda: int(drain(fd, table.capacity, 16, size.value - 16, len(table.counters), sums))


def _destinations(found: Result, probe: Probe, counts: Sequence[int], rounds: int) -> None:
    """A table by keys, and its charts at the bounds: 500 dimensions by default, 10,000 at most."""
    rows: list[tuple[Cell, ...]] = []
    for count in counts:
        for dimensions in (500, 10_000):
            drain, account = _keyed(probe, count, dimensions, rounds)
            rows.append((count, dimensions, round(drain, 3), round(account, 3)))
            if count == _DESTINATIONS and dimensions == 500:
                found.bars.append(Bar("drain of 65,536 destinations, CPU", round(drain, 1), 100, "ms"))
    columns = ("destinations", "dimensions at most", "drain, ms", "charts, ms")
    found.tables.append(Table("A tick, by destinations", columns, rows))


def _keyed(probe: Probe, count: int, dimensions: int, rounds: int) -> tuple[float, float]:
    settings = probe.settings(maximum_dimensions=dimensions)  # type: ignore[call-arg]
    times = []
    with loaded(probe, count) as in_kernel:
        keys = probe.setup(settings).keys["outbound"]
        (table,) = (t for t in in_kernel.tables if t.stem == "outbound")
        keyed = Keyed([c for c in probe.charts if c.scope is Scope.KEYS and c.table == table.stem], keys)
        for _ in range(rounds + 1):
            side = in_kernel.interval.side ^ 1
            fill(in_kernel, table, side, count)
            start = time.thread_time_ns()
            harvest = table.drain(side)
            drained = time.thread_time_ns()
            keyed.account(harvest, 1.0)
            times.append((drained - start, time.thread_time_ns() - drained))
    drain, account = (spread(stage).median / 1e6 for stage in zip(*times[1:], strict=True))
    return drain, account


def _cpus(found: Result, rounds: int) -> None:
    """The sums over all CPUs, of as many counters as the process probe has."""
    fields = [(f"n{n}", np.uint64) for n in range(19)]
    rows: list[tuple[Cell, ...]] = []
    for cpus in (1, 2, 4, 8, 16, 32, 64):
        per_cpu = np.ones(cpus, fields)
        rows.append((cpus, round(median_ms(lambda p=per_cpu: tables.sums(p), rounds) * 1000, 1)))  # type: ignore[misc]
    found.tables.append(Table("Totals over CPUs", ("CPUs", "CPU, µs"), rows))


def _sinks(found: Result, probe: Probe, rounds: int) -> None:
    types = registry.discover().sinks
    directory = OUT / "scale"
    directory.mkdir(parents=True, exist_ok=True)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as unread:
        unread.bind(("127.0.0.1", 0))
        port = unread.getsockname()[1]
        rows = _of_each(types, directory, port, probe, rounds)
    note = "CPU time of the whole process, with the sink's threads."
    found.tables.append(Table("Sinks", ("sink", "of them", "active processes", "CPU a snapshot, ms"), rows, note))


def _of_each(
    types: dict[str, type[SinkSettings]], directory: Path, port: int, probe: Probe, rounds: int
) -> list[tuple[Cell, ...]]:
    rows: list[tuple[Cell, ...]] = []
    settings: dict[str, SinkSettings] = {
        "log, text": types["log"](path="/dev/null"),  # type: ignore[call-arg]
        "log, JSON": types["log"](path="/dev/null", format="json"),  # type: ignore[call-arg]
        "plugins_d": types["plugins_d"](socket=str(directory / "socket")),  # type: ignore[call-arg]
        "statsd": types["statsd"](port=port),  # type: ignore[call-arg]
        "http_json": types["http_json"](port=0),  # type: ignore[call-arg]
    }
    for count in (100, 10_000):
        snapshot = _snapshot(probe, count)
        for name, of_sink in settings.items():
            for copies in (1, 8) if name == "log, JSON" else (1,):
                cpu = asyncio.run(_send([of_sink] * copies, snapshot, rounds))
                rows.append((name, copies, count, round(cpu, 3)))
    return rows


def _snapshot(probe: Probe, count: int) -> Snapshot:
    with loaded(probe, count) as in_kernel:
        harvest: dict[str, TableHarvest] = {"process": harvested(in_kernel, in_kernel.tables[0], count)}
    attribution = Attribution({"process": ByProcess()}, "process")
    owners = attribution.own(attribution.look(harvest), Found())
    applications = Applications({"process": probe.charts}, 200)
    charts = Accounting(c for c in probe.charts if c.scope is Scope.SYSTEM).account(harvest["process"].totals)
    charts += applications.account(harvest, owners, 1.0)
    return Snapshot(
        host="host", time_s=1e9, elapsed_s=1.0, complete=True, charts=tuple(charts), tables=harvest, owners=owners
    )


async def _send(settings: Sequence[SinkSettings], snapshot: Snapshot, rounds: int) -> float:
    """CPU milliseconds of a snapshot to all of these."""
    times = []
    sinks = [one.open() for one in settings]
    for sink in sinks:
        await sink.__aenter__()
    try:
        for _ in range(rounds + 1):
            start = time.process_time_ns()
            for sink in sinks:
                await sink.send(snapshot)
            times.append((time.process_time_ns() - start) / 1e6)
    finally:
        for sink in sinks:
            await sink.__aexit__(None, None, None)
    return spread(times[1:]).median
