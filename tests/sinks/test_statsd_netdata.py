"""The StatsD sink against Netdata's own StatsD server (Debian's netdata-core), read back by its HTTP API."""

from __future__ import annotations

import re
import shutil
import subprocess
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

import pytest

from tests.sinks.test_statsd_etsy import Sink, daemon, free_ports, levels, names, of, summed, traffic, until

SETTINGS = """
[global]
    run as user = root
    process scheduling policy = keep
    OOM score = keep
[directories]
    config = {where}
    stock config = {where}
    cache = {where}
    lib = {where}
    log = {where}
    web = {where}
    home = {where}
    plugins = "{where}"
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
    statsd = yes
    netdata monitoring = no
    enable running new plugins = no
[statsd]
    bind to = udp:127.0.0.1:{port} tcp:127.0.0.1:{port} udp:[::1]:{port} tcp:[::1]:{port}
    update every (flushInterval) = 1
    max private charts hard limit = 20000
[health]
    enabled = no
[ml]
    enabled = no
[registry]
    enabled = no
"""


class Netdata:
    """A running daemon."""

    def __init__(self, web: int) -> None:
        self._url = f"http://127.0.0.1:{web}/api/v1/allmetrics?format=prometheus&source=as-collected"

    def is_there(self) -> bool:
        """Whether it answers."""
        with suppress(OSError):
            self.ask("counter")
            return True
        return False

    def ask(self, type_: str) -> dict[str, float]:
        """`counter` or `gauge`: the value of each metric as it was collected, not as it is shown."""
        with urllib.request.urlopen(self._url, timeout=5) as answer:
            text = answer.read().decode()
        found = re.findall(rf'\{{chart="statsd_([^"]+)_{type_}",.*\}} (-?\d+)', text)
        return {name: float(number) / (1000 if type_ == "gauge" else 1) for name, number in found}


@contextmanager
def netdata(where: Path, port: int) -> Iterator[Netdata]:
    program = shutil.which("netdata", path="/usr/sbin:/usr/bin:/opt/netdata/bin")
    if not program:
        pytest.skip("no netdata: apt-get install netdata-core")
    (web,) = free_ports(1)
    settings = where / "netdata.conf"
    settings.write_text(SETTINGS.format(where=where, web=web, port=port))
    command = [program, "-D", "-c", str(settings), "-P", str(where / "netdata.pid")]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            running = Netdata(web)
            until(running.is_there)
            yield running
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()


def test_netdata_has_counted_exactly_what_the_log_says_by_both_protocols(tmp_path: Path) -> None:
    (port,) = free_ports(1)
    sinks: list[Sink] = [
        {"type": "statsd", "name": name, "prefix": name, "protocol": name[:3], "host": host, "port": port}
        for name, host in (("udp4", "127.0.0.1"), ("tcp4", "127.0.0.1"), ("udp6", "::1"), ("tcp6", "::1"))
    ]
    with netdata(tmp_path, port) as server, daemon(tmp_path, sinks) as running:
        with traffic(6):
            pass
        lines = running.stop()
        for sink in sinks:
            name = names(str(sink["prefix"]), "none")
            counted, levelled = summed(lines, name), levels(lines, name)
            assert len(counted) > 50
            # it shows what it has at its own seconds
            until(partial(_has, server, "counter", str(sink["prefix"]), counted), 10)
            until(partial(_has, server, "gauge", str(sink["prefix"]), levelled), 10)


def _has(server: Netdata, type_: str, prefix: str, expected: Mapping[str, float]) -> bool:
    return of(prefix, server.ask(type_)) == expected
