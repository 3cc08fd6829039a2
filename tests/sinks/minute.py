"""Run one daemon for a minute with Netdata, etsy's StatsD, Netdata's StatsD, Prometheus and two logs."""

from __future__ import annotations

import json
import os
import shutil
import threading
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import pytest

from tests.kernel.support import counts_of, run_workload
from tests.sinks.etsy import LOOPBACKS, Etsy, etsy
from tests.sinks.netdata import Netdata, netdata
from tests.sinks.plugins_d_values import Poll, poll
from tests.sinks.prometheus import Prometheus, prometheus
from tests.sinks.support import Daemon, Lines, Sink, free_ports, traffic, until

T = TypeVar("T")
WATCHED_S = 60
EVERY_S = 9
"""Seconds between two runs of the workload."""
NAME = f"busy-{os.getpid()}"
"""The name of the workload. It is unique, because other tests may run a workload at the same time."""
GROUPS = f"busy: {NAME}\nshells: sh cat\nlate: postgres\n"
PLAN = {"open": 1009, "read": 2003, "write": 1511, "unlink": 127, "fork": 41, "read_fail": 89, "write_fail": 97}
COUNTERS = {
    "ebpfmon_apps_file_open_calls_total": "open_calls", "ebpfmon_apps_file_closed_calls_total": "close_calls",
    "ebpfmon_apps_vfs_read_calls_total": "read_calls", "ebpfmon_apps_vfs_read_bytes_total": "read_bytes",
    "ebpfmon_apps_vfs_write_calls_total": "write_calls", "ebpfmon_apps_vfs_write_bytes_total": "write_bytes",
    "ebpfmon_apps_vfs_read_error_calls_total": "read_errors", "ebpfmon_apps_file_deleted_calls_total": "unlink_calls",
    "ebpfmon_apps_process_create_calls_total": "processes_created",
}  # fmt: skip
# name: protocol, host, tags. etsy's daemon reads Datadog's tags like Graphite's.
TO_ETSY = {
    "udp4": ("udp", LOOPBACKS["4"], "none"), "tcp4": ("tcp", LOOPBACKS["4"], "none"),
    "udp6": ("udp", LOOPBACKS["6"], "none"), "tcp6": ("tcp", LOOPBACKS["6"], "none"),
    "datadog": ("udp", "localhost", "datadog"), "graphite": ("tcp", "localhost", "graphite"),
}  # fmt: skip
# No "_" before a dot, because Netdata replaces it by a dot.
TO_NETDATA = {"ndudp": ("udp", LOOPBACKS["4"], "none"), "ndtcp": ("tcp", LOOPBACKS["6"], "none")}
# Leave out the charts by destination, because Netdata creates a chart for every counter.
FOR_NETDATA = ["ebpf.*", "apps.*", "!ebpf.outbound_*", "!ebpf.inbound_*"]


@dataclass(frozen=True)
class Minute:
    """The results. The daemon has ended, and the servers still run. A string says why a server does not run."""

    netdata: Netdata | str
    etsy: Etsy | str
    prometheus: Prometheus | str
    daemon: Daemon
    sinks: tuple[str, ...]
    lines: Lines
    fives: Lines
    """The lines of a log with an interval of five seconds."""
    polls: Sequence[Poll]
    counted_once: Mapping[str, float]
    """The counters of the workload in Prometheus after its first run."""
    runs: int
    """How often the workload ran after that."""
    measured: tuple[float, float]
    """The end of these runs in Prometheus' time, and their duration in seconds."""
    metrics: bytes


def require(server: T | str) -> T:
    """Return a server. Skip the test if it does not run."""
    if isinstance(server, str):
        pytest.skip(server)
    return server


