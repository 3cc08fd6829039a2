"""ebpfmon against a psutil daemon, with the same sink, over processes that are idle and processes that are active."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

from benchmarks import programs
from benchmarks.compare import Costs, in_turn, ratio, ratios
from benchmarks.monitors import Peer, ebpfmon, psutil
from benchmarks.result import Bar, Cell, Plot, Result, Table
from benchmarks.statistics import significant
from benchmarks.watch import InKernel, counting_runs, in_kernel, load, running

METHOD = (
    "Both write a JSON line a second to a pipe that is read at once; they run in turn, and a figure is that of the "
    "median round (of two the cheaper). CPU time is the process's own, user and system, its start "
    "left out, scaled to 30 s; the time of ebpfmon's programs, which the kernel charges to those who call, is counted "
    "by the kernel (bpf_stats) in a run of its own, as counting takes time too. Idle processes wait for ever; active "
    "ones make ten reads and ten writes a second each. Jitter is the standard deviation of the time between lines."
)
_CALLS = 10  # of each kind, a second
_COUNTED_S = 3.0
_OURS, _THEIRS, _CONNECTIONS = "ebpfmon", "psutil daemon", "psutil daemon, connections"
LOADS = (
    ("idle", 100), ("idle", 1_000), ("idle", 5_000), ("active", 0), ("active", 100), ("active", 1_000),
    ("active", 5_000),
)  # fmt: skip
_QUICK = (("idle", 100), ("idle", 1_000), ("active", 100))
_HELD = (("idle", 1_000), ("idle", 5_000))
"""What there are bars for: measured for longer."""
_Loads = dict[tuple[str, int], dict[str, Costs]]


def run(quick: bool) -> Result:
    """Every load with every monitor."""
    found = Result(name="baseline", title="Against psutil", method=METHOD)
    costs: _Loads = {}
    kernel: dict[tuple[str, int], InKernel] = {}
    both = [Peer(ebpfmon(), ""), Peer(psutil(), "")]
    for kind, count in _QUICK if quick else LOADS:
        rounds, seconds = (1, 3.0) if quick else (3, 6.0) if (kind, count) in _HELD else (2, 3.0)
        with _load(kind, count):
            costs[kind, count] = in_turn(both, rounds, seconds, found.skipped)
            kernel[kind, count] = _programs_time(_COUNTED_S)
            if (kind, count) == _HELD[0]:  # once is enough
                more = [Peer(psutil("--connections", name=_CONNECTIONS), "")]
                costs[kind, count] |= in_turn(more, 1, seconds, found.skipped)
    found.tables += [_cpu(costs, kernel), _held(costs, kernel)]
    found.plots.append(_plot(costs, kernel))
    found.bars += _bars(costs)
    return found


def _load(kind: str, count: int) -> AbstractContextManager[Any]:
    if not count:
        return nullcontext()
    more = [str(_CALLS)] if kind == "active" else []
    return load(programs.build("processes"), kind, str(count), *more)


def _programs_time(seconds: float) -> InKernel:
    """What the programs run in 30 s, of another ebpfmon than the one whose CPU time is taken."""
    with counting_runs(), running(ebpfmon()) as run:
        before = in_kernel(run.pid)
        cost = run.measure(seconds)
        after = in_kernel(run.pid)
    runs, run_ns = (round(n * 30 / cost.seconds) for n in (after.runs - before.runs, after.run_ns - before.run_ns))
    return InKernel(after.maps, after.maps_mb, after.programs, runs, run_ns)


def _cpu(costs: _Loads, kernel: dict[tuple[str, int], InKernel]) -> Table:
    rows: list[tuple[Cell, ...]] = []
    for (kind, count), of_load in costs.items():
        for name, of_monitor in of_load.items():
            in_programs = kernel[kind, count] if name == _OURS else None
            cpu_s, jitter_ms = of_monitor.typical.per_30_s, of_monitor.jitter_ms
            rows.append((
                f"{count:,} {kind}", name, significant(cpu_s), of_monitor.between,
                significant(cpu_s * of_monitor.user_part, 2), significant(cpu_s * (1 - of_monitor.user_part), 2),
                significant(in_programs.run_ns / 1e9) if in_programs else None,
                round(in_programs.runs / 30) if in_programs else None,
                round(in_programs.run_ns / in_programs.runs) if in_programs and in_programs.runs else None,
                None if jitter_ms is None else significant(jitter_ms, 2),
            ))  # fmt: skip
    columns = (
        "processes", "monitor", "CPU s per 30 s", "in rounds", "user", "system", "its programs, s per 30 s", "runs/s",
        "ns a run", "jitter, ms",
    )  # fmt: skip
    note = (
        "A core has 30 s. The programs' time comes on top: it is that of every call of every process on the machine, "
        "those of the daemon and of what else ran meanwhile included, and has some 20 ns of bpf_stats' own in each run."
    )
    return Table("CPU time", columns, rows, note)


def _held(costs: _Loads, kernel: dict[tuple[str, int], InKernel]) -> Table:
    rows: list[tuple[Cell, ...]] = [
        (f"{count:,} {kind}", name, round(of_monitor.typical.rss_mb, 1), round(of_monitor.typical.pss_mb, 1),
         round(kernel[kind, count].maps_mb, 1) if name == _OURS else None)
        for (kind, count), of_load in costs.items() for name, of_monitor in of_load.items()
    ]  # fmt: skip
    return Table("Memory", ("processes", "monitor", "RSS, MB", "PSS, MB", "tables in the kernel, MB"), rows)


def _plot(costs: _Loads, kernel: dict[tuple[str, int], InKernel]) -> Plot:
    series: dict[str, list[tuple[float | str, float]]] = {}
    for (kind, count), of_load in costs.items():
        for name in (_OURS, _THEIRS) if count else ():
            if name in of_load:
                cpu_s = of_load[name].typical.per_30_s
                series.setdefault(f"{name}, {kind}", []).append((count, cpu_s))
                if name == _OURS and kind == "active":
                    with_programs = cpu_s + kernel[kind, count].run_ns / 1e9
                    series.setdefault("ebpfmon, active, with its programs", []).append((count, with_programs))
    return Plot(
        "baseline",
        "CPU time of ebpfmon and of a psutil daemon (less is better)",
        "processes",
        "CPU s per 30 s",
        series,
        log="xy",
    )


def _bars(costs: _Loads) -> list[Bar]:
    def against_psutil(count: int, bar: float) -> Bar:
        of_load = costs.get(("idle", count), {})
        what = f"CPU with {count:,} idle processes, against psutil"
        if not {_OURS, _THEIRS} <= of_load.keys():
            return Bar(what, None, bar)
        ours, theirs = of_load[_OURS], of_load[_THEIRS]
        return Bar(what, round(ratio(ours, theirs), 4), bar, in_rounds=ratios(ours, theirs))

    few, many = (costs.get(load, {}).get(_OURS) for load in _HELD)
    return [
        against_psutil(1_000, round(1 / 30, 4)),
        against_psutil(5_000, 1 / 100),
        # none that can be measured: what two runs of the same differ by
        Bar("CPU with 5,000 idle processes, against 1,000", round(ratio(many, few), 2) if few and many else None, 1.25,
            in_rounds=ratios(many, few) if few and many else ""),
    ]  # fmt: skip
