"""Read the tables of a loaded object as numpy arrays.

Each table has two buffers (`bpf/table_maps.bpf.h`), and programs write to one of them. `ActiveBuffer.swap` makes them
write to the other. `Table.wait_for_programs` waits until no program can still be writing to the first one. Then
`Table.drain` reads and clears it.
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
ACTIVE_BUFFER_MAP = ".data.interval"
"""The name of the map that says which buffer the programs write to."""
NO_TABLE = "it has no table; include process_table.bpf.h or keyed_table.bpf.h"


def find_tables(obj: BpfObject) -> list[str]:
    """Return the names of an object's tables. Table NAME has a map of maps, NAME_rows, and an array, NAME_totals."""
    return [
        name.removesuffix("_rows")
        for name in obj.maps
        if name.endswith("_rows") and obj.map_info(name, "type") == _ARRAY_OF_MAPS
    ]


def set_table_size(obj: BpfObject, name: str, rows: int) -> None:
    """Set how many rows each buffer of a table has. Call it before `BpfObject.load`."""
    for buffer in (0, 1):
        obj.set_max_entries(f"{name}_rows_{buffer}", rows)


class ActiveBuffer:
    """Which of its two buffers the programs of an object write to. Several objects can share this choice."""

    def __init__(self, obj: BpfObject) -> None:
        self._lib, self._fd = obj.libbpf.lib, obj.map_fd(ACTIVE_BUFFER_MAP)

    @property
    def index(self) -> int:
        """The buffer that programs write to, 0 or 1."""
        zero, buffer = ctypes.c_uint32(0), ctypes.c_uint32()
        check(
            self._lib.bpf_map_lookup_elem(self._fd, ctypes.byref(zero), ctypes.byref(buffer)),
            "read which buffer is active",
        )
        return buffer.value

    def swap(self) -> int:
        """Make the programs write to the other buffer, and return the one that they wrote to before."""
        former = self.index
        zero, buffer = ctypes.c_uint32(0), ctypes.c_uint32(1 - former)
        check(self._lib.bpf_map_update_elem(self._fd, ctypes.byref(zero), ctypes.byref(buffer), 0), "swap the buffers")
        return former


