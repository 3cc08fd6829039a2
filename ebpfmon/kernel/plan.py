"""Which candidates of a probe's events are still in question, and why the others are not."""

from __future__ import annotations

import errno
import os
from collections.abc import Container, Mapping
from dataclasses import dataclass, field
from typing import Self

from ebpfmon.errors import AttachError, LoadError, ObjectError
from ebpfmon.kernel.bpfobject import BpfObject
from ebpfmon.kernel.features import Features
from ebpfmon.kernel.kretprobes import MAXACTIVE
from ebpfmon.kernel.objects import Candidate, ObjectSpec
from ebpfmon.kernel.symbols import Symbols
from ebpfmon.kernel.tables import find_tables, set_table_size
from ebpfmon.model.everything import LoadMode, Probe, Setup, Strategy

# what a kernel answers when it does not know a kind of program at all, rather than this one
_ENOTSUPP = 524  # not in errno(3), but the kernel's answer all the same
_REFUSES_KIND = frozenset({errno.EPERM, errno.EOPNOTSUPP, _ENOTSUPP})
_TRAMPOLINES = frozenset({"fentry", "fexit"})


@dataclass(slots=True)
class Choice:
    """How an event is seen: the candidate taken (None: not at all), why it may miss calls (empty: it sees every one),
    and why not what would have come before."""

    event: str
    taken: Candidate | None = None
    misses: str = ""
    refused: list[tuple[Candidate, str]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Kernel:
    """What of the running kernel decides which candidates count every call."""

    kprobes: bool
    tracefs: bool
    lockdown: str | None
    preempts: frozenset[str]
    """The kinds of programs that this kernel preempts. Where another task's run of a program is preempted, it does not
    run that program, and so misses calls (it counts how many)."""
    returns_have_room: bool
    """Whether a kretprobe can be had that never runs out of instances."""
    casts: bool = False
    """Whether programs may call bpf_rdonly_cast()."""
    refuses: dict[str, str] = field(default_factory=dict, compare=False)
    """The kinds of programs that it does not permit, and how that is said. Unlike the rest it is found out by trying:
    what one probe has tried in vain, the next does not try."""

    @classmethod
    def of(cls, symbols: Symbols, features: Features) -> Self:
        """As far as looking tells."""
        preempts: set[str] = set()
        if features.preemptible is not False:  # better slower than wrong, where it could not be told
            preempts |= _TRAMPOLINES
            # Linux "tracing: Allow system call tracepoints to handle page faults" (in v6.13): before, a tracepoint's
            # programs ran with preemption disabled
            if symbols.has_struct("tracepoint_ext", "faultable"):
                preempts.add("tp_btf")
        return cls(
            kprobes=features.kprobes,
            tracefs=features.tracefs is not None,
            lockdown=features.lockdown,
            preempts=frozenset(preempts),
            # Linux "fprobe: Rewrite fprobe on function-graph tracer" (in v6.14): before, it had a pool of instances
            returns_have_room=symbols.has_struct("fprobe", "hlist_array"),
            casts=symbols.has_function("bpf_rdonly_cast"),
        )

    def preempts_it(self, candidate: Candidate) -> bool:
        """Whether this kernel preempts a candidate's programs."""
        return bool(candidate.kinds & self.preempts) and not candidate.softirq

    def misses(self, candidate: Candidate) -> str:
        """Why a candidate may miss calls here; empty if it sees every one."""
        if self.preempts_it(candidate):
            return "may miss calls: this kernel preempts such programs"
        if "kretprobe" in candidate.kinds and not self.returns_have_room:
            return f"may miss calls: only {MAXACTIVE} of a function can be under way"
        return ""


class Plan:
    """Takes for each event the best candidate that is left, until all can be loaded and attached."""

    def __init__(
        self, probe: Probe, spec: ObjectSpec, kernel: Kernel, *, mode: LoadMode, strategy: Strategy | None
    ) -> None:
        self._probe, self._spec, self._kernel, self._mode, self._strategy = probe, spec, kernel, mode, strategy
        self._left: dict[str, list[Candidate]] = {}
        for event, candidates in spec.candidates.items():
            of_mode = [c for c in candidates if c.mode in (None, mode)]
            if of_mode:  # else the event is for the other mode alone
                self._left[event] = sorted((c for c in of_mode if strategy in (None, c.strategy)), key=self._rank)
        self.choices = {event: Choice(event) for event in self._left}

    def _rank(self, candidate: Candidate) -> int:
        """What misses nothing first; then the order of the file. Instances run out seldom, preemption is daily."""
        return 2 if self._kernel.preempts_it(candidate) else int(bool(self._kernel.misses(candidate)))

    def look(self, symbols: Symbols, programs: Container[str] | None = None) -> None:
        """Cross out what can be seen not to be there; `programs` are those that BCC compiled, where it did."""
        for event in self._spec.if_any & self._left.keys():
            if not any(symbols.has_function(c.target) for c in self._spec.candidates[event]):
                del self._left[event], self.choices[event]
        for candidate in [c for left in self._left.values() for c in left]:
            reason = self._lacks(candidate, symbols)
            if programs is not None and not all(p in programs for p in candidate.programs):
                reason = "needs the kernel's BTF, and BCC is there to do without"
            if reason:
                self._cross_out(candidate, reason)
        for candidate in [c for left in self._left.values() for c in left]:
            if refused := candidate.kinds & self._kernel.refuses.keys():
                self._cross_out(candidate, self._kernel.refuses[min(refused)])

    def _lacks(self, candidate: Candidate, symbols: Symbols) -> str | None:
        """Why a candidate cannot work on this kernel, as far as looking tells."""
        if candidate.strategy is Strategy.TRACEPOINT:
            system, _, name = candidate.target.rpartition("/")
            # those of system calls are not among the kernel's symbols
            found = system == "syscalls" or symbols.has_tracepoint(name)
            if not found:
                return "this kernel has no such tracepoint"
            arguments = symbols.tracepoint_arguments(name) if candidate.arguments is not None else None
            if arguments not in (None, candidate.arguments):
                return f"it has {arguments} arguments here, not {candidate.arguments}"
            return None
        if candidate.strategy is Strategy.KPROBE and not self._kernel.kprobes:
            return "this kernel has no kprobes (CONFIG_KPROBE_EVENTS)"
        if not symbols.has_function(candidate.target):
            return "this kernel has no such function"
        if "kretprobe" in candidate.kinds and not (self._kernel.returns_have_room or self._kernel.tracefs):
            return "needs tracefs: mount -t tracefs tracefs /sys/kernel/tracing"
        arguments = symbols.arguments(candidate.target)
        if candidate.arguments not in (None, arguments):
            return f"it has {arguments} arguments here, not {candidate.arguments}"
        return None

    def try_out(self, obj: BpfObject, *, table_size: int, rows: bool, setup: Setup) -> bool:
        """Load and attach the best of what is left. If that fails, cross out the culprit and return False.

        Without `rows` tables by process hold none.
        """
        taken = {event: left[0] if left else None for event, left in self._left.items()}
        self._require(taken)
        programs = list(dict.fromkeys(p for c in taken.values() if c for p in c.programs))
        for stem in find_tables(obj):
            set_table_size(obj, stem, table_size if rows or stem not in self._spec.by_process else 1)
        self._set_knobs(obj, [c for c in taken.values() if c], rows, setup.knobs)
        attaching = None
        try:
            obj.load(programs)
            for name, elements in setup.maps.items():
                obj.fill(name, elements)
            for attaching in programs:
                obj.attach(attaching)
        except (LoadError, AttachError) as error:
            culprit = error.program if isinstance(error, LoadError) else attaching
            if not any(culprit in c.programs for left in self._left.values() for c in left):
                raise
            self._refuse(culprit, taken, error)
            return False
        for event, candidate in taken.items():
            self._settle(self.choices[event], candidate)
        return True

    def _settle(self, choice: Choice, taken: Candidate | None) -> None:
        choice.taken = taken
        if not taken:
            return
        choice.misses = self._kernel.misses(taken)
        in_file = list(self._spec.candidates[choice.event])
        before = in_file[: in_file.index(taken)]
        # why not what comes after it, in the file and by rank, nobody asks
        choice.refused = [r for r in choice.refused if r[0] in before or self._rank(r[0]) < self._rank(taken)]
        passed_over = [c for c in self._left[choice.event] if c in before]
        choice.refused += [(c, self._kernel.misses(c)) for c in passed_over]

    def _require(self, taken: Mapping[str, Candidate | None]) -> None:
        missing = [event for event, candidate in taken.items() if candidate is None]
        forced = self._strategy
        if missing and (forced or len(missing) == len(taken)):
            refused = self.choices[missing[0]].refused
            target, reason = ("", "the probe has no such program")
            if refused:
                target, reason = refused[-1][0].target, refused[-1][1]
            also = f", and {len(missing) - 1} more events" if len(missing) > 1 else ""
            how = (f" by {forced}" if forced else "") + (f" at '{target}'" if target else "")
            remedy = ': set attach = "auto"' if forced else ""
            raise AttachError(f"attach '{missing[0]}' for probe '{self._probe.name}'{how}: {reason}{also}{remedy}")

    def _set_knobs(self, obj: BpfObject, taken: list[Candidate], rows: bool, own: Mapping[str, int]) -> None:
        data = obj.rodata()
        of_kit = {
            "cfg_rows": rows,
            "cfg_return": self._mode is LoadMode.RETURN,
            # where a program is preempted, another's would come between a look at whose turn it is and the counting
            "cfg_gather": rows and not any(c.kinds & self._kernel.preempts for c in taken),
            "cfg_may_cast": self._kernel.casts,
            "cfg_may_read": self._kernel.lockdown != "confidentiality",
        }
        if not of_kit.keys() <= self._spec.knobs.keys():
            raise ObjectError(
                f"probe '{self._probe.name}': its object is of another version of the kit: ebpfmon bpf build"
            )
        wanted = {c.knob: 1 for c in taken if c.knob} | dict(own) | of_kit
        for name, value in wanted.items():
            if name not in self._spec.knobs:
                raise ObjectError(f"probe '{self._probe.name}': its object has no KNOB '{name}'")
            offset, size = self._spec.knobs[name]
            data[offset : offset + size] = list(int(value).to_bytes(size, "little"))

    def _refuse(
        self, culprit: str | None, taken: Mapping[str, Candidate | None], error: LoadError | AttachError
    ) -> None:
        reason = str(error).rpartition(": ")[2]
        lockdown = " (lockdown: confidentiality)" if self._kernel.lockdown == "confidentiality" else ""
        culprits = [c for left in self._left.values() for c in left if culprit in c.programs]
        if error.errno in _REFUSES_KIND:
            kinds = culprits[0].kinds
            kinds |= _TRAMPOLINES if kinds & _TRAMPOLINES else frozenset()
            culprits = [c for left in self._left.values() for c in left if c.kinds & kinds]
            names = "trampoline" if kinds & _TRAMPOLINES else " and ".join(sorted(kinds))
            reason = f"the kernel refuses {names} programs ({os.strerror(error.errno)})"
            if error.errno == errno.EPERM:  # the others may be due to one function, which another probe has not
                self._kernel.refuses.update(dict.fromkeys(kinds, reason + lockdown))
        elif culprits[0].knob:
            # one of a shared program's events is too much for this kernel: they leave it one by one
            culprits = [c for c in taken.values() if c and culprit in c.programs][-1:]
        for one in culprits:
            self._cross_out(one, reason + lockdown)

    def _cross_out(self, candidate: Candidate, reason: str) -> None:
        self._left[candidate.event].remove(candidate)
        self.choices[candidate.event].refused.append((candidate, reason))
