"""Nothing is lost when buffers are swapped while all CPUs count."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from ebpfmon.daemon.workers import set_realtime_priority
from ebpfmon.kernel import attach, features
from ebpfmon.kernel.attach import LoadOptions
from ebpfmon.kernel.libbpf import Libbpf
from ebpfmon.model import Harvest
from ebpfmon.pipeline.harvest import Harvester
from ebpfmon.pipeline.schedule import SystemClock
from ebpfmon.plugins import registry
from tests.kernel.support import Monitor, counted


@contextmanager
def storm(workload: Path, where: Path, seconds: int) -> Iterator[list[subprocess.Popen[str]]]:
    """Run two processes of two threads each that read as fast as they can for `seconds`."""
    command = [str(workload), str(where), f"storm={seconds}", "workers=2"]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    try:
        yield processes
    finally:
        for process in processes:
            process.kill()
            process.wait()
            assert process.stdout
            process.stdout.close()


def reads_of(process: subprocess.Popen[str]) -> int:
    """Return the number of reads that a storm process reports."""
    assert process.stdout
    return int(process.stdout.read())


def test_a_hundred_swaps_under_a_storm_lose_nothing(workload: Path, tmp_path: Path) -> None:
    probe = registry.discover().probes["process"]
    harvests: list[Harvest] = []
    found = features.detect()
    with (
        attach.load(probe, Libbpf(), found, LoadOptions()) as loaded,
        ThreadPoolExecutor(1, "harvest", set_realtime_priority if found.preemptible is not False else None) as executor,
        storm(workload, tmp_path, 5) as processes,
    ):
        harvester = Harvester([loaded], SystemClock())
        while len(harvests) < 100 or any(p.poll() is None for p in processes):
            harvests.append(executor.submit(harvester.harvest).result())
        harvests.append(executor.submit(harvester.harvest).result())
        done = {p.pid: reads_of(p) for p in processes}
    rows = np.concatenate([h.tables["process"].rows for h in harvests])
    for tgid, reads in done.items():
        assert counted(rows, tgid)["read_calls"] == reads
        assert counted(rows, tgid)["read_bytes"] == reads
    for table in (h.tables["process"] for h in harvests):
        assert table.overflow_calls == 0
        assert not any(table.overflow.values())
    assert sum(h.missed_runs for h in harvests) == 0


def test_a_table_is_drained_whole_if_the_kernel_returns_only_a_part_in_each_call(tmp_path: Path) -> None:
    own = tmp_path / "ebpfmon-swap"  # a name that no other process has
    own.symlink_to("/bin/true")
    probe = registry.discover().probes["process"]
    with attach.load(probe, Libbpf(), features.detect(), LoadOptions()) as loaded:
        (table,) = loaded.tables
        table._keys, table._values = table._keys[:16], table._values[:16]
        harvester = Harvester([loaded], SystemClock())
        harvester.harvest()
        subprocess.run(["/bin/sh", "-c", f"for n in $(seq 97); do '{own}'; done"], check=True)
        rows = harvester.harvest().tables["process"].rows
    assert len({*rows["tgid"][rows["comm"] == own.name.encode()].tolist()}) == 97


@pytest.mark.timeout(180)
def test_thirty_ticks_under_a_storm_lose_nothing(workload: Path, tmp_path: Path) -> None:
    with Monitor() as monitor, storm(workload, tmp_path, 30) as processes:
        first = len(monitor.snapshots)
        done = {p.pid: reads_of(p) for p in processes}
    for tgid, reads in done.items():
        assert monitor.of(tgid)["read_calls"] == reads
    charts = [{c.chart.id: c for c in s.charts} for s in monitor.snapshots]
    shown = sum(c["ebpf.io"].sums()["vfs_read"] for c in charts)
    assert shown == charts[-1]["ebpf.io"].totals[0, 0] >= sum(done.values())
    last = charts[-1]["ebpfmon.lost"]
    lost = dict(zip((c.id for c in last.chart.columns), last.totals[0].tolist(), strict=True))
    assert lost["missed_runs"] == 0
    # On a busy machine, ticks may be late, and some may be skipped.
    assert len(monitor.snapshots) - first + lost["late_ticks"] >= 30
