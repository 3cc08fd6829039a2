"""The capabilities that the daemon's threads keep when everything is attached."""

from __future__ import annotations

import re
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from ebpfmon.kernel.capabilities import NAMES
from tests.kernel.support import EBPFMON, PLAN, Monitor, assert_counts, expected_counts, require_open_tree, run_workload

THREADS = ("daemon", "harvest", "lookup", "loading", "opening", "asyncio")
MAP_CAPABILITIES = {"bpf", "sys_admin"}  # Needed before Linux 5.19.


def capabilities_of(status: str) -> set[str]:
    """Return the permitted capabilities in the text of a /proc status file."""
    match = re.search(r"^CapPrm:\s*(\w+)", status, re.M)
    assert match
    return {name for bit, name in enumerate(NAMES) if int(match[1], 16) >> bit & 1}


def thread_capabilities() -> dict[str, set[str]]:
    """Return the capabilities of each thread of a daemon in this process, by the beginning of its name."""
    names = {thread.native_id: thread.name.partition("_")[0] for thread in threading.enumerate()}
    return {
        name: capabilities_of(Path(f"/proc/self/task/{number}/status").read_text())
        for number, name in names.items()
        if name in THREADS
    }


def wait_until(holds: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_each_thread_keeps_only_what_it_needs_and_a_reload_still_loads_programs(workload: Path, tmp_path: Path) -> None:
    settings = {"ebpfmon": {"load_mode": "return"}, "groups": {"by": ["process"]}, "sinks": []}
    with Monitor(settings) as monitor:
        monitor.until(lambda: not thread_capabilities()["daemon"])
        before = thread_capabilities()
        assert before["harvest"] <= MAP_CAPABILITIES
        assert before["lookup"] <= {"sys_ptrace"}
        assert before["loading"] <= {"bpf", "perfmon", "sys_ptrace"}
        seen = len(monitor.snapshots)
        monitor.reload({**settings, "plugins": {"network_viewer": {"enabled": False}, "process": {"table_size": 512}}})
        monitor.until(lambda: monitor.harvests()[-1].capacity == 512 and len(monitor.snapshots) > seen)
        tgid = run_workload(workload, tmp_path, PLAN)
        monitor.until_gone(lambda: np.array([tgid]), 38)
        assert thread_capabilities() == before
    assert_counts(monitor.of(tgid), expected_counts(PLAN))


def test_a_reload_can_enable_every_probe() -> None:
    charts = ("ebpf.block_io", "ebpf.oom", "ebpf.syscalls")
    settings = {"ebpfmon": {}, "groups": {"by": ["process"]}, "sinks": []}
    with Monitor(settings) as monitor:
        monitor.until(lambda: not thread_capabilities()["daemon"])
        assert not any(monitor.charts(chart) for chart in charts)
        enabled = {name: {"enabled": True} for name in ("block_io", "oom_and_signals", "syscalls")}
        monitor.reload({**settings, "plugins": enabled})
        monitor.until(lambda: all(monitor.charts(chart) for chart in charts))


def test_as_another_user_the_daemon_counts_and_reloads_its_settings(tmp_path: Path) -> None:
    require_open_tree("nobody")
    tmp_path.chmod(0o755)
    for parent in tmp_path.parents[:2]:  # Only this user may enter pytest's folders.
        parent.chmod(0o711)
    file, log = tmp_path / "ebpfmon.toml", tmp_path / "log"
    log.touch()
    log.chmod(0o666)
    text = f'[ebpfmon]\nuser = "nobody"\n[[sinks]]\ntype = "log"\nformat = "json"\npath = "{log}"\n'
    file.write_text(text)
    command = [*EBPFMON, "run", "--config", str(file)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            threads = Path(f"/proc/{process.pid}/task")

            def statuses() -> list[str]:
                return [path.read_text() for path in threads.glob("*/status")]

            wait_until(lambda: log.stat().st_size > 0 and not capabilities_of((threads.parent / "status").read_text()))
            for status in statuses():
                assert re.search(r"^Uid:\t65534\t65534\t65534\t65534$", status, re.M)
                assert capabilities_of(status) <= MAP_CAPABILITIES | {"bpf", "perfmon", "sys_ptrace"}
                assert "NoNewPrivs:\t1" in status
            file.write_text(text.replace('"nobody"', '"nobody"\nload_mode = "return"'))
            process.send_signal(signal.SIGHUP)
            wait_until(lambda: '"ebpf.io_error"' in log.read_text())
            file.write_text(text.replace("nobody", "root"))
            process.send_signal(signal.SIGHUP)
            assert process.stderr
            last = next(line for line in process.stderr if "cannot reload" in line)
            assert "ebpfmon.user changed: restart ebpfmon to apply it" in last
        finally:
            process.terminate()
            process.wait(10)


def test_an_unknown_user_is_a_settings_error(tmp_path: Path) -> None:
    file = tmp_path / "ebpfmon.toml"
    file.write_text('[ebpfmon]\nuser = "no-such-user"\n')
    command = [*EBPFMON, "run", "--config", str(file), "--for", "1"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stderr.splitlines()[-1]) == (
        2,
        "ebpfmon: cannot change to user 'no-such-user': there is no such user",
    )
