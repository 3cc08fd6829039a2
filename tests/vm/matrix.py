"""Run every configuration under every kernel, two machines at a time, and print one table."""

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
from tests.vm.configurations import CONFIGURATIONS, Configuration
from tests.vm.fetch import Kernel
from tests.vm.report import Run

OUT = Path("build/vm")
_AT_A_TIME = 2  # Each machine has two CPUs, so more machines would only wait for each other.
_TEST_TIMEOUT_S = 300  # The limit of one test, which takes about 20 times as long in an emulated machine.
_SOURCES = ("ebpfmon", "ebpfmon_sinks", "plugins", "tests")
_TAIL_LINES = 60  # The number of log lines to print after a failure.
_ALL = Configuration("(every)", "")  # Stands for all configurations of a kernel that could not be fetched.


@dataclass(frozen=True, slots=True)
class Matrix:
    """What all machines of a run share."""

    probes: Mapping[str, frozenset[str]]
    """The attach methods that each probe has programs for."""
    deadline: float
    stop: threading.Event

    def should_stop(self) -> bool:
        """Return whether the run was interrupted or is out of time."""
        return self.stop.is_set() or time.monotonic() > self.deadline

    def run(self, kernel: Kernel, configuration: Configuration) -> Run:
        """Run a configuration under a kernel. Its log, junit.xml and console are kept in one directory."""
        if self.should_stop():
            return _announce(Run(kernel.release, configuration, failure="was not run because no time was left"))
        share = OUT / f"{kernel.series}-{configuration.name}"
        share.mkdir(parents=True)
        environment = {"CI": "true", "EBPFMON_CONFIGURATION": configuration.name}
        job = machine.Job(
            _script(configuration, kernel.series, share),
            share,
            configuration.kernel_arguments,
            environment,
            configuration.timeout_s,
        )
        with (share / "log").open("wb") as log:
            ended = machine.run(kernel, job, log, self.should_stop)
        junit = share / "junit.xml"
        tests = (
            report.read(junit.read_text(), configuration, self.probes)
            if ended.status is not None and junit.exists()
            else ()
        )
        failure = report.judge(configuration, ended, tests, self.probes)
        note = machine.RESTARTED if ended.panics else ""
        return _announce(Run(kernel.release, configuration, tests, failure, "", note, ended.elapsed_s), share / "log")


def _script(configuration: Configuration, series: str, share: Path) -> str:
    arguments = [
        configuration.tests,
        "-k",
        configuration.selected(series),
        f"--junitxml={share}/junit.xml",
        "--durations=5",
    ]
    arguments += [f"--timeout={_TEST_TIMEOUT_S}", "-p", "no:cacheprovider"]
    return f"set -e\n{configuration.prelude}\nexec .venv/bin/python -m pytest {shlex.join(arguments)}"


def _announce(run: Run, log: Path | None = None) -> Run:
    """Print how a run ended, with the end of its log if it failed."""
    lines = log.read_text(errors="replace").splitlines()[-_TAIL_LINES:] if log and run.failed else []
    how = "FAILED" if run.failed else "SKIPPED" if run.skipped else "passed"
    why = "".join(f": {reason}" for reason in (run.failure, run.skipped, run.note) if reason)
    summary = (
        f"ebpfmon: {run.kernel} {run.configuration.name}: {how}, {len(run.tests)} tests in {run.elapsed_s:.0f} s{why}"
    )
    print("\n".join([*(f"    {line}" for line in lines), summary]), flush=True)
    return run


def _fetch(series: str) -> Kernel | Run:
    """Return a kernel, or the row for the table if it could not be fetched."""
    try:
        return fetch.fetch(series)
    except fetch.MissingKernelError as error:
        if fetch.SERIES[series] == fetch.ROLLING:
            return _announce(Run(series, _ALL, skipped=str(error)))
        return _announce(Run(series, _ALL, failure=str(error)))


def attach_methods_of_probes() -> dict[str, frozenset[str]]:
    """Return the attach methods that can see all events of a probe, by probe."""
    found = {}
    for probe in registry.discover().probes.values():
        with BpfObject(Libbpf(), locate(probe)) as obj:
            spec = read_spec(probe, obj, Btf(obj.btf()))
        events = [candidates for event, candidates in spec.candidates.items() if event not in spec.optional]
        methods = [{candidate.method.name for candidate in candidates} for candidates in events]
        found[probe.name] = frozenset(set.intersection(*methods))
    return found


def _compile() -> None:
    """Compile on the host what each machine would otherwise spend a minute on, being twenty times slower."""
    for package in _SOURCES:
        compileall.compile_dir(package, quiet=2)
    for name in programs.NAMES:
        programs.program(name)
    # Collecting the tests makes pytest write its own compiled files, with rewritten assertions.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    collect = [sys.executable, "-m", "pytest", "--collect-only", "-qq", "-p", "no:cacheprovider", "tests/kernel"]
    subprocess.run(collect, env=environment, check=True, stdout=subprocess.DEVNULL)


def main(kernels: Collection[str], configurations: Collection[str], minutes: float) -> int:
    """Run the matrix and return the exit status. Without kernels or configurations, run all of them."""
    matrix = Matrix(attach_methods_of_probes(), time.monotonic() + 60 * minutes, threading.Event())
    for number in (signal.SIGTERM, signal.SIGINT):  # Stop the machines first, and print the table.
        signal.signal(number, lambda *_: matrix.stop.set())
    shutil.rmtree(OUT, ignore_errors=True)
    OUT.mkdir(parents=True)
    _compile()
    fetched = [_fetch(series) for series in fetch.SERIES if not kernels or series in kernels]
    selected = [
        configuration for configuration in CONFIGURATIONS if not configurations or configuration.name in configurations
    ]
    with ThreadPoolExecutor(_AT_A_TIME) as pool:
        # Start the longest first, so that none is left for the end: the first configuration takes longest, and the
        # newest kernel has the most tests.
        futures = {
            (kernel.series, configuration.name): pool.submit(matrix.run, kernel, configuration)
            for configuration in selected
            for kernel in reversed(fetched)
            if isinstance(kernel, Kernel) and kernel.series in configuration.kernels
        }
        print(f"ebpfmon: {len(futures)} machines, {_AT_A_TIME} at a time", flush=True)
    runs: list[Run] = []
    for kernel in fetched:
        if isinstance(kernel, Run):
            runs.append(kernel)
        else:
            of_kernel = [futures.get((kernel.series, configuration.name)) for configuration in selected]
            runs += [future.result() for future in of_kernel if future]
    output = f"{report.table(runs)}\n{report.verdict(runs)}\n"
    (OUT / "table.md").write_text(output)
    print(f"\n{output}", end="", flush=True)
    return int(not runs or any(run.failed for run in runs))
