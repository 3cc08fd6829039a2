"""How the cost of a tick grows: with rows, series, sinks and CPUs."""

from __future__ import annotations

import ctypes
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from benchmarks import held, sinks
from benchmarks.render import middle
from benchmarks.result import OUT, Bar, Cell, Plot, Result, Table
from benchmarks.rows import GROUPS, fill, loaded
from benchmarks.stages import Stages, Took
from benchmarks.statistics import interleaved, quick, significant
from ebpfmon import Probe
from ebpfmon.kernel import tables
from ebpfmon.kernel.attach import LoadedProbe
from ebpfmon.kernel.bpfobject import BpfObject
from ebpfmon.pipeline.account import KeyAccount
from ebpfmon.pipeline.schedule import TimeInterval
from ebpfmon.plugins import registry

METHOD = (
    "Rows are put into a real table of the kernel, as so many active processes or destinations would, and taken out "
    "of it again, round after round; CPU time of the thread that does it, of which the first quartile of the rounds "
    "is given (a quarter was faster), and the median, ± half the distance between the quartiles. Memory is that of a "
    "process of its own, which does nothing else. Of the sinks log writes to /dev/null, StatsD's datagrams are read "
    "by nobody, Netdata's and Prometheus' part is played by another process."
)
_PROCESSES = (100, 1_000, 10_000, 100_000)
_GROUPS = (10, 50, 200, 1_000)
_DESTINATIONS = (100, 1_000, 10_000, 65_536)
_DIMENSIONS = (2, 500, 10_000)
_DRAIN_IN_C = Path(__file__).parent / "c" / "drain.c"


def run(hurry: bool) -> Result:
    """Everything, one after the other."""
    found = Result(name="scale", title="How a tick grows", method=METHOD)
    probes = registry.discover().probes
    processes, destinations = _PROCESSES[: 3 if hurry else None], _DESTINATIONS[: 3 if hurry else None]
    rounds = 5 if hurry else 21
    _processes(found, probes["process"], processes, rounds)
    _against_c(found, probes["process"], rounds)
    _by_groups(found, probes["process"], rounds)
    _destinations(found, probes["network_viewer"], destinations, rounds)
    _cpus(found, rounds * 10)
    found.tables.append(sinks.table(probes["process"], processes, rounds))
    return found


def _processes(found: Result, probe: Probe, counts: Sequence[int], rounds: int) -> None:
    rows: list[tuple[Cell, ...]] = []
    series: dict[str, list[tuple[float | str, float]]] = {"drain": [], "attribution": [], "accounting": []}
    memory: dict[str, list[tuple[float | str, float]]] = {"the process, at its peak": [], "tables in the kernel": []}
    bar = Bar("drain, attribution, accounting of 10,000 active processes, CPU", None, 10, "ms")
    for count in counts:
        ticks = _ticks(probe, count, rounds)
        stages, all_three = [quick(stage) for stage in zip(*ticks, strict=True)], [took.all for took in ticks]
        held_mb = held.measured(count)
        rows.append((
            count, *(significant(ms) for ms in (*stages, quick(all_three))), middle(all_three),
            *(round(mb, 1) for mb in held_mb),
        ))  # fmt: skip
        for of_what, values in ((series, stages), (memory, held_mb)):
            for points, value in zip(of_what.values(), values, strict=True):
                points.append((count, round(value, 4)))
        if count == 10_000:
            bar = Bar(bar.what, round(quick(all_three), 2), bar.bar, bar.unit, middle(all_three))
    columns = (
        "active processes", "drain, ms", "attribution, ms", "accounting, ms", "all three, ms", "(median)",
        "peak RSS, MB", "tables in the kernel, MB",
    )  # fmt: skip
    found.tables.append(Table("A tick, by active processes", columns, rows))
    found.plots += [
        Plot("scale", "CPU time of a tick's stages (less is better)", "active processes", "ms", series, log="xy"),
        Plot("scale-memory", "Memory, when so many have been active", "active processes", "MB", memory, log="x"),
    ]
    found.bars.append(bar)


def _ticks(probe: Probe, count: int, rounds: int, groups: int = GROUPS, maximum: int = 200) -> list[Took]:
    """What the stages take, round after round; the first, in which everything is new, is left out."""
    ticks = []
    with loaded(probe, count) as in_kernel:
        table, stages = in_kernel.tables[0], Stages(in_kernel, maximum)
        for _ in range(rounds + 1):
            side = in_kernel.interval.buffer ^ 1
            fill(in_kernel, table, side, count, groups)
            ticks.append(stages.tick(table, side))
            assert stages.rows == count
    return ticks[1:]


def _against_c(found: Result, probe: Probe, rounds: int) -> None:
    """Both swap and drain the same pair of maps, in turn, with the same rows."""
    took: dict[str, list[float]] = {"ebpfmon": [], "C": []}
    with loaded(probe, 10_000) as in_kernel:
        table = in_kernel.tables[0]
        ways = {"ebpfmon": _swap_and_drain(in_kernel), "C": _swap_and_drain_in_c(in_kernel)}
        for n, name in interleaved(list(ways), rounds + 1):
            fill(in_kernel, table, in_kernel.interval.buffer, 10_000)
            start = time.thread_time_ns()
            drained = ways[name]()
            ended = time.thread_time_ns()
            assert drained >= 10_000, drained  # with those of what runs meanwhile
            if n:
                took[name].append((ended - start) / 1e6)
    ours, theirs = (quick(ms) for ms in took.values())
    each = [a / b for a, b in zip(took["ebpfmon"], took["C"], strict=True)]
    rows: list[tuple[Cell, ...]] = [(name, significant(quick(ms)), middle(ms)) for name, ms in took.items()]
    found.tables.append(Table("Swap and drain of 10,000 rows, against C", ("", "CPU, ms", "(median)"), rows))
    found.bars.append(
        Bar("swap and drain of 10,000 rows, against a C loop over the same map", round(ours / theirs, 2), 1.3,
            in_rounds=middle(each))
    )  # fmt: skip


