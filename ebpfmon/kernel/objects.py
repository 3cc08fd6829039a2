"""Finds a probe's compiled object and reads from its names which events it can see, and how.

The grammar of the names is that of the kit's macros (`bpf/ebpfmon.bpf.h`):
program `EVENT__STRATEGY__TARGET[__DETAIL...]`, or knob `EVENT__STRATEGY__PROGRAM[__DETAIL]` where one program,
named after its target alone, serves several events.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

from ebpfmon.errors import ObjectError
from ebpfmon.kernel.bpfobject import BpfObject
from ebpfmon.kernel.btf import Btf
from ebpfmon.kernel.tables import find_tables
from ebpfmon.model.everything import LoadMode, Probe, Strategy

MODES = frozenset(LoadMode)
ARCHITECTURES = ("x86_64", "aarch64")
PROCESS_KEY = ("start_ns", "tgid", "exec_id")
"""`struct process_key` in the kit."""
_IF_ANY = "__if_any"


@dataclass(frozen=True, slots=True)
class Candidate:
    """One way to see an event: the programs it takes, and the knob to turn on where a program is shared."""

    event: str
    strategy: Strategy
    target: str
    programs: tuple[str, ...]
    kinds: frozenset[str]
    """The kinds of the programs, from their sections: fexit, kretprobe, tp_btf ..."""
    knob: str | None = None
    mode: LoadMode | None = None
    """The load mode that it is for; None for both."""
    arguments: int | None = None
    """How many arguments the target must have; None where that does not matter."""
    softirq: bool = False
    """Whether it is for where softirqs come by, in which no task is preempted."""


@dataclass(frozen=True, slots=True)
class ObjectSpec:
    """What an object says of itself: for each event its candidates, best first; its knobs by name; which events a
    kernel may have nothing of (IF_ANY in the kit); the stems of its tables by process."""

    candidates: dict[str, tuple[Candidate, ...]]
    knobs: dict[str, tuple[int, int]] = field(default_factory=dict)
    if_any: frozenset[str] = frozenset()
    by_process: frozenset[str] = frozenset()


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
    raise ObjectError(
        f"find the object of probe '{probe.name}': no '{path}': compile it with ebpfmon bpf build "
        "(in a clone of ebpfmon: make bpf)"
    )


def read_spec(obj: BpfObject, btf: Btf) -> ObjectSpec:
    """Read an opened object's names."""
    knobs = btf.variables(".rodata")
    sections = {name: obj.section(name) for name in obj.programs}
    if_any = frozenset(name.removesuffix(_IF_ANY) for name in knobs if name.endswith(_IF_ANY))
    return ObjectSpec(parse_candidates(sections, knobs), knobs, if_any, _tables_by_process(obj, btf))


def _tables_by_process(obj: BpfObject, btf: Btf) -> frozenset[str]:
    keys = {stem: btf.dtype(obj.map_info(f"{stem}_rows_0", "btf_key_type_id")).names for stem in find_tables(obj)}
    return frozenset(stem for stem, fields in keys.items() if fields == PROCESS_KEY)


def parse_candidates(sections: dict[str, str], knobs: Iterable[str]) -> dict[str, tuple[Candidate, ...]]:
    """Candidates by event from program names (with their sections) and knob names, in the order of the file."""
    found: dict[tuple[object, ...], Candidate] = {}
    for name, section in sections.items():
        if not _collect(found, name, section, name, None):
            _accompany(found, name, section)
    for name in knobs:
        for program, section in sections.items():
            # a shared program is named after its target alone
            if program == _in_c(section.partition("/")[2]):
                _collect(found, name, section, program, name)
    by_event: dict[str, list[Candidate]] = {}
    for candidate in found.values():
        by_event.setdefault(candidate.event, []).append(candidate)
    return {event: tuple(candidates) for event, candidates in by_event.items()}


def _collect(
    found: dict[tuple[object, ...], Candidate], name: str, section: str, program: str, knob: str | None
) -> bool:
    """Take a name in; False if it does not say what the section says."""
    kind, _, target = section.partition("/")
    event, _, rest = name.partition("__")
    strategy, _, rest = rest.partition("__")
    if strategy not in frozenset(Strategy) or not rest.startswith(_in_c(target)):
        return False
    details = rest.removeprefix(_in_c(target)).split("__")
    if details[0]:  # the target was but the beginning of another's name
        return False
    mode = next((LoadMode(d) for d in details if d in MODES), None)
    arguments = next((int(d) for d in details if d.isdecimal()), None)
    key = (event, strategy, target, mode, arguments)
    known = found.get(key)
    programs, kinds = (known.programs, known.kinds) if known else ((), frozenset())
    found[key] = Candidate(
        event, Strategy(strategy), target, (*programs, program), kinds | {kind}, knob, mode, arguments,
        "softirq" in details,
    )  # fmt: skip
    return True


def _accompany(found: dict[tuple[object, ...], Candidate], name: str, section: str) -> None:
    """A program that attaches elsewhere, and belongs to the candidate whose event, strategy and target it names."""
    for key, candidate in found.items():
        of_candidate = f"{candidate.event}__{candidate.strategy}__{_in_c(candidate.target)}__"
        if name.startswith(of_candidate) and candidate.knob is None:
            found[key] = replace(
                candidate,
                programs=(*candidate.programs, name),
                kinds=candidate.kinds | {section.partition("/")[0]},
            )


def _in_c(target: str) -> str:
    """A target as part of a name: of a classic tracepoint it is SYSTEM/EVENT."""
    return target.replace("/", "_")
