"""`make bench`: measures what the README says of ebpfmon's cost, prints a table, fails where a bar is missed."""

from __future__ import annotations

import argparse
import os
import sys

from benchmarks import daemon, rows
from ebpfmon import registry


def main() -> int:
    """Measure everything; returns 1 if a bar is missed."""
    parser = argparse.ArgumentParser(prog="benchmarks")
    parser.add_argument("--seconds", type=float, default=20, help="how long each monitor is watched")
    given = parser.parse_args()
    machine = os.uname()
    print(f"kernel {machine.release} ({machine.machine}), {os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f}\n")
    lines: list[tuple[str, float, float | None, str]] = []

    probe = registry.discover().probes["process"]
    for count in (100, 1_000, 10_000):
        stages = rows.tick(probe, count)
        bar = 10.0 if count == 10_000 else None
        lines += [
            (f"{stage} of {count:,} active processes, CPU", cost, None, "ms")
            for stage, cost in zip(("drain", "attribution", "accounting"), stages, strict=True)
        ]
        lines.append((f"all three of {count:,} active processes, CPU", sum(stages), bar, "ms"))
    viewer = registry.discover().probes["network_viewer"]
    drain, charts = rows.destinations(viewer, 60_000)
    lines += [
        ("drain of 60,000 destinations, CPU", drain, 100.0, "ms"),
        ("charts of 60,000 destinations, CPU", charts, None, "ms"),
    ]
    memory, seen = daemon.memory_with_destinations(65_536)
    lines += [
        ("destinations in the fullest of these seconds", seen, None, ""),
        ("peak resident memory with 65,536 destinations", memory, 96.0, "MB"),
    ]
    lines.append(("start to first snapshot", daemon.first_snapshot_s(), 2.0, "s"))

    for idle in (0, 1_000, 5_000):
        with daemon.idle_processes(idle):
            own, memory = daemon.cost(daemon.EBPFMON, given.seconds)
            psutil, _ = daemon.cost(daemon.PSUTIL, given.seconds)
        lines.append((f"ebpfmon, {idle:,} idle processes, CPU per 30 s", own * 30 / given.seconds, None, "s"))
        lines.append((f"psutil loop, {idle:,} idle processes, CPU per 30 s", psutil * 30 / given.seconds, None, "s"))
        bar = {1_000: 1 / 30, 5_000: 1 / 100}.get(idle)
        lines.append((f"ratio with {idle:,} idle processes", own / psutil, bar, ""))
    lines.append(("resident memory, log sink", memory, 45.0, "MB"))

    missed = 0
    for what, value, bar, unit in lines:
        verdict = "" if bar is None else f"(bar {bar:.3g} {unit}) {'held' if value <= bar else 'MISSED'}"
        missed += "MISSED" in verdict
        print(f"{what:52} {value:9.3f} {unit:3} {verdict}")
    return int(missed > 0)


if __name__ == "__main__":
    sys.exit(main())
