"""The http_json sink's processes: what a known workload did, as HTTP tells it second by second."""

from __future__ import annotations

import json
import os
import shutil
import urllib.request
from pathlib import Path
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from tests.kernel.support import counts_of, work
from tests.sinks.support import Daemon, free_ports, until

NAME = f"busy-{os.getpid()}"
"""Of the workload: other tests may run one at the same time."""
PLAN = {"open": 1009, "read": 2003, "write": 1511, "unlink": 127, "fork": 41, "read_fail": 89, "write_fail": 97}

COLUMNS = {
    "read": ["read_calls"], "write": ["write_calls"], "wbytes": ["write_bytes"], "unlink": ["unlink_calls"],
    "new": ["processes_created", "threads_created"],
    "err": [
        "open_errors", "close_errors", "read_errors", "write_errors", "unlink_errors", "processes_failed",
        "threads_failed",
    ],
}  # fmt: skip
"""What each column counts."""


def get(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=30) as answer:
        return bytes(answer.read())


def test_the_json_of_processes_adds_up_to_the_workload_and_to_the_totals(workload: Path, tmp_path: Path) -> None:
    (port,) = free_ports(1)
    busy, groups, url = tmp_path / NAME, tmp_path / "groups.conf", f"http://127.0.0.1:{port}"
    shutil.copy(workload, busy)
    groups.write_text(f"busy: {NAME}\n")
    # an interval of three seconds: whoever asks several times a second misses none, however busy the machine is
    daemon = Daemon(
        tmp_path, [{"type": "http_json", "port": port}], f'[ebpfmon]\ninterval = 3\n[groups]\nfile = "{groups}"\n'
    )
    with daemon.running("--load-mode", "return"):
        until(lambda: get(f"{url}/readyz"), "ready")
        seen: dict[float, list[dict[str, Any]]] = {}

        def ask(tgid: int) -> int:
            """Once more; how many intervals have been seen."""
            answer = json.loads(get(f"{url}/api/v1/processes?sort=read&top=1000&group=busy"))
            seen[answer["time"]] = [p for p in answer["processes"] if p["tgid"] == tgid]
            return len(seen)

        ask(0)
        tgid = work(busy, tmp_path, PLAN)
        until(lambda: ask(tgid) and any(seen.values()), "the workload")
        begun = len(seen)
        until(lambda: ask(tgid) > begun, "the next interval, as its end may be in there")
        found = [p for of_time in seen.values() for p in of_time]
        assert {p["comm"] for p in found} == {NAME}
        assert {p["groups"]["application"] for p in found} == {"busy"}
        wanted = counts_of(PLAN)
        for column, counters in COLUMNS.items():
            amounts = sum(p["amounts"].get(column, 0) for p in found)
            # before execve(2) it was a fork of this process: same number, same start
            assert 0 <= amounts - sum(wanted[c] for c in counters) <= (16 if column == "read" else 4), column
        whole = json.loads(get(f"{url}/api/v1/processes?top=1000"))
        assert whole["found"] == len(whole["processes"])
        families = {f.name for f in text_string_to_metric_families(get(f"{url}/metrics").decode())}
        assert "ebpfmon_build_info" in families
        daemon.stop()
