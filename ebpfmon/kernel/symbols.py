"""Look up the running kernel's functions, tracepoints and structs in its BTF, or else in kallsyms."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Protocol, Self

from ebpfmon.errors import ObjectError
from ebpfmon.kernel import btf
from ebpfmon.kernel.btf import Btf
from ebpfmon.kernel.libbpf import Libbpf

KERNEL_BTF = Path("/sys/kernel/btf/vmlinux")


class Symbols(Protocol):
    """The kernel's symbols. A context manager."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...

    def has_function(self, name: str) -> bool:
        """Say whether there is a function of that name to attach to."""

    def arguments(self, function: str) -> int | None:
        """Return how many arguments a function has; None if that is not known."""

    def has_tracepoint(self, name: str) -> bool:
        """Say whether there is a tracepoint of that name."""

    def tracepoint_arguments(self, name: str) -> int | None:
        """Return how many arguments a tracepoint has; None if that is not known."""

    def has_struct(self, name: str, member: str = "") -> bool:
        """Say whether there is a struct of that name, with that member if one is named."""


def open_symbols(libbpf: Libbpf, path: Path = KERNEL_BTF) -> Symbols:
    """Return the running kernel's symbols from the best source that there is: its BTF, or else kallsyms."""
    try:
        return BtfSymbols(Btf(path.read_bytes(), libbpf))
    except (OSError, ObjectError):  # there is none, or libbpf is too old for it
        return Kallsyms()


class BtfSymbols:
    """Symbols from the kernel's BTF, which takes some megabytes until this is closed."""

    def __init__(self, types: Btf) -> None:
        self._types = types

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._types.close()

    def has_function(self, name: str) -> bool:
        return self._types.find(name, btf.FUNC) is not None

    def arguments(self, function: str) -> int | None:
        found = self._types.find(function, btf.FUNC)
        if found is None:
            return None
        return len(self._referred(self._types.type(found)).parts)

    def has_tracepoint(self, name: str) -> bool:
        return self._types.find(f"btf_trace_{name}", btf.TYPEDEF) is not None

    def tracepoint_arguments(self, name: str) -> int | None:
        found = self._types.find(f"btf_trace_{name}", btf.TYPEDEF)
        if found is None:
            return None
        # a typedef of a pointer to void (void *data, arguments ...)
        pointer = self._referred(self._types.type(found))
        return len(self._referred(pointer).parts) - 1

    def has_struct(self, name: str, member: str = "") -> bool:
        found = self._types.find(name, btf.STRUCT)
        if found is None or not member:
            return found is not None
        return any(self._types.name(offset) == member for offset, *_ in self._types.type(found).parts)

    def _referred(self, of: btf.Type) -> btf.Type:
        return self._types.type(of.size_or_type)


class Kallsyms:
    """Symbols from /proc/kallsyms, which has only names."""

    def __init__(self, path: Path = Path("/proc/kallsyms")) -> None:
        found = re.findall(r"^\S+ (\w) (\S+)$", path.read_text(), re.M)
        self._functions = {name for kind, name in found if kind in "tT"}
        # kernels from v5.10 on have the function; the variable is listed with CONFIG_KALLSYMS_ALL
        self._tracepoints = {name for _, name in found if name.startswith(("__traceiter_", "__tracepoint_"))}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._functions.clear()

    def has_function(self, name: str) -> bool:
        return name in self._functions

    def arguments(self, function: str) -> int | None:
        return None

    def has_tracepoint(self, name: str) -> bool:
        return not self._tracepoints.isdisjoint({f"__traceiter_{name}", f"__tracepoint_{name}"})

    def tracepoint_arguments(self, name: str) -> int | None:
        return None

    def has_struct(self, name: str, member: str = "") -> bool:
        return False
