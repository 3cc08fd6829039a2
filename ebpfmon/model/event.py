"""What a probe counts in the kernel, and which of its programs can see it. Data only."""

from __future__ import annotations

import enum
from dataclasses import dataclass


class LoadMode(enum.StrEnum):
    """How much is counted."""

    ENTRY = "entry"
    """Calls and bytes."""
    RETURN = "return"
    """Calls, bytes and errors."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """One way to see an event: programs of the probe's object, by their names in C, that belong together.

    How they are attached, and where, is in their sections: `SEC("fexit/vfs_read")` is a trampoline at vfs_read.
    """

    programs: tuple[str, ...]
    mode: LoadMode | None = None
    """The only load mode it is for; None for both."""
    arguments: int | None = None
    """How many arguments the function or tracepoint must have on the running kernel; None if any number will do. A
    fexit program finds the result behind them."""
    softirq: bool = False
    """Whether its programs run in softirqs alone, where the kernel preempts no program."""
    setting: str = ""
    """Where several events share the programs: the rodata setting that makes them count this one."""


@dataclass(frozen=True, slots=True)
class Event:
    """Something to count, and the candidates that can see it, best first.

    Of those that the running kernel allows the first is taken; those that may miss calls there come last. `optional`:
    a kernel that has none of its functions has nothing to count, because other events see it all.
    """

    name: str
    candidates: tuple[Candidate, ...]
    optional: bool = False
