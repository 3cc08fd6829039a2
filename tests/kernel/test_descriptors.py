"""A daemon that may open no more files: each tick goes on, and no process gets a wrong group for good."""

from __future__ import annotations

import json
import resource
import subprocess
from pathlib import Path
from typing import Any

from tests.kernel.support import EBPFMON, until
from tests.kernel.test_applications import running


def snapshots(output: Path) -> list[dict[str, Any]]:
    """Return the snapshots that a daemon has written to a file."""
    return [json.loads(line) for line in output.read_text().splitlines(keepends=True) if line.endswith("\n")]


def groups(output: Path) -> set[str]:
    """Return the applications that a daemon has found."""
    found = [chart for snapshot in snapshots(output) for chart in snapshot["charts"] if chart["id"] == "apps.file_open"]
    return {series["labels"]["application"] for chart in found for series in chart["series"]}


def test_without_descriptors_ticks_go_on_and_processes_get_their_groups_later(tmp_path: Path) -> None:
    (tmp_path / "groups.conf").write_text("older: *older-than-ebpfmon*\n")
    (tmp_path / "settings").write_text('[groups]\nby = ["application", "user"]\nfile = "groups.conf"\n')
    command = [*EBPFMON, "run", "--config", str(tmp_path / "settings"), "--json"]
    output, errors = tmp_path / "out", tmp_path / "err"
    with (
        running("sh", "-c", "while read line; do /bin/true; done", "older-than-ebpfmon") as older,
        output.open("wb") as out,
        errors.open("wb") as err,
        subprocess.Popen(command, stdout=out, stderr=err) as daemon,
    ):

        def works() -> bool:
            assert older.stdin
            older.stdin.write(b"go\n")
            older.stdin.flush()
            return True

        try:
            until(lambda: bool(snapshots(output)))
            before = resource.prlimit(daemon.pid, resource.RLIMIT_NOFILE)
            resource.prlimit(daemon.pid, resource.RLIMIT_NOFILE, (3, before[1]))
            until(lambda: works() and "cannot look up process" in errors.read_text())
            assert "older" not in groups(output)
            resource.prlimit(daemon.pid, resource.RLIMIT_NOFILE, before)
            until(lambda: works() and "older" in groups(output))
            daemon.terminate()
            assert daemon.wait(5) == 0
        finally:
            daemon.kill()
    (said,) = (line for line in errors.read_text().splitlines() if "cannot look up process" in line)
    assert "Too many open files; this process may open only 3 files: allow " in said
    assert "Traceback" not in errors.read_text()
    for snapshot in snapshots(output):
        assert any(chart["id"] == "ebpfmon.memory" for chart in snapshot["charts"]), "its file is kept open"
