"""Choose a candidate for each event of a probe, and record why the others are not used."""

from __future__ import annotations

import errno
import os
from collections.abc import Container, Mapping
from dataclasses import dataclass, field

from ebpfmon import shortage
from ebpfmon.errors import AttachError, LoadError, ObjectError
from ebpfmon.kernel.attach_methods import Kernel
from ebpfmon.kernel.bpfobject import VERDICT, WHOLE_LOG, BpfObject
from ebpfmon.kernel.objects import OTHER_HEADERS, BoundCandidate, ObjectSpec
from ebpfmon.kernel.symbols import Symbols
from ebpfmon.kernel.tables import find_tables, set_table_size
from ebpfmon.model import LoadMode, Probe, Setup

_ENOTSUPP = 524  # linux/errno.h; errno(3) does not list it.
# The errors with which a kernel refuses every program of a kind. Other errors concern one program.
_KIND_REFUSED = frozenset({errno.EPERM, errno.EOPNOTSUPP, _ENOTSUPP})
_PREEMPTED = "may miss calls: this kernel can preempt such programs"


@dataclass(slots=True)
class Choice:
    """How an event is attached.

    `chosen` is its candidate, None if none works. `miss_reason` is why that may miss calls, empty if it does not.
    `refused` are the candidates that would have been preferred, each with the reason why it is not used.
    """

    event: str
    chosen: BoundCandidate | None = None
    miss_reason: str = ""
    refused: list[tuple[BoundCandidate, str]] = field(default_factory=list)


def is_preempted(candidate: BoundCandidate, kernel: Kernel) -> bool:
    """Return whether a kernel can preempt the programs of a candidate."""
    is_protected = candidate.softirq and not kernel.preempts_softirqs
    return bool(candidate.kinds & kernel.preempted_kinds) and not is_protected


def miss_reason(candidate: BoundCandidate, kernel: Kernel) -> str:
    """Return why a candidate may miss calls on a kernel; empty if it does not."""
    return _PREEMPTED if is_preempted(candidate, kernel) else candidate.method.miss_reason(candidate.kinds, kernel)


