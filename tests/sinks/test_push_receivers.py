"""Receivers that answer 500, hang, reset or never read do not affect the harvest or other sinks.

Two daemons run at the same time, and only one has such receivers. How far their ticks are from a whole second is
printed but not tested, because it depends on the machine.
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
GROWTH_MB = 8.0
BAD = [kind for kind in KINDS if kind != "accepts"]
# A snapshot then has some hundreds of kilobytes, more than the buffers of sockets. What other programs do does not
# change its size.
SETTINGS = (
    "[groups]\nby = []\n[plugins.process]\nenabled = false\n"
    '[plugins.network_viewer]\nips = "127.9.0.0/16"\nmaximum_dimensions = 4000\n'
)


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
        # All receivers share one thread. On a busy machine it may be late to accept, which is no fault of the sink.
        "timeout_s": 9.0 if kind == "accepts" else 2.0,
    }  # fmt: skip


def self_metric(lines: Lines, chart: str, which: str) -> list[float]:
    """Return a number of ebpfmon's own charts by snapshot. `which` is a sink or a dimension."""
    return [
        d.get("delta", d.get("value"))
        for line in lines for c in line["charts"] if c["id"] == f"ebpfmon.{chart}"
        for series in c["series"] for d in series["dimensions"] if which in (d["id"], *series["labels"].values())
    ]  # fmt: skip


def jitter(lines: Lines) -> str:
    """Return by how much the intervals differ from one second, and how far ticks stray from their usual phase.

    The phase of a tick is its time within a second.
    """
    deviations = sorted(abs(line["elapsed_s"] - 1) * 1000 for line in lines[1:-1])
    phases = [line["time"] % 1 * 1000 for line in lines[1:-1]]
    strays = sorted(abs(p - statistics.median(phases)) for p in phases)
    return ", ".join(
        f"{what} p50 {found[len(found) // 2]:.1f} ms, p90 {found[int(len(found) * 0.9)]:.1f} ms, max {found[-1]:.1f} ms"
        for what, found in (("interval", deviations), ("tick", strays))
    )


@pytest.mark.timeout(240)
def test_no_receiver_affects_the_harvest_or_another_sink(tmp_path: Path, record_property: Any) -> None:
    with receivers() as to, receivers() as others:
        second: Sink = {"type": "log", "name": "second", "format": "json", "path": str(tmp_path / "second")}
        plain = Daemon(tmp_path, [push(others, "accepts")], SETTINGS, "plain")
        affected = Daemon(tmp_path, [second, *(push(to, kind) for kind in KINDS)], SETTINGS, "affected")
        with many_destinations(), plain.running(), affected.running():
            until(lambda: len(affected.lines()) >= SNAPSHOTS, f"{SNAPSHOTS} snapshots", 150)
            without, lines = plain.stop(), affected.stop()
        accepted = [snapshot["time"] for snapshot in to.accepted]

    figures = {"without": jitter(without), "with": jitter(lines)}
    # Memory grows until the queues of all receivers that do not accept are full.
    queues = {name: self_metric(lines, "sinks_queue", name) for name in (*KINDS, "second", "log")}
    full = max(queues[kind].index(MAILBOX_SNAPSHOTS) for kind in BAD)
    memory = self_metric(lines, "memory", "rss")[full:]
    figures["memory"] = f"{memory[0]:.1f} MB at first, {max(memory):.1f} MB at most"
    for what, figure in figures.items():
        record_property(what, figure)
        print(f"{what}: {figure}")

    # Each receiver failed as it should, and was tried again.
    for kind in BAD:
        assert self_metric(lines, "sinks_sent", kind) == [0] * len(lines), kind
        assert sum(self_metric(lines, "sinks_errors", kind)) >= 2, kind
        assert sum(self_metric(lines, "sinks_dropped", kind)) > 0, kind
        assert to.connections[kind] >= 2, kind
        assert f"sink '{kind}' has failed" in affected.output()
    # A harvest that waited for one of them would miss most ticks.
    late = {name: sum(self_metric(of, "lost", "late_ticks")) for name, of in (("without", without), ("with", lines))}
    print(f"late ticks: {late}")
    assert len(lines) > sum(line["elapsed_s"] for line in lines) / 2
    # No other sink lost anything, except perhaps the last snapshot, for which there is little time.
    for name in ("accepts", "second", "log"):
        assert sum(self_metric(lines, "sinks_dropped", name)) == sum(self_metric(lines, "sinks_errors", name)) == 0, (
            name
        )
    for times in (accepted, [json.loads(line)["time"] for line in (tmp_path / "second").read_text().splitlines()]):
        assert times == [line["time"] for line in lines][: len(times)]
        assert len(times) >= len(lines) - 1
    # Queues and memory are bounded.
    assert max(map(max, queues.values())) == MAILBOX_SNAPSHOTS
    assert max(memory) - memory[0] < GROWTH_MB
