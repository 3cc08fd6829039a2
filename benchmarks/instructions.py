"""Count the instructions per call under Debian's kernels in QEMU.

The figures are the same in every run and on every machine.
"""

from __future__ import annotations

import signal
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec

from benchmarks import ladder, netdata, programs, transfers
from benchmarks.guest import GuestResult, StepCount
from benchmarks.result import OUT, Cell, Plot, Result, Table, Target
from tests.vm import fetch, machine

SERIES = ("6.1", "6.12", "7.2")
METHOD = (
    "Each kernel runs in QEMU with one emulated CPU and mitigations off. Its clock advances one nanosecond per "
    "instruction (`-icount shift=0,sleep=off`), so the guest counts instructions by measuring time, and the "
    "figures are the same in every run. Every step of the ladder is attached while a program reads one byte of "
    "/dev/zero and calls getppid(2). The network viewer is attached by each attach method while a program sends "
    "and receives a byte. Instructions are not time: the extra cost of a locked instruction, a cache miss or a "
    "retpoline is not included. Netdata's programs are compiled from its source. Two of them are attached to "
    "vfs_read(), because Netdata's plugin attaches these two if its setting 'apps' is enabled."
)
_MINUTES = 20


def run(quick: bool) -> Result:
    """Count under every kernel (only the first if `quick`), two machines at a time."""
    result = Result(name="instructions", title="Instructions per counted call", method=METHOD)
    machine.require()
    ladder.compile_ladder()
    programs.build("calls")
    if reason := netdata.build():
        result.skipped["Netdata's programs"] = reason
    kernels = SERIES[:1] if quick else SERIES
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):  # Stop the machines before this process ends.
        signal.signal(number, lambda *_: stop.set())
    with ThreadPoolExecutor(2) as pool:
        futures = {series: pool.submit(_in_kernel, series, stop) for series in kernels}
        guest_results = {series: future.result() for series, future in futures.items()}
    for series in kernels:
        guest_result = guest_results[series]
        if isinstance(guest_result, str):
            result.skipped[series] = guest_result
        else:
            result.tables += _tables(series, guest_result)
            result.skipped |= {f"{series}, {name}": reason for name, reason in guest_result.skipped.items()}
    of_6_1 = guest_results["6.1"]
    steps = [] if isinstance(of_6_1, str) else of_6_1.steps
    value = _above(steps, "fexit", "process probe, entry")
    name = "a counted read(2) by trampoline on Linux 6.1, above no program"
    result.targets.append(Target(name, value, 300, "instructions"))
    result.plots.append(_plot({s: g.steps for s, g in guest_results.items() if not isinstance(g, str)}))
    return result


def _in_kernel(series: str, stop: threading.Event) -> GuestResult | str:
    """Run the guest's part under a kernel. Return its result, or the reason why there is none."""
    try:
        kernel = fetch.fetch(series)
    except fetch.MissingKernelError as error:
        return str(error)
    OUT.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="ebpfmon-bench-") as share, (OUT / f"guest-{series}.log").open("wb") as log:
        path = Path(share) / "result.json"
        job = machine.Job(
            f".venv/bin/python -m benchmarks.guest {path}",
            Path(share),
            timeout_s=60 * _MINUTES,
            count_instructions=True,
        )
        ended = machine.run(kernel, job, log, stop.is_set)
        if not path.exists():
            return ended.problem or f"the guest's command failed ({ended.status}), see {log.name}"
        return msgspec.json.decode(path.read_bytes(), type=GuestResult)


def _tables(series: str, result: GuestResult) -> list[Table]:
    no_program = result.steps[0]
    tables = []
    for hook, hook_name in ladder.HOOKS.items():
        hook_steps = [step for step in result.steps if step.hook == hook]
        if not hook_steps:
            continue
        empty = hook_steps[0]
        rows: list[tuple[Cell, ...]] = [(no_program.name, round(no_program.read), None, None, None)]
        rows += [
            (s.name, round(s.read), round(s.read - no_program.read), round(s.read - empty.read),
             round(s.getppid - no_program.getppid))
            for s in hook_steps
        ]  # fmt: skip
        columns = ("step", "read", "above no program", "above empty program", "getppid above no program")
        tables.append(Table(f"Linux {series}: {hook_name}", columns, rows))
    if result.transfers:
        tables.append(transfers.table(f"Linux {series}: a send and a receive", result.transfers))
    return tables


def _above(steps: list[StepCount], hook: str, name: str) -> float | None:
    reads = [step.read for step in steps if step.hook == hook and step.name == name]
    return round(reads[0] - steps[0].read) if reads else None


def _plot(counts: dict[str, list[StepCount]]) -> Plot:
    """Return the plot of a counted read, with ebpfmon's and with Netdata's programs."""
    names = {"fexit": "trampoline", "tp_btf": "tracepoint", "kretprobe": "kprobe"}
    series: dict[str, list[tuple[float | str, float]]] = {}
    for kernel, steps in counts.items():
        bars: list[tuple[float | str, float]] = []
        for prefix, step in (("", "process probe, entry"), ("Netdata, ", netdata.name())):
            for hook, name in names.items():
                value = _above(steps, hook, step)
                if value is not None:
                    bars.append((prefix + name, value))
        series[f"Linux {kernel}"] = bars
    return Plot("instructions", "Instructions that a program adds to read(2)", "", "instructions", series, kind="bars")
