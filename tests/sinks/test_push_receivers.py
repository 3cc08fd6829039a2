"""Receivers that answer 500, hang, reset, or never read, and what that does to the harvest and to the other sinks.

Two daemons run at the same time, on the same machine: one has such receivers as well. How far their ticks are from a
whole second is printed and not judged: that is the machine's as well.
"""

from __future__ import annotations

import json
import socket
import statistics
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from ebpfmon.pipeline.publish import MAILBOX_SNAPSHOTS
from tests.sinks.receivers import KINDS, Receivers, receivers
from tests.sinks.support import Daemon, Lines, Sink, until

SNAPSHOTS = 35
WARM = 10
"""So many are there before memory is looked at: until then queues fill up."""
GROWTH_MB = 8.0
BAD = [kind for kind in KINDS if kind != "takes"]
# so that a snapshot, which is then some hundreds of kilobytes, finds no room in the buffers of sockets
SETTINGS = '[plugins.network_viewer]\nips = "*"\nmaximum_dimensions = 4000\n'


@contextmanager
def many_destinations() -> Iterator[None]:
    stop = threading.Event()

    def work() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            while not stop.wait(0.5):
                for n in range(800):
                    sender.sendto(b"x", (f"127.9.{n >> 8}.{n & 255}", 9))

    worker = threading.Thread(target=work)
    worker.start()
    try:
        yield
    finally:
        stop.set()
        worker.join()


def push(to: Receivers, kind: str) -> Sink:
    return {
        "type": "http_push", "name": kind, "url": f"http://127.0.0.1:{to.ports[kind]}/in", "gzip": False,
        "timeout_s": 2.0,
    }  # fmt: skip


def own(lines: Lines, chart: str, which: str) -> list[float]:
    """Return one of ebpfmon's own numbers by snapshot: that of a sink, or a dimension."""
    return [
        d.get("delta", d.get("value"))
        for line in lines for c in line["charts"] if c["id"] == f"ebpfmon.{chart}"
        for series in c["series"] for d in series["dimensions"] if which in (d["id"], *series["labels"].values())
    ]  # fmt: skip


def jitter(lines: Lines) -> str:
    """How far intervals were from a second, and ticks from the time at which they come on the whole."""
    of = sorted(abs(line["elapsed_s"] - 1) * 1000 for line in lines[1:-1])
    phases = [line["time"] % 1 * 1000 for line in lines[1:-1]]
    phase = sorted(abs(p - statistics.median(phases)) for p in phases)
    return ", ".join(
        f"{what} p50 {found[len(found) // 2]:.1f} ms, p90 {found[int(len(found) * 0.9)]:.1f} ms, p99 {found[-1]:.1f} ms"
        for what, found in (("interval", of), ("tick", phase))
    )


@pytest.mark.timeout(240)
def test_no_receiver_is_in_the_way_of_the_harvest_or_of_another_sink(tmp_path: Path, record_property: Any) -> None:
    with receivers() as to, receivers() as others:
        second: Sink = {"type": "log", "name": "second", "format": "json", "path": str(tmp_path / "second")}
        plain = Daemon(tmp_path, [push(others, "takes")], SETTINGS, "plain")
        beset = Daemon(tmp_path, [second, *(push(to, kind) for kind in KINDS)], SETTINGS, "beset")
        with many_destinations(), plain.running(), beset.running():
            until(lambda: len(beset.lines()) >= SNAPSHOTS, f"{SNAPSHOTS} snapshots", 150)
            without, lines = plain.stop(), beset.stop()
        taken = [snapshot["time"] for snapshot in to.taken]

    figures = {"without": jitter(without), "with": jitter(lines)}
    memory = own(lines, "memory", "rss")[WARM:]
    figures["memory"] = f"{memory[0]:.1f} MB at first, {max(memory):.1f} MB at most"
    for what, figure in figures.items():
        record_property(what, figure)
        print(f"{what}: {figure}")

    # each receiver did to it what it is there for, and was tried again
    for kind in BAD:
        assert own(lines, "sinks_sent", kind) == [0] * len(lines), kind
        assert sum(own(lines, "sinks_errors", kind)) >= 2, kind
        assert sum(own(lines, "sinks_dropped", kind)) > 0, kind
        assert to.connections[kind] >= 2, kind
        assert f"sink '{kind}' has failed" in beset.said()
    # a harvest that waited for one of them would leave out most of its ticks
    late = {name: sum(own(of, "lost", "late_ticks")) for name, of in (("without", without), ("with", lines))}
    print(f"late ticks: {late}")
    assert len(lines) > sum(line["elapsed_s"] for line in lines) / 2
    # no other sink lost anything; but what comes with the end has little time to be delivered
    for name in ("takes", "second", "log"):
        assert sum(own(lines, "sinks_dropped", name)) == sum(own(lines, "sinks_errors", name)) == 0, name
    for times in (taken, [json.loads(line)["time"] for line in (tmp_path / "second").read_text().splitlines()]):
        assert times == [line["time"] for line in lines][: len(times)]
        assert len(times) >= len(lines) - 1
    # what waits is bounded, and so is memory
    queues = [own(lines, "sinks_queue", name) for name in (*KINDS, "second", "log")]
    assert max(map(max, queues)) == MAILBOX_SNAPSHOTS
    assert max(memory) - memory[0] < GROWTH_MB
