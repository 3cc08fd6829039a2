"""The original StatsD daemon (npm's `statsd`), and the values that it must have according to ebpfmon's JSON log."""

from __future__ import annotations

import re
import socket
import subprocess
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.sinks.support import ROOT, Lines, Number, free_ports, numbers_of, program, until

STATS_JS = ROOT / "build" / "npm" / "node_modules" / "statsd" / "stats.js"
LOOPBACKS = {"4": "127.0.0.1", "6": "::1"}
Namer = Callable[[Number], str]


class Etsy:
    """A running StatsD daemon. It listens on both loopback addresses with both protocols.

    It never flushes, so its counters only grow.
    """

    def __init__(self, process: subprocess.Popen[bytes], port: int, admin: int) -> None:
        self._process, self.port, self._admin = process, port, admin

    def ask(self, command: str) -> dict[str, float]:
        """Send the command `counters` or `gauges`, and parse the answer, which is printed like an object in node."""
        answer = b""
        with socket.create_connection(("127.0.0.1", self._admin), 30) as end:
            end.sendall(f"{command}\n".encode())
            while not answer.endswith(b"END\n\n"):
                part = end.recv(1 << 16)
                assert part
                answer += part
        found = re.findall(r"^\s*\{?\s*'?([^':\s]+)'?: (-?[\d.e+-]+)[, }]*$", answer.decode(), re.M)
        return {name: float(number) for name, number in found}

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()


@contextmanager
def etsy(where: Path, port: int | None = None) -> Iterator[Etsy]:
    """Run a StatsD daemon. Yields it when it answers."""
    node = program("node", "nodejs")
    if not STATS_JS.exists():  # tools/setup has printed the reason
        pytest.fail(f"'{STATS_JS}' does not exist: run make ready-test")
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
    """Return how many datagrams to a port the kernel dropped because the receive buffer was full."""
    lines = [line.split() for name in ("udp", "udp6") for line in Path("/proc/net", name).read_text().splitlines()[1:]]
    return sum(int(line[-1]) for line in lines if int(line[1].rpartition(":")[2], 16) == port)


def clean(text: str) -> str:
    return re.sub(r"[^a-z0-9_.-]", "_", text.lower())


def names(prefix: str, tags: str = "none") -> Namer:
    """Return a function that returns the name of a number in etsy's daemon.

    The daemon reads Datadog's tags like Graphite's.
    """

    def name(of: Number) -> str:
        metric = f"{prefix}.{clean(of.chart['id'])}"
        if tags == "none":
            parts = [of.joined_names, *of.column] if of.labels else of.column
            return ".".join([metric, *(clean(part).replace(".", "_") for part in parts)])
        pairs = [*zip(of.chart["labels"], of.names, strict=True), *(("dimension", text) for text in of.column)]
        return ";".join([metric, *(f"{key}={clean(text)}" for key, text in pairs)])

    return name


def summed(lines: Lines, name: Namer) -> dict[str, float]:
    """Return the sums of counters by name, without those that were always 0."""
    sums: dict[str, float] = defaultdict(float)
    for number in all_numbers(lines):
        if number.amount and not number.is_gauge:
            sums[name(number)] += number.amount
    return dict(sums)


def gauges(lines: Lines, name: Namer) -> dict[str, float]:
    """Return the last value of each gauge by name."""
    return {name(number): number.amount for number in all_numbers(lines) if number.is_gauge}


def all_numbers(lines: Lines) -> Iterator[Number]:
    return (number for line in lines for number in numbers_of(line))


def with_prefix(prefix: str, found: Mapping[str, float]) -> dict[str, float]:
    return {name: value for name, value in found.items() if name.startswith(f"{prefix}.")}
