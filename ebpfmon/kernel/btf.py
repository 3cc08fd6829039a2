"""Read BTF, the type information of a compiled object or of the running kernel, with libbpf.

C structs become numpy dtypes, so that rows are declared only once, in C. The format is described in
Documentation/bpf/btf.rst of the kernel.
"""

from __future__ import annotations

import ctypes
import errno
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
# How many 32-bit words follow struct btf_type, by kind. _WORDS has the total, _WORDS_OF_PART the number per member,
# parameter or variable. The lower 16 bits of `info` say how many of these there are.
_WORDS = {INT: 1, ARRAY: 3, VAR: 1, DECL_TAG: 1}
_WORDS_OF_PART = {STRUCT: 3, UNION: 3, ENUM: 2, FUNC_PROTO: 2, DATASEC: 3, ENUM64: 3}

_MAX_ELEMENTS = 1024
"""The longest array of counters that is read, because each element becomes a field of a row."""
_MAX_DEPTH = 16
"""How deeply structs may be nested, because in damaged BTF a struct may contain itself."""


@dataclass(frozen=True, slots=True)
class Type:
    """One type: `struct btf_type` and the words that follow it."""

    kind: int
    name: str
    size_or_type: int
    """The size in bytes or the id of the type that this one refers to, depending on the kind."""
    parts: tuple[tuple[int, ...], ...]
    """The members, parameters or variables, in BTF's format. Kinds without a list of them have one part or none."""


@contextmanager
def _damaged_btf_as_object_error() -> Iterator[None]:
    try:
        yield
    except (struct.error, ValueError, LookupError, TypeError, OverflowError) as error:
        raise ObjectError(f"cannot read BTF: damaged or unknown format ({error}); compile the object again") from error


class Btf:
    """The types of an object or a kernel, by id and by name.

    A context manager. libbpf's copy of the types is freed on close, or when the object is garbage-collected.
    """

    def __init__(self, raw: bytes, libbpf: Libbpf | None = None) -> None:
        """Parse `raw`, the contents of a .BTF section or of /sys/kernel/btf/vmlinux. Raises ObjectError, MemoryError.

        If `libbpf` is None, the library is loaded.
        """
        with _damaged_btf_as_object_error():
            magic, _, _, header, _, _, strings_at, strings_size = _HEADER.unpack_from(raw)
            if magic != _MAGIC:
                raise ValueError(f"magic {magic:#x}")
            if header < _HEADER.size or len(raw) < header + strings_at + strings_size:
                raise ValueError("truncated")
            self._lib = (libbpf or Libbpf()).lib
            self._btf: int | None = self._lib.btf__new(raw, len(raw))
            if not self._btf:
                code = ctypes.get_errno()
                if code == errno.ENOMEM:
                    raise MemoryError
                raise ValueError(os.strerror(code))
        self._free = weakref.finalize(self, self._lib.btf__free, self._btf)
        self._free.atexit = False
        self._ids: dict[tuple[str, int], int] = {}  # a cache, because libbpf searches all types for each name

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Free the types. Closing twice is harmless."""
        self._free()
        self._btf = None

    def find(self, name: str, kind: int) -> int | None:
        """Return the id of the type of that name and kind, or None."""
        type_id = self._ids.get((name, kind))
        if type_id is None:
            with _damaged_btf_as_object_error():
                type_id = self._lib.btf__find_by_name_kind(self._pointer(), name.encode(), kind)
            self._ids[name, kind] = type_id
        return type_id if type_id > 0 else None

    def type(self, type_id: int) -> Type:
        """Return the type with an id. Raises ObjectError if there is none."""
        with _damaged_btf_as_object_error():
            return self._type(type_id)

    def name(self, offset: int) -> str:
        """Return the string at an offset, such as the name of a member. Raises ObjectError."""
        with _damaged_btf_as_object_error():
            return self._name(offset)

    def dtype(self, type_id: int) -> np.dtype:
        """Return the numpy dtype of a C struct. Raises ObjectError.

        Fields keep their names, and nested structs are flattened. An array of char becomes bytes, and an array of u64
        one field for each element: NAME_0, NAME_1 ...
        """
        fields: dict[str, tuple[str, int]] = {}
        with _damaged_btf_as_object_error():
            self._flatten(type_id, 0, fields, _MAX_DEPTH)
            names = list(fields)
            return np.dtype(
                {"names": names, "formats": [fields[n][0] for n in names],
                 "offsets": [fields[n][1] for n in names], "itemsize": self._resolve(type_id).size_or_type}
            )  # fmt: skip

    def variables(self, section: str) -> dict[str, tuple[int, int]]:
        """Return the variables of a data section, such as `.rodata`: name -> (offset, size in bytes)."""
        type_id = self.find(section, DATASEC)
        if type_id is None:
            return {}
        with _damaged_btf_as_object_error():
            return {self._type(var).name: (offset, size) for var, offset, size in self._type(type_id).parts}

    def _pointer(self) -> int:
        if self._btf is None:
            raise ValueError("the BTF was closed")
        return self._btf

    def _type(self, type_id: int) -> Type:
        # btf__new() has checked that all types lie within the data; this call checks the id.
        type_ = self._lib.btf__type_by_id(self._pointer(), type_id)
        if not type_:
            raise LookupError(f"no type {type_id}")
        name, info, size_or_type = type_[:3]
        kind, count = info >> 24 & 31, info & 0xFFFF
        width = _WORDS.get(kind) or _WORDS_OF_PART.get(kind, 0)
        count = 1 if kind in _WORDS else count if width else 0
        words = type_[3 : 3 + width * count]
        parts = tuple(tuple(words[n : n + width]) for n in range(0, len(words), width or 1))
        return Type(kind, self._name(name), size_or_type, parts)

    def _name(self, offset: int) -> str:
        name: bytes | None = self._lib.btf__name_by_offset(self._pointer(), offset)
        if name is None:
            raise LookupError(f"no name at {offset}")
        return name.decode()

    def _resolve(self, type_id: int) -> Type:
        """Return a type without its typedefs and qualifiers."""
        resolved = self._lib.btf__resolve_type(self._pointer(), type_id)
        if resolved < 0:
            raise ValueError(f"type {type_id} refers to no type")
        return self._type(resolved)

    def _flatten(self, type_id: int, base: int, fields: dict[str, tuple[str, int]], depth: int) -> None:
        if not depth:
            raise ValueError(f"structs are nested more than {_MAX_DEPTH} deep")
        struct_ = self._resolve(type_id)
        if struct_.kind != STRUCT:
            raise ObjectError(
                f"cannot read BTF: '{struct_.name}' is not a struct; keys, rows and totals must be structs"
            )
        for name_offset, member_id, bits in struct_.parts:
            member, name, offset = self._resolve(member_id), self._name(name_offset), base + bits // 8
            if member.kind == STRUCT:
                self._flatten(member_id, offset, fields, depth - 1)
                continue
            for field, format_, at in self._fields(member, name, f"{struct_.name}.{name}"):
                if field in fields:
                    raise ObjectError(f"cannot read BTF: struct '{struct_.name}' has the field '{field}' twice")
                fields[field] = (format_, offset + at)

    def _fields(self, member: Type, name: str, path: str) -> Iterator[tuple[str, str, int]]:
        """Yield the name, format and offset within the member of each numpy field for a member of a struct."""
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
            if element.kind == INT and element.size_or_type == 8 and count <= _MAX_ELEMENTS:
                for n in range(count):
                    yield f"{name}_{n}", "<u8", 8 * n
                return
        raise ObjectError(f"cannot read BTF: field '{path}' is neither an integer nor an array of char or of __u64")
