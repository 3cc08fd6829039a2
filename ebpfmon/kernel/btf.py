"""Read BTF, the types of a compiled object or of the running kernel, through libbpf.

C structs become numpy dtypes, so that rows are described in C alone. The format: Documentation/bpf/btf.rst in the
kernel's sources.
"""

from __future__ import annotations

import ctypes
import os
import struct
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Self

import numpy as np

from ebpfmon.errors import ObjectError
from ebpfmon.kernel.libbpf import Libbpf

INT, PTR, ARRAY, STRUCT, UNION, ENUM, FWD, TYPEDEF, VOLATILE, CONST, RESTRICT = range(1, 12)
FUNC, FUNC_PROTO, VAR, DATASEC, FLOAT, DECL_TAG, TYPE_TAG, ENUM64 = range(12, 20)
_HEADER = struct.Struct("<HBBIIIII")
_MAGIC = 0xEB9F
# the 32-bit words that follow struct btf_type: so many once, or so many for each of its parts (info's lower 16 bits)
_WORDS = {INT: 1, ARRAY: 3, VAR: 1, DECL_TAG: 1}
_WORDS_OF_PART = {STRUCT: 3, UNION: 3, ENUM: 2, FUNC_PROTO: 2, DATASEC: 3, ENUM64: 3}

_LONGEST = 1024  # elements of an array: a row is copied in every interval
_DEEPEST = 16  # structs in structs; damaged ones may contain themselves


@dataclass(frozen=True, slots=True)
class Type:
    """One type: `struct btf_type` and what follows it."""

    kind: int
    name: str
    size_or_type: int
    """Its size in bytes, or the id of the type that it refers to; the kind decides."""
    parts: tuple[tuple[int, ...], ...]
    """Its members, parameters or variables, as the format has them; one part for a kind that has no list of them."""


@contextmanager
def _understood() -> Iterator[None]:
    try:
        yield
    except (struct.error, ValueError, LookupError, TypeError, OverflowError) as error:
        raise ObjectError(f"read BTF: not understood ({error}): build the object again") from error


