"""Instructions per call, under Debian's kernels in QEMU: the same figures in every run, on every machine."""

from __future__ import annotations

import signal
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec

from benchmarks import ladder, netdata, programs, transfers
from benchmarks.guest import Counted, Found
from benchmarks.result import OUT, Bar, Cell, Plot, Result, Table
from tests.vm import fetch, machine

SERIES = ("6.1", "6.12", "7.2")
METHOD = (
    "Each kernel runs in QEMU, emulated (`-icount shift=0,sleep=off`, one CPU, mitigations off): a nanosecond of the "
    "guest's is an instruction, so a figure is the same in every run. There every step of the ladder is attached, "
    "while a program reads one byte of /dev/zero and calls getppid(2), and the network viewer, while it sends and "
    "receives a byte. These are instructions, not time: what a locked instruction, a cache miss or a retpoline takes "
    "is not in them. Netdata's own programs are compiled from its source; two of them are attached to vfs_read(), as "
    "its plugin does, with apps enabled."
)
_MINUTES = 20


def run(quick: bool) -> Result:
    """Every kernel (one, if `quick`), two machines at a time."""
    found = Result(name="instructions", title="Instructions that counting a call takes", method=METHOD)
    machine.require()
    ladder.compile_ladder()
    programs.build("calls")
    if why := netdata.build():
        found.skipped["Netdata's own programs"] = why
    kernels = SERIES[:1] if quick else SERIES
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):  # no machine outlives us
        signal.signal(number, lambda *_: stop.set())
    with ThreadPoolExecutor(2) as pool:
        futures = {series: pool.submit(_in_kernel, series, stop) for series in kernels}
        counted = {series: future.result() for series, future in futures.items()}
    for series in kernels:
        of_kernel = counted[series]
        if isinstance(of_kernel, str):
            found.skipped[series] = of_kernel
        else:
            found.tables += _tables(series, of_kernel)
            found.skipped |= {f"{series}, {what}": why for what, why in of_kernel.skipped.items()}
    of_6_1 = counted["6.1"]
    steps = [] if isinstance(of_6_1, str) else of_6_1.steps
    over = _over(steps, "fexit", "process probe, entry")
    found.bars.append(Bar("what a counted read(2) takes above nothing, trampoline, 6.1", over, 300, "instructions"))
    found.plots.append(_plot({s: f.steps for s, f in counted.items() if not isinstance(f, str)}))
    return found


def _in_kernel(series: str, stop: threading.Event) -> Found | str:
    """What was counted under a kernel, or why nothing was."""
    try:
        kernel = fetch.fetch(series)
    except fetch.MissingKernelError as error:
        return str(error)
    OUT.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="ebpfmon-bench-") as share, (OUT / f"guest-{series}.log").open("wb") as log:
        path = Path(share) / "found.json"
        job = machine.Job(
            f".venv/bin/python -m benchmarks.guest {path}",
            Path(share),
            timeout_s=60 * _MINUTES,
            count_instructions=True,
        )
        ended = machine.run(kernel, job, log, stop.is_set)
        if not path.exists():
            return ended.problem or f"it failed ({ended.status}): see {log.name}"
        return msgspec.json.decode(path.read_bytes(), type=Found)


def _tables(series: str, found: Found) -> list[Table]:
    nothing = found.steps[0]
    tables = []
    for hook, where in ladder.HOOKS.items():
        here = [step for step in found.steps if step.hook == hook]
        if not here:
            continue
        empty = here[0]
        rows: list[tuple[Cell, ...]] = [(nothing.name, round(nothing.read), None, None, None)]
        rows += [
            (s.name, round(s.read), round(s.read - nothing.read), round(s.read - empty.read),
             round(s.getppid - nothing.getppid))
            for s in here
        ]  # fmt: skip
        columns = ("step", "read", "above nothing", "above empty", "getppid above nothing")
        tables.append(Table(f"Linux {series}: {where}", columns, rows))
    if found.transfers:
        tables.append(transfers.table(f"Linux {series}: a send and a receive", found.transfers))
    return tables


def _over(steps: list[Counted], hook: str, name: str) -> float | None:
    reads = [step.read for step in steps if step.hook == hook and step.name == name]
    return round(reads[0] - steps[0].read) if reads else None


def _plot(counted: dict[str, list[Counted]]) -> Plot:
    """What people choose by: a counted read above nothing, ours and Netdata's."""
    names = {"fexit": "trampoline", "tp_btf": "tracepoint", "kretprobe": "kprobe"}
    series: dict[str, list[tuple[float | str, float]]] = {}
    for kernel, steps in counted.items():
        bars: list[tuple[float | str, float]] = []
        for whose, step in (("", "process probe, entry"), ("Netdata, ", netdata.name())):
            for hook, name in names.items():
                over = _over(steps, hook, step)
                if over is not None:
                    bars.append((whose + name, over))
        series[f"Linux {kernel}"] = bars
    return Plot("instructions", "A counted read(2), above nothing", "", "instructions", series, kind="bars")
