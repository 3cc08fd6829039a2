"""Reloading settings loses no call, and counts none twice."""

from __future__ import annotations

import logging
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ebpfmon import Role, Snapshot
from tests.kernel.support import Monitor

# LIGHT changes sinks, groupings and selectors. HEAVY changes need programs to be loaded again.
VIEWER = {"ips": "10.0.0.0/8", "ports": "1-1024"}
PLAIN: dict[str, Any] = {
    "ebpfmon": {}, "groups": {"by": ["process"]}, "plugins": {"network_viewer": VIEWER}, "sinks": [],
}  # fmt: skip
LIGHT: list[dict[str, Any]] = [
    {**PLAIN, "groups": {"by": ["user", "process"]}},
    {**PLAIN, "plugins": {"network_viewer": {"ips": "!10.0.0.0/8", "ports": "!80"}}},
    {**PLAIN, "sinks": [{"type": "log", "path": "/dev/null"}]},
    PLAIN,
]
HEAVY: list[dict[str, Any]] = [
    {**PLAIN, "ebpfmon": {"load_mode": "return"}},
    {**PLAIN, "plugins": {"process": {"table_size": 4096}, "network_viewer": {"ips": "*"}}},
    PLAIN,
]


@pytest.mark.parametrize(("changes", "tolerance"), [(LIGHT * 5, 0), (HEAVY, 3)], ids=["light", "heavy"])
def test_under_load_every_call_is_counted_once(
    workload: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    changes: list[dict[str, Any]],
    tolerance: int,
) -> None:
    """Count every call once. Both old and new programs may count a call in progress: at most `tolerance` calls."""
    storm: list[str | Path] = [workload, tmp_path, "storm=100", "workers=1"]
    with caplog.at_level(logging.INFO), Monitor(PLAIN) as monitor:
        with subprocess.Popen(storm, stdout=subprocess.PIPE, text=True) as process:
            for n, settings in enumerate(changes, 1):
                monitor.reload(settings)
                monitor.until(lambda n=n: caplog.text.count("reloaded the settings") >= n)  # type: ignore[misc]
            assert process.poll() is None  # All reloads happened under load.
            process.terminate()
            assert process.stdout
            reads = int(process.stdout.read())
        monitor.until_gone(lambda: np.array([process.pid]), 2)
    rows = monitor.rows()
    counted = int(rows["read_calls"][rows["tgid"] == process.pid].sum())
    assert 0 <= counted - reads <= tolerance
    assert "cannot reload" not in caplog.text
    if not tolerance:
        assert_totals_continue(monitor.snapshots)


def assert_totals_continue(snapshots: Sequence[Snapshot]) -> None:
    """Assert that each series adds its deltas to its former total, also ebpfmon's own and those of all groupings."""
    before: dict[tuple[str, Role, tuple[str, ...]], tuple[int, ...]] = {}
    compared = set()
    for snapshot in snapshots:
        now = {}
        for data in (data for data in snapshot.charts if data.chart.kind.cumulative):
            for series in data.series():
                key = data.chart.id, series.role, series.labels
                now[key] = series.totals
                if key in before:
                    compared.add(data.chart.id)
                    expected = tuple(map(sum, zip(before[key], series.deltas, strict=True)))
                    assert series.totals == expected, (key, snapshot.time_s)
        before = now
    assert {"ebpf.io", "processes.vfs_read_call", "ebpfmon.cpu", "ebpfmon.sinks_sent"} <= compared


def test_wrong_new_settings_are_reported_and_the_old_ones_stay_in_use(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO), Monitor(PLAIN) as monitor:
        missing = tmp_path / "groups.conf"
        missing.write_text("a: a")
        settings = {**PLAIN, "groups": {"by": ["application"], "file": str(missing)}}
        monitor.settings = monitor.checked(settings)
        missing.unlink()
        monitor.reload()
        monitor.until(lambda: "cannot reload the settings" in caplog.text)
        seen = len(monitor.snapshots)
        monitor.until(lambda: len(monitor.snapshots) > seen + 1)
    assert str(missing) in caplog.text
    assert [s.elapsed_s < 2.5 for s in monitor.snapshots]