class Table:
    """A table of a loaded object: rows by key, and totals of everything that has no row."""

    def __init__(self, obj: BpfObject, btf: Btf, name: str) -> None:
        self._lib, self.name = obj.libbpf.lib, name
        rows, totals = f"{name}_rows", f"{name}_totals"
        if totals not in obj.maps or obj.map_info(totals, "type") != _PERCPU_ARRAY:
            raise ObjectError(f"cannot read '{obj.path.name}': table '{name}' has no per-CPU array '{totals}'")
        self._outer_fd = obj.map_fd(rows)
        self._buffer_fds = [obj.map_fd(f"{rows}_{buffer}") for buffer in (0, 1)]
        self.capacity = obj.map_info(f"{rows}_0", "max_entries")
        key = btf.dtype(obj.map_info(f"{rows}_0", "btf_key_type_id"))
        row = btf.dtype(obj.map_info(f"{rows}_0", "btf_value_type_id"))
        self.is_by_process = key.names == PROCESS_FIELDS
        self._keys = _lazy_zeros(self.capacity, key.itemsize)
        self._values = _lazy_zeros(self.capacity, row.itemsize)
        self.dtype = np.dtype([(n, d[n]) for d in (key, row) for n in d.names or ()])
        # The per-CPU caches: each begins with a key and a row, which count for the caller on that CPU.
        cache = f"{name}_cache"
        self._cache_fd, cached = None, self.dtype
        if cache in obj.maps:
            self._cache_fd = obj.map_fd(cache)
            cached = btf.dtype(obj.map_info(cache, "btf_value_type_id"))
        self._cached = np.zeros(obj.libbpf.possible_cpus, cached)

        self._totals_fd = obj.map_fd(totals)
        per_cpu = btf.dtype(obj.map_info(totals, "btf_value_type_id"))
        self._per_cpu = np.zeros(obj.libbpf.possible_cpus, per_cpu)
        self.counters = tuple(n for n in per_cpu.names or () if n != _OVERFLOW)
        if any(per_cpu[n] != np.uint64 for n in per_cpu.names or ()):
            raise ObjectError(f"cannot read '{obj.path.name}': the totals of '{name}' are not all __u64")
        if self.dtype.itemsize != key.itemsize + row.itemsize:
            raise ObjectError(
                f"cannot read '{obj.path.name}': the rows of '{name}' have padding; put the widest fields first and "
                "name the padding"
            )
        last = (row.names or ())[-len(self.counters) :]
        if last != self.counters or any(d[n] != np.uint64 for d in (row, per_cpu) for n in last):
            raise ObjectError(
                f"cannot read '{obj.path.name}': the rows of '{name}' do not end with the __u64 counters of its totals"
            )
        # What was taken out of each buffer but has not been returned yet: rows, and what was in the per-CPU caches.
        self._taken_rows: list[list[Rows]] = [[], []]
        self._taken_caches: list[list[Rows]] = [[], []]
        # The totals of each buffer when it was drained last. In the kernel they only grow.
        self._before = [dict.fromkeys((*self.counters, _OVERFLOW), 0) for _ in (0, 1)]
        self._since_load = dict.fromkeys(self.counters, 0)

    def wait_for_programs(self, buffer: int) -> None:
        """Wait until no program writes to a buffer any more. This takes milliseconds and no CPU time.

        It replaces an element of the map of maps with the same map. The kernel then waits for an RCU grace period, so
        that no program still uses the replaced element.
        """
        index, inner = ctypes.c_uint32(buffer), ctypes.c_uint32(self._buffer_fds[buffer])
        check(
            self._lib.bpf_map_update_elem(self._outer_fd, ctypes.byref(index), ctypes.byref(inner), 0),
            f"wait for the programs of table '{self.name}'",
        )

    def drain(self, buffer: int) -> TableHarvest:
        """Read and clear a buffer that no program writes to. Raises KernelError.

        No count is lost if this fails half-way. What is still in the kernel and what was already taken out of it are
        returned together when the buffer is drained the next time.
        """
        overflow_now = self._read_totals(buffer)
        self._empty_caches(buffer)
        self._take_rows(buffer)
        # Nothing below can fail.
        rows, caches = self._joined(self._taken_rows[buffer]), self._taken_caches[buffer]
        self._taken_rows[buffer], self._taken_caches[buffer] = [], []
        for cached in caches:
            self._flush_caches(rows, cached)
        before, self._before[buffer] = self._before[buffer], overflow_now
        overflow = {name: count - before[name] for name, count in overflow_now.items()}
        overflow_calls = overflow.pop(_OVERFLOW, 0)
        in_rows = zip(self.counters, self._numbers(rows).sum(axis=0).tolist(), strict=True)
        totals = {name: overflow[name] + count for name, count in in_rows}
        self._since_load = {name: count + totals[name] for name, count in self._since_load.items()}
        return TableHarvest(rows, totals, overflow, overflow_calls, self.capacity, self._since_load)

    def _numbers(self, rows: Rows) -> NDArray[np.uint64]:
        """Return a view of the counters of rows, (rows, counters). They are the last fields of a row."""
        numbers: NDArray[np.uint64] = rows.view(np.uint64).reshape(len(rows), self.dtype.itemsize // 8)
        return numbers[:, -len(self.counters) :]

    def _flush_caches(self, rows: Rows, cached: Rows) -> None:
        """Add the counters of the per-CPU caches to the rows. Every cached caller has a row."""
        starts, numbers, key = rows["start_ns"], self._numbers(rows), list(PROCESS_FIELDS)
        for cache in cached:
            for n in np.flatnonzero(starts == cache["start_ns"]):
                if rows[n][key] == cache[key]:
                    numbers[n] += np.array([cache[name] for name in self.counters], np.uint64)

    def _joined(self, parts: list[Rows]) -> Rows:
        """Return all rows of the parts. Rows with the same key become one, with the sums of their counters."""
        if len(parts) == 1:
            return parts[0]
        rows = np.concatenate(parts)
        width = self._keys.shape[1]
        keys = np.ascontiguousarray(rows.view(np.uint8).reshape(len(rows), -1)[:, :width]).view(f"V{width}").ravel()
        _, first, groups = np.unique(keys, return_index=True, return_inverse=True)
        joined = rows[first]
        self._numbers(joined)[:] = 0
        np.add.at(self._numbers(joined), groups, self._numbers(rows))
        return joined

    def _take_rows(self, buffer: int) -> None:
        """Move all rows of a buffer to `_taken_rows`.

        The kernel deletes a row when it copies it, and may fail after that. It then says how many rows it has copied
        (`__htab_map_lookup_and_delete_batch` in kernel/bpf/hashtab.c), except after EFAULT, when it could not write to
        this process's memory.
        """
        result = 0
        while result != -errno.ENOENT:  # With room for all rows, one call takes them all.
            count = ctypes.c_uint32(room := len(self._keys))
            after = (ctypes.c_uint32 * 2)()
            result = self._lib.bpf_map_lookup_and_delete_batch(
                self._buffer_fds[buffer], None, ctypes.byref(after), self._keys.ctypes.data, self._values.ctypes.data,
                ctypes.byref(count), None,
            )  # fmt: skip
            has_failed = result not in (0, -errno.ENOENT)
            # If the kernel has refused the call before it looked at the map, `count` is unchanged.
            copied = 0 if has_failed and count.value == room else count.value
            if copied or not has_failed:
                rows = np.hstack((self._keys[:copied], self._values[:copied]))
                self._taken_rows[buffer].append(rows.view(self.dtype).reshape(copied))
            if has_failed:
                raise KernelError(f"cannot drain table '{self.name}': {os.strerror(-result)}")

    def _read_totals(self, buffer: int) -> dict[str, int]:
        """Return what found no row since the load, by counter. It stays in the kernel."""
        index = ctypes.c_uint32(buffer)
        check(
            self._lib.bpf_map_lookup_elem(self._totals_fd, ctypes.byref(index), self._per_cpu.ctypes.data),
            f"read the totals of '{self.name}'",
        )
        return sums(self._per_cpu)

    def _empty_caches(self, buffer: int) -> None:
        """Move what is in the per-CPU caches to `_taken_caches`.

        This comes before the rows are taken: a program adds what is in a cache to a row that it expects to be there.
        """
        if self._cache_fd is None:
            return
        index = ctypes.c_uint32(buffer)
        check(
            self._lib.bpf_map_lookup_elem(self._cache_fd, ctypes.byref(index), self._cached.ctypes.data),
            f"read the per-CPU caches of '{self.name}'",
        )
        cached = self._cached[self._cached["start_ns"] != 0]
        if not len(cached):
            return
        self._cached.view(np.uint8)[:] = 0  # assigning 0 to the fields would make the names "0"
        check(
            self._lib.bpf_map_update_elem(self._cache_fd, ctypes.byref(index), self._cached.ctypes.data, 0),
            f"clear the per-CPU caches of '{self.name}'",
        )
        self._taken_caches[buffer].append(cached)


def _lazy_zeros(rows: int, row_bytes: int) -> NDArray[np.uint8]:
    """Return an array of zeros, (rows, row_bytes), whose pages take memory only after they have been written to.

    A full table needs several megabytes, but an ordinary interval fills only a small part. `np.zeros` does not
    guarantee this, because malloc may reuse memory, all of which is then cleared.
    """
    return np.frombuffer(mmap.mmap(-1, rows * row_bytes), np.uint8).reshape(rows, row_bytes)


def sums(per_cpu: Rows) -> dict[str, int]:
    """Return the sum over all CPUs of each field of a structured array of u64, (CPUs,)."""
    names = per_cpu.dtype.names or ()
    numbers = per_cpu.view(np.uint64).reshape(len(per_cpu), len(names))
    return dict(zip(names, numbers.sum(axis=0).tolist(), strict=True))
