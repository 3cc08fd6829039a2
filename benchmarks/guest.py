"""Runs in an emulated machine whose nanoseconds are instructions: the ladder's steps once each, as JSON to a file."""

from __future__ import annotations

import sys
from pathlib import Path

import msgspec

from benchmarks import ladder, netdata, programs
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


def main() -> None:
    """Every step; the file is written after each, so that a run that is cut short has found something."""
    found = Found([], {})
    libbpf = Libbpf()
    for step in (*ladder.find_steps(libbpf, found.skipped, trial=False), *netdata.steps(libbpf)):
        try:
            with step.attach():
                read, other = (programs.nanoseconds(kind, COUNT, BATCHES) for kind in ("read", "getppid"))
        except Exception as error:
            found.skipped[f"{step.hook}, {step.name}"] = str(error).rpartition(": ")[2]
            continue
        found.steps.append(Counted(step.hook, step.name, read, other))
        print(f"{step.hook:10} {step.name:50} {read:8.1f} {other:8.1f}", flush=True)
        Path(sys.argv[1]).write_bytes(msgspec.json.encode(found))


if __name__ == "__main__":
    main()
