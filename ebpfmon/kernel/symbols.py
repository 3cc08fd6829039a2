"""What the running kernel has: functions, tracepoints, structs. From its BTF, or where it has none from kallsyms."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Protocol, Self

from ebpfmon.kernel.libbpf import Libbpf


class Symbols(Protocol):
    """The kernel's names. A context manager."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...

    def has_function(self, name: str) -> bool:
        """Whether there is a function to attach to, as far as names tell."""

    def arguments(self, function: str) -> int | None:
        """How many arguments a function has; None if that is not known."""

    def has_tracepoint(self, name: str) -> bool:
        """Whether there is a tracepoint."""

    def tracepoint_arguments(self, name: str) -> int | None:
        """How many arguments a tracepoint has; None if that is not known."""

    def has_struct(self, name: str, member: str = "") -> bool:
        """Whether there is a struct, with such a member if one is named."""


def look_up(libbpf: Libbpf) -> Symbols:
    """The running kernel's symbols, by the best source that it has."""
    found = libbpf.lib.btf__load_vmlinux_btf()
    return BtfSymbols(libbpf, found) if found else Kallsyms()


class BtfSymbols:
    """From the kernel's BTF, of which it holds some megabytes until it is closed."""

    _STRUCT, _TYPEDEF, _FUNC = 4, 8, 12  # linux/btf.h

    def __init__(self, libbpf: Libbpf, btf: int) -> None:
        self._lib, self._btf = libbpf.lib, btf
        self._found: dict[tuple[str, int], int] = {}  # libbpf goes through all types for each name

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._lib.btf__free(self._btf)

    def has_function(self, name: str) -> bool:
        return self._find(name, self._FUNC) > 0

    def arguments(self, function: str) -> int | None:
        found = self._find(function, self._FUNC)
        if found <= 0:
            return None
        prototype = self._lib.btf__type_by_id(self._btf, self._lib.btf__type_by_id(self._btf, found)[2])
        return int(prototype[1] & 0xFFFF)

    def has_tracepoint(self, name: str) -> bool:
        return self._find(f"btf_trace_{name}", self._TYPEDEF) > 0

    def tracepoint_arguments(self, name: str) -> int | None:
        found = self._find(f"btf_trace_{name}", self._TYPEDEF)
        if found <= 0:
            return None
        # typedef of a pointer to void (void *data, arguments ...)
        pointer = self._lib.btf__type_by_id(self._btf, found)[2]
        prototype = self._lib.btf__type_by_id(self._btf, self._lib.btf__type_by_id(self._btf, pointer)[2])
        return int(prototype[1] & 0xFFFF) - 1

    def has_struct(self, name: str, member: str = "") -> bool:
        found = self._find(name, self._STRUCT)
        if found <= 0 or not member:
            return found > 0
        # struct btf_type: name, info, size; then for each member: name, type, offset
        struct = self._lib.btf__type_by_id(self._btf, found)
        names = (struct[3 + 3 * n] for n in range(struct[1] & 0xFFFF))
        return any(self._lib.btf__name_by_offset(self._btf, n) == member.encode() for n in names)

    def _find(self, name: str, kind: int) -> int:
        found = self._found.get((name, kind))
        if found is None:
            found = self._found[name, kind] = self._lib.btf__find_by_name_kind(self._btf, name.encode(), kind)
        return found


class Kallsyms:
    """From /proc/kallsyms, which has names alone."""

    def __init__(self, path: Path = Path("/proc/kallsyms")) -> None:
        found = re.findall(r"^\S+ (\w) (\S+)$", path.read_text(), re.M)
        self._functions = {name for kind, name in found if kind in "tT"}
        # the function came in v5.10; the variable is listed with CONFIG_KALLSYMS_ALL
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
