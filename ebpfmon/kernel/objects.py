"""Finds a probe's compiled object and reads from its names which events it can see, and how.

The grammar of the names is that of the kit's macros (`bpf/ebpfmon.bpf.h`):
program `EVENT__STRATEGY__TARGET[__DETAIL...]`, or knob `EVENT__STRATEGY__PROGRAM[__DETAIL]` where one program,
named after its target alone, serves several events.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from ebpfmon.errors import ObjectError
from ebpfmon.kernel.btf import Btf
from ebpfmon.kernel.libbpf import BpfObject
from ebpfmon.model import LoadMode, Probe, Strategy

MODES = frozenset(LoadMode)
ARCHITECTURES = ("x86_64", "aarch64")


@dataclass(frozen=True, slots=True)
class Candidate:
    """One way to see an event: the programs it takes, and the knob to turn on where a program is shared."""

    event: str
    strategy: Strategy
    target: str
    programs: tuple[str, ...]
    knob: str | None = None
    mode: LoadMode | None = None
    """The load mode that it is for; None for both."""
    arguments: int | None = None
    """How many arguments the target must have; None where that does not matter."""


@dataclass(frozen=True, slots=True)
class ObjectSpec:
    """What an object says of itself: for each event its candidates, best first; and its knobs by name."""

    candidates: dict[str, tuple[Candidate, ...]]
    knobs: dict[str, tuple[int, int]] = field(default_factory=dict)


def locate(probe: Probe) -> Path:
    """The compiled object for this machine. Raises ObjectError if there is none."""
    machine = os.uname().machine
    spec = importlib.util.find_spec(probe.package)
    if spec is None or spec.origin is None:
        raise ObjectError(f"find the object of probe '{probe.name}': no package '{probe.package}'")
    path = Path(spec.origin).parent / "objects" / machine / f"{probe.object}.bpf.o"
    if path.is_file():
        return path
    if machine not in ARCHITECTURES:
        raise ObjectError(f"find the object of probe '{probe.name}': none for {machine}: {', '.join(ARCHITECTURES)}")
    raise ObjectError(f"find the object of probe '{probe.name}': no '{path}': run make bpf, or install the wheel")


def read_spec(obj: BpfObject, btf: Btf) -> ObjectSpec:
    """Read an opened object's names."""
    knobs = btf.variables(".rodata")
    sections = {name: obj.section(name) for name in obj.programs}
    return ObjectSpec(parse_candidates(sections, knobs), knobs)


def parse_candidates(sections: dict[str, str], knobs: Iterable[str]) -> dict[str, tuple[Candidate, ...]]:
    """Candidates by event from program names (with their sections) and knob names, in the order of the file, but that
    those with a kretprobe come last."""
    found: dict[tuple[object, ...], Candidate] = {}
    for name in sections:
        _, _, target = sections[name].partition("/")
        _collect(found, name, target, (name,), None)
    for name in knobs:
        for program, section in sections.items():
            # a shared program is named after its target alone
            if section.endswith(f"/{program}"):
                _collect(found, name, program, (program,), name)
    by_event: dict[str, list[Candidate]] = {}
    for candidate in found.values():
        by_event.setdefault(candidate.event, []).append(candidate)
    # a kretprobe is the last resort: with too many calls of its function under way at once, some are not seen
    for candidates in by_event.values():
        candidates.sort(key=lambda c: any(sections[p].startswith("kretprobe/") for p in c.programs))
    return {event: tuple(candidates) for event, candidates in by_event.items()}


def _collect(
    found: dict[tuple[object, ...], Candidate], name: str, target: str, programs: tuple[str, ...], knob: str | None
) -> None:
    event, _, rest = name.partition("__")
    strategy, _, rest = rest.partition("__")
    if strategy not in frozenset(Strategy) or not rest.startswith(target):
        return
    details = [d for d in rest.removeprefix(target).split("__") if d]
    mode = next((LoadMode(d) for d in details if d in MODES), None)
    arguments = next((int(d) for d in details if d.isdecimal()), None)
    key = (event, strategy, target, mode, arguments)
    known = found.get(key)
    found[key] = Candidate(
        event, Strategy(strategy), target, (known.programs if known else ()) + programs, knob, mode, arguments
    )
