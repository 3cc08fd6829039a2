"""What the monitors cost the others: throughput of workloads, with and without each of them."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from benchmarks import empties
from benchmarks.compare import beside
from benchmarks.loads import Workload, workloads
from benchmarks.monitors import Peer, all_of_them, ebpfmon
from benchmarks.result import Cell, Plot, Result, Table
from benchmarks.statistics import Spread, interleaved, lost, significant, spread
from ebpfmon.errors import KernelError
from ebpfmon.kernel.libbpf import Libbpf

METHOD = (
    "Round after round, every other one backwards, each monitor runs while every workload is run once. What a "
    "workload loses is the median, over the rounds, of its distance to the same round's runs with nothing, of which "
    "there are two, at its begin and its end; ± is half the distance between the quartiles. What lies within that, or "
    "within what the two runs with nothing differ by, is noise. Empty programs are as many as ebpfmon's, at the same "
    "hooks, and do nothing. A loop's figure is one of its fastest batches, of its own CPU time; the others' is what "
    "they say themselves."
)
NOTHING, EMPTY = "nothing", "empty programs"
_LEFT_OUT = "apps.plugin, without files"  # it does less than the other one
_SETTLED_S = 1.0


_IN_TABLE_ALONE = ("process-exporter", "glances")
"""They read /proc, as others do that are in the plot."""


@dataclass(frozen=True, slots=True)
class Condition:
    """What runs meanwhile."""

    name: str
    enter: Callable[[], AbstractContextManager[object]]


def run(quick: bool) -> Result:
    """Every workload under every condition."""
    found = Result(name="workloads", title="What it costs the others", method=METHOD)
    rounds, seconds = (1, 0.3) if quick else (3, 0.8)
    samples: dict[tuple[str, str], list[float]] = {}
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ebpfmon-bench-")))
        loads = stack.enter_context(workloads(directory, found.skipped))
        conditions = list(_conditions(found.skipped))
        nothing = conditions[0]
        for _, condition in interleaved([*conditions, nothing], rounds):
            if condition.name in found.skipped:
                continue
            try:
                with condition.enter():
                    for load in tuple(loads):
                        try:
                            samples.setdefault((load.name, condition.name), []).append(load.run(seconds))
                        except (RuntimeError, OSError, subprocess.SubprocessError) as error:
                            found.skipped[load.name] = str(error)
                            loads.remove(load)
            except (RuntimeError, OSError, KernelError) as error:
                found.skipped[condition.name] = str(error)
    shown = [condition.name for condition in conditions[1:] if condition.name not in found.skipped]
    found.tables.append(_table(loads, shown, samples))
    found.plots.append(_plot(loads, [name for name in shown if name not in _IN_TABLE_ALONE], samples))
    return found


def _conditions(skipped: dict[str, str]) -> Iterator[Condition]:
    """All that can be had here, 'nothing' first."""
    libbpf = Libbpf()
    yield Condition(NOTHING, nullcontext)
    yield Condition(EMPTY, partial(empties.attached, libbpf))
    for name, arguments in (("ebpfmon, entry", ()), ("ebpfmon, return", ("--load-mode", "return"))):
        yield Condition(name, partial(beside, Peer(ebpfmon(*arguments), "")))
    for peer in all_of_them():
        if peer.skip_reason:
            skipped[peer.name] = peer.skip_reason
        elif not peer.name.startswith("ebpfmon") and peer.name != _LEFT_OUT:
            yield Condition(
                peer.name, partial(beside, replace(peer, monitor=replace(peer.monitor, settle_s=_SETTLED_S)))
            )


def _lost(samples: dict[tuple[str, str], list[float]], load: Workload, name: str) -> Spread:
    """In %, against the mean of the two runs with nothing that the same round has."""
    first, last = (samples[load.name, NOTHING][n::2] for n in (0, 1))
    return lost(samples[load.name, name], [(a + b) / 2 for a, b in zip(first, last, strict=True)])


def _table(loads: list[Workload], shown: list[str], samples: dict[tuple[str, str], list[float]]) -> Table:
    rows: list[tuple[Cell, ...]] = []
    for load in loads:
        base = samples[load.name, NOTHING]
        apart = spread([100 * abs(a - b) / max(a, b) for a, b in zip(base[::2], base[1::2], strict=True)])
        row: list[Cell] = [load.name, f"{significant(spread(base).median):,} {load.unit}", f"{apart.median:.1f} %"]
        for name in shown:
            part = _lost(samples, load, name)
            row.append(f"{part.median:.1f} ± {part.spread:.1f}")
        rows.append(tuple(row))
    columns = ("workload", NOTHING, "nothing twice", *shown)
    note = "In %, beside what it is with nothing. 'nothing twice': what the two runs of a round with nothing differ by."
    return Table("Throughput lost", columns, rows, note)


def _plot(loads: list[Workload], shown: list[str], samples: dict[tuple[str, str], list[float]]) -> Plot:
    parts = {name: [(load.name, _lost(samples, load, name)) for load in loads] for name in shown}
    series: dict[str, list[tuple[float | str, float]]] = {
        name: [(load, round(part.median, 2)) for load, part in of_name] for name, of_name in parts.items()
    }
    noise = {name: [round(part.spread, 2) for _, part in of_name] for name, of_name in parts.items()}
    title = "Throughput that a workload loses (less is better)"
    return Plot("workloads", title, "", "% (lines: how far the rounds went)", series, kind="bars", spread=noise)