def _swap_and_drain(probe: LoadedProbe) -> Callable[[], int]:
    table = probe.tables[0]

    def swap_and_drain() -> int:
        side = probe.interval.swap()
        table.wait_for_programs(side)
        return len(table.drain(side).rows)

    return swap_and_drain


def _swap_and_drain_in_c(probe: LoadedProbe) -> Callable[[], int]:
    """What there is to be done, and no more."""
    library = OUT / "bin" / "drain.so"
    library.parent.mkdir(parents=True, exist_ok=True)
    subprocess.run(["gcc", "-O2", "-Wall", "-shared", "-fPIC", "-o", library, _DRAIN_IN_C, "-lbpf"], check=True)
    in_c = ctypes.CDLL(str(library)).swap_and_drain
    table, fd_of = probe.tables[0], probe.object.map_fd
    stem = f"{table.stem}_rows"
    interval, outer = fd_of(tables.INTERVAL), fd_of(stem)
    sides = [fd_of(f"{stem}_{side}") for side in (0, 1)]
    with BpfObject(probe.object.libbpf, probe.object.path) as opened:
        sizes = [opened.map_info(f"{stem}_0", f"{what}_size") for what in ("key", "value")]
    sums = (ctypes.c_uint64 * len(table.counters))()

    def swap_and_drain() -> int:
        side = probe.interval.buffer
        return int(in_c(interval, outer, sides[side], side, table.capacity, *sizes, len(table.counters), sums))

    return swap_and_drain


def _by_groups(found: Result, probe: Probe, rounds: int) -> None:
    """More and more groups, up to the bound of those that have a series of their own."""
    rows: list[tuple[Cell, ...]] = []
    for count in _GROUPS:
        ticks = _ticks(probe, 10_000, rounds, groups=count, maximum=count)
        rows.append((count, *(significant(quick(stage)) for stage in list(zip(*ticks, strict=True))[1:])))
    columns = ("groups, each a series of its charts", "attribution, ms", "accounting, ms")
    found.tables.append(Table("A tick of 10,000 active processes, by groups", columns, rows))


def _destinations(found: Result, probe: Probe, counts: Sequence[int], rounds: int) -> None:
    """A table with keys of its own, and its charts at the bounds: 500 dimensions by default, 10,000 at most."""
    rows: list[tuple[Cell, ...]] = []
    for count in counts:
        for dimensions in _DIMENSIONS:
            drain, account = (quick(stage) for stage in zip(*_of_keys(probe, count, dimensions, rounds), strict=True))
            rows.append((count, dimensions, significant(drain), significant(account)))
            if count == _DESTINATIONS[-1] and dimensions == 500:
                found.bars.append(Bar("drain of 65,536 destinations, CPU", round(drain, 1), 100, "ms"))
    columns = ("destinations", "dimensions at most", "drain, ms", "charts, ms")
    found.tables.append(Table("A tick, by destinations", columns, rows))


def _of_keys(probe: Probe, count: int, dimensions: int, rounds: int) -> list[tuple[float, float]]:
    """CPU milliseconds of drain and accounting, round after round."""
    settings = probe.settings(maximum_dimensions=dimensions)  # type: ignore[call-arg]
    times = []
    with loaded(probe, count) as in_kernel:
        labels = probe.setup(settings).labels["outbound"]
        (table,) = (t for t in in_kernel.tables if t.stem == "outbound")
        charts = [c for c in probe.charts if c.labels and c.table == table.stem]
        by_key = KeyAccount(charts, table.stem, table.counters, labels)
        for _ in range(rounds + 1):
            side = in_kernel.interval.buffer ^ 1
            fill(in_kernel, table, side, count)
            start = time.thread_time_ns()
            harvest = table.drain(side)
            drained = time.thread_time_ns()
            by_key.account(harvest, TimeInterval(1e9, 1.0))
            times.append(((drained - start) / 1e6, (time.thread_time_ns() - drained) / 1e6))
    return times[1:]


def _cpus(found: Result, rounds: int) -> None:
    """The sums over all CPUs, of as many counters as the process probe has."""
    fields = [(f"n{n}", np.uint64) for n in range(19)]
    rows: list[tuple[Cell, ...]] = []
    for cpus in (1, 2, 4, 8, 16, 32, 64):
        per_cpu, times = np.ones(cpus, fields), []
        for _ in range(rounds):
            start = time.thread_time_ns()
            tables.sums(per_cpu)
            times.append((time.thread_time_ns() - start) / 1e3)
        rows.append((cpus, significant(quick(times)), middle(times)))
    found.tables.append(Table("Totals over CPUs", ("CPUs, simulated", "CPU, µs", "(median)"), rows))
