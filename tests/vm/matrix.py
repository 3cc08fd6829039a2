"""Runs every cell under every kernel, two machines at a time, and prints one table."""

from __future__ import annotations

import compileall
import os
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from ebpfmon.kernel.bpfobject import BpfObject
from ebpfmon.kernel.btf import Btf
from ebpfmon.kernel.libbpf import Libbpf
from ebpfmon.kernel.objects import locate, read_spec
from ebpfmon.plugins import registry
from tests.kernel import programs
from tests.vm import fetch, machine, report
from tests.vm.cells import CELLS, Cell
from tests.vm.fetch import Kernel
from tests.vm.report import Run

OUT = Path("build/vm")
_AT_A_TIME = 2  # each has two CPUs of its own: more would only wait for each other
_TEST_TIMEOUT_S = 300  # of one test: emulated, it takes some 20 times as long
_SOURCES = ("ebpfmon", "ebpfmon_sinks", "plugins", "tests")
_TAIL = 60  # lines of a log that are printed when something failed
_EVERY = Cell("(every)", "")  # stands for all cells of a kernel that cannot be had


@dataclass(frozen=True, slots=True)
class Matrix:
    """What all machines of a run have in common."""

    probes: Mapping[str, frozenset[str]]
    """The attach methods that each has programs for."""
    deadline: float
    stop: threading.Event

    def enough(self) -> bool:
        return self.stop.is_set() or time.monotonic() > self.deadline

    def run(self, kernel: Kernel, cell: Cell) -> Run:
        """Run a cell under a kernel. All that it leaves is in one directory: its log, junit.xml and the console."""
        if self.enough():
            return _tell(Run(kernel.release, cell, failure="was not run, as no time was left"))
        share = OUT / f"{kernel.series}-{cell.name}"
        share.mkdir(parents=True)
        environment = {"CI": "true", "EBPFMON_CELL": cell.name, "EBPFMON_EXPECT": ",".join(cell.expect)}
        job = machine.Job(_script(cell, kernel.series, share), share, cell.arguments, environment, cell.timeout_s)
        with (share / "log").open("wb") as log:
            ended = machine.run(kernel, job, log, self.enough)
        junit = share / "junit.xml"
        tests = report.read(junit.read_text(), cell, self.probes) if ended.status is not None and junit.exists() else ()
        failure = report.judge(cell, ended, tests, self.probes)
        note = machine.AGAIN if ended.panics else ""
        return _tell(Run(kernel.release, cell, tests, failure, "", note, ended.elapsed_s), share / "log")


def _script(cell: Cell, series: str, share: Path) -> str:
    arguments = [cell.tests, "-k", cell.selected(series), f"--junitxml={share}/junit.xml", "--durations=5"]
    arguments += [f"--timeout={_TEST_TIMEOUT_S}", "-p", "no:cacheprovider"]
    return f"set -e\n{cell.prelude}\nexec .venv/bin/python -m pytest {shlex.join(arguments)}"


def _tell(run: Run, log: Path | None = None) -> Run:
    """Say at once how a run ended."""
    lines = log.read_text(errors="replace").splitlines()[-_TAIL:] if log and run.failed else []
    how = "FAILED" if run.failed else "SKIPPED" if run.skipped else "passed"
    why = "".join(f": {reason}" for reason in (run.failure, run.skipped, run.note) if reason)
    said = f"ebpfmon: {run.kernel} {run.cell.name}: {how}, {len(run.tests)} tests in {run.elapsed_s:.0f} s{why}"
    print("\n".join([*(f"    {line}" for line in lines), said]), flush=True)
    return run


def _fetch(series: str) -> Kernel | Run:
    """A kernel, or what the table says in its place."""
    try:
        return fetch.fetch(series)
    except fetch.MissingKernelError as error:
        if fetch.SERIES[series] == fetch.MOVING:
            return _tell(Run(series, _EVERY, skipped=str(error)))
        return _tell(Run(series, _EVERY, failure=str(error)))


def attach_methods_of_probes() -> dict[str, frozenset[str]]:
    """Return for each probe the attach methods by which it can see all its events."""
    found = {}
    for probe in registry.discover().probes.values():
        with BpfObject(Libbpf(), locate(probe)) as obj:
            spec = read_spec(probe, obj, Btf(obj.btf()))
        events = [candidates for event, candidates in spec.candidates.items() if event not in spec.optional]
        methods = [{candidate.method.name for candidate in candidates} for candidates in events]
        found[probe.name] = frozenset(set.intersection(*methods))
    return found


def _compile() -> None:
    """All that each machine would compile, which takes it a minute: emulated, it is twenty times slower."""
    for package in _SOURCES:
        compileall.compile_dir(package, quiet=2)
    for name in programs.NAMES:
        programs.program(name)
    # pytest compiles tests itself, with what their asserts are to say
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    collect = [sys.executable, "-m", "pytest", "--collect-only", "-qq", "-p", "no:cacheprovider", "tests/kernel"]
    subprocess.run(collect, env=environment, check=True, stdout=subprocess.DEVNULL)


def main(kernels: Collection[str], cells: Collection[str], minutes: float) -> int:
    """The whole of it, for some kernels and cells or, if there are none, for all. Returns the exit status."""
    matrix = Matrix(attach_methods_of_probes(), time.monotonic() + 60 * minutes, threading.Event())
    for number in (signal.SIGTERM, signal.SIGINT):  # no machine outlives us, and the table is printed
        signal.signal(number, lambda *_: matrix.stop.set())
    shutil.rmtree(OUT, ignore_errors=True)
    OUT.mkdir(parents=True)
    _compile()
    found = [_fetch(series) for series in fetch.SERIES if not kernels or series in kernels]
    wanted = [cell for cell in CELLS if not cells or cell.name in cells]
    with ThreadPoolExecutor(_AT_A_TIME) as pool:
        # cell by cell, as the first takes longest, and the newest kernel first, which has most to do: so no long one is
        # left for the end
        futures = {
            (kernel.series, cell.name): pool.submit(matrix.run, kernel, cell)
            for cell in wanted
            for kernel in reversed(found)
            if isinstance(kernel, Kernel) and kernel.series in cell.kernels
        }
        print(f"ebpfmon: {len(futures)} machines, {_AT_A_TIME} at a time", flush=True)
    runs: list[Run] = []
    for kernel in found:
        if isinstance(kernel, Run):
            runs.append(kernel)
        else:
            of_kernel = [futures.get((kernel.series, cell.name)) for cell in wanted]
            runs += [future.result() for future in of_kernel if future]
    shown = f"{report.table(runs)}\n{report.verdict(runs)}\n"
    (OUT / "table.md").write_text(shown)
    print(f"\n{shown}", end="", flush=True)
    return int(not runs or any(run.failed for run in runs))
