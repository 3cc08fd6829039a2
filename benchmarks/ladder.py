"""The ladder: measure a system call with programs that do more and more parts of the counting, at every hook.

The differences between the steps show where the cost of a counted call comes from.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from benchmarks import programs
from benchmarks.result import OUT, ROOT, Cell, Plot, Result, Table, Target
from benchmarks.statistics import difference, interleaved, significant, spread
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
    "totals": "totals only",
    "row": "row lookup",
    "cached": "row in the per-CPU cache",
    "row_and_totals": "experiment: row lookup, and totals",
    "named_map": "experiment: row lookup, the buffer's map named in the program",
    "short_key": "experiment: the same, and a key of 8 bytes",
    "task_storage": "experiment: row in task storage",
    "last_row": "experiment: row index remembered per CPU",
    "cached_plain": "experiment: per-CPU cache, sums not atomic",
    "cached_buffer_in_map": "experiment: per-CPU cache, buffer number in a map",
    "cached_and_totals": "experiment: per-CPU cache, and totals",
}
_METHOD_OF_HOOK = {"tp_btf": "tracepoint", "fexit": "trampoline", "kretprobe": "kprobe"}
NO_PROGRAM = "no program"
METHOD = (
    "A static program makes two system calls in loops: a read of one byte from /dev/zero, which ebpfmon counts, "
    "and getppid(2), which it does not count. Each step attaches a program that does one more part of the "
    "counting: no program, an empty one, one that only counts totals, and so on up to the complete probes. "
    "'Above no program' is what a step adds to the call. 'Above empty program' leaves out what the kernel needs "
    "to run any program at that hook, and is the cost of ebpfmon's own code. The steps run in turn, in reverse "
    "order every other round. The time of a round is the first decile of its short batches; a step's figure is "
    "its fastest round, because disturbances only make rounds slower. '(rounds)' shows how quiet the machine was: "
    "the median of the differences to the empty program in each round, ± half the interquartile range."
)


@dataclass(slots=True)
class Step:
    """A program or probe to attach, and the time of a counted and an uncounted call in each round."""

    hook: str
    name: str
    attach: Callable[[], AbstractContextManager[object]]
    counted_ns: list[float] = field(default_factory=list)
    uncounted_ns: list[float] = field(default_factory=list)


def run(quick: bool) -> Result:
    """Measure every step at every hook that this kernel allows."""
    result = Result(name="ladder", title="Kernel cost of counting a call", method=METHOD)
    # Short batches, so that at least one is not disturbed.
    rounds, count, batches = (3, 10_000, 15) if quick else (15, 10_000, 15)
    steps = list(find_steps(Libbpf(), result.skipped))
    for _, step in interleaved(steps, rounds):
        with step.attach():
            step.counted_ns.append(programs.nanoseconds("read", count, batches))
            step.uncounted_ns.append(programs.nanoseconds("getppid", count, batches))
    add_tables(result, steps)
    return result


def find_steps(libbpf: Libbpf, skipped: dict[str, str], *, trial: bool = True) -> Iterator[Step]:
    """Yield the steps that can be attached on this machine, the one without a program first.

    `skipped` receives the reason for each of the others. Without `trial` no step is tried first, and all are yielded.
    """
    yield Step("", NO_PROGRAM, ExitStack)
    compiled = compile_ladder()
    for hook, hook_name in HOOKS.items():
        for name in _programs(libbpf, compiled, hook):
            step = Step(hook, STEPS[name], lambda p=f"{name}__{hook}": attach_program(libbpf, compiled, p))  # type: ignore[misc]
            if reason := trial and _skip_reason(step):
                skipped[hook_name if name == "empty" else f"{hook_name}, {step.name}"] = reason
                if name == "empty":
                    break
            else:
                yield step
        else:
            if hook in _METHOD_OF_HOOK:
                yield from _whole_probes(libbpf, hook, _METHOD_OF_HOOK[hook])


def _programs(libbpf: Libbpf, compiled: Path, hook: str) -> list[str]:
    with BpfObject(libbpf, compiled) as opened:
        return [name for name in STEPS if f"{name}__{hook}" in opened.programs]


def _whole_probes(libbpf: Libbpf, hook: str, method: str) -> Iterator[Step]:
    probe = registry.discover().probes["process"]
    variants = {
        "process probe, totals only": LoadOptions(attach_method=method, rows=False),
        "process probe, entry": LoadOptions(attach_method=method),
        "process probe, return": LoadOptions(attach_method=method, mode=LoadMode.RETURN),
    }
    for name, options in variants.items():
        yield Step(hook, name, lambda o=options: attach.load(probe, libbpf, features.detect(), o))  # type: ignore[misc]
    yield Step(hook, "all default probes, entry", lambda: all_probes(libbpf, method))


@contextmanager
def all_probes(libbpf: Libbpf, method: str | None) -> Iterator[None]:
    """Attach every probe that is enabled by default, and `execs`, by this attach method, or if it is None, by the best.

    A probe that does not support the method uses the best one.
    """
    with ExitStack() as stack:
        for probe, options in default_probes():
            try:
                loaded = attach.load(probe, libbpf, features.detect(), replace(options, attach_method=method))
            except KernelError:  # The failed load has closed the probe's set-up.
                retry_options = replace(options, setup=probe.setup(probe.settings()))
                loaded = attach.load(probe, libbpf, features.detect(), retry_options)
            stack.enter_context(loaded)
        yield


def default_probes() -> list[EnabledProbe]:
    """Return the probes that the daemon loads with its default settings, with their options."""
    plugins = registry.discover()
    return enabled_probes(config.validate({}, "", plugins), plugins)


def compile_ladder() -> Path:
    """Compile the ladder for this machine if its source has changed, and return the object's path."""
    machine = features.detect().machine
    out = OUT / "bpf" / machine / "ladder.bpf.o"
    newest = max(path.stat().st_mtime for path in (*SOURCE.parent.iterdir(), *(ROOT / "bpf").glob("*.h")))
    if not out.exists() or out.stat().st_mtime < newest:
        compiler.compile_object(SOURCE, out, machine, ROOT / "bpf")
    return out


