"""The StatsD sink against the original: what etsy's daemon has counted is, to the call, what the JSON log says.

The daemon is npm's `statsd`, installed into ~/.cache/ebpfmon-servers; node and npm are needed for it.
"""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from ebpfmon import Chart, ChartValues, Dimension, Kind, Snapshot, Value
from ebpfmon_sinks.statsd import StatsdSettings

VERSION = "0.9.0"
CACHE = Path.home() / ".cache" / "ebpfmon-servers" / "statsd"
LOOPBACKS = {"4": "127.0.0.1", "6": "::1"}
Lines = Sequence[Mapping[str, Any]]
Sink = Mapping[str, str | int]
Namer = Callable[[Mapping[str, Any], Mapping[str, Any]], str]


@pytest.fixture(scope="session")
def stats_js() -> Path:
    """Etsy's daemon."""
    program = CACHE / "node_modules" / "statsd" / "stats.js"
    if not shutil.which("node") or not shutil.which("npm"):
        pytest.skip("no node or no npm")
    if not program.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        command = ["npm", "install", "--no-audit", "--no-fund", "--ignore-scripts", f"statsd@{VERSION}"]
        done = subprocess.run(command, cwd=CACHE, capture_output=True, text=True, timeout=90, check=False)
        if done.returncode:
            pytest.skip(f"npm cannot install statsd: {done.stderr.strip()[-300:]}")
    return program


