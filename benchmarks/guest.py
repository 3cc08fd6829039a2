"""Runs in an emulated machine whose nanoseconds are instructions: each step once, as JSON to a file."""

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


class Counted(msgspec.Struct):
    """Instructions that a read and a getppid(2) take while a step is attached."""

    hook: str
    name: str
    read: float
    getppid: float


class Found(msgspec.Struct):
    """All steps of one kernel, and what cannot be attached there."""

    steps: list[Counted]
    skipped: dict[str, str]
    transfers: dict[str, dict[str, float]] = {}
    """What a send and a receive take, by step and by kind."""


def main() -> None:
    """Every step, in turn."""
    found, libbpf = Found([], {}), Libbpf()

    def call(step: ladder.Step) -> None:
        with step.attach():
            read, getppid = (programs.nanoseconds(kind, COUNT, BATCHES) for kind in ("read", "getppid"))
        found.steps.append(Counted(step.hook, step.name, read, getppid))

    def transfer(name: str, step: transfers.Step) -> None:
        step.measure(COUNT, BATCHES)
        found.transfers[name] = {kind: took[0] for kind, took in step.took.items()}

    def measure(what: str, take: Callable[[], None]) -> None:
        print(what, flush=True)
        try:
            take()
        except Exception as error:
            found.skipped[what] = str(error).rpartition(": ")[2]
        # after each, so that a run that is cut short has found something
        Path(sys.argv[1]).write_bytes(msgspec.json.encode(found))

    for step in (*ladder.find_steps(libbpf, found.skipped, trial=False), *netdata.steps(libbpf)):
        measure(f"{step.hook}, {step.name}", partial(call, step))
    viewers = {ladder.NOTHING: transfers.Step(ladder.NOTHING, ExitStack)}
    for strategy in attach_methods.NAMES:
        viewers |= {f"{strategy}: {viewer.name}": viewer for viewer in transfers.viewers(libbpf, strategy)}
    for name, viewer in viewers.items():
        measure(name, partial(transfer, name, viewer))


if __name__ == "__main__":
    main()
