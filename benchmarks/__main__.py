"""`python -m benchmarks [NAME ...] [--quick]`: measures, prints tables, writes JSON; `report` renders it."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
import time
from collections.abc import Callable

from benchmarks import render, report, result
from benchmarks.result import Result

BENCHMARKS = ("ladder", "transfers", "start", "seen", "baseline", "scale", "workloads", "peers")
"""In the order in which `make bench` runs them. Each is a module with `run(quick)`."""
SLOW = ("instructions",)
"""Only when they are asked for."""


def main() -> int:
    """Run some benchmarks, or all of them. Return 1 if a bar is missed, or a benchmark fails."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"{', '.join((*BENCHMARKS, *SLOW))}, or report")
    parser.add_argument("--quick", action="store_true", help="seconds instead of minutes: to see that it works")
    given = parser.parse_args()
    if given.names == ["report"]:
        print(report.write())
        return 0
    unknown = sorted(set(given.names) - {*BENCHMARKS, *SLOW})
    if unknown:
        parser.error(f"no such benchmark: {', '.join(unknown)}")
    if os.geteuid() != 0:
        print("ebpfmon: to load programs needs root: run sudo make bench", file=sys.stderr)
        return 1
    started = time.monotonic()
    failed = [name for name in given.names or BENCHMARKS if not _measure(name, given.quick)]
    print(f"all of it took {(time.monotonic() - started) / 60:.1f} minutes")
    if failed:
        print(f"missed or failed: {', '.join(failed)}")
    return int(bool(failed))


def _measure(name: str, quick: bool) -> bool:
    """Run one benchmark and keep its result. Return False if it failed, or does not hold a bar."""
    run: Callable[[bool], Result] = importlib.import_module(f"benchmarks.{name}").run
    machine, started = result.look_at_machine(), time.monotonic()
    try:
        found = run(quick)
    except Exception as error:  # the others shall run all the same
        print(f"{name}: failed: {type(error).__name__}: {error}\n", flush=True)
        return False
    found.machine, found.quick, found.took_s = machine, quick, round(time.monotonic() - started, 1)
    path = result.save(found)
    print(render.text(found) + f"{path.relative_to(result.ROOT)}\n", flush=True)
    return all(bar.verdict not in ("MISSED", "too noisy") for bar in found.bars)


if __name__ == "__main__":
    sys.exit(main())
