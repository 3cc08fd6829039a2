"""`python -m benchmarks.held ROWS`: what memory a process takes that drains so many rows and makes charts of them.

A process of its own, so that nothing else is in it: the rows are put into the kernel's table by a child.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from benchmarks.rows import fill, loaded
from benchmarks.stages import Stages
from benchmarks.watch import in_kernel
from ebpfmon.plugins import registry

_TICKS = 3


def measured(rows: int) -> tuple[float, float]:
    """Peak resident memory of the process, and of its tables in the kernel when they are full, in 10^6 bytes."""
    command = [sys.executable, "-m", "benchmarks.held", str(rows)]
    resident, tables = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    return float(resident), float(tables)


def main() -> None:
    """Print both."""
    probe, rows, tables_mb = registry.discover().probes["process"], int(sys.argv[1]), 0.0
    with loaded(probe, rows) as of_probe:
        stages = Stages(of_probe)
        side = of_probe.interval.buffer ^ 1
        for _ in range(_TICKS):
            if not (child := os.fork()):
                fill(of_probe, of_probe.tables[0], side, rows)
                os._exit(0)
            os.waitpid(child, 0)
            tables_mb = in_kernel(os.getpid()).maps_mb
            stages.tick(of_probe.tables[0], side)
    status = Path("/proc/self/status").read_text()
    peak_kb = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))
    print(peak_kb * 1024 / 1e6, tables_mb)


if __name__ == "__main__":
    main()
