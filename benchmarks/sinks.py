"""Measure what sending a snapshot costs each sink, and several sinks at once: a part of the benchmark `scale`."""

from __future__ import annotations

import asyncio
import socket
import sys
import time
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.result import OUT, Cell, Table
from benchmarks.rows import harvest_of, loaded
from benchmarks.stages import Stages
from benchmarks.statistics import spread
from ebpfmon import Probe, SinkSettings, Snapshot
from ebpfmon.plugins import registry

_COPIES = (2, 4, 8)
_COPIES_ROWS = 1_000
_PAUSE_S = 0.005  # Lets the event loop run and the client read.
_RELAY = """
import socket, sys
with socket.socket(socket.AF_UNIX) as daemon:
    daemon.connect(sys.argv[1])
    daemon.sendall(b"every 1\\n")
    daemon.recv(1)
    print(flush=True)
    while daemon.recv(1 << 20):
        pass
"""
_SCRAPER = """
import http.client, sys
server = http.client.HTTPConnection("127.0.0.1", int(sys.argv[1]))
print(flush=True)
for _ in sys.stdin:
    server.request("GET", "/metrics")
    response = server.getresponse()
    assert response.status == 200 and response.read()
    print(flush=True)
"""


@dataclass(frozen=True, slots=True)
class _Case:
    name: str
    settings: SinkSettings
    client: str = ""
    """The source of a program that reads from the sink in another process, so its CPU time is not counted."""
    address: str = ""
    """The address of the sink for the client. If empty, it is the port that the sink listens on."""


def table(probe: Probe, counts: Sequence[int], rounds: int) -> Table:
    """Return the cost of every sink by number of rows, and the cost of several sinks of one kind."""
    directory = OUT / "scale"
    directory.mkdir(parents=True, exist_ok=True)
    rows: list[tuple[Cell, ...]] = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as unread:
        unread.bind(("127.0.0.1", 0))
        cases = _cases(directory, unread.getsockname()[1])
        for count in counts:
            snapshot = _snapshot(probe, count)
            for case in cases:
                for copies in (1, *(_COPIES if case is cases[1] and count == _COPIES_ROWS else ())):
                    cpu_ms = spread(asyncio.run(_send(case, copies, snapshot, rounds)))
                    rows.append((case.name, copies, count, round(cpu_ms.median, 3), round(cpu_ms.spread, 3)))
    columns = ("sink", "number of sinks", "active processes", "CPU per snapshot, ms", "±")
    note = (
        "CPU time of the whole process with the threads of the sink: the median ± half the interquartile range. "
        "A snapshot has the charts of the process probe with 50 groups."
    )
    return Table("Sinks", columns, rows, note)


def _cases(directory: Path, port: int) -> list[_Case]:
    types = registry.discover().sinks
    path = str(directory / "socket")
    http = types["http_json"](port=0)  # type: ignore[call-arg]
    return [
        _Case("log, text", types["log"](path="/dev/null")),  # type: ignore[call-arg]
        _Case("log, JSON", types["log"](path="/dev/null", format="json")),  # type: ignore[call-arg]
        _Case("plugins_d, one Netdata", types["plugins_d"](socket=path), _RELAY, path),  # type: ignore[call-arg]
        _Case("statsd", types["statsd"](port=port)),  # type: ignore[call-arg]
        _Case("http_json, not scraped", http),
        _Case("http_json, /metrics scraped", http, _SCRAPER),
    ]


def _snapshot(probe: Probe, count: int) -> Snapshot:
    with loaded(probe, count) as loaded_probe:
        return Stages(loaded_probe).snapshot(harvest_of(loaded_probe, loaded_probe.tables[0], count))


async def _send(case: _Case, copies: int, snapshot: Snapshot, rounds: int) -> list[float]:
    """Return the CPU milliseconds of sending a snapshot to `copies` equal sinks, until the client has read it."""
    times = []
    async with AsyncExitStack() as stack:
        sinks = [await stack.enter_async_context(case.settings.open()) for _ in range(copies)]
        client = None
        if case.client:
            address = case.address or str(getattr(sinks[0], "port", 0))
            client = await stack.enter_async_context(_run_client(case.client, address))
            assert client.stdout
            connected = asyncio.create_task(client.stdout.readline())
            while not connected.done():
                for sink in sinks:
                    await sink.send(snapshot)
                await asyncio.sleep(_PAUSE_S)
            assert connected.result(), f"the client could not connect to {address}"
        for n in range(-2, rounds):  # The first two rounds create the series, and are not measured.
            await asyncio.sleep(_PAUSE_S)
            start = time.process_time_ns()
            for sink in sinks:
                await sink.send(snapshot)
            if client and case.client is _SCRAPER:
                assert client.stdin
                assert client.stdout
                client.stdin.write(b"\n")
                assert await client.stdout.readline(), "the client has exited"
            if n >= 0:
                times.append((time.process_time_ns() - start) / 1e6)
    return times


@asynccontextmanager
async def _run_client(program: str, address: str) -> AsyncIterator[Process]:
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", program, address, stdin=PIPE, stdout=PIPE)
    try:
        yield process
    finally:
        process.kill()
        await process.wait()
