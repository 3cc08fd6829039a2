"""Compile the programs that tests run and watch, from the C files in this folder."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

HERE = Path(__file__).parent
BUILT = HERE.parents[1] / "build" / "tests"
NAMES = ("changes", "random_work", "sockets", "traffic", "uring", "workload")


def program(name: str) -> Path:
    """Return a compiled program. Compile only if the source has changed: that takes ten seconds in an emulator."""
    source, built = HERE / f"{name}.c", BUILT / name
    changed = max(path.stat().st_mtime for path in (source, *HERE.glob("*.h")))
    if built.exists() and built.stat().st_mtime > changed:
        return built
    compiler = shutil.which("gcc") or shutil.which("clang")
    assert compiler, "the tests need gcc or clang"
    BUILT.mkdir(parents=True, exist_ok=True)
    unfinished = built.with_suffix(f".{os.getpid()}")
    flags = ("-O1", "-Wall", "-Werror", "-static", "-pthread")
    subprocess.run([compiler, *flags, "-o", unfinished, source], check=True)
    return unfinished.replace(built)
