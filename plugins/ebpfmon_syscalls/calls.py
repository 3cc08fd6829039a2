"""The settings of the probe, and what system calls and errors are called."""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from typing import Annotated

import msgspec

from ebpfmon import LabelSource, ProbeSettings, Rows, Setup
from ebpfmon_syscalls import names
from ebpfmon_syscalls.charts import LABELS, LATENCY

_OF_MACHINE = {"x86_64": (names.X86_64, names.I386, "32-bit"), "aarch64": (names.ARM64, names.ARM, "32-bit")}
_X32 = 1 << 30
"""x86-64's calls with pointers of 32 bits have this bit set."""
_KERNELS_OWN = {512: "ERESTARTSYS", 513: "ERESTARTNOINTR", 514: "ERESTARTNOHAND", 516: "ERESTART_RESTARTBLOCK"}
"""Which a call ends with that a signal interrupts and the kernel makes again, or turns into EINTR."""


class SyscallsSettings(ProbeSettings, frozen=True):
    """`[plugins.syscalls]`."""

    enabled: bool = False
    table_size: Annotated[int, msgspec.Meta(ge=1, le=1 << 16)] = 1024
    maximum_dimensions: Annotated[int, msgspec.Meta(ge=len(LATENCY.columns), le=25000)] = 1000
    """Dimensions that a chart may have, of the most frequent calls; that of times has 25 a call."""


def setup(settings: SyscallsSettings) -> Setup:
    """Name calls, and calls with errors."""
    calls = settings.maximum_dimensions // len(LATENCY.columns)
    return Setup(labels={"syscalls": Calls(calls), "syscall_errors": Errors(settings.maximum_dimensions)})


class Calls(LabelSource):
    """System calls by their names: `openat`, of a 32-bit program `openat (32-bit)`."""

    fields: tuple[str, ...] = ("number", "compat")
    labels: tuple[str, ...] = LABELS["syscalls"]

    def __init__(self, maximum: int, machine: str = os.uname().machine) -> None:
        self.maximum = maximum
        native, compat, how = _OF_MACHINE.get(machine, ((), (), "32-bit"))
        self._names = {0: _by_number(native), 1: _by_number(compat)}
        self._how = how

    def values(self, rows: Rows) -> Sequence[tuple[str, ...]]:
        """Return the call's name: a number is a name's for ever."""
        return [(self.name(number, compat),) for number, compat in rows[["number", "compat"]].tolist()]

    def name(self, number: int, compat: int) -> str:
        """Return the name of a system call, or its number if the table does not have it."""
        plain = self._names[compat].get(number)
        if plain is None and number & _X32 and number & ~_X32 in self._names[0]:
            return f"{self._names[0][number & ~_X32]} (x32)"
        name = plain or f"number {number}"
        return f"{name} ({self._how})" if compat else name


class Errors(Calls):
    """System calls with the errors that they ended with: `openat`, `ENOENT`."""

    fields = ("number", "compat", "error")
    labels = LABELS["syscall_errors"]
    other = ("other", "")

    def values(self, rows: Rows) -> Sequence[tuple[str, ...]]:
        """Return the call's name and the error's."""
        keys = rows[["number", "compat", "error"]].tolist()
        return [(self.name(number, compat), error_name(error)) for number, compat, error in keys]


def error_name(error: int) -> str:
    """Return the name of an error, such as `ENOENT`, or its number if it has no name."""
    return errno.errorcode.get(error) or _KERNELS_OWN.get(error) or f"error {error}"


def _by_number(runs: Sequence[tuple[int, str]]) -> dict[int, str]:
    return {first + n: name for first, together in runs for n, name in enumerate(together.split())}
