"""Monitors that run in turn, round after round, and what each of them used."""

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
from benchmarks.monitors import Peer
from benchmarks.render import between
from benchmarks.statistics import interleaved
from benchmarks.watch import Cost, Running, running

_EXPORTER = "process_names:\n  - name: '{{.Comm}}'\n    cmdline: ['.+']\n"


@dataclass(frozen=True, slots=True)
class Costs:
    """Of one monitor, one for each round."""

    rounds: Sequence[Cost]

    @property
    def typical(self) -> Cost:
        """The median; of two the cheaper."""
        return sorted(self.rounds, key=lambda cost: cost.per_30_s)[(len(self.rounds) - 1) // 2]

    @property
    def between(self) -> str:
        """From the cheapest to the dearest, in CPU seconds per 30 s."""
        return between([cost.per_30_s for cost in self.rounds])

    @property
    def user_part(self) -> float:
        """Of all rounds, as the kernel counts it in steps of 10 ms."""
        user, system = (sum(times) for times in zip(*((c.user_s, c.system_s) for c in self.rounds), strict=True))
        return user / (user + system) if user + system else 0.0

    @property
    def jitter_ms(self) -> float | None:
        """The typical round's."""
        each = [cost.jitter_ms for cost in self.rounds if cost.jitter_ms is not None]
        return statistics.median(each) if each else None


def in_turn(peers: Sequence[Peer], rounds: int, seconds: float, skipped: dict[str, str]) -> dict[str, Costs]:
    """What each takes in so many seconds, alone, in every round. Who cannot run is said in `skipped`."""
    found: dict[str, list[Cost]] = {}
    for _, peer in interleaved(peers, rounds):
        if peer.name in skipped:
            continue
        try:
            with beside(peer) as run:
                cost = run.measure(seconds)
        except (RuntimeError, OSError) as error:
            skipped[peer.name] = str(error)
            continue
        found.setdefault(peer.name, []).append(cost)
    return {peer.name: Costs(found[peer.name]) for peer in peers if peer.name in found}


def ratio(ours: Costs, theirs: Costs) -> float:
    """Of the typical rounds."""
    return ours.typical.per_30_s / theirs.typical.per_30_s


def ratios(ours: Costs, theirs: Costs) -> str:
    """The ratio in each round, from the lowest to the highest."""
    each = [a.per_30_s / b.per_30_s for a, b in zip(ours.rounds, theirs.rounds, strict=False)]
    return between(each, render.ratio)


@contextmanager
def beside(peer: Peer) -> Iterator[Running]:
    """A peer that runs; one that does nothing by itself is asked once a second. Raises RuntimeError, OSError."""
    if peer.skip_reason:
        raise RuntimeError(peer.skip_reason)
    with ExitStack() as stack:
        if peer.is_asked:
            with socket.socket() as free:
                free.bind(("127.0.0.1", 0))
                port = free.getsockname()[1]
            file = stack.enter_context(tempfile.NamedTemporaryFile("w", suffix=".yml"))
            file.write(_EXPORTER)
            file.flush()
            peer = peer.at(port, Path(file.name))
            stop = threading.Event()
            asking = threading.Thread(target=_ask, args=(f"http://127.0.0.1:{port}/metrics", stop))
            asking.start()
            stack.callback(asking.join)
            stack.callback(stop.set)
        yield stack.enter_context(running(peer.monitor))


def _ask(url: str, stop: threading.Event) -> None:
    while not stop.wait(1):
        try:
            with urllib.request.urlopen(url, timeout=30) as answer:  # an address of our own
                answer.read()
        except OSError:
            continue  # not there yet
