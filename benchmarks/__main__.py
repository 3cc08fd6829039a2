"""Run benchmarks: `python -m benchmarks [NAME ...] [--quick]`. Write the report: `python -m benchmarks report`.

A benchmark prints its tables and stores its result as JSON under build/bench/.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
import time
from collections.abc import Callable

from benchmarks import render, report
from benchmarks.result import ROOT, Result, describe_machine, save

BENCHMARKS = ("ladder", "transfers", "start", "short_lived", "baseline", "scale", "workloads", "peers")
"""The benchmarks in the order in which `make bench` runs them. Each is a module with a function `run(quick)`."""
ON_REQUEST = ("instructions",)
"""Benchmarks that run only if they are named."""


def main() -> int:
    """Run the named benchmarks, or all of them. Return 1 if a target is missed or a benchmark fails."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"{', '.join((*BENCHMARKS, *ON_REQUEST))}, or report")
    parser.add_argument("--quick", action="store_true", help="measure fewer and shorter rounds, for a rough result")
    arguments = parser.parse_args()
    if arguments.names == ["report"]:
        print(report.write())
        return 0
    unknown = sorted(set(arguments.names) - {*BENCHMARKS, *ON_REQUEST})
    if unknown:
        parser.error(f"no such benchmark: {', '.join(unknown)}")
    if os.geteuid() != 0:
        print("ebpfmon: loading BPF programs needs root: run sudo make bench", file=sys.stderr)
        return 1
    started = time.monotonic()
    failed = [name for name in arguments.names or BENCHMARKS if not _measure(name, arguments.quick)]
    print(f"The benchmarks took {(time.monotonic() - started) / 60:.1f} minutes.")
    if failed:
        print(f"missed a target or failed: {', '.join(failed)}")
    return int(bool(failed))


def _measure(name: str, quick: bool) -> bool:
    """Run one benchmark and store its result. Return False if it failed or missed a target."""
    run: Callable[[bool], Result] = importlib.import_module(f"benchmarks.{name}").run
    machine, started = describe_machine(), time.monotonic()
    try:
        result = run(quick)
    except Exception as error:  # One failure must not stop the other benchmarks.
        print(f"{name}: failed: {type(error).__name__}: {error}\n", flush=True)
        return False
    result.machine, result.quick, result.duration_s = machine, quick, round(time.monotonic() - started, 1)
    path = save(result)
    print(render.text(result) + f"{path.relative_to(ROOT)}\n", flush=True)
    return all(target.verdict not in ("MISSED", "too noisy") for target in result.targets)


if __name__ == "__main__":
    sys.exit(main())
