"""A table that the kernel fails to read half-way: no count is lost, and none is returned twice."""

from __future__ import annotations

import ctypes
import errno
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from ebpfmon import TableHarvest
from ebpfmon.errors import KernelError
from ebpfmon.kernel.bpfobject import BpfObject
from ebpfmon.kernel.btf import Btf
from ebpfmon.kernel.tables import Table
from ebpfmon.model import PROCESS_FIELDS
from ebpfmon.testing import PROCESS_IDENTITY

CPUS, CAPACITY = 2, 64
COUNTERS = ("calls", "some_bytes")
KEY = np.dtype(PROCESS_IDENTITY)
ROW = np.dtype([(name, "u8") for name in COUNTERS])
TOTALS = np.dtype([*((name, "u8") for name in COUNTERS), ("overflow", "u8")])
CACHE = np.dtype([*PROCESS_IDENTITY, *((name, "u8") for name in COUNTERS), ("raw_comm", "u8", 2)])
MAPS: dict[str, tuple[int, np.dtype[Any]]] = {
    "t_rows": (12, ROW), "t_rows_0": (1, ROW), "t_rows_1": (1, ROW), "t_totals": (6, TOTALS), "t_cache": (6, CACHE),
}  # fmt: skip
FD = {name: n for n, name in enumerate(MAPS, 10)}


def pointer(argument: Any) -> int:
    """Return the address of an argument of a C function."""
    return argument if isinstance(argument, int) else ctypes.addressof(argument._obj)


@dataclass
class FakeKernel:
    """The maps of one table behind libbpf's functions.

    `rows` has the counters of each process by buffer. `fail` has, for the next calls of a function, the error and how
    many rows the kernel takes out before it fails; None makes the call succeed.
    """

    rows: tuple[dict[int, list[int]], dict[int, list[int]]] = field(default_factory=lambda: ({}, {}))
    totals: np.ndarray = field(default_factory=lambda: np.zeros((2, CPUS), TOTALS))
    cache: np.ndarray = field(default_factory=lambda: np.zeros((2, CPUS), CACHE))
    fail: dict[str, list[tuple[int, int] | None]] = field(default_factory=dict)

    def failure(self, function: str) -> tuple[int, int] | None:
        return self.fail[function].pop(0) if self.fail.get(function) else None

    def bpf_map_lookup_elem(self, fd: int, key: Any, value: int) -> int:
        if failure := self.failure("lookup"):
            return -failure[0]
        found = self.totals if fd == FD["t_totals"] else self.cache
        buffer = ctypes.c_uint32.from_address(pointer(key)).value
        ctypes.memmove(value, found[buffer].ctypes.data, found[buffer].nbytes)
        return 0

    def bpf_map_update_elem(self, fd: int, key: Any, value: int, flags: int) -> int:
        if failure := self.failure("update"):
            return -failure[0]
        buffer = ctypes.c_uint32.from_address(pointer(key)).value
        ctypes.memmove(self.cache[buffer].ctypes.data, value, self.cache[buffer].nbytes)
        return 0

    def bpf_map_lookup_and_delete_batch(
        self, fd: int, before: None, after: Any, keys: int, values: int, count: Any, options: None
    ) -> int:
        failure, rows = self.failure("batch"), self.rows[fd - FD["t_rows_0"]]
        number = ctypes.c_uint32.from_address(pointer(count))
        if failure and failure[0] == errno.EPERM:
            return -errno.EPERM  # refused before the map is touched: the number is unchanged
        taken = [(tgid, rows.pop(tgid)) for tgid in [*rows][: failure[1] if failure else number.value]]
        number.value = len(taken)
        for n, (tgid, counters) in enumerate(taken):
            key, row = np.zeros(1, KEY), np.array([tuple(counters)], ROW)
            key["tgid"] = key["start_ns"] = tgid
            ctypes.memmove(keys + n * KEY.itemsize, key.ctypes.data, KEY.itemsize)
            ctypes.memmove(values + n * ROW.itemsize, row.ctypes.data, ROW.itemsize)
        return -failure[0] if failure else 0 if rows else -errno.ENOENT

    def count(self, buffer: int, tgid: int, calls: int) -> None:
        """Count calls of 10 bytes in a row."""
        row = self.rows[buffer].setdefault(tgid, [0, 0])
        row[0] += calls
        row[1] += 10 * calls

    def count_cached(self, buffer: int, cpu: int, tgid: int, calls: int) -> None:
        """Count calls of 10 bytes in a CPU's cache, for a process that has a row."""
        self.count(buffer, tgid, 0)
        cache = self.cache[buffer, cpu]
        cache["tgid"] = cache["start_ns"] = tgid
        cache["calls"] += calls
        cache["some_bytes"] += 10 * calls

    def overflow(self, buffer: int, calls: int) -> None:
        """Count calls of 10 bytes that find no row."""
        self.totals[buffer, 0]["calls"] += calls
        self.totals[buffer, 0]["some_bytes"] += 10 * calls
        self.totals[buffer, 1]["overflow"] += calls


