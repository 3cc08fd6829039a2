"""The settings of the system calls probe, and the names of system calls and errors."""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from typing import Annotated

import msgspec

from ebpfmon import LabelSource, ProbeSettings, Rows, Setup
from ebpfmon_syscalls import names
from ebpfmon_syscalls.charts import LABELS, LATENCY

_NAMES_BY_MACHINE = {"x86_64": (names.X86_64, names.I386, "32-bit"), "aarch64": (names.ARM64, names.ARM, "32-bit")}
_X32 = 1 << 30
"""The bit that is set in the numbers of x32 calls: x86-64 with 32-bit pointers."""
_RESTART_ERRORS = {512: "ERESTARTSYS", 513: "ERESTARTNOINTR", 514: "ERESTARTNOHAND", 516: "ERESTART_RESTARTBLOCK"}
"""Errors of a call that a signal interrupts. The kernel restarts the call, or turns the error into EINTR."""


class SyscallsSettings(ProbeSettings, frozen=True):
    """Settings in `[plugins.syscalls]`."""

    enabled: bool = False
    table_size: Annotated[int, msgspec.Meta(ge=1, le=1 << 16)] = 1024
    maximum_dimensions: Annotated[int, msgspec.Meta(ge=len(LATENCY.columns), le=25000)] = 1000
    """Dimensions that one chart may have. A histogram has 25 per call. The most frequent calls are shown."""


def setup(settings: SyscallsSettings) -> Setup:
    """Return the label sources of the two tables, which name calls and errors."""
    calls = settings.maximum_dimensions // len(LATENCY.columns)
    return Setup(labels={"syscalls": Calls(calls), "syscall_errors": Errors(settings.maximum_dimensions)})


class Calls(LabelSource):
    """Label rows with the names of system calls: `openat`, or `openat (32-bit)` in a 32-bit program."""

    fields: tuple[str, ...] = ("number", "compat")
    labels: tuple[str, ...] = LABELS["syscalls"]

    def __init__(self, maximum: int, machine: str = os.uname().machine) -> None:
        self.maximum = maximum
        native, compat, suffix = _NAMES_BY_MACHINE.get(machine, ((), (), "32-bit"))
        self._names = {0: _by_number(native), 1: _by_number(compat)}
        self._suffix = suffix

    def values(self, rows: Rows) -> Sequence[tuple[str, ...]]:
        """Return the name of each call."""
        return [(self.name(number, compat),) for number, compat in rows[["number", "compat"]].tolist()]

    def name(self, number: int, compat: int) -> str:
        """Return the name of a system call, or `number N` if it is unknown."""
        plain = self._names[compat].get(number)
        if plain is None and number & _X32 and number & ~_X32 in self._names[0]:
            return f"{self._names[0][number & ~_X32]} (x32)"
        name = plain or f"number {number}"
        return f"{name} ({self._suffix})" if compat else name


class Errors(Calls):
    """Label rows with the names of a system call and the error that it returned: `openat`, `ENOENT`."""

    fields = ("number", "compat", "error")
    labels = LABELS["syscall_errors"]
    other = ("other", "")

    def values(self, rows: Rows) -> Sequence[tuple[str, ...]]:
        """Return the names of each call and error."""
        keys = rows[["number", "compat", "error"]].tolist()
        return [(self.name(number, compat), error_name(error)) for number, compat, error in keys]


def error_name(error: int) -> str:
    """Return the name of an error, such as `ENOENT`, or `error N` if it has none."""
    return errno.errorcode.get(error) or _RESTART_ERRORS.get(error) or f"error {error}"


def _by_number(runs: Sequence[tuple[int, str]]) -> dict[int, str]:
    return {first + n: name for first, together in runs for n, name in enumerate(together.split())}
