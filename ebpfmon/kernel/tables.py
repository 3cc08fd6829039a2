"""Interval tables and totals of a loaded object, as numpy arrays.

Each table has two buffers (`bpf/table_maps.bpf.h`), and the programs write to one. `swap` has them write to the other,
`wait_for_programs` waits until none can still write to the first, and then `drain` has that to itself.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os

import numpy as np
from numpy.typing import NDArray

from ebpfmon.errors import KernelError, ObjectError
from ebpfmon.kernel.bpfobject import BpfObject
from ebpfmon.kernel.btf import Btf
from ebpfmon.kernel.libbpf import check
from ebpfmon.model import PROCESS_FIELDS, Rows, TableHarvest

_PERCPU_ARRAY, _ARRAY_OF_MAPS = 6, 12  # enum bpf_map_type
_OVERFLOW = "overflow"
PROCESS_KEY, _IDENTITY = PROCESS_FIELDS[:3], PROCESS_FIELDS[3:]
INTERVAL = ".data.interval"
"""The map that says which buffer programs write to."""
NO_TABLE = "it has no table: include process_table.bpf.h or keyed_table.bpf.h"


def find_tables(obj: BpfObject) -> list[str]:
    """Return the stems of an object's tables: STEM_rows is a map of maps, STEM_totals a per-CPU array."""
    return [
        name.removesuffix("_rows")
        for name in obj.maps
        if name.endswith("_rows") and obj.map_info(name, "type") == _ARRAY_OF_MAPS
    ]


def set_table_size(obj: BpfObject, stem: str, rows: int) -> None:
    """Set how many rows one interval of the table can hold. Call it before the load."""
    for buffer in (0, 1):
        obj.set_max_entries(f"{stem}_rows_{buffer}", rows)


class Interval:
    """Which buffer the programs write to: those of one object, or of several that share it."""

    def __init__(self, obj: BpfObject) -> None:
        self._lib, self._fd = obj.libbpf.lib, obj.map_fd(INTERVAL)

    @property
    def buffer(self) -> int:
        """The buffer that programs write to now."""
        zero, buffer = ctypes.c_uint32(0), ctypes.c_uint32()
        check(self._lib.bpf_map_lookup_elem(self._fd, ctypes.byref(zero), ctypes.byref(buffer)), "read the interval")
        return buffer.value

    def swap(self) -> int:
        """Make programs write to the other buffer from now on. Return the one they leave."""
        left = self.buffer
        zero, buffer = ctypes.c_uint32(0), ctypes.c_uint32(1 - left)
        check(self._lib.bpf_map_update_elem(self._fd, ctypes.byref(zero), ctypes.byref(buffer), 0), "swap the buffers")
        return left