@contextmanager
def attach_program(libbpf: Libbpf, compiled: Path, program: str) -> Iterator[BpfObject]:
    """Attach one program of the ladder."""
    own_kretprobes = kretprobes(libbpf) if "kretprobe" in program else None
    with BpfObject(libbpf, compiled, own_kretprobes) as obj:
        data, settings = obj.rodata(), Btf(obj.btf()).variables(".rodata")
        for setting in ("cfg_rows", "cfg_cache"):
            offset, size = settings[setting]
            data[offset : offset + size] = list((1).to_bytes(size, sys.byteorder))
        obj.load([program])
        obj.attach(program)
        yield obj


def kretprobes(libbpf: Libbpf) -> Kretprobes | None:
    """Return kretprobes as ebpfmon creates them, or None if the kernel's own never run out of instances."""
    kernel_features = features.detect()
    with open_symbols(libbpf) as symbols:
        return (
            None
            if Kernel.of(symbols, kernel_features).unlimited_kretprobes
            else Kretprobes(libbpf, kernel_features.tracefs or "")
        )


def _skip_reason(step: Step) -> str:
    try:
        with step.attach():
            return ""
    except (KernelError, OSError) as error:
        return str(error).rpartition(": ")[2]


def add_tables(result: Result, steps: list[Step]) -> None:
    """Add the tables, the plot and the targets of all steps to the result."""
    no_program = steps[0]
    bars: dict[str, list[tuple[float | str, float]]] = {"a counted call": [], "an uncounted call": []}
    for hook, hook_name in HOOKS.items():
        hook_steps = [no_program, *(step for step in steps if step.hook == hook)]
        if len(hook_steps) == 1:
            continue
        empty = hook_steps[1]
        rows: list[tuple[Cell, ...]] = []
        for step in hook_steps:
            read = _ns(min(step.counted_ns))
            if step is no_program:
                rows.append((step.name, read, None, None, f"± {spread(step.counted_ns).spread:.0f}", None))
                continue
            cost = _above(step.counted_ns, no_program.counted_ns)
            uncounted_cost = _above(step.uncounted_ns, no_program.uncounted_ns)
            above_empty = _above(step.counted_ns, empty.counted_ns)
            rows.append(
                (step.name, read, cost, above_empty, _rounds(step.counted_ns, empty.counted_ns), uncounted_cost)
            )
            if not step.name.startswith("experiment") and hook == _best(steps):
                bars["a counted call"].append((step.name, cost))
                bars["an uncounted call"].append((step.name, uncounted_cost))
        columns = (
            "step", "read, ns", "above no program", "above empty program", "(rounds)", "getppid above no program",
        )  # fmt: skip
        result.tables.append(Table(hook_name, columns, rows))
    best = _best(steps)
    if best:
        result.plots.append(Plot("ladder", f"Cost of a call, {HOOKS[best]}", "", "ns", bars, kind="bars"))
        _add_targets(result, [step for step in steps if step.hook in ("", best)])


def _best(steps: list[Step]) -> str:
    """Return the hook of the best attach method that could be measured, as ebpfmon would choose it."""
    return next((hook for hook in ("fexit", "tp_btf", "kretprobe") if any(s.hook == hook for s in steps)), "")


def _add_targets(result: Result, steps: list[Step]) -> None:
    by_name = {step.name: step for step in steps}
    no_program, empty, entry = by_name[NO_PROGRAM], by_name[STEPS["empty"]], by_name["process probe, entry"]
    pairs = {
        "kernel cost of a counted call, above an empty program": (entry.counted_ns, empty.counted_ns, 40),
        "kernel cost of an uncounted call, above no program": (entry.uncounted_ns, no_program.uncounted_ns, 20),
        "kernel cost of an uncounted call, above an empty program": (entry.uncounted_ns, empty.uncounted_ns, 20),
    }
    for name, (samples, base, limit_ns) in pairs.items():
        value = _above(samples, base)
        if -spread(base).spread < value < 0:
            value = 0.0  # Negative by less than the noise, so there is no difference.
        result.targets.append(Target(name, value, limit_ns, "ns", rounds=_rounds(samples, base)))


def _above(samples: list[float], base: list[float]) -> float:
    """Return the difference between the fastest rounds of both."""
    return _ns(min(samples) - min(base))


def _rounds(samples: list[float], base: list[float]) -> str:
    median, deviation = difference(samples, base)
    return f"{median:.0f} ± {deviation:.0f}"


def _ns(value: float) -> float:
    return float(significant(value)) if abs(value) >= 1 else round(value, 1)
