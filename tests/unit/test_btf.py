"""C structs become numpy dtypes, and damaged BTF raises nothing but ObjectError."""

from __future__ import annotations

import struct
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ebpfmon.errors import ObjectError
from ebpfmon.kernel import btf
from ebpfmon.kernel.btf import Btf
from ebpfmon_process.charts import CHARTS

OBJECTS = sorted((Path(__file__).parents[2] / "plugins/ebpfmon_process/objects").glob("*/process.bpf.o"))


def elf_section(path: Path, wanted: bytes) -> bytes:
    """Return a section of a 64-bit little-endian ELF file."""
    raw = path.read_bytes()
    at, size, count, names = struct.unpack_from("<Q10xHHH", raw, 0x28)
    headers = [struct.unpack_from("<I20xQQ", raw, at + n * size) for n in range(count)]
    strings = raw[headers[names][1] :]
    return next(raw[o : o + n] for name, o, n in headers if strings[name:].split(b"\0", 1)[0] == wanted)


def fields(dtype: np.dtype) -> dict[str, tuple[str, int]]:
    """Return the fields of a dtype: name -> (letter of the numpy type, offset)."""
    assert dtype.fields
    return {name: (of.str, at) for name, (of, at, *_) in dtype.fields.items()}


def id_of(types: Btf, name: str) -> int:
    found = types.find(name, btf.STRUCT)
    assert found is not None
    return found


class Blob:
    """Build BTF. Each call of `add` adds one type; ids begin at 1."""

    def __init__(self) -> None:
        self.types, self.strings = b"", b"\0"

    def name(self, text: str) -> int:
        self.strings += text.encode() + b"\0"
        return len(self.strings) - len(text) - 1

    def add(self, kind: int, name: str, size: int, *extra: int, members: int = 0) -> None:
        self.types += struct.pack("<III", self.name(name), kind << 24 | members, size)
        self.types += struct.pack(f"<{len(extra)}I", *extra)

    def struct(self, name: str, size: int, *fields: tuple[str, int, int]) -> None:
        """Add a struct. Each field is (name, type id, offset in bytes)."""
        extra = [n for field, type_id, offset in fields for n in (self.name(field), type_id, offset * 8)]
        self.add(btf.STRUCT, name, size, *extra, members=len(fields))

    def raw(self) -> bytes:
        types, strings = len(self.types), len(self.strings)
        return struct.pack("<HBBIIIII", 0xEB9F, 1, 0, 24, 0, types, types, strings) + self.types + self.strings


def sample() -> Blob:
    """1 int, 2 u64, 3 char, 4 char[7], 5 typedef of 2, 6 struct inner, 7 struct outer, 8 const 7, 9 pointer, 10 float,
    11 a variable, 12 its section."""
    blob = Blob()
    blob.add(btf.INT, "int", 4, 1 << 24 | 32)
    blob.add(btf.INT, "u64", 8, 64)
    blob.add(btf.INT, "char", 1, 8)
    blob.add(btf.ARRAY, "", 0, 3, 1, 7)
    blob.add(btf.TYPEDEF, "counter", 2)
    blob.struct("inner", 16, ("calls", 5, 0), ("who", 4, 8))
    blob.struct("outer", 24, ("delta", 1, 0), ("n", 6, 8))
    blob.add(btf.CONST, "", 7)
    blob.add(btf.PTR, "", 7)
    blob.add(btf.FLOAT, "double", 8)
    blob.add(btf.VAR, "cfg", 1, 1)
    blob.add(btf.DATASEC, ".rodata", 4, 11, 0, 4, members=1)
    return blob


SAMPLE = sample().raw()


def read_all(raw: bytes) -> None:
    """Call all methods for all types. Only ObjectError may be raised."""
    try:
        types = Btf(raw)
        types.variables(".rodata")
    except ObjectError:
        return
    for type_id in range(len(SAMPLE) // 12 + 2):  # the shortest type has 12 bytes
        with suppress(ObjectError):
            assert isinstance(types.dtype(type_id), np.dtype)
        with suppress(ObjectError):
            types.type(type_id)


@pytest.mark.parametrize("path", OBJECTS, ids=lambda p: p.parent.name)
def test_the_rows_of_the_process_probe_have_the_fields_of_its_c_file(path: Path) -> None:
    types = Btf(elf_section(path, b".BTF"))
    key, row, totals = (types.dtype(id_of(types, name)) for name in ("caller", "process_counters", "process_totals"))
    assert fields(key) == {
        "start_ns": ("<u8", 0), "tgid": ("<u4", 8), "exec_id": ("<u4", 12), "cgroup_id": ("<u8", 16),
        "parent_tgid": ("<u4", 24), "uid": ("<u4", 28), "comm": ("|S16", 32),
    }  # fmt: skip
    *counters, last = fields(totals)
    assert last == "overflow"
    assert fields(row) == {name: ("<u8", 8 * n) for n, name in enumerate(counters)}
    assert (key.itemsize, row.itemsize, totals.itemsize) == (48, 8 * len(counters), 8 * len(counters) + 8)
    assert {f for c in CHARTS for d in c.dimensions for f in (*d.plus, *d.minus)} <= set(counters)


@pytest.mark.parametrize("path", OBJECTS, ids=lambda p: p.parent.name)
def test_the_rodata_settings_of_the_process_probe_are_found(path: Path) -> None:
    settings = Btf(elf_section(path, b".BTF")).variables(".rodata")
    assert {"cfg_rows": 4, "cfg_return": 4, "raw_counts_open": 1}.items() <= {
        name: size for name, (_, size) in settings.items()
    }.items()


def test_both_architectures_have_an_object_to_read() -> None:
    assert [p.parent.name for p in OBJECTS] == ["aarch64", "x86_64"]


@pytest.mark.parametrize("type_id", [7, 8])
def test_nested_structs_are_flattened_with_signs_offsets_and_the_size_in_c(type_id: int) -> None:
    dtype = Btf(SAMPLE).dtype(type_id)
    assert fields(dtype) == {"delta": ("<i4", 0), "calls": ("<u8", 8), "who": ("|S7", 16)}
    assert dtype.itemsize == 24


def test_variables_have_offset_and_size_and_a_missing_section_has_none() -> None:
    assert Btf(SAMPLE).variables(".rodata") == {"cfg": (0, 4)}
    assert Btf(SAMPLE).variables(".data") == {}


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ([("x", 9, 0)], "field 's.x' is neither"),
        ([("x", 10, 0)], "field 's.x' is neither"),
        ([("x", 2, 0), ("x", 2, 8)], "the field 'x' twice"),
        ([("calls", 2, 0), ("n", 6, 8)], "the field 'calls' twice"),
        ([("x", 99, 0)], "read BTF"),
        ([("x", 13, 0)], "read BTF"),  # itself
        ([("x", 2, 100)], "read BTF"),  # beyond its end
    ],
)
def test_a_struct_that_cannot_be_a_row_is_refused(members: list[tuple[str, int, int]], message: str) -> None:
    blob = sample()
    blob.struct("s", 24, *members)
    with pytest.raises(ObjectError, match=message):
        Btf(blob.raw()).dtype(13)  # libbpf 1.5 validates what it reads, older ones do not.