class Btf:
    """Types by id and by name. Holds libbpf's copy of them until it is closed or nobody refers to it any more."""

    def __init__(self, raw: bytes, libbpf: Libbpf | None = None) -> None:
        """Read `raw`, the contents of a .BTF section or of /sys/kernel/btf/vmlinux. Raises ObjectError.

        `libbpf` is loaded here if it is not given.
        """
        with _understood():
            magic, _, _, header, _, _, strings_at, strings_size = _HEADER.unpack_from(raw)
            if magic != _MAGIC:
                raise ValueError(f"magic {magic:#x}")
            if header < _HEADER.size or len(raw) < header + strings_at + strings_size:
                raise ValueError("cut short")
            self._lib = (libbpf or Libbpf()).lib
            self._btf: int | None = self._lib.btf__new(raw, len(raw))
            if not self._btf:
                raise ValueError(os.strerror(ctypes.get_errno()))
        self._free = weakref.finalize(self, self._lib.btf__free, self._btf)
        self._free.atexit = False
        self._found: dict[tuple[str, int], int] = {}  # libbpf goes through all types for each name

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Free the types. Closing twice is harmless."""
        self._free()
        self._btf = None

    def find(self, name: str, kind: int) -> int | None:
        """Return the id of the type of that name and kind; None if there is none."""
        found = self._found.get((name, kind))
        if found is None:
            with _understood():
                found = self._lib.btf__find_by_name_kind(self._open(), name.encode(), kind)
            self._found[name, kind] = found
        return found if found > 0 else None

    def type(self, type_id: int) -> Type:
        """Return a type. Raises ObjectError if there is none of that id."""
        with _understood():
            return self._type(type_id)

    def name(self, offset: int) -> str:
        """Return the string at an offset, such as a member's name. Raises ObjectError."""
        with _understood():
            return self._name(offset)

    def dtype(self, type_id: int) -> np.dtype:
        """Return the numpy dtype of a C struct: nested structs are flattened, names are kept, arrays of char are bytes,
        and an array of u64 is a field for each element: NAME_0, NAME_1 ... Raises ObjectError."""
        fields: dict[str, tuple[str, int]] = {}
        with _understood():
            self._flatten(type_id, 0, fields, _DEEPEST)
            names = list(fields)
            return np.dtype(
                {"names": names, "formats": [fields[n][0] for n in names],
                 "offsets": [fields[n][1] for n in names], "itemsize": self._resolve(type_id).size_or_type}
            )  # fmt: skip

    def variables(self, section: str) -> dict[str, tuple[int, int]]:
        """Return name -> (offset, size in bytes) of a data section's variables, such as `.rodata`."""
        found = self.find(section, DATASEC)
        if found is None:
            return {}
        with _understood():
            return {self._type(var).name: (offset, size) for var, offset, size in self._type(found).parts}

    def _open(self) -> int:
        if self._btf is None:
            raise ValueError("the BTF was closed")
        return self._btf

    def _type(self, type_id: int) -> Type:
        # libbpf has checked that each type lies within the data, and checks ids and offsets of names here
        found = self._lib.btf__type_by_id(self._open(), type_id)
        if not found:
            raise LookupError(f"no type {type_id}")
        name, info, size_or_type = found[:3]
        kind, count = info >> 24 & 31, info & 0xFFFF
        each = _WORDS.get(kind) or _WORDS_OF_PART.get(kind, 0)
        count = 1 if kind in _WORDS else count if each else 0
        words = found[3 : 3 + each * count]
        parts = tuple(tuple(words[at : at + each]) for at in range(0, len(words), each or 1))
        return Type(kind, self._name(name), size_or_type, parts)

    def _name(self, offset: int) -> str:
        found: bytes | None = self._lib.btf__name_by_offset(self._open(), offset)
        if found is None:
            raise LookupError(f"no name at {offset}")
        return found.decode()

    def _resolve(self, type_id: int) -> Type:
        """Return what a type is without its typedefs and qualifiers."""
        found = self._lib.btf__resolve_type(self._open(), type_id)
        if found < 0:
            raise ValueError(f"type {type_id} stands for nothing")
        return self._type(found)

    def _flatten(self, type_id: int, base: int, fields: dict[str, tuple[str, int]], depth: int) -> None:
        if not depth:
            raise ValueError(f"structs in structs more than {_DEEPEST} deep")
        found = self._resolve(type_id)
        if found.kind != STRUCT:
            raise ObjectError(f"read BTF: '{found.name}' is not a struct: rows and totals are structs")
        for name_offset, member_id, bits in found.parts:
            member, name, offset = self._resolve(member_id), self._name(name_offset), base + bits // 8
            if member.kind == STRUCT:
                self._flatten(member_id, offset, fields, depth - 1)
                continue
            for each, format_, at in self._fields(member, name, f"{found.name}.{name}"):
                if each in fields:
                    raise ObjectError(f"read BTF: struct '{found.name}' has the field '{each}' twice")
                fields[each] = (format_, offset + at)

    def _fields(self, member: Type, name: str, where: str) -> Iterator[tuple[str, str, int]]:
        """Yield name, format and offset of each field that a member becomes."""
        if member.kind == INT:
            signed = member.parts[0][0] >> 24 & 1
            yield name, f"<{'i' if signed else 'u'}{member.size_or_type}", 0
            return
        if member.kind == ARRAY:
            element_id, _, count = member.parts[0]
            element = self._resolve(element_id)
            if element.kind == INT and element.size_or_type == 1:
                yield name, f"S{count}", 0
                return
            if element.kind == INT and element.size_or_type == 8 and count <= _LONGEST:
                for n in range(count):
                    yield f"{name}_{n}", "<u8", 8 * n
                return
        raise ObjectError(f"read BTF: field '{where}' is neither an integer nor an array of char or of __u64")
