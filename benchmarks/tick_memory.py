"""Print the memory of a process that drains and accounts ROWS rows: `python -m benchmarks.tick_memory ROWS`.

It runs in its own process, and a child fills the kernel's table, so that nothing else adds to the memory.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from benchmarks.measure import bpf_usage
from benchmarks.rows import fill, loaded
from benchmarks.stages import Stages
from ebpfmon.plugins import registry

_TICKS = 3


def measure(rows: int) -> tuple[float, float]:
    """Return the peak resident memory of the process and the memory of its full kernel tables, both in MB."""
    command = [sys.executable, "-m", "benchmarks.tick_memory", str(rows)]
    resident, tables = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    return float(resident), float(tables)


def main() -> None:
    """Print both sizes."""
    probe, rows, tables_mb = registry.discover().probes["process"], int(sys.argv[1]), 0.0
    with loaded(probe, rows) as loaded_probe:
        stages = Stages(loaded_probe)
        buffer = loaded_probe.active_buffer.index ^ 1
        for _ in range(_TICKS):
            if not (child := os.fork()):
                fill(loaded_probe, loaded_probe.tables[0], buffer, rows)
                os._exit(0)
            os.waitpid(child, 0)
            tables_mb = bpf_usage(os.getpid()).maps_mb
            stages.tick(loaded_probe.tables[0], buffer)
    status = Path("/proc/self/status").read_text()
    peak_kb = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))
    print(peak_kb * 1024 / 1e6, tables_mb)


if __name__ == "__main__":
    main()
