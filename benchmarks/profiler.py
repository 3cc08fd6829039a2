"""Draw a flame graph of a running daemon's CPU time in Python with py-spy: `make profile`."""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from pathlib import Path

from benchmarks.measure import running
from benchmarks.monitors import ebpfmon
from benchmarks.result import OUT


def main() -> int:
    """Profile a running daemon, or start one to profile."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.profiler")
    parser.add_argument(
        "--pid", type=int, help="process id of the daemon (default: start one with the default settings)"
    )
    parser.add_argument("--seconds", type=int, default=30, help="how long to profile (default: 30)")
    parser.add_argument("--native", action="store_true", help="include the time in native libraries")
    arguments = parser.parse_args()
    spy = shutil.which("py-spy", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    if not spy:
        print("ebpfmon: cannot profile: py-spy is not installed; run pip install 'ebpfmon[bench]'", file=sys.stderr)
        return 1
    OUT.mkdir(parents=True, exist_ok=True)
    out = OUT / "profile.svg"

    def record(pid: int) -> int:
        # A tick takes only milliseconds, so sample often. py-spy takes waiting threads for busy ones, so sample only
        # the thread that holds the GIL. The time of a drain within the kernel is therefore missing.
        command = [spy, "record", "--gil", "--pid", str(pid), "--duration", str(arguments.seconds), "--rate", "1000",
                   "--output", str(out), *(["--native"] if arguments.native else [])]  # fmt: skip
        return subprocess.run(command, check=False, stdout=subprocess.DEVNULL).returncode

    if arguments.pid:
        status = record(arguments.pid)
    else:
        with running(ebpfmon()) as run:
            status = record(run.pid)
    if not status:
        print(out)
    return status


if __name__ == "__main__":
    sys.exit(main())
