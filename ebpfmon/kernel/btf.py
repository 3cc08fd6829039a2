"""Reads the BTF of a compiled object: its C structs become numpy dtypes, so that nothing is described twice.

The format: Documentation/bpf/btf.rst in the kernel's sources.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from ebpfmon.errors import ObjectError

INT, PTR, ARRAY, STRUCT, UNION, ENUM, FWD, TYPEDEF, VOLATILE, CONST, RESTRICT = range(1, 12)
FUNC, FUNC_PROTO, VAR, DATASEC, FLOAT, DECL_TAG, TYPE_TAG, ENUM64 = range(12, 20)
_MODIFIERS = frozenset({TYPEDEF, VOLATILE, CONST, RESTRICT, TYPE_TAG})
_HEADER = struct.Struct("<HBBIIIII")
_TYPE = struct.Struct("<III")
# what follows the 12 bytes that all types have: bytes once, bytes for each of the vlen members
_EXTRA = {INT: (4, 0), ARRAY: (12, 0), STRUCT: (0, 12), UNION: (0, 12), ENUM: (0, 8), FUNC_PROTO: (0, 8),
          VAR: (4, 0), DATASEC: (0, 12), DECL_TAG: (4, 0), ENUM64: (0, 12)}  # fmt: skip

_LONGEST = 1024  # elements of an array: a row is copied in every interval


@dataclass(frozen=True, slots=True)
class _Type:
    kind: int
    name: str
    size_or_type: int
    extra: bytes


@contextmanager
def _understood() -> Iterator[None]:
    try:
        yield
    except (struct.error, ValueError, LookupError, TypeError, OverflowError, RecursionError) as error:
        raise ObjectError(f"read BTF: not understood ({error}): build the object again") from error


class Btf:
    """The types of one object. `raw` is the contents of its .BTF section. Raises ObjectError if it is not one."""

    def __init__(self, raw: bytes) -> None:
        with _understood():
            magic, _, _, header, types_at, types_size, strings_at, strings_size = _HEADER.unpack_from(raw)
            if magic != 0xEB9F:
                raise ValueError(f"magic {magic:#x}")
            self._strings = raw[header + strings_at :][:strings_size]
            types = raw[header + types_at :][:types_size]
            if (len(types), len(self._strings)) != (types_size, strings_size):
                raise ValueError("cut short")
            self._types = self._parse(types)

    def _parse(self, raw: bytes) -> list[_Type]:
        types, at = [_Type(0, "void", 0, b"")], 0
        while at < len(raw):
            name, info, size_or_type = _TYPE.unpack_from(raw, at)
            kind, once, each = info >> 24 & 31, *_EXTRA.get(info >> 24 & 31, (0, 0))
            end = at + _TYPE.size + once + each * (info & 0xFFFF)
            types.append(_Type(kind, self._name(name), size_or_type, raw[at + _TYPE.size : end]))
            at = end
        return types

    def dtype(self, type_id: int) -> np.dtype:
        """The numpy dtype of a C struct: nested structs are flattened, names kept, char arrays are bytes,
        arrays of u64 fields NAME_0, NAME_1 ..."""
        fields: dict[str, tuple[str, int]] = {}
        with _understood():
            self._flatten(type_id, 0, fields)
            names = list(fields)
            return np.dtype(
                {"names": names, "formats": [fields[n][0] for n in names],
                 "offsets": [fields[n][1] for n in names], "itemsize": self._resolve(type_id).size_or_type}
            )  # fmt: skip

    def variables(self, section: str) -> dict[str, tuple[int, int]]:
        """name -> (offset, size in bytes) of a data section's variables, such as `.rodata`."""
        with _understood():
            for found in self._types:
                if found.kind == DATASEC and found.name == section:
                    entries = struct.iter_unpack("<III", found.extra)
                    return {self._types[var].name: (offset, size) for var, offset, size in entries}
        return {}

    def _resolve(self, type_id: int) -> _Type:
        found = self._types[type_id]
        for _ in self._types:
            if found.kind not in _MODIFIERS:
                return found
            found = self._types[found.size_or_type]
        raise ValueError(f"type {type_id} stands for itself")

    def _flatten(self, type_id: int, base: int, fields: dict[str, tuple[str, int]]) -> None:
        found = self._resolve(type_id)
        if found.kind != STRUCT:
            raise ObjectError(f"read BTF: '{found.name}' is not a struct: rows and totals are structs")
        for name_offset, member_id, bits in struct.iter_unpack("<III", found.extra):
            member, name, offset = self._resolve(member_id), self._name(name_offset), base + bits // 8
            if member.kind == STRUCT:
                self._flatten(member_id, offset, fields)
                continue
            for each, format_, at in self._fields(member, name, f"{found.name}.{name}"):
                if each in fields:
                    raise ObjectError(f"read BTF: struct '{found.name}' has the field '{each}' twice")
                fields[each] = (format_, offset + at)

    def _fields(self, member: _Type, name: str, where: str) -> Iterator[tuple[str, str, int]]:
        """Names, formats and offsets of what a member is: an array of u64 is as many fields."""
        if member.kind == INT:
            signed = member.extra[3] & 1
            yield name, f"<{'i' if signed else 'u'}{member.size_or_type}", 0
            return
        if member.kind == ARRAY:
            element_id, _, count = struct.unpack("<III", member.extra)
            element = self._resolve(element_id)
            if element.size_or_type == 1:
                yield name, f"S{count}", 0
                return
            if element.kind == INT and element.size_or_type == 8 and count <= _LONGEST:
                for n in range(count):
                    yield f"{name}_{n}", "<u8", 8 * n
                return
        raise ObjectError(f"read BTF: field '{where}' is neither an integer nor an array of char or of __u64")

    def _name(self, offset: int) -> str:
        return self._strings[offset : self._strings.index(b"\0", offset)].decode()
