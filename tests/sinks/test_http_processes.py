"""The processes of the http_json sink, compared with a known workload."""

from __future__ import annotations

import json
import os
import shutil
import urllib.request
from pathlib import Path
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from tests.kernel.support import counts_of, run_workload
from tests.sinks.support import Daemon, free_ports, until

NAME = f"busy-{os.getpid()}"
"""The name of the workload. It is unique, because other tests may run a workload at the same time."""
PLAN = {"open": 1009, "read": 2003, "write": 1511, "unlink": 127, "fork": 41, "read_fail": 89, "write_fail": 97}

COLUMNS = {
    "read": ["read_calls"], "write": ["write_calls"], "wbytes": ["write_bytes"], "unlink": ["unlink_calls"],
    "new": ["processes_created", "threads_created"],
    "err": [
        "open_errors", "close_errors", "read_errors", "write_errors", "unlink_errors", "processes_failed",
        "threads_failed",
    ],
}  # fmt: skip
"""The counters that each column sums."""


def get(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=30) as answer:
        return bytes(answer.read())


def test_the_json_of_processes_adds_up_to_the_workload_and_to_the_totals(workload: Path, tmp_path: Path) -> None:
    (port,) = free_ports(1)
    busy, groups, url = tmp_path / NAME, tmp_path / "groups.conf", f"http://127.0.0.1:{port}"
    shutil.copy(workload, busy)
    groups.write_text(f"busy: {NAME}\n")
    # With an interval of three seconds, polling several times a second misses none even on a busy machine.
    daemon = Daemon(
        tmp_path, [{"type": "http_json", "port": port}], f'[ebpfmon]\ninterval = 3\n[groups]\nfile = "{groups}"\n'
    )
    with daemon.running("--load-mode", "return"):
        until(lambda: get(f"{url}/readyz"), "ready")
        seen: dict[float, list[dict[str, Any]]] = {}

        def ask(tgid: int) -> int:
            """Poll once, and return how many intervals have been seen."""
            answer = json.loads(get(f"{url}/api/v1/processes?sort=read&top=1000&group=busy"))
            seen[answer["time"]] = [p for p in answer["processes"] if p["tgid"] == tgid]
            return len(seen)

        ask(0)
        tgid = run_workload(busy, tmp_path, PLAN)
        until(lambda: ask(tgid) and any(seen.values()), "the workload")
        begun = len(seen)
        until(lambda: ask(tgid) > begun, "the next interval, which may have the end of the workload")
        found = [p for of_time in seen.values() for p in of_time]
        assert {p["comm"] for p in found} == {NAME}
        assert {p["groups"]["application"] for p in found} == {"busy"}
        expected = counts_of(PLAN)
        for column, counters in COLUMNS.items():
            amounts = sum(p["amounts"].get(column, 0) for p in found)
            # Before execve(2) the workload was a fork of this process, which has the same PID and start.
            assert 0 <= amounts - sum(expected[c] for c in counters) <= (16 if column == "read" else 4), column
        whole = json.loads(get(f"{url}/api/v1/processes?top=1000"))
        assert min(whole["found"], 1000) == len(whole["processes"])  # The machine may run more processes.
        families = {f.name for f in text_string_to_metric_families(get(f"{url}/metrics").decode())}
        assert "ebpfmon_build_info" in families
        daemon.stop()
