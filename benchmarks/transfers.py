"""What the network viewer takes of a send and a receive."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field

import msgspec

from benchmarks import empties, ladder, programs
from benchmarks.result import Cell, Result, Table
from benchmarks.statistics import interleaved
from ebpfmon.kernel import attach, features
from ebpfmon.kernel.attach import LoadedProbe, LoadOptions
from ebpfmon.kernel.libbpf import Libbpf
from ebpfmon.plugins import registry

KINDS = ("tcp", "udp")
METHOD = (
    "A static program sends a byte and receives it, over loopback, by two sockets that are connected to each other: "
    "two calls that are counted. Where the peer is not selected (loopback is not, by default), they are counted for "
    "the process alone, else for the destination as well. Steps take turns; a step's figure is its fastest round."
)


@dataclass(slots=True)
class Step:
    """Something that is attached, and what a send and a receive took then, in ns, a round each, by kind."""

    name: str
    attach: Callable[[], AbstractContextManager[object]]
    took: dict[str, list[float]] = field(default_factory=lambda: {kind: [] for kind in KINDS})

    def measure(self, count: int, batches: int) -> None:
        """One round."""
        with self.attach():
            for kind in KINDS:
                self.took[kind].append(programs.nanoseconds(kind, count, batches))


def run(quick: bool) -> Result:
    """By the hooks that ebpfmon takes here."""
    found = Result(name="transfers", title="What counting a send and a receive costs in the kernel", method=METHOD)
    rounds, count, batches = (3, 2000, 10) if quick else (15, 2000, 15)
    libbpf = Libbpf()
    steps = [
        Step(ladder.NOTHING, ExitStack),
        Step("empty programs at all of ebpfmon's hooks", lambda: empties.attached(libbpf)),
        *viewers(libbpf),
        Step("all of ebpfmon, peer not selected", lambda: ladder.everything(libbpf, None)),
    ]
    for _, step in interleaved(steps, rounds):
        step.measure(count, batches)
    fastest = {step.name: {kind: min(took) for kind, took in step.took.items()} for step in steps}
    found.tables.append(table("By the hooks that ebpfmon takes here, in ns", fastest))
    return found


def viewers(libbpf: Libbpf, method: str | None = None) -> Iterator[Step]:
    """The network viewer alone, by one attach method or by the best."""
    for name, settings in (("peer not selected", {}), ("peer selected", {"ips": "*"})):
        yield Step(f"network viewer, {name}", lambda s=settings: _viewer(libbpf, method, s))  # type: ignore[misc]


def _viewer(libbpf: Libbpf, method: str | None, settings: Mapping[str, str]) -> LoadedProbe:
    probe = registry.discover().probes["network_viewer"]
    setup = probe.setup(msgspec.convert(settings, probe.settings))
    return attach.load(probe, libbpf, features.detect(), LoadOptions(attach_method=method, setup=setup))


def table(title: str, took: Mapping[str, Mapping[str, float]]) -> Table:
    """What a send and a receive take, by step (nothing is the first) and by kind."""
    nothing = next(iter(took.values()))
    rows: list[tuple[Cell, ...]] = []
    for name, by_kind in took.items():
        above = [round(by_kind[kind] - nothing[kind]) if by_kind is not nothing else None for kind in KINDS]
        rows.append((name, round(by_kind["tcp"]), above[0], round(by_kind["udp"]), above[1]))
    return Table(title, ("step", "TCP", "above nothing", "UDP", "above nothing"), rows)
