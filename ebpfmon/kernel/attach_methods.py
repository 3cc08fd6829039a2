"""The attach methods: how programs get to see what happens in the kernel.

`METHODS` is the registry. To add a method, write its class here, with the section kinds that belong to it, and list it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import ClassVar, Protocol, Self

from ebpfmon.kernel.features import Features
from ebpfmon.kernel.kretprobes import MAXACTIVE
from ebpfmon.kernel.symbols import Symbols


@dataclass(frozen=True, slots=True)
class Section:
    """Where a program is attached: of `SEC("fexit/vfs_read")` the kind is fexit and the target is vfs_read."""

    kind: str
    target: str

    @classmethod
    def parse(cls, name: str) -> Self:
        """Take a section's name apart."""
        kind, _, target = name.partition("/")
        return cls(kind, target)


@dataclass(frozen=True, slots=True, kw_only=True)
class Kernel:
    """What decides which candidates work, and count every call, on the running kernel."""

    kprobes: bool
    tracefs: bool
    lockdown: str | None
    preempted_kinds: frozenset[str]
    """The section kinds whose programs this kernel preempts. While another task's run of a program is preempted, it
    does not run that program on that CPU, and so misses calls (it counts how many)."""
    unlimited_kretprobes: bool
    """Whether a kretprobe can be had that never runs out of instances."""
    has_rdonly_cast: bool = False
    """Whether programs may call bpf_rdonly_cast()."""
    refused_kinds: dict[str, str] = field(default_factory=dict, compare=False)
    """The section kinds that it does not permit, and how that is said. Unlike the rest it is found out by trying: what
    one probe has tried in vain, the next does not try."""

    @classmethod
    def of(cls, symbols: Symbols, features: Features) -> Self:
        """Return what looking tells."""
        # better slower than wrong, where it could not be told
        preemptible = features.preemptible is not False
        preempted_kinds = (method.preempted(symbols) for method in METHODS if preemptible)
        return cls(
            kprobes=features.kprobes,
            tracefs=features.tracefs is not None,
            lockdown=features.lockdown,
            preempted_kinds=frozenset[str]().union(*preempted_kinds),
            # Linux "fprobe: Rewrite fprobe on function-graph tracer" (in v6.14): before, it had a pool of instances
            unlimited_kretprobes=symbols.has_struct("fprobe", "hlist_array"),
            has_rdonly_cast=symbols.has_function("bpf_rdonly_cast"),
        )


class Links(Protocol):
    """How a loaded object attaches its programs (`ebpfmon.kernel.bpfobject.BpfObject`)."""

    def attach_by_section(self, program: str, *, counts_misses: bool = False) -> None: ...
    def attach_return(self, program: str, function: str) -> None: ...
    def prepare_return(self, program: str) -> None: ...


class AttachMethod:
    """One attach method."""

    name: ClassVar[str]
    """Its name in settings and reports."""
    kinds: ClassVar[frozenset[str]]
    """The section kinds that belong to it."""
    refused_together: ClassVar[bool] = False
    """Whether a kernel that refuses one of its kinds refuses them all."""

    def preempted(self, symbols: Symbols) -> frozenset[str]:
        """Return the kinds whose programs a kernel preempts that preempts itself."""
        return frozenset()

    def unavailable_reason(self, section: Section, arguments: int | None, kernel: Kernel, symbols: Symbols) -> str:
        """Return why the kernel has nothing to attach to there, as far as looking tells; empty if it may have.

        `arguments` is how many the target must have, None if any number will do.
        """
        raise NotImplementedError

    def miss_reason(self, kinds: Iterable[str], kernel: Kernel) -> str:
        """Return why programs of these kinds may miss calls here, preemption aside; empty if they do not."""
        return ""

    def prepare(self, obj: Links, program: str, section: Section) -> None:
        """Do what has to be done before the program is loaded."""

    def attach(self, obj: Links, program: str, section: Section) -> None:
        """Attach a loaded program. Raises AttachError."""
        obj.attach_by_section(program)