@contextmanager
def watched(workload: Path, where: Path) -> Iterator[Minute]:
    """Run everything, which takes a little more than a minute."""
    groups, busy = where / "groups.conf", where / NAME
    groups.write_text(GROUPS)
    shutil.copy(workload, busy)
    (port,) = free_ports(1)
    with ExitStack() as servers:
        nd = _started(servers, netdata("netdata", statsd=True))
        statsd = _started(servers, etsy(where))
        if isinstance(nd, Netdata):
            nd.install_relay()
            nd.start()
        sinks = [*_sinks(nd, statsd), {"type": "http_json", "port": port}, _five_second_log(where)]
        settings = f'[groups]\nfile = "{groups}"\n[plugins.network_viewer]\nips = "*"\n'
        daemon = servers.enter_context(Daemon(where, sinks, settings).running("--load-mode", "return"))
        prom = _started(servers, prometheus(where, f"127.0.0.1:{port}"))
        run_workload(busy, where, PLAN)  # Its series must exist before the measurement.
        counted_once = until(lambda: _counted(prom, {}, 1), "the workload's series")
        until(lambda: isinstance(nd, str) or nd.has_data_since(0), "Netdata's first data")
        begun = time.time()
        with traffic(where):
            runs, polls = _watch(nd, busy, where)
        until(lambda: _counted(prom, counted_once, runs), "the last run of the workload")
        end = time.time()
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30) as answer:
            metrics = answer.read()
        lines = daemon.stop()
        fives = [json.loads(line) for line in (where / "fives.json").read_text().splitlines()]
        yield Minute(
            nd, statsd, prom, daemon, ("log", *(s.get("name", s["type"]) for s in sinks)), lines, fives, polls,
            counted_once, runs, (end, float(round(end - begun))), metrics,
        )  # fmt: skip


def _started(servers: ExitStack, server: AbstractContextManager[T]) -> T | str:
    """Start a server. Return it, or the reason why it cannot run."""
    try:
        return servers.enter_context(server)
    except pytest.skip.Exception as reason:
        return str(reason)


def _sinks(nd: Netdata | str, statsd: Etsy | str) -> list[Sink]:
    sinks: list[Sink] = []
    if not isinstance(nd, str):
        sinks += [{"type": "plugins_d", "socket": str(nd.socket)}]
        sinks += [_statsd(name, nd.statsd, *how) | {"charts": FOR_NETDATA} for name, how in TO_NETDATA.items()]
    if not isinstance(statsd, str):
        sinks += [_statsd(name, statsd.port, *how) for name, how in TO_ETSY.items()]
    return sinks


def _statsd(name: str, port: int, protocol: str, host: str, tags: str) -> dict[str, object]:
    return {
        "type": "statsd", "name": name, "prefix": name, "protocol": protocol, "host": host, "port": port, "tags": tags,
    }  # fmt: skip


def _five_second_log(where: Path) -> Sink:
    return {"type": "log", "name": "fives", "format": "json", "path": str(where / "fives.json"), "interval": 5}


def _watch(nd: Netdata | str, busy: Path, where: Path) -> tuple[int, list[Poll]]:
    """Wait for a minute. Return how often the workload ran, and what Netdata collected."""
    stop, runs = threading.Event(), [0]

    def run_now_and_then() -> None:
        while not stop.wait(EVERY_S):
            run_workload(busy, where, PLAN)
            runs[0] += 1

    worker = threading.Thread(target=run_now_and_then)
    worker.start()
    polls: list[Poll] = []
    try:
        if isinstance(nd, str):
            time.sleep(WATCHED_S)
        else:
            polls = poll(nd, WATCHED_S)
    finally:
        stop.set()
        worker.join()
    return runs[0], polls


def _counted(prom: Prometheus | str, since: Mapping[str, float], times: int) -> dict[str, float]:
    """Return the workload's counters in Prometheus, or nothing if they do not include `times` more runs yet."""
    if isinstance(prom, str):
        return dict.fromkeys(COUNTERS, 0.0)
    found = {metric: prom.ask(f'{metric}{{application="busy"}}') for metric in COUNTERS}
    values = {metric: float(series[0]["value"][1]) for metric, series in found.items() if series}
    expected = counts_of(PLAN)
    enough = all(values.get(m, -1) >= since.get(m, 0) + times * expected[c] for m, c in COUNTERS.items())
    return values if enough else {}