@pytest.fixture
def kernel() -> FakeKernel:
    return FakeKernel()


@pytest.fixture
def table(kernel: FakeKernel) -> Table:
    assert KEY.names == PROCESS_FIELDS
    types = {n: dtype for n, (_, dtype) in enumerate(MAPS.values())}

    def map_info(name: str, what: str) -> int:
        return {"type": MAPS[name][0], "max_entries": CAPACITY, "btf_key_type_id": -1}.get(what, [*MAPS].index(name))

    obj = SimpleNamespace(
        libbpf=SimpleNamespace(lib=kernel, possible_cpus=CPUS), maps=[*MAPS], map_info=map_info, map_fd=FD.__getitem__,
        path=Path("t.bpf.o"),
    )  # fmt: skip
    return Table(cast(BpfObject, obj), cast(Btf, SimpleNamespace(dtype=lambda id_: types.get(id_, KEY))), "t")


def calls(harvest: TableHarvest) -> Mapping[int, int]:
    """Return the calls of each process; all counters must agree, and each process must have one row."""
    found: dict[int, int] = dict(harvest.rows[["tgid", "calls"]].tolist())
    assert len(found) == len(harvest.rows)
    assert harvest.rows["some_bytes"].tolist() == [10 * n for n in found.values()]
    assert harvest.totals == {
        "calls": sum(found.values()) + harvest.overflow["calls"],
        "some_bytes": 10 * harvest.totals["calls"],
    }
    assert harvest.overflow_calls == harvest.overflow["calls"]
    return found


def test_a_drain_returns_rows_caches_and_overflow_and_leaves_nothing(table: Table, kernel: FakeKernel) -> None:
    kernel.count(0, 1, 5)
    kernel.count_cached(0, 1, 1, 70)
    kernel.overflow(0, 900)
    harvest = table.drain(0)
    assert calls(harvest) == {1: 75}
    assert (harvest.overflow_calls, harvest.since_load["calls"]) == (900, 975)
    again = table.drain(0)
    assert calls(again) == {}
    assert (again.overflow_calls, again.since_load["calls"]) == (0, 975)


@pytest.mark.parametrize("error", [errno.ENOMEM, errno.EBUSY, errno.ENOSPC, errno.EPERM, errno.EFAULT])
@pytest.mark.parametrize("step", ["totals", "caches", "clear", "batch at once", "batch half-way", "twice"])
def test_after_a_failed_drain_the_next_one_returns_every_count_once(
    table: Table, kernel: FakeKernel, step: str, error: int
) -> None:
    copied = 0 if error in (errno.EPERM, errno.EFAULT) else 2
    failures: dict[str, dict[str, list[tuple[int, int] | None]]] = {
        "totals": {"lookup": [(error, 0)]},
        "caches": {"lookup": [None, (error, 0)]},
        "clear": {"update": [(error, 0)]},
        "batch at once": {"batch": [(error, 0)]},
        "batch half-way": {"batch": [(error, copied)]},
        "twice": {"batch": [(error, copied), None, (error, copied)]},
    }
    kernel.fail = failures[step]
    for tgid in (1, 2, 3, 4, 5):
        kernel.count(0, tgid, tgid)
    kernel.count_cached(0, 0, 2, 100)
    kernel.count_cached(0, 1, 9, 1000)
    kernel.overflow(0, 7)
    for _ in range(2 if step == "twice" else 1):
        with pytest.raises(KernelError, match="'t'"):
            table.drain(0)
        assert calls(table.drain(1)) == {}, "what was taken out of one buffer is not in the other"
    kernel.count(0, 1, 20)  # the programs use the buffer again, and some processes get a second row
    kernel.count_cached(0, 0, 2, 200)
    kernel.overflow(0, 3)
    harvest = table.drain(0)
    assert calls(harvest) == {1: 21, 2: 302, 3: 3, 4: 4, 5: 5, 9: 1000}
    assert harvest.overflow == {"calls": 10, "some_bytes": 100}
    assert harvest.since_load["calls"] == 21 + 302 + 3 + 4 + 5 + 1000 + 10
    assert calls(table.drain(0)) == {}


def test_a_table_with_more_rows_than_one_call_takes_is_drained_whole(table: Table, kernel: FakeKernel) -> None:
    table._keys, table._values = table._keys[:3], table._values[:3]
    for tgid in range(1, 9):
        kernel.count(0, tgid, tgid)
    assert calls(table.drain(0)) == {tgid: tgid for tgid in range(1, 9)}
