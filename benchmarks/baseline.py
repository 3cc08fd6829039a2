"""Compare ebpfmon with a daemon made with psutil, with idle and with active processes."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

from benchmarks import programs
from benchmarks.compare import Costs, measure_in_turn, ratio, ratios
from benchmarks.measure import BpfUsage, bpf_usage, load, run_statistics, running
from benchmarks.monitors import Peer, ebpfmon, psutil
from benchmarks.result import Cell, Plot, Result, Table, Target
from benchmarks.statistics import significant

METHOD = (
    "ebpfmon and the psutil daemon write a JSON line every second to a pipe that is read at once. They run in "
    "turn, and a figure is that of the median round (of two rounds the cheaper). CPU time is the user and system "
    "time of the process, without its start, scaled to 30 s. The kernel charges the time of BPF programs to the "
    "processes that make the calls, so ebpfmon's programs are timed by the kernel (bpf_stats) in a separate run, "
    "because timing them takes time as well. Idle processes wait forever; active processes make ten reads and ten "
    "writes a second each. Jitter is the standard deviation of the time between lines."
)
_CALLS = 10  # Reads, and as many writes, per second.
_PROGRAM_TIMING_S = 3.0
_OURS, _THEIRS, _CONNECTIONS = "ebpfmon", "psutil daemon", "psutil daemon, connections"
LOADS = (
    ("idle", 100), ("idle", 1_000), ("idle", 5_000), ("active", 0), ("active", 100), ("active", 1_000),
    ("active", 5_000),
)  # fmt: skip
_QUICK = (("idle", 100), ("idle", 1_000), ("active", 100))
_WITH_TARGETS = (("idle", 1_000), ("idle", 5_000))
"""The loads that targets refer to. They are measured for longer."""
_Loads = dict[tuple[str, int], dict[str, Costs]]


def run(quick: bool) -> Result:
    """Measure every monitor under every load."""
    result = Result(name="baseline", title="Comparison with psutil", method=METHOD)
    costs: _Loads = {}
    kernel: dict[tuple[str, int], BpfUsage] = {}
    both = [Peer(ebpfmon(), ""), Peer(psutil(), "")]
    for kind, count in _QUICK if quick else LOADS:
        rounds, seconds = (1, 3.0) if quick else (3, 6.0) if (kind, count) in _WITH_TARGETS else (2, 3.0)
        with _load(kind, count):
            costs[kind, count] = measure_in_turn(both, rounds, seconds, result.skipped)
            kernel[kind, count] = _time_programs(_PROGRAM_TIMING_S)
            if (kind, count) == _WITH_TARGETS[0]:  # Measured once, with 1,000 idle processes.
                peers = [Peer(psutil("--connections", name=_CONNECTIONS), "")]
                costs[kind, count] |= measure_in_turn(peers, 1, seconds, result.skipped)
    result.tables += [_cpu(costs, kernel), _memory(costs, kernel)]
    result.plots.append(_plot(costs, kernel))
    result.targets += _targets(costs)
    return result


def _load(kind: str, count: int) -> AbstractContextManager[Any]:
    if not count:
        return nullcontext()
    arguments = [str(_CALLS)] if kind == "active" else []
    return load(programs.build("processes"), kind, str(count), *arguments)


def _time_programs(seconds: float) -> BpfUsage:
    """Time the BPF programs of another ebpfmon, and return their runs scaled to 30 s."""
    with run_statistics(), running(ebpfmon()) as run:
        before = bpf_usage(run.pid)
        cost = run.measure(seconds)
        after = bpf_usage(run.pid)
    runs, run_ns = (round(n * 30 / cost.seconds) for n in (after.runs - before.runs, after.run_ns - before.run_ns))
    return BpfUsage(after.maps, after.maps_mb, after.programs, runs, run_ns)


def _cpu(costs: _Loads, kernel: dict[tuple[str, int], BpfUsage]) -> Table:
    rows: list[tuple[Cell, ...]] = []
    for (kind, count), by_monitor in costs.items():
        for name, monitor_costs in by_monitor.items():
            program_runs = kernel[kind, count] if name == _OURS else None
            cpu_s, jitter_ms = monitor_costs.typical.per_30_s, monitor_costs.jitter_ms
            rows.append((
                f"{count:,} {kind}", name, significant(cpu_s), monitor_costs.range,
                significant(cpu_s * monitor_costs.user_share, 2),
                significant(cpu_s * (1 - monitor_costs.user_share), 2),
                significant(program_runs.run_ns / 1e9) if program_runs else None,
                round(program_runs.runs / 30) if program_runs else None,
                round(program_runs.run_ns / program_runs.runs) if program_runs and program_runs.runs else None,
                None if jitter_ms is None else significant(jitter_ms, 2),
            ))  # fmt: skip
    columns = (
        "processes", "monitor", "CPU s per 30 s", "over the rounds", "user", "system",
        "BPF programs, s per 30 s", "runs/s", "ns per run", "jitter, ms",
    )  # fmt: skip
    note = (
        "One core has 30 s of CPU time per 30 s. The time of the BPF programs comes on top. It covers the calls of "
        "all processes on the machine, including the daemon itself, and includes about 20 ns per run for bpf_stats."
    )
    return Table("CPU time", columns, rows, note)


def _memory(costs: _Loads, kernel: dict[tuple[str, int], BpfUsage]) -> Table:
    rows: list[tuple[Cell, ...]] = [
        (f"{count:,} {kind}", name, round(monitor_costs.typical.rss_mb, 1), round(monitor_costs.typical.pss_mb, 1),
         round(kernel[kind, count].maps_mb, 1) if name == _OURS else None)
        for (kind, count), by_monitor in costs.items() for name, monitor_costs in by_monitor.items()
    ]  # fmt: skip
    return Table("Memory", ("processes", "monitor", "RSS, MB", "PSS, MB", "tables in the kernel, MB"), rows)


def _plot(costs: _Loads, kernel: dict[tuple[str, int], BpfUsage]) -> Plot:
    series: dict[str, list[tuple[float | str, float]]] = {}
    for (kind, count), by_monitor in costs.items():
        for name in (_OURS, _THEIRS) if count else ():
            if name in by_monitor:
                cpu_s = by_monitor[name].typical.per_30_s
                series.setdefault(f"{name}, {kind}", []).append((count, cpu_s))
                if name == _OURS and kind == "active":
                    with_programs = cpu_s + kernel[kind, count].run_ns / 1e9
                    series.setdefault("ebpfmon, active, with BPF programs", []).append((count, with_programs))
    return Plot(
        "baseline",
        "CPU time of ebpfmon and of a psutil daemon (less is better)",
        "processes",
        "CPU s per 30 s",
        series,
        log="xy",
    )


def _targets(costs: _Loads) -> list[Target]:
    def relative_to_psutil(count: int, limit: float) -> Target:
        by_monitor = costs.get(("idle", count), {})
        name = f"CPU time with {count:,} idle processes, relative to psutil"
        if not {_OURS, _THEIRS} <= by_monitor.keys():
            return Target(name, None, limit)
        ours, theirs = by_monitor[_OURS], by_monitor[_THEIRS]
        return Target(name, round(ratio(ours, theirs), 4), limit, rounds=ratios(ours, theirs))

    few, many = (costs.get(load, {}).get(_OURS) for load in _WITH_TARGETS)
    return [
        relative_to_psutil(1_000, round(1 / 30, 4)),
        relative_to_psutil(5_000, 1 / 100),
        # There should be no difference. The limit allows for the noise between two runs.
        Target("CPU time with 5,000 idle processes, relative to 1,000",
               round(ratio(many, few), 2) if few and many else None, 1.25,
            rounds=ratios(many, few) if few and many else ""),
    ]  # fmt: skip
