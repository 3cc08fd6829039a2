"""Debian's Netdata, which runs the relay as its plugin, and has its own StatsD server."""

from __future__ import annotations

import itertools
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.sinks.support import ROOT, free_ports, program, until

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
bind to = 127.0.0.1:{web}
[plugins]
proc = no
diskspace = no
cgroups = no
tc = no
idlejitter = no
timex = no
checks = no
statsd = {has_statsd}
netdata monitoring = no
[statsd]
bind to = udp:127.0.0.1:{statsd} tcp:127.0.0.1:{statsd} udp:[::1]:{statsd} tcp:[::1]:{statsd}
update every (flushInterval) = 1
max private charts hard limit = 20000
[health]
enabled = no
[ml]
enabled = no
[registry]
enabled = no
[cloud]
enabled = no
"""
USUAL = re.compile(r"ebpfmon\.plugin: |INFO +: (PLUGINSD\[ebpfmon\] : (thread created|set name|connected to)|STATSD)")


class Netdata:
    """A Netdata in a directory that its user can read."""

    def __init__(self, where: Path, *, user: str, statsd: bool) -> None:
        self.where, self._program = where, program("netdata", "netdata-core")
        self.web, self.statsd = free_ports(2)
        self.process: subprocess.Popen[bytes] | None = None
        self._servers = itertools.count()
        for name in ("etc", "cache", "lib", "log", "web", "run", "plugins", "registry"):
            (where / name).mkdir()
        (where / "etc/netdata.conf").write_text(
            CONFIG.format(
                user=user, where=where, web=self.web, statsd=self.statsd, has_statsd="yes" if statsd else "no"
            )
        )
        for path in (where, *where.iterdir()):
            shutil.chown(path, user, user)
            path.chmod(0o755)
        self.socket.parent.mkdir(mode=0o755)

    @property
    def socket(self) -> Path:
        """The socket at which the relay connects to the daemon."""
        return self.where / "run" / "ebpfmon" / "plugins.d.sock"

    def install_relay(self) -> None:
        """Run `ebpfmon install netdata` on a copy that Netdata's user can read, because this tree may be in a home."""
        shutil.copytree(ROOT / "ebpfmon_sinks", self.where / "ebpfmon_sinks")
        command = [sys.executable, "-m", "ebpfmon", "install", "netdata", "--directory", str(self.where / "plugins")]
        subprocess.run(command, cwd=self.where, check=True)

    def start(self) -> None:
        with (self.where / "netdata.out").open("ab") as out:
            self.process = subprocess.Popen(
                [self._program, "-D", "-c", self.where / "etc/netdata.conf", "-P", self.where / "run/netdata.pid"],
                env={**os.environ, "EBPFMON_SOCKET": str(self.socket)}, stdin=subprocess.DEVNULL, stdout=out,
                stderr=out,
            )  # fmt: skip
        until(lambda: self.json("charts"), "Netdata answers")

    def stop(self) -> None:
        if self.process:
            self.process.terminate()
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()

    def get(self, path: str) -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.web}/api/v1/{path}", timeout=30) as answer:
            return str(answer.read().decode())

    def json(self, path: str) -> Any:
        return json.loads(self.get(path))

    def has_data_since(self, when_s: float) -> bool:
        last = self.json("data?chart=ebpf.io&after=-3&format=json&options=seconds")["data"]
        return any(row[0] > when_s + 2 and row[1] is not None for row in last)

    def collected(self) -> str:
        """Return all collected values in Prometheus' format.

        Each request has another server name, because Netdata leaves out values that a server has had before.
        """
        query = f"format=prometheus&source=as-collected&timestamps=yes&names=no&server={next(self._servers)}"
        return self.get(f"allmetrics?{query}")

    def of_statsd(self, type_: str) -> dict[str, float]:
        """Return the collected (not the shown) value of each StatsD metric of type `counter` or `gauge`."""
        text = self.collected()
        found = re.findall(rf'\{{chart="statsd_([^"]+)_{type_}",.*\}} (-?\d+)', text)
        return {name: float(number) / (1000 if type_ == "gauge" else 1) for name, number in found}

    def error_log(self) -> list[str]:
        return (self.where / "log" / "error.log").read_text(errors="replace").splitlines()

    def complaints(self) -> list[str]:
        """Return the unusual lines about ebpfmon in the error log."""
        return [line for line in self.error_log() if "ebpf" in line.lower() and not USUAL.search(line)]


@contextmanager
def netdata(user: str, *, statsd: bool = False) -> Iterator[Netdata]:
    """Yield a Netdata that is not started yet. It is stopped and removed at the end."""
    where = Path(tempfile.mkdtemp(prefix="netdata-"))
    server: Netdata | None = None
    try:
        server = Netdata(where, user=user, statsd=statsd)
        yield server
    finally:
        if server:
            server.stop()
        shutil.rmtree(where)