class Plan:
    """Choose the best candidate of each event among those that have not been excluded."""

    def __init__(
        self, probe: Probe, spec: ObjectSpec, kernel: Kernel, *, mode: LoadMode, attach_method: str | None
    ) -> None:
        self._probe, self._spec, self._kernel, self._mode = probe, spec, kernel, mode
        self._forced = attach_method
        self._remaining: dict[str, list[BoundCandidate]] = {}
        for event, candidates in spec.candidates.items():
            of_mode = [c for c in candidates if c.mode in (None, mode)]
            if of_mode:  # Otherwise the event exists only in the other load mode.
                allowed = (c for c in of_mode if attach_method in (None, c.method.name))
                self._remaining[event] = sorted(allowed, key=self._rank)
        self.choices = {event: Choice(event) for event in self._remaining}

    def _rank(self, candidate: BoundCandidate) -> int:
        """Return 0 for a candidate that misses no calls, 1 if it may, 2 if it may because of preemption.

        Preemption is frequent, but a kretprobe seldom reaches its limit of concurrent calls.
        """
        return 2 if is_preempted(candidate, self._kernel) else int(bool(miss_reason(candidate, self._kernel)))

    def exclude_unavailable(self, symbols: Symbols, programs: Container[str] | None = None) -> None:
        """Exclude the candidates that cannot work on this kernel, with the reason.

        `programs` are the names of the programs that BCC has compiled, None if BCC is not used.
        """
        for event in self._spec.optional & self._remaining.keys():
            candidates = self._spec.candidates[event]
            if not any(c.method.has_target(section, symbols) for c in candidates for section in c.sections):
                del self._remaining[event], self.choices[event]
        for candidate in [c for left in self._remaining.values() for c in left]:
            reason = self._unavailable_reason(candidate, symbols)
            if programs is not None and not all(p in programs for p in candidate.programs):
                reason = "needs the kernel's BTF, which is not available with BCC"
            if reason:
                self._exclude(candidate, reason)
        for candidate in [c for left in self._remaining.values() for c in left]:
            if kinds := candidate.kinds & self._kernel.refused_kinds.keys():
                self._exclude(candidate, self._kernel.refused_kinds[min(kinds)])

    def _unavailable_reason(self, candidate: BoundCandidate, symbols: Symbols) -> str:
        """Return why a candidate cannot work on this kernel; empty if it may."""
        reasons = (
            candidate.method.unavailable_reason(section, candidate.arguments, self._kernel, symbols)
            for section in candidate.sections
        )
        return next((reason for reason in reasons if reason), "")

    def try_load(self, obj: BpfObject, *, table_size: int, rows: bool, setup: Setup) -> bool:
        """Load and attach the best remaining candidates. Return whether that succeeded.

        If not, the candidates of the program at fault are excluded, and the caller tries again with a new object.
        Without `rows`, per-process tables get the smallest size. Raises AttachError if no event is left, or if an event
        that is not optional cannot be attached by the forced attach method; LoadError or AttachError if no candidate
        is at fault, or if descriptors or memory are short.
        """
        chosen = {event: left[0] if left else None for event, left in self._remaining.items()}
        self._require_candidates(chosen)
        programs = list(dict.fromkeys(p for c in chosen.values() if c for p in c.programs))
        for table in find_tables(obj):
            set_table_size(obj, table, table_size if rows or table not in self._spec.by_process else 1)
        self._set_rodata(obj, [c for c in chosen.values() if c], rows, setup.rodata)
        attaching = None
        try:
            obj.load(programs)
            for name, elements in setup.maps.items():
                obj.fill(name, elements)
            for attaching in programs:
                obj.attach(attaching)
        except (LoadError, AttachError) as error:
            culprit = error.program if isinstance(error, LoadError) else attaching
            # Another candidate would need as many descriptors and as much memory.
            is_short = shortage.is_shortage(error.errno)
            if is_short or not any(culprit in c.programs for left in self._remaining.values() for c in left):
                raise
            self._exclude_refused(culprit, chosen, error)
            return False
        for event, candidate in chosen.items():
            self._record(self.choices[event], candidate)
        return True

    def _record(self, choice: Choice, chosen: BoundCandidate | None) -> None:
        choice.chosen = chosen
        if not chosen:
            return
        choice.miss_reason = miss_reason(chosen, self._kernel)
        declared = list(self._spec.candidates[choice.event])
        before = declared[: declared.index(chosen)]
        # Report only candidates that precede the chosen one, in the probe's order or by rank.
        choice.refused = [r for r in choice.refused if r[0] in before or self._rank(r[0]) < self._rank(chosen)]
        passed_over = [c for c in self._remaining[choice.event] if c in before]
        choice.refused += [(c, miss_reason(c, self._kernel)) for c in passed_over]

    def _require_candidates(self, chosen: Mapping[str, BoundCandidate | None]) -> None:
        missing = [event for event, candidate in chosen.items() if candidate is None]
        required = [event for event in missing if event not in self._spec.optional]
        forced = self._forced
        if (forced and required) or (missing and len(missing) == len(chosen)):
            first = (required or missing)[0]
            refused = self.choices[first].refused
            target, reason = ("", "the probe has no program for it")
            if refused:
                target, reason = refused[-1][0].target, refused[-1][1]
            others = f" (and {len(missing) - 1} more of {len(chosen)} events)" if len(missing) > 1 else ""
            how = (f" by {forced}" if forced else "") + (f" at '{target}'" if target else "")
            remedy = (WHOLE_LOG if VERDICT in reason else "") + ('; set attach = "auto"' if forced else "")
            raise AttachError(f"cannot attach '{first}' (probe {self._probe.name}){how}: {reason}{others}{remedy}")

    def _set_rodata(self, obj: BpfObject, chosen: list[BoundCandidate], rows: bool, own: Mapping[str, int]) -> None:
        data = obj.rodata()
        of_headers = {
            "cfg_rows": rows,
            "cfg_return": self._mode is LoadMode.RETURN,
            # If a program can be preempted, another one may change the owner of the per-CPU cache while it counts.
            "cfg_cache": rows and not any(c.kinds & self._kernel.preempted_kinds for c in chosen),
            "cfg_may_cast": self._kernel.rdonly_cast != 0,
            "cfg_may_read": self._kernel.lockdown != "confidentiality",
        }
        if not of_headers.keys() <= self._spec.settings.keys():
            raise ObjectError(f"probe '{self._probe.name}': {OTHER_HEADERS}")
        values = {c.setting: 1 for c in chosen if c.setting} | dict(own) | of_headers
        for name, value in values.items():
            if name not in self._spec.settings:
                raise ObjectError(f"probe '{self._probe.name}': its object has no rodata setting '{name}'")
            offset, size = self._spec.settings[name]
            data[offset : offset + size] = list(int(value).to_bytes(size, "little"))

    def _exclude_refused(
        self, culprit: str | None, chosen: Mapping[str, BoundCandidate | None], error: LoadError | AttachError
    ) -> None:
        reason = error.reason if isinstance(error, LoadError) else str(error).rpartition(": ")[2]
        lockdown = " (lockdown: confidentiality)" if self._kernel.lockdown == "confidentiality" else ""
        culprits = [c for left in self._remaining.values() for c in left if culprit in c.programs]
        if error.errno in _KIND_REFUSED:
            method, kinds = culprits[0].method, culprits[0].kinds
            names = " and ".join(sorted(kinds))
            if method.refused_together:
                names, kinds = method.name, method.kinds
            culprits = [c for left in self._remaining.values() for c in left if c.kinds & kinds]
            reason = f"the kernel refuses {names} programs ({os.strerror(error.errno)})"
            if error.errno == errno.EPERM:  # Other errors may come from one target, so other probes try again.
                self._kernel.refused_kinds.update(dict.fromkeys(kinds, reason + lockdown))
        elif culprits[0].setting:
            # The program counts several events, perhaps too many for this kernel. Remove its events one by one.
            culprits = [c for c in chosen.values() if c and culprit in c.programs][-1:]
        for candidate in culprits:
            self._exclude(candidate, reason + lockdown)

    def _exclude(self, candidate: BoundCandidate, reason: str) -> None:
        self._remaining[candidate.event].remove(candidate)
        self.choices[candidate.event].refused.append((candidate, reason))
