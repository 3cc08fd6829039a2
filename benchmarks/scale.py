"""Measure how the cost of a tick grows with rows, series, sinks and CPUs."""

from __future__ import annotations

import ctypes
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from benchmarks import sinks, tick_memory
from benchmarks.render import format_median
from benchmarks.result import OUT, Cell, Plot, Result, Table, Target
from benchmarks.rows import DEFAULT_GROUPS, fill, loaded
from benchmarks.stages import Stages, StageTimes
from benchmarks.statistics import first_quartile, interleaved, significant
from ebpfmon import Probe
from ebpfmon.kernel import tables
from ebpfmon.kernel.attach import LoadedProbe
from ebpfmon.kernel.bpfobject import BpfObject
from ebpfmon.pipeline.account import KeyAccount
from ebpfmon.pipeline.schedule import TimeInterval
from ebpfmon.plugins import registry

METHOD = (
    "A real kernel table is filled with rows, as many active processes or destinations would fill it. Then the "
    "stages of a tick run on it, round after round: the drain reads and clears the table, attribution finds the "
    "group of each process, and accounting turns rows into series. Times are CPU time of the thread that does it. "
    "A figure is the first quartile of the rounds, because other programs only make rounds slower; '(median)' is "
    "the median ± half the interquartile range. Memory is that of a separate process that does nothing else. The "
    "log sink writes to /dev/null, nobody reads the datagrams of StatsD, and another process plays the parts of "
    "Netdata and Prometheus."
)
_PROCESSES = (100, 1_000, 10_000, 100_000)
_GROUPS = (10, 50, 200, 1_000)
_DESTINATIONS = (100, 1_000, 10_000, 65_536)
_DIMENSIONS = (2, 500, 10_000)
_DRAIN_IN_C = Path(__file__).parent / "c" / "drain.c"


def run(quick: bool) -> Result:
    """Measure one part after the other."""
    result = Result(name="scale", title="Growth of the cost of a tick", method=METHOD)
    probes = registry.discover().probes
    processes, destinations = _PROCESSES[: 3 if quick else None], _DESTINATIONS[: 3 if quick else None]
    rounds = 5 if quick else 21
    _processes(result, probes["process"], processes, rounds)
    _compare_with_c(result, probes["process"], rounds)
    _by_groups(result, probes["process"], rounds)
    _destinations(result, probes["network_viewer"], destinations, rounds)
    _cpus(result, rounds * 10)
    result.tables.append(sinks.table(probes["process"], processes, rounds))
    return result


def _processes(result: Result, probe: Probe, counts: Sequence[int], rounds: int) -> None:
    rows: list[tuple[Cell, ...]] = []
    series: dict[str, list[tuple[float | str, float]]] = {"drain": [], "attribution": [], "accounting": []}
    memory: dict[str, list[tuple[float | str, float]]] = {"peak of the process": [], "tables in the kernel": []}
    target = Target("CPU time of drain, attribution and accounting, 10,000 active processes", None, 10, "ms")
    for count in counts:
        ticks = _ticks(probe, count, rounds)
        stages, totals = [first_quartile(stage) for stage in zip(*ticks, strict=True)], [times.total for times in ticks]
        memory_mb = tick_memory.measure(count)
        rows.append((
            count, *(significant(ms) for ms in (*stages, first_quartile(totals))), format_median(totals),
            *(round(mb, 1) for mb in memory_mb),
        ))  # fmt: skip
        for by_name, values in ((series, stages), (memory, memory_mb)):
            for points, value in zip(by_name.values(), values, strict=True):
                points.append((count, round(value, 4)))
        if count == 10_000:
            value = round(first_quartile(totals), 2)
            target = Target(target.name, value, target.limit, target.unit, format_median(totals))
    columns = (
        "active processes", "drain, ms", "attribution, ms", "accounting, ms", "sum, ms", "(median)",
        "peak RSS, MB", "tables in the kernel, MB",
    )  # fmt: skip
    result.tables.append(Table("A tick, by active processes", columns, rows))
    result.plots += [
        Plot("scale", "CPU time of a tick's stages (less is better)", "active processes", "ms", series, log="xy"),
        Plot("scale-memory", "Memory by number of active processes", "active processes", "MB", memory, log="x"),
    ]
    result.targets.append(target)


def _ticks(probe: Probe, count: int, rounds: int, groups: int = DEFAULT_GROUPS, maximum: int = 200) -> list[StageTimes]:
    """Return the times of the stages in each round except the first, when every process is new."""
    ticks = []
    with loaded(probe, count) as loaded_probe:
        table, stages = loaded_probe.tables[0], Stages(loaded_probe, maximum)
        for _ in range(rounds + 1):
            buffer = loaded_probe.active_buffer.index ^ 1
            fill(loaded_probe, table, buffer, count, groups)
            ticks.append(stages.tick(table, buffer))
            assert stages.rows == count
    return ticks[1:]


