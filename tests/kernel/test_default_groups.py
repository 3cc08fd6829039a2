"""The groups file that ebpfmon comes with covers what runs on a server."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from tests.kernel import servers
from tests.kernel.support import Monitor
from tests.kernel.test_applications import assert_it_adds_up

CALLS = ("open_calls", "close_calls", "read_calls", "write_calls", "unlink_calls")
WANTED = {"nginx", "postgres", "redis", "python", "compilers", "build"}


@pytest.mark.timeout(300)
def test_less_than_five_percent_of_a_busy_servers_calls_are_in_other(tmp_path: Path) -> None:
    missing = [p for p in (servers.NGINX, servers.REDIS, "pgbench", "ab", "make") if not shutil.which(p)]
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)}")
    with Monitor({"groups": {"by": ["application"]}}) as monitor:
        for number, server in enumerate(servers.SERVERS):
            with server(_directory(tmp_path, f"server{number}")) as started:
                started.load()
        servers.python(_directory(tmp_path, "python"))
        servers.compiler(_directory(tmp_path, "compiler"))
        seen = len(monitor.snapshots)
        monitor.until(lambda: len(monitor.snapshots) > seen + 1)
    assert_it_adds_up(monitor.snapshots)
    calls: Counter[str] = Counter()
    for snapshot in monitor.snapshots:
        table = snapshot.tables["process"]
        rows, groups = table.harvest.rows, table.groups["application"]
        for group in np.unique(groups.ids).tolist():
            own = rows[groups.ids == group]
            calls[groups.names.get(group, "other")] += sum(int(own[counter].sum()) for counter in CALLS)
    assert {name for name in WANTED if calls[name] > 100} == WANTED
    assert calls["other"] < 0.05 * calls.total(), calls


def _directory(parent: Path, name: str) -> Path:
    """Make a directory that servers running as other users can enter, and let them enter its parents."""
    made = parent / name
    made.mkdir()
    for path in (made, *made.parents):
        if path.stat().st_mode & 0o011 != 0o011:
            path.chmod(path.stat().st_mode | 0o011)
    return made
