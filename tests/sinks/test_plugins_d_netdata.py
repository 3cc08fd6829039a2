"""The plugins_d sink against the real Netdata: it shows what the JSON log says, before and after either is killed.

Needs root (the daemon loads programs into the kernel). `EBPFMON_LONG_TESTS=1`: a minute instead of 25 seconds.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from ebpfmon.registry import discover
from ebpfmon_sinks import install_netdata
from ebpfmon_sinks.plugins_d_stream import dimension_id
from tests.sinks.plugins_d_values import check

ROOT = Path(__file__).parents[2]
WATCHED_S = 60 if os.environ.get("EBPFMON_LONG_TESTS") else 25
AFTER_RESTART_S = 8
LIMIT_S = 30.0
CONFIG = """\
[global]
run as user = {user}
process scheduling policy = keep
OOM score = keep
[directories]
config = {where}/etc
stock config = {where}/etc
cache = {where}/cache
lib = {where}/lib
log = {where}/log
web = {where}/web
home = {where}
registry = {where}/registry
plugins = "{where}/plugins"
[db]
mode = ram
retention = 600
update every = 1
[web]
bind to = 127.0.0.1:{port}
[plugins]
proc = no
diskspace = no
cgroups = no
tc = no
idlejitter = no
timex = no
checks = no
statsd = no
netdata monitoring = no
[health]
enabled = no
[ml]
enabled = no
[registry]
enabled = no
[cloud]
enabled = no
"""
SETTINGS = """\
[[sinks]]
type = "plugins_d"
socket = "{socket}"
[[sinks]]
type = "log"
format = "json"
path = "{log}"
"""


@pytest.fixture(scope="module", autouse=True)
def netdata_program() -> str:
    """The real one; where it is missing, it is installed."""
    if os.geteuid() != 0:
        pytest.skip("the daemon, whose Netdata this is, needs root")
    if not shutil.which("netdata"):
        command = ["apt-get", "install", "-y", "--no-install-recommends", "netdata-core"]
        done = None
        if shutil.which("apt-get"):
            done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
        if not done or done.returncode:
            pytest.skip(f"Netdata is not to be had: {done.stderr.strip()[-200:] if done else 'no apt-get'}")
    found = shutil.which("netdata")
    assert found
    return found


def until(condition: Callable[[], Any], what: str) -> Any:
    end = time.monotonic() + LIMIT_S
    while time.monotonic() < end:
        with suppress(OSError, ValueError, KeyError):
            if found := condition():
                return found
        time.sleep(0.1)
    raise AssertionError(f"in vain: {what}")


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@dataclass
class Place:
    """A directory for all, that user netdata can reach; what runs there."""

    where: Path
    port: int
    netdata: subprocess.Popen[bytes] | None = None
    daemon: subprocess.Popen[bytes] | None = None
    runs: int = 0

    @property
    def socket(self) -> Path:
        return self.where / "run" / "ebpfmon" / "plugins.d.sock"

    @property
    def log(self) -> Path:
        return self.where / f"log{self.runs}.json"

    def start_netdata(self) -> None:
        with (self.where / "netdata.out").open("ab") as out:
            self.netdata = subprocess.Popen(
                ["netdata", "-D", "-c", self.where / "etc/netdata.conf", "-P", self.where / "run/netdata.pid"],
                env={**os.environ, "EBPFMON_SOCKET": str(self.socket)}, stdout=out, stderr=out,
            )  # fmt: skip

    def start_daemon(self) -> None:
        """With a log of its own."""
        self.runs += 1
        settings = self.where / "ebpfmon.toml"
        settings.write_text(SETTINGS.format(socket=self.socket, log=self.log))
        with (self.where / "daemon.out").open("ab") as out:
            self.daemon = subprocess.Popen(
                [sys.executable, "-m", "ebpfmon", "run", "--load-mode", "return", "--config", settings],
                cwd=ROOT, stdout=out, stderr=out,
            )  # fmt: skip

    def get(self, path: str) -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/api/v1/{path}", timeout=LIMIT_S) as answer:
            return str(answer.read().decode())

    def json(self, path: str) -> Any:
        return json.loads(self.get(path))

    def snapshots(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.log.read_text().splitlines(keepends=True) if line.endswith("\n")]

    def error_log(self) -> list[str]:
        return (self.where / "log" / "error.log").read_text(errors="replace").splitlines()

    def stop(self) -> None:
        for process in (self.netdata, self.daemon):
            if process:
                process.terminate()
                try:
                    process.wait(10)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()


@contextmanager
def place(user: str) -> Iterator[Place]:
    where = Path(tempfile.mkdtemp(prefix="plugins_d-"))
    made = Place(where, free_port())
    try:
        for name in ("etc", "cache", "lib", "log", "web", "run", "plugins", "registry"):
            (where / name).mkdir()
        (where / "etc/netdata.conf").write_text(CONFIG.format(user=user, where=where, port=made.port))
        for path in (where, *where.iterdir()):
            shutil.chown(path, user, user)
            path.chmod(0o755)
        yield made
    finally:
        made.stop()
        shutil.rmtree(where)


@contextmanager
def something_to_see(where: Path) -> Iterator[None]:
    """Files are read, connections made; after a while a program comes that was not there before."""
    stop, late = threading.Event(), where / "postgres"
    shutil.copy("/bin/cat", late)

    def work() -> None:
        with socket.create_server(("127.0.0.1", 0)) as server:
            turn = 0
            while not stop.wait(0.15):
                turn += 1
                for _ in range(10 + 7 * (turn % 5)):
                    (where / "etc/netdata.conf").read_bytes()
                with socket.create_connection(server.getsockname()) as caller, server.accept()[0] as called:
                    caller.sendall(b"x" * 1000 * turn)
                    called.recv(1 << 20)
                if turn > 60:
                    subprocess.run([late, where / "etc/netdata.conf"], stdout=subprocess.DEVNULL, check=True)

    worker = threading.Thread(target=work)
    worker.start()
    try:
        yield
    finally:
        stop.set()
        worker.join()


def check_declared(place: Place) -> None:
    charts, snapshot = place.json("charts")["charts"], place.snapshots()[-1]
    priorities = {c.id: c.priority for p in discover().probes.values() for c in p.charts}
    assert {*charts} == {c["id"] for c in snapshot["charts"] if c["dimensions"]}
    for chart in snapshot["charts"]:
        has = charts[chart["id"]]
        assert has["title"] == f"{chart['title']} ({chart['id']})"  # as Netdata shows all titles
        assert (has["units"], has["family"], has["context"]) == (chart["units"], chart["family"], chart["id"])
        assert has["chart_type"] == ("line" if chart["scope"] == "system" else "stacked")
        assert (has["plugin"], has["module"], has["update_every"]) == ("ebpfmon", chart["family"], 1)
        assert has["priority"] == priorities.get(chart["id"], has["priority"])
        if chart["scope"] == "system":
            names = {dimension_id(d["id"]): d["name"] for d in chart["dimensions"]}
            assert {id_: d["name"] for id_, d in has["dimensions"].items()} == names


def complaints(place: Place) -> list[str]:
    """Of Netdata, about us."""
    usual = re.compile(r"ebpfmon\.plugin: |INFO +: PLUGINSD\[ebpfmon\] : (thread created|set name|connected to)")
    return [line for line in place.error_log() if "ebpf" in line.lower() and not usual.search(line)]


def has_data_since(place: Place, when_s: float) -> bool:
    last = place.json("data?chart=ebpf.io&after=-3&format=json&options=seconds")["data"]
    return any(row[0] > when_s + 2 and row[1] is not None for row in last)


@pytest.mark.timeout(300)
def test_netdata_shows_what_was_counted_and_goes_on_when_the_daemon_or_netdata_is_killed() -> None:
    with place("netdata") as at:
        install_netdata.install(directory=at.where / "plugins", say=lambda line: None)
        at.start_netdata()
        at.start_daemon()
        with something_to_see(at.where):
            until(lambda: has_data_since(at, 0), "first data")
            dimensions, numbers, points = check(at, WATCHED_S)
            print(f"{dimensions} dimensions, {numbers} numbers and {points} points in {WATCHED_S} s")
            assert min(numbers, points) > 100 * (WATCHED_S - 5)
            check_declared(at)
            assert complaints(at) == []

            assert at.daemon
            at.daemon.send_signal(signal.SIGKILL)
            at.daemon.wait()
            killed_s = time.time()
            at.start_daemon()
            until(lambda: has_data_since(at, killed_s), "data after the daemon was killed")
            print(f"data {time.time() - killed_s:.1f} s after the daemon was killed")
            check(at, AFTER_RESTART_S)
            check_declared(at)
            assert complaints(at) == []
            assert len([line for line in at.error_log() if "PLUGINSD[ebpfmon] : connected to" in line]) == 1

            assert at.netdata
            at.netdata.send_signal(signal.SIGKILL)
            at.netdata.wait()
            killed_s = time.time()
            until(lambda: "a relay has gone" in (at.where / "daemon.out").read_text(), "the relay ends with Netdata")
            at.start_netdata()
            until(lambda: has_data_since(at, killed_s), "data after Netdata was killed")
            check(at, AFTER_RESTART_S)
            check_declared(at)
            assert complaints(at) == []


@pytest.mark.timeout(120)
def test_netdata_can_run_the_daemon_itself() -> None:
    """As root, with the protocol on stdout; told to stop, it is gone with all that it has in the kernel."""
    with place("root") as at:
        settings, plugin = at.where / "ebpfmon.toml", at.where / "plugins" / "ebpfmon.plugin"
        settings.write_text('[[sinks]]\ntype = "plugins_d"\nsocket = "-"\n')
        plugin.write_text(
            f"#!/bin/sh\necho $$ > {at.where}/pid\ncd {ROOT}\n"
            f"exec {sys.executable} -m ebpfmon run --interval $1 --config {settings}\n"
        )
        plugin.chmod(0o755)
        at.start_netdata()
        until(lambda: has_data_since(at, 0), "first data")
        daemon = Path("/proc", (at.where / "pid").read_text().strip())
        assert daemon.exists()
        assert [line for line in complaints(at) if "ERROR" in line] == []
        assert at.netdata
        at.netdata.terminate()
        assert at.netdata.wait(20) == 0
        until(lambda: not daemon.exists(), "the daemon ends with Netdata")
