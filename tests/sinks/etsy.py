"""The original StatsD daemon, npm's `statsd`, and what it must have by what ebpfmon's JSON log says."""

from __future__ import annotations

import re
import socket
import subprocess
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.sinks.support import ROOT, Lines, free_ports, program, until

STATS_JS = ROOT / "build" / "npm" / "node_modules" / "statsd" / "stats.js"
LOOPBACKS = {"4": "127.0.0.1", "6": "::1"}
Namer = Callable[[Mapping[str, Any], Mapping[str, Any]], str]


class Etsy:
    """A running daemon that flushes nothing, so that its counters only grow; it listens on both loopbacks, by both
    protocols."""

    def __init__(self, process: subprocess.Popen[bytes], port: int, admin: int) -> None:
        self._process, self.port, self._admin = process, port, admin

    def ask(self, command: str) -> dict[str, float]:
        """`counters` or `gauges`: node's own way to write an object."""
        said = b""
        with socket.create_connection(("127.0.0.1", self._admin), 30) as end:
            end.sendall(f"{command}\n".encode())
            while not said.endswith(b"END\n\n"):
                part = end.recv(1 << 16)
                assert part
                said += part
        found = re.findall(r"^\s*\{?\s*'?([^':\s]+)'?: (-?[\d.e+-]+)[, }]*$", said.decode(), re.M)
        return {name: float(number) for name, number in found}

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()


@contextmanager
def etsy(where: Path, port: int | None = None) -> Iterator[Etsy]:
    """From the moment at which it answers."""
    node = program("node", "nodejs")
    if not STATS_JS.exists():  # tools/setup has said why
        pytest.fail(f"'{STATS_JS}' is not there: make ready-test")
    admin, any_port = free_ports(2)
    port = port or any_port
    servers = ", ".join(
        f'{{server: "./servers/{protocol}", address: "{host}", address_ipv6: {str(":" in host).lower()}, port: {port}}}'
        for protocol in ("udp", "tcp")
        for host in LOOPBACKS.values()
    )
    settings = where / "etsy.js"
    settings.write_text(
        f'{{mgmt_address: "127.0.0.1", mgmt_port: {admin}, flushInterval: 3600000, '
        f'backends: ["./backends/console"], servers: [{servers}]}}\n'
    )
    with subprocess.Popen(
        [node, STATS_JS, settings], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        running = Etsy(process, port, admin)
        try:
            until(lambda: "statsd.packets_received" in running.ask("counters"), "etsy's daemon answers")
            yield running
        finally:
            process.kill()


def dropped(port: int) -> int:
    """Datagrams that found no room in the receive buffer of whoever listens at a port, as the kernel counts them."""
    lines = [line.split() for name in ("udp", "udp6") for line in Path("/proc/net", name).read_text().splitlines()[1:]]
    return sum(int(line[-1]) for line in lines if int(line[1].rpartition(":")[2], 16) == port)


def clean(text: str) -> str:
    return re.sub(r"[^a-z0-9_.-]", "_", text.lower())


def names(prefix: str, tags: str = "none") -> Namer:
    """How a dimension of the JSON log is called by etsy's daemon, which takes Datadog's tags for Graphite's."""

    def name(chart: Mapping[str, Any], dimension: Mapping[str, Any]) -> str:
        key = {"apps": "application", "keys": "destination"}.get(chart["scope"], "dimension")
        who, what = dimension["name"], ""
        if chart["scope"] == "keys" and who.endswith(("_sent", "_recv")):
            who, _, what = who.rpartition("_")
        metric = f"{prefix}.{clean(chart['id'])}"
        if tags == "none":
            return ".".join([metric, *(clean(each).replace(".", "_") for each in (who, what) if each)])
        return f"{metric};{key}={clean(who)}" + (f";dimension={clean(what)}" if what else "")

    return name


def summed(lines: Lines, name: Namer) -> dict[str, float]:
    """All that was counted, by name: what was ever other than 0."""
    sums: dict[str, float] = defaultdict(float)
    for chart, dimension in each(lines):
        if dimension.get("delta"):
            sums[name(chart, dimension)] += dimension["delta"]
    return dict(sums)


def levels(lines: Lines, name: Namer) -> dict[str, float]:
    """The last value of each level."""
    return {name(chart, dimension): dimension["value"] for chart, dimension in each(lines) if "value" in dimension}


def each(lines: Lines) -> Iterator[tuple[Mapping[str, Any], Mapping[str, Any]]]:
    return ((chart, dimension) for line in lines for chart in line["charts"] for dimension in chart["dimensions"])


def of(prefix: str, found: Mapping[str, float]) -> dict[str, float]:
    return {name: value for name, value in found.items() if name.startswith(f"{prefix}.")}
