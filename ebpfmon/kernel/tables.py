"""Interval tables and totals of a loaded object, as numpy arrays.

The kernel's side of it is in `bpf/ebpfmon.bpf.h`: two sides, of which the programs write to one. `flip` has
them write to the other; `settle` waits until none is still writing to the first; then `drain` has it alone.
"""

from __future__ import annotations

import ctypes
import errno
import os

import numpy as np

from ebpfmon.errors import KernelError, ObjectError
from ebpfmon.kernel.bpfobject import BpfObject
from ebpfmon.kernel.btf import Btf
from ebpfmon.kernel.libbpf import check
from ebpfmon.model.everything import TableHarvest

_PERCPU_ARRAY, _ARRAY_OF_MAPS = 6, 12  # enum bpf_map_type
_OVERFLOW = "overflow"
INTERVAL = ".data.interval"
"""The map that says which side programs write to."""


def find_tables(obj: BpfObject) -> list[str]:
    """The stems of an object's tables: STEM_rows is a map of maps, STEM_totals a per-CPU array."""
    return [
        name.removesuffix("_rows")
        for name in obj.maps
        if name.endswith("_rows") and obj.map_info(name, "type") == _ARRAY_OF_MAPS
    ]


def set_table_size(obj: BpfObject, stem: str, rows: int) -> None:
    """Before the load: how many rows one interval of the table can hold."""
    for side in (0, 1):
        obj.set_max_entries(f"{stem}_rows_{side}", rows)


class Interval:
    """Which side the programs write to: those of one object, or of several that share it."""

    def __init__(self, obj: BpfObject) -> None:
        self._lib, self._fd = obj.libbpf.lib, obj.map_info(INTERVAL, "fd")

    @property
    def side(self) -> int:
        """The side that programs write to now."""
        zero, side = ctypes.c_uint32(0), ctypes.c_uint32()
        check(self._lib.bpf_map_lookup_elem(self._fd, ctypes.byref(zero), ctypes.byref(side)), "read the interval")
        return side.value

    def flip(self) -> int:
        """From now on programs write to the other side; returns the one they leave."""
        left = self.side
        zero, side = ctypes.c_uint32(0), ctypes.c_uint32(1 - left)
        check(self._lib.bpf_map_update_elem(self._fd, ctypes.byref(zero), ctypes.byref(side), 0), "flip the interval")
        return left


