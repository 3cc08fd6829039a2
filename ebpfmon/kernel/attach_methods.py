"""The attach methods: trampolines, kprobes and tracepoints.

`METHODS` is the registry. To add a method, write its class with its section kinds and add it to `METHODS`.
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
    """Where a program is attached: `SEC("fexit/vfs_read")` has the kind fexit and the target vfs_read."""

    kind: str
    target: str

    @classmethod
    def parse(cls, name: str) -> Self:
        """Return the kind and the target of a section name."""
        kind, _, target = name.partition("/")
        return cls(kind, target)


@dataclass(frozen=True, slots=True, kw_only=True)
class Kernel:
    """The properties of a kernel that decide which candidates work and which of them count every call."""

    kprobes: bool
    tracefs: bool
    lockdown: str | None
    preempted_kinds: frozenset[str]
    """The section kinds whose programs this kernel can preempt.

    While a program is preempted, the kernel skips other runs of it on that CPU, so calls are missed. It counts them.
    """
    unlimited_kretprobes: bool
    """Whether kretprobes can be attached without a limit on concurrent calls."""
    preempts_softirqs: bool = False
    """Whether this kernel can preempt softirqs. With PREEMPT_RT they run in threads."""
    rdonly_cast: int = 0
    """The BTF id of bpf_rdonly_cast(), 0 if programs cannot call it."""
    refused_kinds: dict[str, str] = field(default_factory=dict, compare=False)
    """The section kinds that the kernel does not permit, each with the reason.

    It is filled as probes are loaded, so that no probe tries again what failed for another one.
    """

    @classmethod
    def of(cls, symbols: Symbols, features: Features) -> Self:
        """Return the properties of the running kernel."""
        # If preemption is unknown, assume it: a slower attach method is better than missed calls.
        preemptible = features.preemptible is not False
        preempted_kinds = (method.preempted(symbols) for method in METHODS if preemptible)
        return cls(
            kprobes=features.kprobes,
            tracefs=features.tracefs is not None,
            lockdown=features.lockdown,
            preempted_kinds=frozenset[str]().union(*preempted_kinds),
            # Linux 4346ba160409 ("fprobe: Rewrite fprobe on function-graph tracer") (in v6.14). Before, each fprobe
            # had a limited pool of instances.
            unlimited_kretprobes=symbols.has_struct("fprobe", "hlist_array"),
            preempts_softirqs=features.preemption == "rt",
            rdonly_cast=symbols.function_id("bpf_rdonly_cast"),
        )


class Links(Protocol):
    """The part of `ebpfmon.kernel.bpfobject.BpfObject` that attaches programs."""

    def attach_by_section(self, program: str, *, counts_misses: bool = False) -> None: ...
    def attach_return(self, program: str, function: str) -> None: ...
    def prepare_return(self, program: str) -> None: ...


class AttachMethod:
    """One attach method."""

    name: ClassVar[str]
    """The name in settings and reports."""
    kinds: ClassVar[frozenset[str]]
    """The section kinds of programs that this method attaches."""
    refused_together: ClassVar[bool] = False
    """Whether a kernel that refuses programs of one kind also refuses those of the other kinds."""

    def preempted(self, symbols: Symbols) -> frozenset[str]:
        """Return the kinds whose programs can be preempted on a preemptible kernel."""
        return frozenset()

    def has_target(self, section: Section, symbols: Symbols) -> bool:
        """Return whether this kernel has the function or tracepoint of a section, or may have it."""
        return symbols.has_function(section.target)

    def unavailable_reason(self, section: Section, arguments: int | None, kernel: Kernel, symbols: Symbols) -> str:
        """Return why a program cannot be attached at a section; empty if it may be possible.

        `arguments` is the number of arguments that the target must have, None for any number.
        """
        raise NotImplementedError

    def miss_reason(self, kinds: Iterable[str], kernel: Kernel) -> str:
        """Return why programs of these kinds may miss calls, apart from preemption; empty if they do not."""
        return ""

    def prepare(self, obj: Links, program: str, section: Section) -> None:
        """Prepare a program before the object is loaded."""

    def attach(self, obj: Links, program: str, section: Section) -> None:
        """Attach a loaded program. Raises AttachError."""
        obj.attach_by_section(program)


class Trampoline(AttachMethod):
    """fentry and fexit: the function itself calls the program."""

    name = "trampoline"
    kinds = frozenset({"fentry", "fexit"})
    refused_together = True

    def preempted(self, symbols: Symbols) -> frozenset[str]:
        return self.kinds

    def unavailable_reason(self, section: Section, arguments: int | None, kernel: Kernel, symbols: Symbols) -> str:
        return _function_unavailable(section.target, arguments, symbols)


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
            return "needs tracefs; run mount -t tracefs tracefs /sys/kernel/tracing"
        return _function_unavailable(section.target, arguments, symbols)

    def miss_reason(self, kinds: Iterable[str], kernel: Kernel) -> str:
        if "kretprobe" in kinds and not kernel.unlimited_kretprobes:
            return f"may miss calls: at most {MAXACTIVE} concurrent calls of a function are counted"
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
    """tp_btf for raw tracepoints, and tp for classic tracepoints, whose target is SYSTEM/NAME."""

    name = "tracepoint"
    kinds = frozenset({"tp_btf", "tp"})

    def preempted(self, symbols: Symbols) -> frozenset[str]:
        # Linux a363d27cdbc2 ("tracing: Allow system call tracepoints to handle page faults") (in v6.13). Before, the
        # programs of a tracepoint ran with preemption disabled.
        return frozenset({"tp_btf"} if symbols.has_struct("tracepoint_ext", "faultable") else ())

    def has_target(self, section: Section, symbols: Symbols) -> bool:
        system, _, name = section.target.rpartition("/")
        # The kernel's symbols do not include the classic tracepoints of system calls.
        return system == "syscalls" or symbols.has_tracepoint(name)

    def unavailable_reason(self, section: Section, arguments: int | None, kernel: Kernel, symbols: Symbols) -> str:
        if not self.has_target(section, symbols):
            return "this kernel has no such tracepoint"
        name = section.target.rpartition("/")[2]
        return "" if arguments is None else _wrong_arguments(arguments, symbols.tracepoint_arguments(name))


METHODS: tuple[AttachMethod, ...] = (Trampoline(), Kprobe(), Tracepoint())
"""All attach methods, in the order in which reports list them."""
NAMES = tuple(method.name for method in METHODS)
"""The values of the setting `attach`, besides auto."""


def method_of(kind: str) -> AttachMethod | None:
    """Return the attach method of a section kind, or None."""
    return next((method for method in METHODS if kind in method.kinds), None)


_NO_FUNCTION = "this kernel has no such function"


def _function_unavailable(function: str, arguments: int | None, symbols: Symbols) -> str:
    if not symbols.has_function(function):
        return _NO_FUNCTION
    if arguments is None:
        return ""
    actual = symbols.arguments(function)
    return "" if actual == arguments else f"it has {actual} arguments in this kernel, not {arguments}"


def _wrong_arguments(expected: int, actual: int | None) -> str:
    """Return why the number of arguments does not fit; empty if it fits or is unknown. Then loading decides."""
    return "" if actual in (None, expected) else f"it has {actual} arguments in this kernel, not {expected}"
