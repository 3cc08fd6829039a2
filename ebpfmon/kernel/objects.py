"""Finds a probe's compiled object, and binds the probe's events to the object's programs."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ebpfmon.errors import ObjectError
from ebpfmon.kernel.attach_methods import AttachMethod, Section, method_of
from ebpfmon.kernel.bpfobject import BpfObject
from ebpfmon.kernel.btf import Btf
from ebpfmon.kernel.tables import find_tables
from ebpfmon.model import Candidate, Event, LoadMode, Probe

ARCHITECTURES = ("x86_64", "aarch64")
PROCESS_KEY = ("start_ns", "tgid", "exec_id")
"""`struct process_key` in the BPF headers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BoundCandidate:
    """A candidate of an event, with what the sections of its programs say."""

    event: str
    method: AttachMethod
    programs: tuple[str, ...]
    sections: tuple[Section, ...]
    """One for each program."""
    mode: LoadMode | None = None
    arguments: int | None = None
    softirq: bool = False
    setting: str = ""

    @property
    def target(self) -> str:
        """The function or tracepoint that stands for the candidate in reports: its first program's."""
        return self.sections[0].target

    @property
    def kinds(self) -> frozenset[str]:
        """The section kinds of its programs."""
        return frozenset(section.kind for section in self.sections)


@dataclass(frozen=True, slots=True)
class ObjectSpec:
    """A probe's events bound to its object: for each event its candidates in their order, the object's rodata settings
    by name (offset and size), the events that a kernel may have nothing of, and the object's tables by process."""

    candidates: dict[str, tuple[BoundCandidate, ...]]
    settings: dict[str, tuple[int, int]] = field(default_factory=dict)
    optional: frozenset[str] = frozenset()
    by_process: frozenset[str] = frozenset()


def locate(probe: Probe) -> Path:
    """Return the compiled object for this machine. Raises ObjectError if there is none."""
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


def read_spec(probe: Probe, obj: BpfObject, btf: Btf) -> ObjectSpec:
    """Bind a probe's events to its opened object. Raises ObjectError where they do not fit together."""
    settings = btf.variables(".rodata")
    sections = {name: obj.section(name) for name in obj.programs}
    try:
        candidates = bind(probe.events, sections, settings)
    except ObjectError as error:
        raise ObjectError(f"probe '{probe.name}': {error}") from None
    optional = frozenset(event.name for event in probe.events if event.optional)
    return ObjectSpec(candidates, settings, optional, _tables_by_process(obj, btf))


def _tables_by_process(obj: BpfObject, btf: Btf) -> frozenset[str]:
    keys = {stem: btf.dtype(obj.map_info(f"{stem}_rows_0", "btf_key_type_id")).names for stem in find_tables(obj)}
    return frozenset(stem for stem, fields in keys.items() if fields == PROCESS_KEY)


def bind(
    events: Iterable[Event], sections: Mapping[str, str], settings: Iterable[str]
) -> dict[str, tuple[BoundCandidate, ...]]:
    """Return the candidates by event, in their order; `sections` are those of the object's programs, by name.

    Raises ObjectError, in one line, if an event names what the object does not have, or leaves out what it has.
    """
    found = {e.name: tuple(_bind(e.name, c, sections, frozenset(settings)) for c in e.candidates) for e in events}
    named = {program for candidates in found.values() for c in candidates for program in c.programs}
    if unnamed := [program for program in sections if program not in named]:
        raise ObjectError(f"no event names program '{unnamed[0]}' of its object: add it to Probe.events")
    return found


def _bind(event: str, candidate: Candidate, sections: Mapping[str, str], settings: frozenset[str]) -> BoundCandidate:
    step = f"event '{event}'"
    if not candidate.programs:
        raise ObjectError(f"{step}: a candidate names no program")
    for program in candidate.programs:
        if program not in sections:
            has = ", ".join(sections) or "none"
            raise ObjectError(f"{step}: its object has no program '{program}': it has {has}")
    if candidate.setting and candidate.setting not in settings:
        raise ObjectError(f"{step}: its object has no rodata setting '{candidate.setting}'")
    parsed = tuple(Section.parse(sections[program]) for program in candidate.programs)
    methods = {}
    for program, section in zip(candidate.programs, parsed, strict=True):
        method = method_of(section.kind)
        if method is None:
            raise ObjectError(f"{step}: program '{program}': no attach method for SEC(\"{sections[program]}\")")
        methods[method.name] = method
    if len(methods) > 1:
        raise ObjectError(
            f"{step}: programs {', '.join(candidate.programs)} of one candidate have several attach methods: "
            f"{', '.join(methods)}"
        )
    (method,) = methods.values()
    return BoundCandidate(
        event=event, method=method, programs=candidate.programs, sections=parsed, mode=candidate.mode,
        arguments=candidate.arguments, softirq=candidate.softirq, setting=candidate.setting,
    )  # fmt: skip