@pytest.mark.parametrize("type_id", [0, 1, 4, 9, 99])
def test_a_type_that_is_not_a_struct_cannot_be_a_row(type_id: int) -> None:
    with pytest.raises(ObjectError):
        Btf(SAMPLE).dtype(type_id)


@pytest.mark.timeout(5)
def test_typedefs_in_a_circle_are_refused() -> None:
    blob = sample()
    blob.add(btf.TYPEDEF, "a", 14)
    blob.add(btf.CONST, "", 13)
    with pytest.raises(ObjectError):
        Btf(blob.raw()).dtype(13)


@given(st.binary(max_size=80))
def test_bytes_that_are_not_btf_are_refused(raw: bytes) -> None:
    with pytest.raises(ObjectError):
        Btf(raw)


@pytest.mark.parametrize("size", range(len(SAMPLE)))
def test_truncated_btf_is_refused(size: int) -> None:
    with pytest.raises(ObjectError):
        Btf(SAMPLE[:size])


@pytest.mark.timeout(20)
@given(st.lists(st.tuples(st.integers(0, len(SAMPLE) - 1), st.integers(0, 255)), max_size=4))
def test_damaged_btf_raises_only_object_error(damage: list[tuple[int, int]]) -> None:
    raw = bytearray(SAMPLE)
    for at, byte in damage:
        raw[at] = byte
    read_all(bytes(raw))


def test_only_arrays_of_u64_become_fields_and_other_arrays_are_refused() -> None:
    blob = Blob()
    blob.add(btf.INT, "u64", 8, 64)
    blob.add(btf.INT, "u32", 4, 32)
    blob.add(btf.ARRAY, "", 0, 1, 2, 3)
    blob.add(btf.ARRAY, "", 0, 2, 2, 3)
    blob.struct("good", 40, ("calls", 1, 0), ("latency", 3, 8), ("total_ns", 1, 32))
    blob.struct("twice", 32, ("latency_2", 1, 0), ("latency", 3, 8))
    blob.struct("bad", 12, ("latency", 4, 0))
    types = Btf(blob.raw())
    assert fields(types.dtype(id_of(types, "good"))) == {
        "calls": ("<u8", 0), "latency_0": ("<u8", 8), "latency_1": ("<u8", 16), "latency_2": ("<u8", 24),
        "total_ns": ("<u8", 32),
    }  # fmt: skip
    with pytest.raises(ObjectError, match="has the field 'latency_2' twice"):
        types.dtype(id_of(types, "twice"))
    with pytest.raises(
        ObjectError, match=r"field 'bad\.latency' is neither an integer nor an array of char or of __u64"
    ):
        types.dtype(id_of(types, "bad"))


def test_closed_btf_cannot_be_read_and_closing_twice_is_harmless() -> None:
    with Btf(SAMPLE) as types:
        assert types.find("outer", btf.STRUCT) == 7
    types.close()
    with pytest.raises(ObjectError, match="closed"):
        types.dtype(7)
    with pytest.raises(ObjectError, match="closed"):
        types.find("inner", btf.STRUCT)


def test_a_type_has_kind_name_and_parts() -> None:
    types = Btf(SAMPLE)
    outer = types.type(7)
    assert (outer.kind, outer.name, outer.size_or_type) == (btf.STRUCT, "outer", 24)
    assert [(types.name(name), type_id, bits) for name, type_id, bits in outer.parts] == [
        ("delta", 1, 0), ("n", 6, 64),
    ]  # fmt: skip
    assert types.type(9) == btf.Type(btf.PTR, "", 7, ())
    assert types.type(4).parts == ((3, 1, 7),)
    assert types.find("outer", btf.UNION) is None
    with pytest.raises(ObjectError):
        types.type(99)


def test_an_array_of_pointers_is_refused() -> None:
    blob = sample()
    blob.add(btf.PTR, "", 1)
    blob.add(btf.ARRAY, "", 0, 13, 1, 7)
    blob.struct("s", 56, ("x", 14, 0))
    with pytest.raises(ObjectError, match=r"field 's\.x' is neither"):
        Btf(blob.raw()).dtype(15)
