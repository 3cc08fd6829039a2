"""The plugins_d sink and a real Netdata: one of them is killed, or Netdata runs the daemon."""

from __future__ import annotations

import signal
import sys
import time
from pathlib import Path

import pytest

from tests.sinks.netdata import Netdata, netdata
from tests.sinks.plugins_d_values import compare, poll
from tests.sinks.support import ROOT, Daemon, traffic, until

AFTER_RESTART_S = 8


def check(at: Netdata, daemon: Daemon) -> None:
    """Check for some seconds that Netdata has what the daemon logs, and that it logs no problem."""
    polls = poll(at, AFTER_RESTART_S)
    seen = len(daemon.lines())
    until(lambda: len(daemon.lines()) > seen + 1, "the next snapshots, which Netdata needs to show the last ones")
    print(compare(at, polls, daemon.lines()))
    assert at.complaints() == []


@pytest.mark.timeout(300)
def test_after_the_daemon_or_netdata_was_killed_data_continues(tmp_path: Path) -> None:
    with netdata("netdata") as at:
        at.install_relay()
        first, second = (Daemon(tmp_path, [{"type": "plugins_d", "socket": str(at.socket)}], name=n) for n in "ab")
        at.start()
        with traffic(tmp_path):
            with first.running():
                until(lambda: at.has_data_since(0), "first data")
            killed_s = time.time()  # with SIGKILL, so its socket still exists
            assert at.socket.exists()
            with second.running():
                until(lambda: at.has_data_since(killed_s), "data after the daemon was killed")
                print(f"data {time.time() - killed_s:.1f} s after the daemon was killed")
                check(at, second)
                assert len([line for line in at.error_log() if "PLUGINSD[ebpfmon] : connected to" in line]) == 1

                assert at.process
                at.process.send_signal(signal.SIGKILL)
                at.process.wait()
                killed_s = time.time()
                until(lambda: "a relay has disconnected" in second.output(), "the relay ends with Netdata")
                at.start()
                until(lambda: at.has_data_since(killed_s), "data after Netdata was killed")
                check(at, second)
                second.stop()


@pytest.mark.timeout(180)
def test_netdata_can_run_the_daemon_itself() -> None:
    """Netdata runs the daemon as root, with the protocol on stdout. The daemon ends with Netdata."""
    with netdata("root") as at:
        settings, plugin = at.where / "ebpfmon.toml", at.where / "plugins" / "ebpfmon.plugin"
        settings.write_text('[[sinks]]\ntype = "plugins_d"\nsocket = "-"\n')
        plugin.write_text(
            f"#!/bin/sh\necho $$ > {at.where}/pid\ncd {ROOT}\n"
            f"exec {sys.executable} -m ebpfmon run --interval $1 --config {settings}\n"
        )
        plugin.chmod(0o755)
        at.start()
        until(lambda: at.has_data_since(0), "first data")
        daemon = Path("/proc", (at.where / "pid").read_text().strip())
        assert daemon.exists()
        assert [line for line in at.complaints() if "ERROR" in line] == []
        assert at.process
        at.process.terminate()
        assert at.process.wait(20) == 0
        until(lambda: not daemon.exists(), "the daemon ends with Netdata")
