"""What the monitors cost the others: throughput of workloads, with and without each of them."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from benchmarks import ladder
from benchmarks.loads import Workload, workloads
from benchmarks.monitors import all_of_them, ebpfmon
from benchmarks.result import Cell, Plot, Result, Table
from benchmarks.statistics import interleaved, lost, significant, spread
from benchmarks.watch import Monitor, running
from ebpfmon.errors import KernelError
from ebpfmon.kernel.libbpf import Libbpf

METHOD = (
    "Round after round, every other one backwards, each monitor runs while every workload is run once. What a "
    "workload loses is the median, over the rounds, of its distance to the same round's run with nothing; ± is half "
    "the distance between the quartiles. What lies within that is noise. 'an empty program' does nothing at the "
    "hook where ebpfmon counts here."
)
NOTHING, EMPTY = "nothing", "an empty program"
_PEERS = ("psutil daemon", "bpftrace", "BCC", "apps.plugin (Netdata)", "ebpf.plugin (Netdata)")


@dataclass(frozen=True, slots=True)
class Condition:
    """What runs meanwhile."""

    name: str
    enter: Callable[[], AbstractContextManager[object]]


def run(quick: bool) -> Result:
    """Every workload under every condition."""
    found = Result(name="workloads", title="What it costs the others", method=METHOD)
    rounds, seconds = (2, 0.3) if quick else (4, 0.8)
    samples: dict[tuple[str, str], list[float]] = {}
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ebpfmon-bench-")))
        loads = stack.enter_context(workloads(directory, found.skipped))
        conditions = list(_conditions(found.skipped))
        for _, condition in interleaved(conditions, rounds):
            with condition.enter():
                for load in loads:
                    samples.setdefault((load.name, condition.name), []).append(load.run(seconds))
    found.tables.append(_table(loads, conditions, samples))
    series: dict[str, list[tuple[float | str, float]]] = {
        condition.name: [
            (load.name, round(lost(samples[load.name, condition.name], samples[load.name, NOTHING]).median, 2))
            for load in loads
        ]
        for condition in conditions[1:]
    }
    found.plots.append(Plot("workloads", "Throughput lost", "", "%", series, kind="bars"))
    return found


def _conditions(skipped: dict[str, str]) -> Iterator[Condition]:
    """All that run here, 'nothing' first. Each is tried once."""
    libbpf, compiled = Libbpf(), ladder.compile_ladder()
    yield Condition(NOTHING, nullcontext)
    for hook in ("fexit", "tp_btf", "kretprobe"):
        empty = Condition(EMPTY, partial(ladder.attached, libbpf, compiled, f"empty__{hook}"))
        if not _why_not(empty):
            yield empty
            break
    yield Condition("ebpfmon, entry", partial(_beside, ebpfmon()))
    yield Condition("ebpfmon, return", partial(_beside, ebpfmon("--load-mode", "return")))
    for peer in all_of_them():
        if peer.name in _PEERS:
            condition = Condition(peer.name, partial(_beside, peer.monitor))
            if why := peer.why_not or _why_not(condition):
                skipped[peer.name] = why
            else:
                yield condition


@contextmanager
def _beside(monitor: Monitor) -> Iterator[None]:
    with running(monitor):
        yield


def _why_not(condition: Condition) -> str:
    try:
        with condition.enter():
            time.sleep(0)
    except (RuntimeError, OSError, KernelError) as error:
        return str(error)
    return ""


def _table(loads: list[Workload], conditions: list[Condition], samples: dict[tuple[str, str], list[float]]) -> Table:
    rows: list[tuple[Cell, ...]] = []
    for load in loads:
        base = samples[load.name, NOTHING]
        middle = spread(base)
        row: list[Cell] = [load.name, f"{significant(middle.median):,} {load.unit}"]
        for condition in conditions[1:]:
            part = lost(samples[load.name, condition.name], base)
            row.append(f"{part.median:.1f} % ± {part.spread:.1f}")
        rows.append(tuple(row))
    columns = ("workload", NOTHING, *(f"lost with {condition.name}" for condition in conditions[1:]))
    return Table("Throughput lost", columns, rows)
