"""Debian's Prometheus, and its `rate()` as its documentation and source have it."""

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
    """One that scrapes; it can be asked for what it had at any time."""

    def __init__(self, address: str) -> None:
        self._address = address

    def ask(self, query: str, at: float | None = None) -> list[dict[str, Any]]:
        asked = {"query": query, **({"time": f"{at:.3f}"} if at else {})}
        url = f"http://{self._address}/api/v1/query?{urllib.parse.urlencode(asked)}"
        with urllib.request.urlopen(url, timeout=30) as answer:
            found = json.load(answer)
        assert found["status"] == "success"
        result: list[dict[str, Any]] = found["data"]["result"]
        return result


@contextmanager
def prometheus(where: Path, target: str) -> Iterator[Prometheus]:
    """From its first scrape on, one a second."""
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
        made = Prometheus(address)
        until(lambda: made.ask("up == 1"), "Prometheus scrapes")
        yield made


def rate(samples: Sequence[Sequence[Any]], at: float, seconds: float) -> float:
    """Of a counter that was never reset: what it grew by, prolonged to the ends of the range (as far as half a
    distance between two samples, where they begin late or end early; and not to below 0), by the range's length."""
    times, values = [float(t) for t, _ in samples], [float(v) for _, v in samples]
    sampled, grown = times[-1] - times[0], values[-1] - values[0]
    step = sampled / (len(samples) - 1)
    to_start, to_end = times[0] - (at - seconds), at - times[-1]
    if grown > 0 and values[0] >= 0:
        to_start = min(to_start, sampled * values[0] / grown)
    prolonged = sampled + sum(side if side < 1.1 * step else step / 2 for side in (to_start, to_end))
    return grown * prolonged / sampled / seconds
