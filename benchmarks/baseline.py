"""ebpfmon against a psutil daemon, with the same sink, over processes that are idle and processes that are active."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

from benchmarks import programs
from benchmarks.monitors import ebpfmon, psutil
from benchmarks.result import Bar, Cell, Plot, Result, Table
from benchmarks.watch import Cost, InKernel, Monitor, counting_runs, in_kernel, load, running

METHOD = (
    "Both write a JSON line a second to a pipe that is read at once. CPU time is the process's own, user and "
    "system, its start left out, scaled to 30 s; the time of ebpfmon's programs, which the kernel charges to those "
    "who call, is counted by the kernel (bpf_stats) in a run of its own, as counting takes time too. Idle processes "
    "wait for ever; active ones make ten reads and ten writes a second each. Jitter is the standard deviation of "
    "the time between lines."
)
_CALLS = 10  # of each kind, a second
LOADS = (("idle", 100), ("idle", 1_000), ("idle", 5_000), ("active", 100), ("active", 1_000), ("active", 5_000))
_QUICK = (("idle", 100), ("idle", 1_000), ("active", 100))


def run(quick: bool) -> Result:
    """Every load with every monitor."""
    found = Result(name="baseline", title="Against psutil", method=METHOD)
    seconds = 3.0 if quick else 10.0
    monitors = [ebpfmon(), psutil(), psutil("--connections", name="psutil daemon, connections")]
    costs: dict[tuple[str, str, int], Cost] = {}
    kernel: dict[tuple[str, int], InKernel] = {}
    for kind, count in _QUICK if quick else LOADS:
        with _load(kind, count):
            for monitor in monitors:
                if monitor is monitors[2] and (kind, count) != ("idle", 1_000):
                    continue  # once is enough
                with running(monitor) as run:
                    costs[monitor.name, kind, count] = run.measure(seconds)
                    if monitor is monitors[0]:
                        kernel[kind, count] = _programs_time(monitor, seconds)
    found.tables += [_cpu(costs, kernel, seconds), _held(costs, kernel)]
    found.plots.append(_plot(costs))
    found.bars += _bars(costs)
    return found


def _load(kind: str, count: int) -> AbstractContextManager[Any]:
    if not count:
        return nullcontext()
    more = [str(_CALLS)] if kind == "active" else []
    return load(programs.build("processes"), kind, str(count), *more)


def _programs_time(monitor: Monitor, seconds: float) -> InKernel:
    """What the programs ran in so many seconds, of another ebpfmon than the one whose CPU time is taken."""
    with counting_runs(), running(monitor) as run:
        before = in_kernel(run.pid)
        run.measure(seconds)
        after = in_kernel(run.pid)
    return InKernel(after.maps, after.maps_mb, after.programs, after.runs - before.runs, after.run_ns - before.run_ns)


def _cpu(costs: dict[tuple[str, str, int], Cost], kernel: dict[tuple[str, int], InKernel], seconds: float) -> Table:
    rows: list[tuple[Cell, ...]] = []
    for (name, kind, count), cost in costs.items():
        by_30_s = 30 / cost.seconds
        of_programs = kernel.get((kind, count)) if name == "ebpfmon" else None
        programs_s = round(of_programs.run_ns / 1e9 * 30 / seconds, 3) if of_programs else None
        rows.append((
            f"{count:,} {kind}", name, round(cost.per_30_s, 3), round(cost.user_s * by_30_s, 2),
            round(cost.system_s * by_30_s, 2), programs_s,
            round(of_programs.runs / seconds) if of_programs else None,
            round(of_programs.run_ns / of_programs.runs) if of_programs and of_programs.runs else None,
            None if cost.jitter_ms is None else round(cost.jitter_ms, 2),
        ))  # fmt: skip
    columns = (
        "processes", "monitor", "CPU s per 30 s", "user", "system", "programs, s per 30 s", "runs/s", "ns a run",
        "jitter, ms",
    )  # fmt: skip
    return Table("CPU time", columns, rows, "A core has 30 s. The programs' time has bpf_stats' own in it.")


def _held(costs: dict[tuple[str, str, int], Cost], kernel: dict[tuple[str, int], InKernel]) -> Table:
    rows: list[tuple[Cell, ...]] = [
        (f"{count:,} {kind}", name, round(cost.rss_mb, 1), round(cost.pss_mb, 1),
         round(kernel[kind, count].maps_mb, 1) if name == "ebpfmon" else None)
        for (name, kind, count), cost in costs.items()
    ]  # fmt: skip
    return Table("Memory", ("processes", "monitor", "RSS, MB", "PSS, MB", "tables in the kernel, MB"), rows)


def _plot(costs: dict[tuple[str, str, int], Cost]) -> Plot:
    series: dict[str, list[tuple[float | str, float]]] = {}
    for (name, kind, count), cost in costs.items():
        if "connections" not in name:
            series.setdefault(f"{name}, {kind}", []).append((count, cost.per_30_s))
    return Plot("baseline", "CPU time of the monitor", "processes", "CPU s per 30 s", series, log="xy")


def _bars(costs: dict[tuple[str, str, int], Cost]) -> list[Bar]:
    def ratio(count: int) -> float | None:
        ours, theirs = costs.get(("ebpfmon", "idle", count)), costs.get(("psutil daemon", "idle", count))
        return round(ours.per_30_s / theirs.per_30_s, 4) if ours and theirs else None

    few, many = costs.get(("ebpfmon", "idle", 1_000)), costs.get(("ebpfmon", "idle", 5_000))
    growth = round(many.per_30_s / few.per_30_s, 2) if few and many else None
    return [
        Bar("CPU with 1,000 idle processes, against psutil", ratio(1_000), round(1 / 30, 4)),
        Bar("CPU with 5,000 idle processes, against psutil", ratio(5_000), 1 / 100),
        # none that can be measured: what two runs of the same differ by
        Bar("CPU with 5,000 idle processes, against 1,000", growth, 1.25),
    ]
