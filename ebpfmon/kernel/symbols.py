"""Look up the running kernel's functions, tracepoints and structs in its BTF or in /proc/kallsyms."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Protocol, Self

from ebpfmon import shortage
from ebpfmon.errors import KernelError, ObjectError
from ebpfmon.kernel import btf
from ebpfmon.kernel.btf import Btf
from ebpfmon.kernel.libbpf import Libbpf

KERNEL_BTF = Path("/sys/kernel/btf/vmlinux")


class Symbols(Protocol):
    """The kernel's symbols. A context manager."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...

    def has_function(self, name: str) -> bool:
        """Return whether the kernel has a function of that name."""

    def function_id(self, name: str) -> int:
        """Return the BTF id of a function, 0 if it is unknown."""

    def arguments(self, function: str) -> int | None:
        """Return the number of arguments of a function, None if it is unknown."""

    def has_tracepoint(self, name: str) -> bool:
        """Return whether the kernel has a tracepoint of that name."""

    def tracepoint_arguments(self, name: str) -> int | None:
        """Return the number of arguments of a tracepoint, None if it is unknown."""

    def has_struct(self, name: str, member: str = "") -> bool:
        """Return whether the kernel has a struct of that name, and with that member if one is given."""


def open_symbols(libbpf: Libbpf, path: Path = KERNEL_BTF) -> Symbols:
    """Return the running kernel's symbols, from its BTF if that can be read, otherwise from /proc/kallsyms.

    Raises KernelError if descriptors or memory are short.
    """
    try:
        return BtfSymbols(Btf(path.read_bytes(), libbpf))
    except (OSError, ObjectError, MemoryError) as error:
        if short := shortage.reason(error):
            raise KernelError(f"cannot read the kernel's BTF: {short}") from error
        return Kallsyms()  # The kernel has no BTF, or libbpf is too old to read it.


class BtfSymbols:
    """Symbols from the kernel's BTF, which needs some megabytes of memory until it is closed."""

    def __init__(self, types: Btf) -> None:
        self._types = types

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._types.close()

    def has_function(self, name: str) -> bool:
        return self._types.find(name, btf.FUNC) is not None

    def function_id(self, name: str) -> int:
        return self._types.find(name, btf.FUNC) or 0

    def arguments(self, function: str) -> int | None:
        type_id = self._types.find(function, btf.FUNC)
        if type_id is None:
            return None
        return len(self._referenced(self._types.type(type_id)).parts)

    def has_tracepoint(self, name: str) -> bool:
        return self._types.find(f"btf_trace_{name}", btf.TYPEDEF) is not None

    def tracepoint_arguments(self, name: str) -> int | None:
        type_id = self._types.find(f"btf_trace_{name}", btf.TYPEDEF)
        if type_id is None:
            return None
        # This is a typedef of a pointer to a function: void (void *data, ARGUMENTS).
        pointer = self._referenced(self._types.type(type_id))
        return len(self._referenced(pointer).parts) - 1

    def has_struct(self, name: str, member: str = "") -> bool:
        type_id = self._types.find(name, btf.STRUCT)
        if type_id is None or not member:
            return type_id is not None
        return any(self._types.name(offset) == member for offset, *_ in self._types.type(type_id).parts)

    def _referenced(self, type_: btf.Type) -> btf.Type:
        return self._types.type(type_.size_or_type)


class Kallsyms:
    """Symbols from /proc/kallsyms, which has names but no types."""

    def __init__(self, path: Path = Path("/proc/kallsyms")) -> None:
        symbols = re.findall(r"^\S+ (\w) (\S+)$", path.read_text(), re.M)
        self._functions = {name for kind, name in symbols if kind in "tT"}
        # __traceiter_NAME exists since Linux 5.10. __tracepoint_NAME is listed only with CONFIG_KALLSYMS_ALL.
        self._tracepoints = {name for _, name in symbols if name.startswith(("__traceiter_", "__tracepoint_"))}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._functions.clear()

    def has_function(self, name: str) -> bool:
        return name in self._functions

    def function_id(self, name: str) -> int:
        return 0

    def arguments(self, function: str) -> int | None:
        return None

    def has_tracepoint(self, name: str) -> bool:
        return not self._tracepoints.isdisjoint({f"__traceiter_{name}", f"__tracepoint_{name}"})

    def tracepoint_arguments(self, name: str) -> int | None:
        return None

    def has_struct(self, name: str, member: str = "") -> bool:
        return False
