"""The suite's own C: built when it is needed, into build/bench/."""

from __future__ import annotations

import subprocess
from pathlib import Path

from benchmarks.result import OUT

HERE = Path(__file__).parent / "c"


def build(name: str) -> str:
    """The path of a program, compiled from benchmarks/c/NAME.c where that has changed. It is linked statically: so no
    dynamic linker reads anything, and every call is one that was asked for."""
    source, program = HERE / f"{name}.c", OUT / "bin" / name
    if not program.exists() or program.stat().st_mtime < source.stat().st_mtime:
        program.parent.mkdir(parents=True, exist_ok=True)
        subprocess.run(["gcc", "-O2", "-Wall", "-static", "-o", program, source], check=True)
    return str(program)


def nanoseconds(kind: str, count: int, batches: int = 9) -> float:
    """What one system call of a kind takes, in one of the fastest of some batches."""
    command = [build("calls"), kind, str(count), str(batches)]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[0])
