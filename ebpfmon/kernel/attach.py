"""Chooses a strategy for each event of a probe, loads its object and attaches it.

By looking first (has this kernel the function, the tracepoint, kprobes at all?) and then by trying: what the
kernel refuses is crossed out with its reason and the next best is taken, until the object loads and every
program is attached. Kernel versions are never compared.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Self

from ebpfmon.errors import AttachError, KernelError, LoadError, ObjectError
from ebpfmon.kernel.btf import Btf
from ebpfmon.kernel.features import Features
from ebpfmon.kernel.libbpf import BpfObject, KernelBtf, Libbpf
from ebpfmon.kernel.objects import Candidate, ObjectSpec, locate, read_spec
from ebpfmon.kernel.tables import Interval, Table, find_tables, set_table_size
from ebpfmon.model import LoadMode, Probe, Strategy

# what a kernel answers when it does not know a kind of program at all, rather than this one
_ENOTSUPP = 524  # not in errno(3), but the kernel's answer all the same
_REFUSES_KIND = frozenset({errno.EPERM, errno.EOPNOTSUPP, _ENOTSUPP})


@dataclass(slots=True)
class Choice:
    """How an event is seen: the candidate taken (None: not at all), and why not what would have come before."""

    event: str
    taken: Candidate | None = None
    refused: list[tuple[Candidate, str]] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadOptions:
    """How a probe is to be loaded. `strategy` None takes the best; `rows` False keeps totals alone."""

    mode: LoadMode = LoadMode.ENTRY
    strategy: Strategy | None = None
    table_size: int = 16384
    rows: bool = True


class LoadedProbe:
    """A probe in the kernel: its tables and the choices made. A context manager; closing twice is harmless."""

    def __init__(self, probe: Probe, obj: BpfObject, btf: Btf, choices: tuple[Choice, ...]) -> None:
        self.probe, self.object, self.choices = probe, obj, choices
        self._programs = sorted({p for c in choices if c.taken for p in c.taken.programs})
        self.interval = Interval(obj)
        self.tables = [Table(obj, btf, stem) for stem in find_tables(obj)]
        if not self.tables:
            raise ObjectError(f"read '{obj.path.name}': it has no table: PROCESS_TABLE in the kit makes one")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Detach and free, in reverse order."""
        self.object.close()

    def missed_runs(self) -> int:
        """Runs of the attached programs that the kernel left out, since the load."""
        return self.object.missed_runs(self._programs)


def load(probe: Probe, libbpf: Libbpf, features: Features, options: LoadOptions) -> LoadedProbe:
    """Load and attach a probe's best programs.

    Raises AttachError if a strategy is forced and an event cannot be seen by it, or if no event can be seen;
    ObjectError and LoadError as they come.
    """
    path = locate(probe)
    plan: _Plan | None = None
    while True:
        obj = BpfObject(libbpf, path)
        try:
            btf = Btf(obj.btf())
            if plan is None:
                plan = _Plan(probe, read_spec(obj, btf), options)
                plan.look(libbpf, features)
            if plan.try_out(obj):
                return LoadedProbe(probe, obj, btf, tuple(plan.choices.values()))
        except BaseException:
            obj.close()
            raise
        obj.close()


