"""The events that a probe counts, and the programs that can see them. Data only."""

from __future__ import annotations

import enum
from dataclasses import dataclass


class LoadMode(enum.StrEnum):
    """How much ebpfmon counts."""

    ENTRY = "entry"
    """Calls and bytes."""
    RETURN = "return"
    """Calls, bytes and errors."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """One way to see an event: the programs that do it together, by their names in C.

    Each program's section says how and where to attach it: `SEC("fexit/vfs_read")` is a trampoline at vfs_read.
    """

    programs: tuple[str, ...]
    mode: LoadMode | None = None
    """The only load mode that uses this candidate; None means both."""
    arguments: int | None = None
    """How many arguments the function or tracepoint must have on the running kernel; None means any number.

    A fexit program finds the return value after the last argument, so with another number it would read garbage.
    """
    softirq: bool = False
    """Whether its programs run only in softirq context, so that only a real-time kernel can preempt them."""
    setting: str = ""
    """The rodata setting that makes programs shared by several events count this one; empty if they are not shared."""


@dataclass(frozen=True, slots=True)
class Event:
    """Something to count, and the candidates that can see it, best first.

    ebpfmon uses the first candidate that the running kernel allows and that cannot miss calls there, or else the first
    that the kernel allows. An `optional` event is left out on kernels that have none of its functions or tracepoints,
    and may be missing if the user has chosen an attach method that cannot see it.
    """

    name: str
    candidates: tuple[Candidate, ...]
    optional: bool = False
