"""Measure how much throughput workloads lose while each monitor runs."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from benchmarks import empty_programs
from benchmarks.compare import run_peer
from benchmarks.load_generators import Workload, workloads
from benchmarks.monitors import Peer, all_peers, ebpfmon
from benchmarks.result import Cell, Plot, Result, Table
from benchmarks.statistics import Spread, interleaved, loss_percent, significant, spread
from ebpfmon.errors import KernelError
from ebpfmon.kernel.libbpf import Libbpf

METHOD = (
    "In every round (in reverse order every other round) each monitor runs while every workload runs once. The "
    "loss of a workload is the median over the rounds of the difference to the same round without a monitor, ± "
    "half the interquartile range. A round has two runs without a monitor, one at its start and one at its end. "
    "Losses within this deviation, or within the difference of those two runs, are noise. 'Empty programs' are as "
    "many BPF programs as ebpfmon's, at the same hooks, that do nothing. The figure of a loop is the first decile "
    "of its batches in its own CPU time; other workloads report their own throughput."
)
NO_MONITOR, EMPTY = "no monitor", "empty programs"
_LEFT_OUT = "apps.plugin, without files"  # It does less than apps.plugin with files.
_WARM_UP_S = 1.0
_NOT_PLOTTED = ("process-exporter", "glances")
"""Monitors that the plot leaves out, because others in it also read /proc."""


@dataclass(frozen=True, slots=True)
class Condition:
    """What runs beside the workloads."""

    name: str
    enter: Callable[[], AbstractContextManager[object]]


def run(quick: bool) -> Result:
    """Run every workload under every condition."""
    result = Result(name="workloads", title="Slowdown of other programs", method=METHOD)
    rounds, seconds = (1, 0.3) if quick else (3, 0.8)
    samples: dict[tuple[str, str], list[float]] = {}
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ebpfmon-bench-")))
        loads = stack.enter_context(workloads(directory, result.skipped))
        conditions = list(_conditions(result.skipped))
        no_monitor = conditions[0]
        for _, condition in interleaved([*conditions, no_monitor], rounds):
            if condition.name in result.skipped:
                continue
            try:
                with condition.enter():
                    for load in tuple(loads):
                        try:
                            samples.setdefault((load.name, condition.name), []).append(load.run(seconds))
                        except (RuntimeError, OSError, subprocess.SubprocessError) as error:
                            result.skipped[load.name] = str(error)
                            loads.remove(load)
            except (RuntimeError, OSError, KernelError) as error:
                result.skipped[condition.name] = str(error)
    names = [condition.name for condition in conditions[1:] if condition.name not in result.skipped]
    result.tables.append(_table(loads, names, samples))
    result.plots.append(_plot(loads, [name for name in names if name not in _NOT_PLOTTED], samples))
    return result


def _conditions(skipped: dict[str, str]) -> Iterator[Condition]:
    """Yield the conditions that are possible on this machine, the one without a monitor first."""
    libbpf = Libbpf()
    yield Condition(NO_MONITOR, nullcontext)
    yield Condition(EMPTY, partial(empty_programs.attached, libbpf))
    for name, arguments in (("ebpfmon, entry", ()), ("ebpfmon, return", ("--load-mode", "return"))):
        yield Condition(name, partial(run_peer, Peer(ebpfmon(*arguments), "")))
    for peer in all_peers():
        if peer.skip_reason:
            skipped[peer.name] = peer.skip_reason
        elif not peer.name.startswith("ebpfmon") and peer.name != _LEFT_OUT:
            yield Condition(
                peer.name, partial(run_peer, replace(peer, monitor=replace(peer.monitor, warm_up_s=_WARM_UP_S)))
            )


def _loss(samples: dict[tuple[str, str], list[float]], load: Workload, name: str) -> Spread:
    """Return the loss in %, relative to the mean of the two runs without a monitor in the same round."""
    first, last = (samples[load.name, NO_MONITOR][n::2] for n in (0, 1))
    return loss_percent(samples[load.name, name], [(a + b) / 2 for a, b in zip(first, last, strict=True)])


def _table(loads: list[Workload], names: list[str], samples: dict[tuple[str, str], list[float]]) -> Table:
    rows: list[tuple[Cell, ...]] = []
    for load in loads:
        base = samples[load.name, NO_MONITOR]
        apart = spread([100 * abs(a - b) / max(a, b) for a, b in zip(base[::2], base[1::2], strict=True)])
        row: list[Cell] = [load.name, f"{significant(spread(base).median):,} {load.unit}", f"{apart.median:.1f} %"]
        for name in names:
            part = _loss(samples, load, name)
            row.append(f"{part.median:.1f} ± {part.spread:.1f}")
        rows.append(tuple(row))
    columns = ("workload", NO_MONITOR, "difference of two runs", *names)
    note = (
        "Losses are in % of the throughput without a monitor. 'Difference of two runs' is the median difference "
        "between the two runs without a monitor in a round."
    )
    return Table("Loss of throughput", columns, rows, note)


def _plot(loads: list[Workload], names: list[str], samples: dict[tuple[str, str], list[float]]) -> Plot:
    parts = {name: [(load.name, _loss(samples, load, name)) for load in loads] for name in names}
    series: dict[str, list[tuple[float | str, float]]] = {
        name: [(load, round(part.median, 2)) for load, part in losses] for name, losses in parts.items()
    }
    noise = {name: [round(part.spread, 2) for _, part in losses] for name, losses in parts.items()}
    title = "Loss of throughput of each workload (less is better)"
    return Plot("workloads", title, "", "% (lines: ± half the interquartile range)", series, kind="bars", spread=noise)
