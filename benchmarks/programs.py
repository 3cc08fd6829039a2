"""Build and run the benchmarks' own C programs, in build/bench/bin/."""

from __future__ import annotations

import subprocess
from pathlib import Path

from benchmarks.result import OUT

HERE = Path(__file__).parent / "c"


def build(name: str) -> str:
    """Compile benchmarks/c/NAME.c if it has changed, and return the path of the program.

    It is linked statically, because a dynamic linker would make system calls of its own.
    """
    source, program = HERE / f"{name}.c", OUT / "bin" / name
    if not program.exists() or program.stat().st_mtime < source.stat().st_mtime:
        program.parent.mkdir(parents=True, exist_ok=True)
        subprocess.run(["gcc", "-O2", "-Wall", "-static", "-o", program, source], check=True)
    return str(program)


def nanoseconds(kind: str, count: int, batches: int = 9) -> float:
    """Return the CPU nanoseconds of one system call of a kind, from the first decile of a number of batches."""
    command = [build("calls"), kind, str(count), str(batches)]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[0])
