"""`make profile`: where a running daemon's CPU time in Python goes, as a flame graph (SVG) under build/, by py-spy."""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from pathlib import Path

from benchmarks.monitors import ebpfmon
from benchmarks.result import OUT
from benchmarks.watch import running


def main() -> int:
    """Of a daemon that runs already, or of one that is started for it."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.profiler")
    parser.add_argument("--pid", type=int, help="of the daemon to look at (default: one with the default settings)")
    parser.add_argument("--seconds", type=int, default=30, help="how long (default: 30)")
    parser.add_argument("--native", action="store_true", help="what of it is in libraries, too")
    given = parser.parse_args()
    spy = shutil.which("py-spy", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    if not spy:
        print("ebpfmon: profile: no 'py-spy': pip install 'ebpfmon[bench]'", file=sys.stderr)
        return 1
    OUT.mkdir(parents=True, exist_ok=True)
    out = OUT / "profile.svg"

    def record(pid: int) -> int:
        # a tick takes milliseconds of a second, so it looks often; and only at what holds the interpreter's lock, as it
        # takes threads that wait for busy ones while it stops them: what the drain takes in the kernel is not in it
        command = [spy, "record", "--gil", "--pid", str(pid), "--duration", str(given.seconds), "--rate", "1000",
                   "--output", str(out), *(["--native"] if given.native else [])]  # fmt: skip
        return subprocess.run(command, check=False, stdout=subprocess.DEVNULL).returncode

    if given.pid:
        status = record(given.pid)
    else:
        with running(ebpfmon()) as run:
            status = record(run.pid)
    if not status:
        print(out)
    return status


if __name__ == "__main__":
    sys.exit(main())
