"""Find the compiled object of a probe, and bind the probe's events to the programs of the object."""

from __future__ import annotations

import importlib.util
import logging
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ebpfmon.errors import ObjectError
from ebpfmon.kernel import compiler
from ebpfmon.kernel.attach_methods import AttachMethod, Section, method_of
from ebpfmon.kernel.bpfobject import BpfObject
from ebpfmon.kernel.btf import Btf
from ebpfmon.kernel.tables import find_tables
from ebpfmon.model import PROCESS_FIELDS, Candidate, Event, LoadMode, Probe

log = logging.getLogger(__name__)

_COPYING_S = 2
"""How much older an object may be, because a copy of both files has the times at which they were copied."""
ARCHITECTURES = ("x86_64", "aarch64")
OTHER_HEADERS = (
    "its object was compiled with other BPF headers than this ebpfmon's; compile it again with ebpfmon bpf build"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class BoundCandidate:
    """A candidate of an event, with the attach method and targets from the sections of its programs."""

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
        """The function or tracepoint of the first program, which names the candidate in reports."""
        return self.sections[0].target

    @property
    def kinds(self) -> frozenset[str]:
        """The section kinds of its programs."""
        return frozenset(section.kind for section in self.sections)


@dataclass(frozen=True, slots=True)
class ObjectSpec:
    """The events of a probe, bound to its compiled object.

    `candidates` are those of each event, in the probe's order. `settings` are the object's rodata settings: name ->
    (offset, size in bytes). `optional` are the events that are left out on kernels without their targets.
    `by_process` are the object's per-process tables.
    """

    candidates: dict[str, tuple[BoundCandidate, ...]]
    settings: dict[str, tuple[int, int]] = field(default_factory=dict)
    optional: frozenset[str] = frozenset()
    by_process: frozenset[str] = frozenset()


def locate(probe: Probe) -> Path:
    """Return the compiled object for this machine. Raises ObjectError if there is none.

    Logs a warning if its source has changed since it was compiled.
    """
    machine = os.uname().machine
    spec = importlib.util.find_spec(probe.package)
    if spec is None or spec.origin is None:
        raise ObjectError(f"cannot find the object of probe '{probe.name}': no package '{probe.package}'")
    path = Path(spec.origin).parent / "objects" / machine / f"{probe.object}.bpf.o"
    if path.is_file():
        _warn_if_outdated(probe, Path(spec.origin).parent, path)
        return path
    if machine not in ARCHITECTURES:
        raise ObjectError(
            f"cannot find the object of probe '{probe.name}': {machine} is not supported, only "
            f"{' and '.join(ARCHITECTURES)}"
        )
    raise ObjectError(
        f"cannot find the object of probe '{probe.name}': no '{path}'; compile it with ebpfmon bpf build "
        "(in a clone of ebpfmon: make bpf)"
    )


def _warn_if_outdated(probe: Probe, package: Path, path: Path) -> None:
    """Log a warning if an object in a development tree is older than its C source or a header."""
    if {"site-packages", "dist-packages"} & {*path.parts}:  # The order in which pip installs files says nothing.
        return
    clone = Path(__file__).parents[2]
    is_core = package == clone / compiler.CORE.get(probe.object, "-")
    source = (clone / "bpf" if is_core else package) / f"{probe.object}.bpf.c"
    if not source.is_file():
        return
    newest = max(compiler.inputs(source, clone / "bpf"), key=lambda file: file.stat().st_mtime)
    if newest.stat().st_mtime > path.stat().st_mtime + _COPYING_S:
        build = "make bpf" if clone in source.parents else f"ebpfmon bpf build {source}"
        log.warning("probe '%s': its object is older than '%s': compile it again with %s", probe.name, newest, build)


def read_spec(probe: Probe, obj: BpfObject, btf: Btf) -> ObjectSpec:
    """Bind a probe's events to its opened object. Raises ObjectError if they do not fit together."""
    settings = btf.variables(".rodata")
    sections = {name: obj.section(name) for name in obj.programs}
    try:
        candidates = bind(probe.events, sections, settings)
    except ObjectError as error:
        raise ObjectError(f"probe '{probe.name}': {error}") from None
    optional = frozenset(event.name for event in probe.events if event.optional)
    return ObjectSpec(candidates, settings, optional, _tables_by_process(probe, obj, btf))


def _tables_by_process(probe: Probe, obj: BpfObject, btf: Btf) -> frozenset[str]:
    by_process = []
    for table in find_tables(obj):
        key, row = (
            btf.dtype(obj.map_info(f"{table}_rows_0", what)).names or ()
            for what in ("btf_key_type_id", "btf_value_type_id")
        )
        if key == PROCESS_FIELDS:
            by_process.append(table)
        elif (key + row)[: len(PROCESS_FIELDS)] == PROCESS_FIELDS:  # In ebpfmon 0.1, the key was only the process.
            raise ObjectError(f"probe '{probe.name}': {OTHER_HEADERS}")
    return frozenset(by_process)


def bind(
    events: Iterable[Event], sections: Mapping[str, str], settings: Iterable[str]
) -> dict[str, tuple[BoundCandidate, ...]]:
    """Return the bound candidates of each event, in the probe's order.

    `sections` are the sections of the object's programs by name, `settings` the names of its rodata settings. Raises
    ObjectError if an event names a program or setting that the object lacks, or if no event names one of its programs.
    """
    bound = {e.name: tuple(_bind(e.name, c, sections, frozenset(settings)) for c in e.candidates) for e in events}
    named = {program for candidates in bound.values() for c in candidates for program in c.programs}
    if unnamed := [program for program in sections if program not in named]:
        raise ObjectError(f"no event uses program '{unnamed[0]}' of its object; add a Candidate for it to Probe.events")
    return bound


def _bind(event: str, candidate: Candidate, sections: Mapping[str, str], settings: frozenset[str]) -> BoundCandidate:
    step = f"event '{event}'"
    if not candidate.programs:
        raise ObjectError(f"{step}: a candidate names no program")
    for program in candidate.programs:
        if program not in sections:
            has = ", ".join(sections) or "none"
            raise ObjectError(
                f"{step}: its object has no program '{program}': it has {has}; if its C file has it, compile it again "
                "with ebpfmon bpf build"
            )
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