def _compare_with_c(result: Result, probe: Probe, rounds: int) -> None:
    """Compare with C code that swaps and drains the same pair of maps, in turn, with the same rows."""
    times_ms: dict[str, list[float]] = {"ebpfmon": [], "C": []}
    with loaded(probe, 10_000) as loaded_probe:
        table = loaded_probe.tables[0]
        implementations = {"ebpfmon": _swap_and_drain(loaded_probe), "C": _swap_and_drain_in_c(loaded_probe)}
        for n, name in interleaved(list(implementations), rounds + 1):
            fill(loaded_probe, table, loaded_probe.active_buffer.index, 10_000)
            start = time.thread_time_ns()
            drained = implementations[name]()
            ended = time.thread_time_ns()
            assert drained >= 10_000, drained  # Other programs may have added rows.
            if n:
                times_ms[name].append((ended - start) / 1e6)
    ours, theirs = (first_quartile(ms) for ms in times_ms.values())
    ratios = [a / b for a, b in zip(times_ms["ebpfmon"], times_ms["C"], strict=True)]
    rows: list[tuple[Cell, ...]] = [
        (name, significant(first_quartile(ms)), format_median(ms)) for name, ms in times_ms.items()
    ]
    result.tables.append(Table("Swap and drain of 10,000 rows, compared with C", ("", "CPU, ms", "(median)"), rows))
    result.targets.append(
        Target("CPU time of swap and drain of 10,000 rows, relative to C", round(ours / theirs, 2), 1.3,
            rounds=format_median(ratios))
    )  # fmt: skip


def _swap_and_drain(probe: LoadedProbe) -> Callable[[], int]:
    table = probe.tables[0]

    def swap_and_drain() -> int:
        buffer = probe.active_buffer.swap()
        table.wait_for_programs(buffer)
        return len(table.drain(buffer).rows)

    return swap_and_drain


def _swap_and_drain_in_c(probe: LoadedProbe) -> Callable[[], int]:
    """Return a function that swaps and drains in C, and does nothing else."""
    library = OUT / "bin" / "drain.so"
    library.parent.mkdir(parents=True, exist_ok=True)
    subprocess.run(["gcc", "-O2", "-Wall", "-shared", "-fPIC", "-o", library, _DRAIN_IN_C, "-lbpf"], check=True)
    in_c = ctypes.CDLL(str(library)).swap_and_drain
    table, fd_of = probe.tables[0], probe.object.map_fd
    stem = f"{table.name}_rows"
    interval, outer = fd_of(tables.ACTIVE_BUFFER_MAP), fd_of(stem)
    buffers = [fd_of(f"{stem}_{buffer}") for buffer in (0, 1)]
    with BpfObject(probe.object.libbpf, probe.object.path) as opened:
        sizes = [opened.map_info(f"{stem}_0", f"{part}_size") for part in ("key", "value")]
    sums = (ctypes.c_uint64 * len(table.counters))()

    def swap_and_drain() -> int:
        buffer = probe.active_buffer.index
        return int(in_c(interval, outer, buffers[buffer], buffer, table.capacity, *sizes, len(table.counters), sums))

    return swap_and_drain


def _by_groups(result: Result, probe: Probe, rounds: int) -> None:
    """Measure with more and more groups. Each has a series of its own."""
    rows: list[tuple[Cell, ...]] = []
    for count in _GROUPS:
        ticks = _ticks(probe, 10_000, rounds, groups=count, maximum=count)
        rows.append((count, *(significant(first_quartile(stage)) for stage in list(zip(*ticks, strict=True))[1:])))
    columns = ("groups, each with its own series", "attribution, ms", "accounting, ms")
    result.tables.append(Table("A tick of 10,000 active processes, by groups", columns, rows))


def _destinations(result: Result, probe: Probe, counts: Sequence[int], rounds: int) -> None:
    """Measure a table that is not by process, with the default and the highest number of dimensions."""
    rows: list[tuple[Cell, ...]] = []
    for count in counts:
        for dimensions in _DIMENSIONS:
            drain, account = (
                first_quartile(stage) for stage in zip(*_key_ticks(probe, count, dimensions, rounds), strict=True)
            )
            rows.append((count, dimensions, significant(drain), significant(account)))
            if count == _DESTINATIONS[-1] and dimensions == 500:
                result.targets.append(Target("CPU time of a drain of 65,536 destinations", round(drain, 1), 100, "ms"))
    columns = ("destinations", "maximum dimensions", "drain, ms", "accounting, ms")
    result.tables.append(Table("A tick, by destinations", columns, rows))


def _key_ticks(probe: Probe, count: int, dimensions: int, rounds: int) -> list[tuple[float, float]]:
    """Return the CPU milliseconds of drain and accounting in each round."""
    settings = probe.settings(maximum_dimensions=dimensions)  # type: ignore[call-arg]
    times = []
    with loaded(probe, count) as loaded_probe:
        labels = probe.setup(settings).labels["outbound"]
        (table,) = (t for t in loaded_probe.tables if t.name == "outbound")
        charts = [c for c in probe.charts if c.labels and c.table == table.name]
        by_key = KeyAccount(charts, table.name, table.counters, labels)
        for _ in range(rounds + 1):
            buffer = loaded_probe.active_buffer.index ^ 1
            fill(loaded_probe, table, buffer, count)
            start = time.thread_time_ns()
            harvest = table.drain(buffer)
            drained = time.thread_time_ns()
            by_key.account(harvest, TimeInterval(1e9, 1.0))
            times.append(((drained - start) / 1e6, (time.thread_time_ns() - drained) / 1e6))
    return times[1:]


def _cpus(result: Result, rounds: int) -> None:
    """Measure the sums over all CPUs, for as many counters as the process probe has."""
    fields = [(f"n{n}", np.uint64) for n in range(19)]
    rows: list[tuple[Cell, ...]] = []
    for cpus in (1, 2, 4, 8, 16, 32, 64):
        per_cpu, times = np.ones(cpus, fields), []
        for _ in range(rounds):
            start = time.thread_time_ns()
            tables.sums(per_cpu)
            times.append((time.thread_time_ns() - start) / 1e3)
        rows.append((cpus, significant(first_quartile(times)), format_median(times)))
    result.tables.append(Table("Summing totals over all CPUs", ("simulated CPUs", "CPU, µs", "(median)"), rows))