class _Plan:
    """Which candidates are still in question, event by event, and why the others are not."""

    def __init__(self, probe: Probe, spec: ObjectSpec, options: LoadOptions) -> None:
        self._probe, self._spec, self._options = probe, spec, options
        self._left: dict[str, list[Candidate]] = {}
        for event, candidates in spec.candidates.items():
            of_mode = [c for c in candidates if c.mode in (None, options.mode)]
            if of_mode:  # else the event is for the other mode alone
                self._left[event] = [c for c in of_mode if options.strategy in (None, c.strategy)]
        self.choices = {event: Choice(event) for event in self._left}

    def look(self, libbpf: Libbpf, features: Features) -> None:
        """Cross out what can be seen not to be there."""
        kernel = libbpf.kernel_btf()
        if kernel is None:
            raise KernelError("read the kernel's BTF: none: use a kernel built with CONFIG_DEBUG_INFO_BTF")
        with kernel:
            for candidate in [c for left in self._left.values() for c in left]:
                reason = _lacks(candidate, kernel, features)
                if reason:
                    self._cross_out(candidate, reason)

    def try_out(self, obj: BpfObject) -> bool:
        """Load and attach the best of what is left. If that fails, cross out the culprit and return False."""
        taken = {event: left[0] if left else None for event, left in self._left.items()}
        self._require(taken)
        programs = list(dict.fromkeys(p for c in taken.values() if c for p in c.programs))
        for program in obj.programs:
            obj.set_autoload(program, program in programs)
        for stem in find_tables(obj):
            set_table_size(obj, stem, self._options.table_size if self._options.rows else 1)
        self._set_knobs(obj, [c for c in taken.values() if c])
        attaching = None
        try:
            obj.load()
            for attaching in programs:
                obj.attach(attaching)
        except (LoadError, AttachError) as error:
            culprit = error.program if isinstance(error, LoadError) else attaching
            culprits = [c for left in self._left.values() for c in left if culprit in c.programs]
            if not culprits:
                raise
            self._refuse(culprits, error.errno, str(error).rpartition(": ")[2])
            return False
        for event, candidate in taken.items():
            choice, order = self.choices[event], self._spec.candidates[event]
            choice.taken = candidate
            if candidate:  # why not what comes after it, nobody asks
                choice.refused = [r for r in choice.refused if order.index(r[0]) < order.index(candidate)]
        return True

    def _require(self, taken: Mapping[str, Candidate | None]) -> None:
        missing = [event for event, candidate in taken.items() if candidate is None]
        forced = self._options.strategy
        if missing and (forced or len(missing) == len(taken)):
            refused = self.choices[missing[0]].refused
            target, reason = ("", "the probe has no such program")
            if refused:
                target, reason = refused[-1][0].target, refused[-1][1]
            also = f", and {len(missing) - 1} more events" if len(missing) > 1 else ""
            how = (f" by {forced}" if forced else "") + (f" at '{target}'" if target else "")
            remedy = ': set attach = "auto"' if forced else ""
            raise AttachError(f"attach '{missing[0]}' for probe '{self._probe.name}'{how}: {reason}{also}{remedy}")

    def _set_knobs(self, obj: BpfObject, taken: list[Candidate]) -> None:
        data = obj.rodata()
        wanted = {"cfg_rows": self._options.rows, "cfg_return": self._options.mode is LoadMode.RETURN}
        wanted |= {c.knob: True for c in taken if c.knob}
        for name, value in wanted.items():
            offset, size = self._spec.knobs[name]
            data[offset : offset + size] = list(int(value).to_bytes(size, "little"))

    def _refuse(self, culprits: list[Candidate], code: int, reason: str) -> None:
        if code in _REFUSES_KIND:
            kind = culprits[0].strategy
            culprits = [c for left in self._left.values() for c in left if c.strategy is kind]
            reason = f"the kernel refuses {kind} programs ({os.strerror(code)})"
        for culprit in culprits:
            self._cross_out(culprit, reason)

    def _cross_out(self, candidate: Candidate, reason: str) -> None:
        self._left[candidate.event].remove(candidate)
        self.choices[candidate.event].refused.append((candidate, reason))


def _lacks(candidate: Candidate, kernel: KernelBtf, features: Features) -> str | None:
    """Why a candidate cannot work on this kernel, as far as looking tells."""
    if candidate.strategy is Strategy.TRACEPOINT:
        return None if kernel.has_tracepoint(candidate.target) else "this kernel has no such tracepoint"
    if candidate.strategy is Strategy.KPROBE and not features.kprobes:
        return "this kernel has no kprobes (CONFIG_KPROBE_EVENTS)"
    arguments = kernel.arguments(candidate.target)
    if arguments is None:
        return "this kernel has no such function"
    if candidate.arguments not in (None, arguments):
        return f"it has {arguments} arguments here, not {candidate.arguments}"
    return None
