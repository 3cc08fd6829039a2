"""The ladder: what a system call takes with nothing, an empty program, totals, a row, at every hook."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from benchmarks import programs
from benchmarks.result import OUT, ROOT, Bar, Cell, Plot, Result, Table
from benchmarks.statistics import above, interleaved, significant, spread
from ebpfmon import LoadMode, config
from ebpfmon.daemon.probes import EnabledProbe, enabled_probes
from ebpfmon.errors import KernelError
from ebpfmon.kernel import attach, compiler, features
from ebpfmon.kernel.attach import LoadOptions
from ebpfmon.kernel.attach_methods import Kernel
from ebpfmon.kernel.bpfobject import BpfObject
from ebpfmon.kernel.btf import Btf
from ebpfmon.kernel.kretprobes import Kretprobes
from ebpfmon.kernel.libbpf import Libbpf
from ebpfmon.kernel.symbols import open_symbols
from ebpfmon.plugins import registry

SOURCE = Path(__file__).parent / "bpf" / "ladder.bpf.c"
HOOKS = {
    "tp_btf": "raw tracepoint sys_exit",
    "classic": "classic tracepoint raw_syscalls/sys_exit",
    "one_call": "classic tracepoint syscalls/sys_exit_read",
    "fexit": "fexit vfs_read",
    "fentry": "fentry vfs_read",
    "kprobe": "kprobe vfs_read",
    "kretprobe": "kretprobe vfs_read",
}
STEPS = {
    "empty": "an empty program",
    "totals": "totals alone",
    "row": "a row, looked up",
    "cached": "a row, in the per-CPU cache",
    "row_and_totals": "experiment: a row, looked up, and totals",
    "named_map": "experiment: a row, the buffer's table named in the program",
    "short_key": "experiment: ... and a key of 8 bytes",
    "task_storage": "experiment: a row in the task's storage",
    "last_row": "experiment: a row, its place remembered by the CPU",
    "cached_plain": "experiment: cached, sums that are not atomic",
    "cached_buffer_in_map": "experiment: cached, which buffer in a map",
    "cached_and_totals": "experiment: cached, and totals",
}
_OF_HOOK = {"tp_btf": "tracepoint", "fexit": "trampoline", "kretprobe": "kprobe"}
NOTHING = "nothing"
METHOD = (
    "A static program reads one byte of /dev/zero, which is counted, and calls getppid(2), which nobody counts. "
    "Each step is attached, measured and taken away again, round after round, every other round backwards; in a round "
    "one of its fastest batches counts. A step's figure is its fastest round, as whatever else runs, or slows the CPU "
    "down, can only make one slower; 'in rounds' is the median of the distances in each round ± half the distance "
    "between the quartiles: how quiet the machine was."
)


@dataclass(slots=True)
class Step:
    """Something that is attached while calls are made, and what they took, in ns, a round each."""

    hook: str
    name: str
    attach: Callable[[], AbstractContextManager[object]]
    counted: list[float] = field(default_factory=list)
    uncounted: list[float] = field(default_factory=list)


def run(quick: bool) -> Result:
    """Measure every step at every hook that this kernel allows."""
    found = Result(name="ladder", title="What counting a call costs in the kernel", method=METHOD)
    # short batches: one of them is not disturbed
    rounds, count, batches = (3, 10_000, 15) if quick else (15, 10_000, 15)
    steps = list(find_steps(Libbpf(), found.skipped))
    for _, step in interleaved(steps, rounds):
        with step.attach():
            step.counted.append(programs.nanoseconds("read", count, batches))
            step.uncounted.append(programs.nanoseconds("getppid", count, batches))
    show(found, steps)
    return found


def find_steps(libbpf: Libbpf, skipped: dict[str, str], *, trial: bool = True) -> Iterator[Step]:
    """All that can be attached here, 'nothing' first; what cannot is said in `skipped`. Without a `trial`: all."""
    yield Step("", NOTHING, ExitStack)
    compiled = compile_ladder()
    for hook, where in HOOKS.items():
        for name in _programs(libbpf, compiled, hook):
            step = Step(hook, STEPS[name], lambda p=f"{name}__{hook}": attached(libbpf, compiled, p))  # type: ignore[misc]
            if why := trial and _why_not(step):
                skipped[where if name == "empty" else f"{where}, {step.name}"] = why
                if name == "empty":
                    break
            else:
                yield step
        else:
            if hook in _OF_HOOK:
                yield from _whole_probes(libbpf, hook, _OF_HOOK[hook])


def _programs(libbpf: Libbpf, compiled: Path, hook: str) -> list[str]:
    with BpfObject(libbpf, compiled) as opened:
        return [name for name in STEPS if f"{name}__{hook}" in opened.programs]


def _whole_probes(libbpf: Libbpf, hook: str, method: str) -> Iterator[Step]:
    probe = registry.discover().probes["process"]
    ways = {
        "process probe, totals alone": LoadOptions(attach_method=method, rows=False),
        "process probe, entry": LoadOptions(attach_method=method),
        "process probe, return": LoadOptions(attach_method=method, mode=LoadMode.RETURN),
    }
    for name, options in ways.items():
        yield Step(hook, name, lambda o=options: attach.load(probe, libbpf, features.detect(), o))  # type: ignore[misc]
    yield Step(hook, "all of ebpfmon, entry", lambda: everything(libbpf, method))


@contextmanager
def everything(libbpf: Libbpf, method: str | None) -> Iterator[None]:
    """Attach every probe that is on by default, and `execs`. A probe that lacks this attach method takes another."""
    with ExitStack() as stack:
        for probe, options in by_default():
            try:
                loaded = attach.load(probe, libbpf, features.detect(), replace(options, attach_method=method))
            except KernelError:  # which has closed its set-up
                again = replace(options, setup=probe.setup(probe.settings()))
                loaded = attach.load(probe, libbpf, features.detect(), again)
            stack.enter_context(loaded)
        yield


def by_default() -> Iterator[EnabledProbe]:
    """What the daemon loads with its default settings."""
    found = registry.discover()
    return enabled_probes(config.check({}, "", found), found)


def compile_ladder() -> Path:
    """The compiled ladder, for this machine."""
    machine = features.detect().machine
    out = OUT / "bpf" / machine / "ladder.bpf.o"
    newest = max(path.stat().st_mtime for path in (*SOURCE.parent.iterdir(), *(ROOT / "bpf").glob("*.h")))
    if not out.exists() or out.stat().st_mtime < newest:
        compiler.compile_object(SOURCE, out, machine, ROOT / "bpf")
    return out


@contextmanager
def attached(libbpf: Libbpf, compiled: Path, program: str) -> Iterator[BpfObject]:
    """One program of the ladder, attached."""
    of_returns = kretprobes(libbpf) if "kretprobe" in program else None
    with BpfObject(libbpf, compiled, of_returns) as obj:
        data, settings = obj.rodata(), Btf(obj.btf()).variables(".rodata")
        for setting in ("cfg_rows", "cfg_cache"):
            offset, size = settings[setting]
            data[offset : offset + size] = list((1).to_bytes(size, sys.byteorder))
        obj.load([program])
        obj.attach(program)
        yield obj


def kretprobes(libbpf: Libbpf) -> Kretprobes | None:
    """As the loader makes them: None where the kernel itself has room for all."""
    look = features.detect()
    with open_symbols(libbpf) as symbols:
        return None if Kernel.of(symbols, look).unlimited_kretprobes else Kretprobes(libbpf, look.tracefs or "")


def _why_not(step: Step) -> str:
    try:
        with step.attach():
            return ""
    except (KernelError, OSError) as error:
        return str(error).rpartition(": ")[2]


def show(found: Result, steps: list[Step]) -> None:
    """Tables, plot and bars out of all steps."""
    nothing = steps[0]
    bars: dict[str, list[tuple[float | str, float]]] = {"a counted call": [], "a call nobody counts": []}
    for hook, where in HOOKS.items():
        here = [nothing, *(step for step in steps if step.hook == hook)]
        if len(here) == 1:
            continue
        empty = here[1]
        rows: list[tuple[Cell, ...]] = []
        for step in here:
            read = _ns(min(step.counted))
            if step is nothing:
                rows.append((step.name, read, None, None, f"± {spread(step.counted).spread:.0f}", None))
                continue
            cost, other = _over(step.counted, nothing.counted), _over(step.uncounted, nothing.uncounted)
            over_empty = _over(step.counted, empty.counted)
            rows.append((step.name, read, cost, over_empty, _in_rounds(step.counted, empty.counted), other))
            if not step.name.startswith("experiment") and hook == _best(steps):
                bars["a counted call"].append((step.name, cost))
                bars["a call nobody counts"].append((step.name, other))
        columns = ("step", "read, ns", "above nothing", "above empty", "(in rounds)", "getppid above nothing")
        found.tables.append(Table(where, columns, rows))
    best = _best(steps)
    if best:
        found.plots.append(Plot("ladder", f"Cost of a call, {HOOKS[best]}", "", "ns", bars, kind="bars"))
        _hold(found, [step for step in steps if step.hook in ("", best)])


def _best(steps: list[Step]) -> str:
    """The hook of the way that ebpfmon takes where it has the choice."""
    return next((hook for hook in ("fexit", "tp_btf", "kretprobe") if any(s.hook == hook for s in steps)), "")


def _hold(found: Result, steps: list[Step]) -> None:
    of = {step.name: step for step in steps}
    nothing, empty, entry = of[NOTHING], of[STEPS["empty"]], of["process probe, entry"]
    pairs = {
        "kernel cost of a counted call, above an empty program at the same hook": (entry.counted, empty.counted, 40),
        "what calls that nobody counts lose": (entry.uncounted, nothing.uncounted, 20),
        "... of that above an empty program": (entry.uncounted, empty.uncounted, 20),
    }
    for what, (samples, base, bar) in pairs.items():
        value = _over(samples, base)
        if -spread(base).spread < value < 0:
            value = 0.0  # one below the other by less than the noise
        found.bars.append(Bar(what, value, bar, "ns", in_rounds=_in_rounds(samples, base)))


def _over(samples: list[float], base: list[float]) -> float:
    """By how much the fastest round is above the base's."""
    return _ns(min(samples) - min(base))


def _in_rounds(samples: list[float], base: list[float]) -> str:
    median, around = above(samples, base)
    return f"{median:.0f} ± {around:.0f}"


def _ns(value: float) -> float:
    return float(significant(value)) if abs(value) >= 1 else round(value, 1)