class Etsy:
    """A running daemon that flushes nothing, so that its counters only grow; it listens on both loopbacks, by both
    protocols."""

    def __init__(self, process: subprocess.Popen[bytes], admin: int) -> None:
        self._process, self._admin = process, admin

    def ask(self, command: str) -> dict[str, float]:
        """`counters` or `gauges`: node's own way to write an object."""
        said = b""
        with socket.create_connection(("127.0.0.1", self._admin), 5) as end:
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
def etsy(program: Path, where: Path, port: int) -> Iterator[Etsy]:
    (admin,) = free_ports(1)
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
    with subprocess.Popen(["node", program, settings], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        running = Etsy(process, admin)
        try:
            until(lambda: "statsd.packets_received" in quiet(lambda: running.ask("counters")))
            yield running
        finally:
            process.kill()


def quiet(ask: Callable[[], dict[str, float]]) -> dict[str, float]:
    with suppress(OSError):
        return ask()
    return {}


def free_ports(count: int) -> list[int]:
    """Ports that nobody has now, by either protocol."""
    ends = [socket.socket(socket.AF_INET6, socket.SOCK_STREAM) for _ in range(count)]
    for end in ends:
        end.bind(("::", 0))
    ports = [end.getsockname()[1] for end in ends]
    for end in ends:
        end.close()
    return ports


def until(condition: Callable[[], object], seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "what was waited for did not come"
        time.sleep(0.05)


class Daemon:
    """`ebpfmon run` with these sinks, and with one that logs JSON."""

    def __init__(self, process: subprocess.Popen[str], log: Path) -> None:
        self._process, self._log = process, log

    def lines(self) -> Lines:
        if not self._log.exists():
            return []
        return [json.loads(line) for line in self._log.read_text().splitlines(keepends=True) if line.endswith("\n")]

    def errors(self, *sinks: str) -> list[float]:
        """How often each of these sinks has failed."""
        counted = summed(self.lines(), lambda chart, dimension: f"{chart['id']} {dimension['id']}")
        return [counted.get(f"ebpfmon.sinks_errors {sink}", 0) for sink in sinks]

    def stop(self) -> Lines:
        self._process.send_signal(signal.SIGTERM)
        _, errors = self._process.communicate(timeout=20)
        assert self._process.returncode == 0, errors
        assert "Traceback" not in errors
        return self.lines()


@contextmanager
def daemon(where: Path, sinks: Iterable[Sink]) -> Iterator[Daemon]:
    settings, log = where / "ebpfmon.toml", where / "ebpfmon.json"
    text = '[apps]\nby = "process"\n[plugins.network_viewer]\nips = "*"\n'
    for sink in ({"type": "log", "format": "json", "path": str(log)}, *sinks):
        text += "[[sinks]]\n" + "".join(f"{key} = {json.dumps(value)}\n" for key, value in sink.items())
    settings.write_text(text)
    command = [sys.executable, "-m", "ebpfmon", "run", "--config", str(settings)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            running = Daemon(process, log)
            until(running.lines)
            yield running
        finally:
            process.kill()


@contextmanager
def traffic(seconds: float) -> Iterator[None]:
    """Programs that start and end, files, and connections by both families, for so long."""

    def work() -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            subprocess.run(["sh", "-c", "ls -R /etc > /dev/null; cat /proc/self/status > /dev/null"], check=False)
            for host in LOOPBACKS.values():
                family = socket.AF_INET6 if ":" in host else socket.AF_INET
                with (
                    socket.create_server((host, 0), family=family) as listening,
                    socket.create_connection(listening.getsockname()[:2]) as client,
                    listening.accept()[0] as server,
                ):
                    client.sendall(b"x" * 997)
                    server.recv(997)
            time.sleep(0.02)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        thread.join()


def clean(text: str) -> str:
    return re.sub(r"[^a-z0-9_.-]", "_", text.lower())


def names(prefix: str, tags: str) -> Namer:
    """How a dimension of the JSON log is called by etsy's daemon."""

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


def test_etsy_has_counted_exactly_what_the_log_says_by_both_protocols_and_families(
    stats_js: Path, tmp_path: Path
) -> None:
    (port,) = free_ports(1)
    plain = [
        (f"{protocol}{family}", protocol, host) for protocol in ("udp", "tcp") for family, host in LOOPBACKS.items()
    ]
    tagged = [("datadog", "udp", "localhost"), ("graphite", "tcp", "localhost")]  # etsy takes both for Graphite's
    sinks: list[Sink] = [
        {"type": "statsd", "name": name, "prefix": name, "protocol": protocol, "host": host, "port": port,
         "tags": name if (name, protocol, host) in tagged else "none"}
        for name, protocol, host in plain + tagged
    ]  # fmt: skip
    with etsy(stats_js, tmp_path, port) as server, daemon(tmp_path, sinks) as running:
        with traffic(10):
            pass
        lines = running.stop()
        counters, gauges = server.ask("counters"), server.ask("gauges")
    assert len(lines) >= 10
    assert counters["statsd.bad_lines_seen"] == 0
    for sink in sinks:
        name = names(str(sink["prefix"]), str(sink["tags"]).replace("datadog", "graphite"))
        expected = summed(lines, name)
        assert len(expected) > 50
        assert of(str(sink["prefix"]), counters) == expected
        assert of(str(sink["prefix"]), gauges) == levels(lines, name)
    assert not any(summed(lines, lambda c, d: c["id"]).get(f"ebpfmon.sinks_{what}") for what in ("errors", "dropped"))
    found = summed(lines, names("x", "none"))
    assert found["x.apps.process_create.sh"] > 10
    for host in ("127_0_0_1", "___1_"):
        assert any(re.fullmatch(rf"x\.ebpf\.outbound_bytes\.\d+_tcp_{host}\.sent", name) for name in found)


NASTY = ("a b", "a:b", "a|b", "A_B", "a\nb:1|c", "x;y=z", "k,v=w", "#t:1", "|#t", "é/ü", "..", "", "v" * 300, "\0")


@pytest.mark.parametrize("tags", ["none", "datadog", "graphite"])
def test_no_name_confuses_etsy_and_a_level_below_zero_is_what_it_is(stats_js: Path, tmp_path: Path, tags: Any) -> None:
    def shown(kind: Kind, amount: float) -> ChartValues:
        dimensions = tuple(Dimension(text, text, ("f",)) for text in NASTY)
        chart = Chart(
            id=f"x.{kind}", title="T", units="u", family="F", priority=1, dimensions=dimensions, kind=kind
        )  # fmt: skip
        return ChartValues(chart, tuple(Value(d, amount - n, 0) for n, d in enumerate(dimensions)))

    (port,) = free_ports(1)

    async def send(*amounts: float) -> None:
        async with StatsdSettings(port=port, tags=tags).open() as sink:
            for amount in amounts:
                charts = (shown(Kind.COUNTER, amount), shown(Kind.LEVEL, amount))
                await sink.send(Snapshot(host="h", time_s=0, elapsed_s=1, complete=True, charts=charts))

    with etsy(stats_js, tmp_path, port) as server:
        asyncio.run(send(20, 2.5))
        counters, gauges = server.ask("counters"), server.ask("gauges")
    assert counters.pop("statsd.bad_lines_seen") == 0
    assert sorted(of("ebpfmon", counters).values()) == sorted(22.5 - 2 * n for n in range(len(NASTY)))
    assert sorted(of("ebpfmon", gauges).values()) == sorted(2.5 - n for n in range(len(NASTY)))


BOTH: list[Sink] = [
    {"type": "statsd", "name": protocol, "prefix": protocol, "protocol": protocol} for protocol in ("udp", "tcp")
]


def test_a_server_that_starts_late_gets_all_that_was_counted_before(stats_js: Path, tmp_path: Path) -> None:
    (port,) = free_ports(1)
    with daemon(tmp_path, [{**sink, "port": port} for sink in BOTH]) as running:
        until(lambda: all(running.errors("udp", "tcp")))
        with etsy(stats_js, tmp_path, port) as server:
            until(lambda: all(of(protocol, server.ask("counters")) for protocol in ("udp", "tcp")))
            with traffic(2):
                pass
            lines = running.stop()
            counters = server.ask("counters")
    for protocol in ("udp", "tcp"):
        assert of(protocol, counters) == summed(lines, names(protocol, "none"))


def test_a_server_that_was_killed_and_comes_back_gets_all_again_from_where_it_was_missed(
    stats_js: Path, tmp_path: Path
) -> None:
    (port,) = free_ports(1)
    with daemon(tmp_path, [{**sink, "port": port} for sink in BOTH]) as running:
        with etsy(stats_js, tmp_path, port) as server:
            until(lambda: all(of(protocol, server.ask("counters")) for protocol in ("udp", "tcp")))
            server.kill()
            before = len(running.lines())
            until(lambda: all(running.errors("udp", "tcp")))
        with etsy(stats_js, tmp_path, port) as server:
            until(lambda: all(of(protocol, server.ask("counters")) for protocol in ("udp", "tcp")))
            with traffic(2):
                pass
            lines = running.stop()
            counters = server.ask("counters")
    for protocol in ("udp", "tcp"):
        name, found = names(protocol, "none"), of(protocol, counters)
        # what it lost with its life was counted before; a snapshot may have been on its way
        assert any(found == summed(lines[n:], name) for n in range(max(0, before - 2), before + 2))
