"""Rows in a real table of the kernel: put there as so many processes would, and taken out by the harvest."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from ebpfmon import Probe, TableHarvest
from ebpfmon.kernel import attach, features
from ebpfmon.kernel.attach import LoadedProbe, LoadOptions
from ebpfmon.kernel.bpfobject import BpfObject
from ebpfmon.kernel.btf import Btf
from ebpfmon.kernel.libbpf import Libbpf, check
from ebpfmon.kernel.tables import Table

GROUPS = 50
"""That many programs the processes run, if nothing else is said."""


@contextmanager
def loaded(probe: Probe, rows: int) -> Iterator[LoadedProbe]:
    """A probe whose tables have room for so many rows."""
    options = LoadOptions(table_size=max(16384, rows), setup=probe.setup(probe.settings()))
    with attach.load(probe, Libbpf(), features.detect(), options) as found:
        yield found


def fill(probe: LoadedProbe, table: Table, side: int, rows: int, groups: int = GROUPS) -> None:
    """Put rows into a side of a table, of processes that run so many programs. Raises KernelError."""
    name = f"{table.stem}_rows_{side}"
    with BpfObject(probe.object.libbpf, probe.object.path) as opened:
        btf = Btf(opened.btf())
        keys = np.zeros(rows, btf.dtype(opened.map_info(name, "btf_key_type_id")))
        values = np.zeros(rows, btf.dtype(opened.map_info(name, "btf_value_type_id")))
    if "address_low" in (keys.dtype.names or ()):
        keys["address_low"], keys["port"], keys["protocol"] = np.arange(rows) << 32, 443, 6
    else:
        keys["tgid"], keys["start_ns"] = np.arange(1, rows + 1), np.arange(rows) * 1_000_000
        values["comm"] = [b"program-%d" % (row % groups) for row in range(rows)]
    for counter in table.counters:
        values[counter] = np.arange(rows)
    update = probe.object.libbpf.lib.bpf_map_update_batch
    update.argtypes = [ctypes.c_int, *[ctypes.c_void_p] * 4]
    count, fd = ctypes.c_uint32(rows), probe.object.map_fd(name)
    check(update(fd, keys.ctypes.data, values.ctypes.data, ctypes.addressof(count), None), "fill the table")


def harvested(probe: LoadedProbe, table: Table, rows: int) -> TableHarvest:
    """A harvest of so many rows."""
    side = probe.interval.buffer ^ 1  # the buffer that no program writes to
    fill(probe, table, side, rows)
    return table.drain(side)
