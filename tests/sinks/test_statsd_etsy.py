"""The StatsD sink with etsy's daemon: unusual names, and a server that starts late or again."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ebpfmon import Chart, ChartData, Dimension, Kind, Snapshot
from ebpfmon.testing import data
from ebpfmon_sinks.statsd.settings import StatsdSettings
from tests.sinks.etsy import etsy, names, summed, with_prefix
from tests.sinks.support import Daemon, Sink, free_ports, traffic, until

NASTY = ("a b", "a:b", "a|b", "A_B", "a\nb:1|c", "x;y=z", "k,v=w", "#t:1", "|#t", "é/ü", "..", "", "v" * 300, "\0")


@pytest.mark.parametrize("tags", ["none", "datadog", "graphite"])
def test_unusual_names_and_negative_gauges_arrive_unchanged(tmp_path: Path, tags: Any) -> None:
    def shown(kind: Kind, amount: float) -> list[ChartData]:
        """Return charts with the texts as names of dimensions and as label values."""
        dimensions = tuple(Dimension(text, text, ("f",)) for text in NASTY)
        chart = Chart(
            id=f"x.{kind}", title="T", units="u", family="F", priority=1, dimensions=dimensions, kind=kind
        )  # fmt: skip
        of_items = replace(chart, id=f"y.{kind}", labels=("who", "what"), dimensions=(Dimension.value("f"),))
        series: dict[tuple[str, ...], list[float]] = {(text, "x"): [amount - n] for n, text in enumerate(NASTY)}
        return [data(chart, *(amount - n for n in range(len(NASTY)))), data(of_items, series=series)]

    async def send(port: int, *amounts: float) -> None:
        async with StatsdSettings(port=port, tags=tags).open() as sink:
            for amount in amounts:
                charts = (*shown(Kind.COUNTER, amount), *shown(Kind.GAUGE, amount))
                await sink.send(Snapshot(host="h", time_s=0, elapsed_s=1, complete=True, charts=charts))

    with etsy(tmp_path) as server:
        asyncio.run(send(server.port, 20, 2.5))
        counters, gauges = server.ask("counters"), server.ask("gauges")
    assert counters.pop("statsd.bad_lines_seen") == 0
    assert sorted(with_prefix("ebpfmon", counters).values()) == sorted([22.5 - 2 * n for n in range(len(NASTY))] * 2)
    assert sorted(with_prefix("ebpfmon", gauges).values()) == sorted([2.5 - n for n in range(len(NASTY))] * 2)


PROTOCOLS = ("udp", "tcp")


def statsd_sinks(port: int) -> list[Sink]:
    return [{"type": "statsd", "name": p, "prefix": p, "protocol": p, "port": port} for p in PROTOCOLS]


@pytest.mark.timeout(240)
def test_a_late_server_gets_everything_and_a_restarted_one_what_it_missed(
    tmp_path: Path,
) -> None:
    (port,) = free_ports(1)
    daemon = Daemon(tmp_path, statsd_sinks(port))
    with daemon.running():
        until(lambda: all(daemon.of_sink("errors", p) for p in PROTOCOLS), "both have failed")
        with etsy(tmp_path, port) as server:
            until(lambda: all(with_prefix(p, server.ask("counters")) for p in PROTOCOLS), "something from both")
            until(lambda: _has_all(server.ask("counters"), daemon), "all that was counted before")
            errors = [daemon.of_sink("errors", p) for p in PROTOCOLS]
            server.kill()
            before = len(daemon.lines())
            until(
                lambda: all(daemon.of_sink("errors", p) > e for p, e in zip(PROTOCOLS, errors, strict=True)),
                "both have failed again",
            )
        with etsy(tmp_path, port) as server, traffic(tmp_path):
            until(lambda: all(with_prefix(p, server.ask("counters")) for p in PROTOCOLS), "something from both")
            lines = daemon.stop()
            counters = server.ask("counters")
    for p in PROTOCOLS:
        # The killed server lost what it had counted, and perhaps snapshots that were being sent.
        found = with_prefix(p, counters)
        assert any(found == summed(lines[n:], names(p)) for n in range(max(0, before - 4), before + 3)), p


def _has_all(counters: dict[str, float], daemon: Daemon) -> bool:
    """Return whether the counters have everything up to one of the newest snapshots."""
    lines = daemon.lines()
    return all(
        any(
            with_prefix(p, counters) == summed(lines[:n], names(p))
            for n in range(max(1, len(lines) - 4), len(lines) + 1)
        )
        for p in PROTOCOLS
    )