class Table:
    """Rows by key, and the totals over all of them, of one loaded object."""

    def __init__(self, obj: BpfObject, btf: Btf, stem: str) -> None:
        self._lib, self.stem = obj.libbpf.lib, stem
        rows, totals = f"{stem}_rows", f"{stem}_totals"
        if totals not in obj.maps or obj.map_info(totals, "type") != _PERCPU_ARRAY:
            raise ObjectError(f"read '{obj.path.name}': table '{stem}' has no per-CPU array '{totals}'")
        self._outer_fd = obj.map_fd(rows)
        self._buffer_fds = [obj.map_fd(f"{rows}_{buffer}") for buffer in (0, 1)]
        self.capacity = obj.map_info(f"{rows}_0", "max_entries")
        key = btf.dtype(obj.map_info(f"{rows}_0", "btf_key_type_id"))
        row = btf.dtype(obj.map_info(f"{rows}_0", "btf_value_type_id"))
        self.is_by_process = (key.names, (row.names or ())[: len(_IDENTITY)]) == (PROCESS_KEY, _IDENTITY)
        # as bytes: what a row's fields are does not matter until it has left the table
        self._keys = _untouched(self.capacity, key.itemsize)
        self._values = _untouched(self.capacity, row.itemsize)
        self.dtype = np.dtype([(n, d[n]) for d in (key, row) for n in d.names or ()])
        # what each CPU has counted for the process that it runs: a key and a row, as in the table
        cache = f"{stem}_cache"
        self._cache_fd = obj.map_fd(cache) if cache in obj.maps else None
        self._cached = np.zeros(obj.libbpf.possible_cpus, self.dtype)

        self._totals_fd = obj.map_fd(totals)
        per_cpu = btf.dtype(obj.map_info(totals, "btf_value_type_id"))
        self._per_cpu = np.zeros(obj.libbpf.possible_cpus, per_cpu)
        self.counters = tuple(n for n in per_cpu.names or () if n != _OVERFLOW)
        if any(per_cpu[n] != np.uint64 for n in per_cpu.names or ()):
            raise ObjectError(f"read '{obj.path.name}': the totals of '{stem}' are not all u64")
        if self.dtype.itemsize != key.itemsize + row.itemsize:
            raise ObjectError(
                f"read '{obj.path.name}': the rows of '{stem}' have padding: name it, widest fields first"
            )
        ours = (row.names or ())[-len(self.counters) :]
        if ours != self.counters or any(d[n] != np.uint64 for d in (row, per_cpu) for n in ours):
            raise ObjectError(
                f"read '{obj.path.name}': the rows of '{stem}' do not end with the u64 counters of its totals"
            )
        # what found no row only grows, for each buffer: what it was when the buffer was drained last
        self._before = [dict.fromkeys((*self.counters, _OVERFLOW), 0) for _ in (0, 1)]
        self._since_load = dict.fromkeys(self.counters, 0)

    def wait_for_programs(self, buffer: int) -> None:
        """Wait until no program writes to a buffer any more (milliseconds, without using the CPU).

        The kernel itself waits for an RCU grace period when an element of a map of maps is replaced, so that
        user space may rely on the old one being left alone; here the element is replaced by itself.
        """
        index, inner = ctypes.c_uint32(buffer), ctypes.c_uint32(self._buffer_fds[buffer])
        check(
            self._lib.bpf_map_update_elem(self._outer_fd, ctypes.byref(index), ctypes.byref(inner), 0),
            f"wait for the programs of table '{self.stem}'",
        )

    def drain(self, buffer: int) -> TableHarvest:
        """Take all rows of a buffer that no program writes to out of the kernel, and what found no row there."""
        overflow, cached = self._read_totals(buffer), self._read_cached(buffer)
        rows = self._take_rows(buffer)
        if cached is not None:
            self._add(rows, cached)
            self._clear_cached(buffer)
        overflow_calls = overflow.pop(_OVERFLOW, 0)
        in_rows = zip(self.counters, self._numbers(rows).sum(axis=0).tolist(), strict=True)
        totals = {name: overflow[name] + count for name, count in in_rows}
        self._since_load = {name: count + totals[name] for name, count in self._since_load.items()}
        return TableHarvest(rows, totals, overflow, overflow_calls, self.capacity, self._since_load)

    def _numbers(self, rows: Rows) -> NDArray[np.uint64]:
        """Return a view of the counters of rows, which come last in them: (rows, counters)."""
        numbers: NDArray[np.uint64] = rows.view(np.uint64).reshape(len(rows), self.dtype.itemsize // 8)
        return numbers[:, -len(self.counters) :]

    def _add(self, rows: Rows, cached: Rows) -> None:
        """Flush the CPUs' caches to the rows, which are there: no cache counts for a process without one."""
        starts, numbers = rows["start_ns"], self._numbers(rows)
        for one, counted in zip(cached, self._numbers(cached), strict=True):
            for place in np.flatnonzero(starts == one["start_ns"]):
                if rows[place]["tgid"] == one["tgid"] and rows[place]["exec_id"] == one["exec_id"]:
                    numbers[place] += counted

    def _take_rows(self, buffer: int) -> Rows:
        count = ctypes.c_uint32(self.capacity)  # room for all: one call, and no bucket is too big
        after = (ctypes.c_uint32 * 2)()
        result = self._lib.bpf_map_lookup_and_delete_batch(
            self._buffer_fds[buffer], None, ctypes.byref(after), self._keys.ctypes.data, self._values.ctypes.data,
            ctypes.byref(count), None,
        )  # fmt: skip
        if result not in (0, -errno.ENOENT):
            raise KernelError(f"drain table '{self.stem}': {os.strerror(-result)}")
        rows = np.hstack((self._keys[: count.value], self._values[: count.value]))
        return rows.view(self.dtype).reshape(count.value)

    def _read_totals(self, buffer: int) -> dict[str, int]:
        index = ctypes.c_uint32(buffer)
        check(
            self._lib.bpf_map_lookup_elem(self._totals_fd, ctypes.byref(index), self._per_cpu.ctypes.data),
            f"read the totals of '{self.stem}'",
        )
        now, before = sums(self._per_cpu), self._before[buffer]
        self._before[buffer] = now
        return {name: count - before[name] for name, count in now.items()}

    def _read_cached(self, buffer: int) -> Rows | None:
        """Return what is in the CPUs' caches, one each that counted anything; None if none did."""
        if self._cache_fd is None:
            return None
        index = ctypes.c_uint32(buffer)
        check(
            self._lib.bpf_map_lookup_elem(self._cache_fd, ctypes.byref(index), self._cached.ctypes.data),
            f"read the per-CPU caches of '{self.stem}'",
        )
        cached = self._cached[self._cached["start_ns"] != 0]
        return cached if len(cached) else None

    def _clear_cached(self, buffer: int) -> None:
        index = ctypes.c_uint32(buffer)
        self._cached[:] = 0
        check(
            self._lib.bpf_map_update_elem(self._cache_fd, ctypes.byref(index), self._cached.ctypes.data, 0),
            f"clear the per-CPU caches of '{self.stem}'",
        )


def _untouched(rows: int, row_bytes: int) -> NDArray[np.uint8]:
    """Make an array of zeros, (rows, row_bytes), whose pages take memory only once they are written to.

    A full table needs several megabytes, and an ordinary interval fills a small part of them. malloc might reuse memory
    and would then clear all of it.
    """
    return np.frombuffer(mmap.mmap(-1, rows * row_bytes), np.uint8).reshape(rows, row_bytes)


def sums(per_cpu: Rows) -> dict[str, int]:
    """Sum each field of a structured array of u64 (CPUs,)."""
    names = per_cpu.dtype.names or ()
    numbers = per_cpu.view(np.uint64).reshape(len(per_cpu), len(names))
    return dict(zip(names, numbers.sum(axis=0).tolist(), strict=True))
