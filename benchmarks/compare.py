"""Run monitors in turn, round after round, and compare what they cost."""

from __future__ import annotations

import socket
import statistics
import tempfile
import threading
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks import render
from benchmarks.measure import Cost, Running, running
from benchmarks.monitors import Peer
from benchmarks.render import format_range
from benchmarks.statistics import interleaved

_EXPORTER = "process_names:\n  - name: '{{.Comm}}'\n    cmdline: ['.+']\n"


@dataclass(frozen=True, slots=True)
class Costs:
    """The costs of one monitor, one for each round."""

    rounds: Sequence[Cost]

    @property
    def typical(self) -> Cost:
        """The cost in the median round. Of two rounds it is the cheaper one."""
        return sorted(self.rounds, key=lambda cost: cost.per_30_s)[(len(self.rounds) - 1) // 2]

    @property
    def range(self) -> str:
        """The lowest and the highest CPU seconds per 30 s, as text."""
        return format_range([cost.per_30_s for cost in self.rounds])

    @property
    def user_share(self) -> float:
        """The share of user time in the CPU time of all rounds. The kernel counts it in steps of 10 ms."""
        user, system = (sum(times) for times in zip(*((c.user_s, c.system_s) for c in self.rounds), strict=True))
        return user / (user + system) if user + system else 0.0

    @property
    def jitter_ms(self) -> float | None:
        """The median jitter of all rounds, or None if it could not be measured."""
        jitters = [cost.jitter_ms for cost in self.rounds if cost.jitter_ms is not None]
        return statistics.median(jitters) if jitters else None


def measure_in_turn(peers: Sequence[Peer], rounds: int, seconds: float, skipped: dict[str, str]) -> dict[str, Costs]:
    """Measure each monitor alone for a number of seconds in every round, and return the costs by name.

    `skipped` receives the reason for each monitor that cannot run.
    """
    costs: dict[str, list[Cost]] = {}
    for _, peer in interleaved(peers, rounds):
        if peer.name in skipped:
            continue
        try:
            with run_peer(peer) as run:
                cost = run.measure(seconds)
        except (RuntimeError, OSError) as error:
            skipped[peer.name] = str(error)
            continue
        costs.setdefault(peer.name, []).append(cost)
    return {peer.name: Costs(costs[peer.name]) for peer in peers if peer.name in costs}


def ratio(ours: Costs, theirs: Costs) -> float:
    """Return the ratio of the CPU times of the typical rounds."""
    return ours.typical.per_30_s / theirs.typical.per_30_s


def ratios(ours: Costs, theirs: Costs) -> str:
    """Return the lowest and the highest ratio of the CPU times in a round, as text."""
    each = [a.per_30_s / b.per_30_s for a, b in zip(ours.rounds, theirs.rounds, strict=False)]
    return format_range(each, render.format_ratio)


@contextmanager
def run_peer(peer: Peer) -> Iterator[Running]:
    """Run a monitor, and scrape it once a second if it needs that. Raises RuntimeError, OSError."""
    if peer.skip_reason:
        raise RuntimeError(peer.skip_reason)
    with ExitStack() as stack:
        if peer.is_scraped:
            with socket.socket() as free:
                free.bind(("127.0.0.1", 0))
                port = free.getsockname()[1]
            file = stack.enter_context(tempfile.NamedTemporaryFile("w", suffix=".yml"))
            file.write(_EXPORTER)
            file.flush()
            peer = peer.with_endpoint(port, Path(file.name))
            stop = threading.Event()
            scraper = threading.Thread(target=_scrape, args=(f"http://127.0.0.1:{port}/metrics", stop))
            scraper.start()
            stack.callback(scraper.join)
            stack.callback(stop.set)
        yield stack.enter_context(running(peer.monitor))


def _scrape(url: str, stop: threading.Event) -> None:
    while not stop.wait(1):
        try:
            with urllib.request.urlopen(url, timeout=30) as response:  # A server on loopback that we started.
                response.read()
        except OSError:
            continue  # The server is not up yet.
