"""Measure what the network viewer adds to a send and a receive."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field

import msgspec

from benchmarks import empty_programs, ladder, programs
from benchmarks.result import Cell, Result, Table
from benchmarks.statistics import interleaved
from ebpfmon.kernel import attach, features
from ebpfmon.kernel.attach import LoadedProbe, LoadOptions
from ebpfmon.kernel.libbpf import Libbpf
from ebpfmon.plugins import registry

KINDS = ("tcp", "udp")
METHOD = (
    "A static program sends one byte over loopback between two connected sockets and receives it, which makes two "
    "counted calls. The network viewer counts them for the process and, if the peer's address is selected, for "
    "the destination as well; by default loopback addresses are not selected. 'Above no program' is what a step "
    "adds to the two calls together. The steps run in turn, and a step's figure is its fastest round."
)


@dataclass(slots=True)
class Step:
    """Probes to attach, and the time of a send and a receive in each round, by protocol."""

    name: str
    attach: Callable[[], AbstractContextManager[object]]
    times_ns: dict[str, list[float]] = field(default_factory=lambda: {kind: [] for kind in KINDS})

    def measure(self, count: int, batches: int) -> None:
        """Measure one round."""
        with self.attach():
            for kind in KINDS:
                self.times_ns[kind].append(programs.nanoseconds(kind, count, batches))


def run(quick: bool) -> Result:
    """Measure the steps with the attach methods that ebpfmon chooses on this machine."""
    result = Result(name="transfers", title="Kernel cost of counting a send and a receive", method=METHOD)
    rounds, count, batches = (3, 2000, 10) if quick else (15, 2000, 15)
    libbpf = Libbpf()
    steps = [
        Step(ladder.NO_PROGRAM, ExitStack),
        Step("empty programs at all hooks of ebpfmon", lambda: empty_programs.attached(libbpf)),
        *viewers(libbpf),
        Step("all default probes, peer not selected", lambda: ladder.all_probes(libbpf, None)),
    ]
    for _, step in interleaved(steps, rounds):
        step.measure(count, batches)
    fastest = {step.name: {kind: min(times_ns) for kind, times_ns in step.times_ns.items()} for step in steps}
    result.tables.append(table("Nanoseconds, with the attach methods chosen on this machine", fastest))
    return result


def viewers(libbpf: Libbpf, method: str | None = None) -> Iterator[Step]:
    """Yield the steps of the network viewer alone, with one attach method or with the best."""
    for name, settings in (("peer not selected", {}), ("peer selected", {"ips": "*"})):
        yield Step(f"network viewer, {name}", lambda s=settings: _viewer(libbpf, method, s))  # type: ignore[misc]


def _viewer(libbpf: Libbpf, method: str | None, settings: Mapping[str, str]) -> LoadedProbe:
    probe = registry.discover().probes["network_viewer"]
    setup = probe.setup(msgspec.convert(settings, probe.settings))
    return attach.load(probe, libbpf, features.detect(), LoadOptions(attach_method=method, setup=setup))


def table(title: str, costs: Mapping[str, Mapping[str, float]]) -> Table:
    """Return a table of the costs by step and protocol. The first step has no program."""
    no_program = next(iter(costs.values()))
    rows: list[tuple[Cell, ...]] = []
    for name, by_kind in costs.items():
        above = [round(by_kind[kind] - no_program[kind]) if by_kind is not no_program else None for kind in KINDS]
        rows.append((name, round(by_kind["tcp"]), above[0], round(by_kind["udp"]), above[1]))
    return Table(title, ("step", "TCP", "above no program", "UDP", "above no program"), rows)