class Trampoline(AttachMethod):
    """fentry and fexit: the kernel calls the program from the function itself."""

    name = "trampoline"
    kinds = frozenset({"fentry", "fexit"})
    refused_together = True

    def preempted(self, symbols: Symbols) -> frozenset[str]:
        return self.kinds

    def unavailable_reason(self, section: Section, arguments: int | None, kernel: Kernel, symbols: Symbols) -> str:
        return _lacks_function(section.target, arguments, symbols)


class Kprobe(AttachMethod):
    """kprobe and kretprobe: a breakpoint or a jump in the function's code."""

    name = "kprobe"
    kinds = frozenset({"kprobe", "kretprobe"})

    def unavailable_reason(self, section: Section, arguments: int | None, kernel: Kernel, symbols: Symbols) -> str:
        if not kernel.kprobes:
            return "this kernel has no kprobes (CONFIG_KPROBE_EVENTS)"
        if not symbols.has_function(section.target):
            return _NO_FUNCTION
        if section.kind == "kretprobe" and not (kernel.unlimited_kretprobes or kernel.tracefs):
            return "needs tracefs: mount -t tracefs tracefs /sys/kernel/tracing"
        return _lacks_function(section.target, arguments, symbols)

    def miss_reason(self, kinds: Iterable[str], kernel: Kernel) -> str:
        if "kretprobe" in kinds and not kernel.unlimited_kretprobes:
            return f"may miss calls: only {MAXACTIVE} of a function can be under way"
        return ""

    def prepare(self, obj: Links, program: str, section: Section) -> None:
        if section.kind == "kretprobe":
            obj.prepare_return(program)

    def attach(self, obj: Links, program: str, section: Section) -> None:
        if section.kind == "kretprobe":
            obj.attach_return(program, section.target)
        else:
            obj.attach_by_section(program, counts_misses=True)


class Tracepoint(AttachMethod):
    """tp_btf, at raw tracepoints, and tp, at classic ones, whose target is SYSTEM/NAME."""

    name = "tracepoint"
    kinds = frozenset({"tp_btf", "tp"})

    def preempted(self, symbols: Symbols) -> frozenset[str]:
        # Linux "tracing: Allow system call tracepoints to handle page faults" (in v6.13): before, a tracepoint's
        # programs ran with preemption disabled
        return frozenset({"tp_btf"} if symbols.has_struct("tracepoint_ext", "faultable") else ())

    def unavailable_reason(self, section: Section, arguments: int | None, kernel: Kernel, symbols: Symbols) -> str:
        system, _, name = section.target.rpartition("/")
        # those of system calls are not among the kernel's symbols
        if system != "syscalls" and not symbols.has_tracepoint(name):
            return "this kernel has no such tracepoint"
        return _wrong_arguments(arguments, None if arguments is None else symbols.tracepoint_arguments(name))


METHODS: tuple[AttachMethod, ...] = (Trampoline(), Kprobe(), Tracepoint())
"""All there are, in the order in which reports list them."""
NAMES = tuple(method.name for method in METHODS)
"""What the setting `attach` can be, besides auto."""


def method_of(kind: str) -> AttachMethod | None:
    """Return the method that a section kind belongs to; None if there is none."""
    return next((method for method in METHODS if kind in method.kinds), None)


_NO_FUNCTION = "this kernel has no such function"


def _lacks_function(function: str, arguments: int | None, symbols: Symbols) -> str:
    if not symbols.has_function(function):
        return _NO_FUNCTION
    if arguments is None:
        return ""
    found = symbols.arguments(function)
    return "" if found == arguments else f"it has {found} arguments here, not {arguments}"


def _wrong_arguments(wanted: int | None, found: int | None) -> str:
    """Return what is wrong with the number of arguments, or nothing. If the number is not known, the load will tell."""
    return "" if found in (None, wanted) else f"it has {found} arguments here, not {wanted}"
