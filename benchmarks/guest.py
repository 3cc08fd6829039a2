"""The guest's part of the benchmark `instructions`: measure every step once, and write JSON to a file.

It runs in an emulated machine whose clock advances one nanosecond per instruction.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import msgspec

from benchmarks import ladder, netdata, programs, transfers
from ebpfmon.kernel import attach_methods
from ebpfmon.kernel.libbpf import Libbpf

COUNT, BATCHES = 1000, 5


class StepCount(msgspec.Struct):
    """The instructions of a read(2) and a getppid(2) while a step is attached."""

    hook: str
    name: str
    read: float
    getppid: float


class GuestResult(msgspec.Struct):
    """The instructions of all steps under one kernel."""

    steps: list[StepCount]
    skipped: dict[str, str]
    """The reason for each step that could not be attached."""
    transfers: dict[str, dict[str, float]] = {}
    """The instructions of a send and a receive, by step and by protocol."""


def main() -> None:
    """Measure every step."""
    result, libbpf = GuestResult([], {}), Libbpf()

    def call(step: ladder.Step) -> None:
        with step.attach():
            read, getppid = (programs.nanoseconds(kind, COUNT, BATCHES) for kind in ("read", "getppid"))
        result.steps.append(StepCount(step.hook, step.name, read, getppid))

    def transfer(name: str, step: transfers.Step) -> None:
        step.measure(COUNT, BATCHES)
        result.transfers[name] = {kind: rounds[0] for kind, rounds in step.times_ns.items()}

    def measure(name: str, run: Callable[[], None]) -> None:
        print(name, flush=True)
        try:
            run()
        except Exception as error:
            result.skipped[name] = str(error)
        # Write after each step, so that a run that is cut short has a result.
        Path(sys.argv[1]).write_bytes(msgspec.json.encode(result))

    for step in (*ladder.find_steps(libbpf, result.skipped, trial=False), *netdata.steps(libbpf)):
        measure(f"{step.hook}, {step.name}", partial(call, step))
    viewers = {ladder.NO_PROGRAM: transfers.Step(ladder.NO_PROGRAM, ExitStack)}
    for method in attach_methods.NAMES:
        viewers |= {f"{method}: {viewer.name}": viewer for viewer in transfers.viewers(libbpf, method)}
    for name, viewer in viewers.items():
        measure(name, partial(transfer, name, viewer))


if __name__ == "__main__":
    main()