class Table:
    """Rows by key, and the totals over all of them, of one loaded object."""

    def __init__(self, obj: BpfObject, btf: Btf, stem: str) -> None:
        self._lib, self.stem = obj.libbpf.lib, stem
        rows, totals = f"{stem}_rows", f"{stem}_totals"
        if totals not in obj.maps or obj.map_info(totals, "type") != _PERCPU_ARRAY:
            raise ObjectError(f"read '{obj.path.name}': table '{stem}' has no per-CPU array '{totals}'")
        self._outer_fd = obj.map_info(rows, "fd")
        self._side_fds = [obj.map_info(f"{rows}_{side}", "fd") for side in (0, 1)]
        self.capacity = obj.map_info(f"{rows}_0", "max_entries")
        key = btf.dtype(obj.map_info(f"{rows}_0", "btf_key_type_id"))
        row = btf.dtype(obj.map_info(f"{rows}_0", "btf_value_type_id"))
        # as bytes: what a row's fields are does not matter until it has left the table
        self._keys = np.zeros((self.capacity, key.itemsize), np.uint8)
        self._values = np.zeros((self.capacity, row.itemsize), np.uint8)
        self.dtype = np.dtype([(n, d[n]) for d in (key, row) for n in d.names or ()])
        # where each CPU gathers for the process that it runs: a key and a row, as in the table
        gathered = f"{stem}_gathered"
        self._gathered_fd = obj.map_info(gathered, "fd") if gathered in obj.maps else None
        self._gathered = np.zeros(obj.libbpf.possible_cpus, self.dtype)

        self._totals_fd = obj.map_info(totals, "fd")
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
        # what found no row only grows, on each side apart: what it was when the side was drained last
        self._before = [dict.fromkeys((*self.counters, _OVERFLOW), 0) for _ in (0, 1)]
        self._since_load = dict.fromkeys(self.counters, 0)

    def settle(self, side: int) -> None:
        """Wait until no program writes to a side any more (milliseconds, without using the CPU).

        The kernel itself waits for an RCU grace period when an element of a map of maps is replaced, so that
        user space may rely on the old one being left alone; here the element is replaced by itself.
        """
        index, inner = ctypes.c_uint32(side), ctypes.c_uint32(self._side_fds[side])
        check(
            self._lib.bpf_map_update_elem(self._outer_fd, ctypes.byref(index), ctypes.byref(inner), 0),
            f"settle table '{self.stem}'",
        )

    def drain(self, side: int) -> TableHarvest:
        """Take all rows of a settled side out of the kernel, and what found no row there."""
        overflow, gathered = self._read_totals(side), self._read_gathered(side)
        rows = self._take_rows(side)
        if gathered is not None:
            self._add(rows, gathered)
            self._clear_gathered(side)
        overflow_calls = overflow.pop(_OVERFLOW, 0)
        in_rows = zip(self.counters, self._numbers(rows).sum(axis=0).tolist(), strict=True)
        totals = {name: overflow[name] + count for name, count in in_rows}
        self._since_load = {name: count + totals[name] for name, count in self._since_load.items()}
        return TableHarvest(rows, totals, overflow, overflow_calls, self.capacity, self._since_load)

    def _numbers(self, rows: np.ndarray) -> np.ndarray:
        """The counters of rows, which stand last in them: (rows, counters)."""
        return rows.view(np.uint64).reshape(len(rows), self.dtype.itemsize // 8)[:, -len(self.counters) :]

    def _add(self, rows: np.ndarray, gathered: np.ndarray) -> None:
        """Add what CPUs have gathered to the rows, which are there: a CPU gathers for nobody who has none."""
        starts, numbers = rows["start_ns"], self._numbers(rows)
        for one, counted in zip(gathered, self._numbers(gathered), strict=True):
            for place in np.flatnonzero(starts == one["start_ns"]):
                if rows[place]["tgid"] == one["tgid"] and rows[place]["exec_id"] == one["exec_id"]:
                    numbers[place] += counted

    def _take_rows(self, side: int) -> np.ndarray:
        count = ctypes.c_uint32(self.capacity)  # room for all: one call, and no bucket is too big
        after = (ctypes.c_uint32 * 2)()
        result = self._lib.bpf_map_lookup_and_delete_batch(
            self._side_fds[side], None, ctypes.byref(after), self._keys.ctypes.data, self._values.ctypes.data,
            ctypes.byref(count), None,
        )  # fmt: skip
        if result not in (0, -errno.ENOENT):
            raise KernelError(f"drain table '{self.stem}': {os.strerror(-result)}")
        rows = np.hstack((self._keys[: count.value], self._values[: count.value]))
        return rows.view(self.dtype).reshape(count.value)

    def _read_totals(self, side: int) -> dict[str, int]:
        index = ctypes.c_uint32(side)
        check(
            self._lib.bpf_map_lookup_elem(self._totals_fd, ctypes.byref(index), self._per_cpu.ctypes.data),
            f"read the totals of '{self.stem}'",
        )
        now, before = sums(self._per_cpu), self._before[side]
        self._before[side] = now
        return {name: count - before[name] for name, count in now.items()}

    def _read_gathered(self, side: int) -> np.ndarray | None:
        """What those CPUs have gathered that counted anything; None if none did."""
        if self._gathered_fd is None:
            return None
        index = ctypes.c_uint32(side)
        check(
            self._lib.bpf_map_lookup_elem(self._gathered_fd, ctypes.byref(index), self._gathered.ctypes.data),
            f"read what CPUs gathered for '{self.stem}'",
        )
        gathered = self._gathered[self._gathered["start_ns"] != 0]
        return gathered if len(gathered) else None

    def _clear_gathered(self, side: int) -> None:
        index = ctypes.c_uint32(side)
        self._gathered[:] = 0
        check(
            self._lib.bpf_map_update_elem(self._gathered_fd, ctypes.byref(index), self._gathered.ctypes.data, 0),
            f"clear what CPUs gathered for '{self.stem}'",
        )


def sums(per_cpu: np.ndarray) -> dict[str, int]:
    """Each field of a structured array of u64, over all CPUs."""
    names = per_cpu.dtype.names or ()
    numbers = per_cpu.view(np.uint64).reshape(len(per_cpu), len(names))
    return dict(zip(names, numbers.sum(axis=0).tolist(), strict=True))
