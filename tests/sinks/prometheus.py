"""Debian's Prometheus, and its function `rate()` according to its documentation and source."""

from __future__ import annotations

import json
import urllib.parse
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.sinks.support import free_ports, program, running, until


class Prometheus:
    """A Prometheus that scrapes ebpfmon."""

    def __init__(self, address: str) -> None:
        self._address = address

    def ask(self, query: str, at: float | None = None) -> list[dict[str, Any]]:
        parameters = {"query": query, **({"time": f"{at:.3f}"} if at else {})}
        url = f"http://{self._address}/api/v1/query?{urllib.parse.urlencode(parameters)}"
        with urllib.request.urlopen(url, timeout=30) as answer:
            found = json.load(answer)
        assert found["status"] == "success"
        result: list[dict[str, Any]] = found["data"]["result"]
        return result


@contextmanager
def prometheus(where: Path, target: str) -> Iterator[Prometheus]:
    """Run a Prometheus that scrapes every second. Yields it after the first scrape."""
    (port,) = free_ports(1)
    config, address = where / "prometheus.yml", f"127.0.0.1:{port}"
    config.write_text(
        "global: {scrape_interval: 1s, scrape_timeout: 1s}\n"
        f'scrape_configs: [{{job_name: ebpfmon, static_configs: [{{targets: ["{target}"]}}]}}]\n'
    )
    command = [
        program("prometheus", "prometheus"), f"--config.file={config}", f"--storage.tsdb.path={where / 'tsdb'}",
        f"--web.listen-address={address}", "--log.level=warn",
    ]  # fmt: skip
    with running(command, where / "prometheus.out"):
        server = Prometheus(address)
        until(lambda: server.ask("up == 1"), "Prometheus scrapes")
        yield server


def rate(samples: Sequence[Sequence[Any]], at: float, seconds: float) -> float:
    """Return the rate of a counter that was never reset.

    It is the increase, extrapolated to the ends of the range, divided by the length of the range. If the samples begin
    late or end early, they are extrapolated by half the distance between two samples only, and never to below 0.
    """
    times, values = [float(t) for t, _ in samples], [float(v) for _, v in samples]
    sampled, grown = times[-1] - times[0], values[-1] - values[0]
    step = sampled / (len(samples) - 1)
    to_start, to_end = times[0] - (at - seconds), at - times[-1]
    if grown > 0 and values[0] >= 0:
        to_start = min(to_start, sampled * values[0] / grown)
    extrapolated = sampled + sum(side if side < 1.1 * step else step / 2 for side in (to_start, to_end))
    return grown * extrapolated / sampled / seconds
