"""What a snapshot takes in each sink, as rows grow, and in several sinks at once. A part of the benchmark `scale`."""

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
from benchmarks.rows import harvested, loaded
from benchmarks.stages import Stages
from benchmarks.statistics import spread
from ebpfmon import Probe, SinkSettings, Snapshot
from ebpfmon.plugins import registry

_COPIES = (2, 4, 8)
_COPIES_OVER = 1_000  # rows
_PAUSE_S = 0.005  # in which the event loop runs, and the other end reads
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
    answer = server.getresponse()
    assert answer.status == 200 and answer.read()
    print(flush=True)
"""


@dataclass(frozen=True, slots=True)
class _Case:
    name: str
    settings: SinkSettings
    other: str = ""
    """The program at the other end, whose CPU time is not the sink's."""
    at: str = ""
    """Where it finds the sink; empty: at the port that the sink has taken."""


def table(probe: Probe, counts: Sequence[int], rounds: int) -> Table:
    """Every sink over so many rows, and several of one."""
    directory = OUT / "scale"
    directory.mkdir(parents=True, exist_ok=True)
    rows: list[tuple[Cell, ...]] = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as unread:
        unread.bind(("127.0.0.1", 0))
        cases = _cases(directory, unread.getsockname()[1])
        for count in counts:
            snapshot = _snapshot(probe, count)
            for case in cases:
                for copies in (1, *(_COPIES if case is cases[1] and count == _COPIES_OVER else ())):
                    took = spread(asyncio.run(_send(case, copies, snapshot, rounds)))
                    rows.append((case.name, copies, count, round(took.median, 3), round(took.spread, 3)))
    columns = ("sink", "of them", "active processes", "CPU a snapshot, ms", "±")
    note = (
        "CPU time of the whole process, with the sink's threads: the median, and half the distance between the "
        "quartiles. A snapshot has the charts of the process probe, with 50 groups."
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
        _Case("http_json, nobody asks", http),
        _Case("http_json, asked for /metrics", http, _SCRAPER),
    ]


def _snapshot(probe: Probe, count: int) -> Snapshot:
    with loaded(probe, count) as in_kernel:
        return Stages(in_kernel).snapshot(harvested(in_kernel, in_kernel.tables[0], count))


async def _send(case: _Case, copies: int, snapshot: Snapshot, rounds: int) -> list[float]:
    """CPU milliseconds of each snapshot to so many sinks of a kind, which whoever is at the other end has then read."""
    times = []
    async with AsyncExitStack() as stack:
        sinks = [await stack.enter_async_context(case.settings.open()) for _ in range(copies)]
        other = None
        if case.other:
            at = case.at or str(getattr(sinks[0], "port", 0))
            other = await stack.enter_async_context(_at_the_other_end(case.other, at))
            assert other.stdout
            there = asyncio.create_task(other.stdout.readline())
            while not there.done():
                for sink in sinks:
                    await sink.send(snapshot)
                await asyncio.sleep(_PAUSE_S)
            assert there.result(), f"nobody could connect to {at}"
        for n in range(-2, rounds):  # the first two are those that everything is made anew for
            await asyncio.sleep(_PAUSE_S)
            start = time.process_time_ns()
            for sink in sinks:
                await sink.send(snapshot)
            if other and case.other is _SCRAPER:
                assert other.stdin
                assert other.stdout
                other.stdin.write(b"\n")
                assert await other.stdout.readline(), "the other end has gone"
            if n >= 0:
                times.append((time.process_time_ns() - start) / 1e6)
    return times


@asynccontextmanager
async def _at_the_other_end(program: str, at: str) -> AsyncIterator[Process]:
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", program, at, stdin=PIPE, stdout=PIPE)
    try:
        yield process
    finally:
        process.kill()
        await process.wait()
