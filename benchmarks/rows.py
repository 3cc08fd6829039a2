"""Fill a real kernel table with rows, as many processes would, and drain it as the daemon does."""

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

DEFAULT_GROUPS = 50
"""The number of different programs that the processes run."""


@contextmanager
def loaded(probe: Probe, rows: int) -> Iterator[LoadedProbe]:
    """Load a probe whose tables have room for a number of rows."""
    options = LoadOptions(table_size=max(16384, rows), setup=probe.setup(probe.settings()))
    with attach.load(probe, Libbpf(), features.detect(), options) as loaded_probe:
        yield loaded_probe


def fill(probe: LoadedProbe, table: Table, buffer: int, rows: int, groups: int = DEFAULT_GROUPS) -> None:
    """Put rows into a buffer of a table, one for each process or destination. Raises KernelError.

    `groups` is the number of different programs that the processes run.
    """
    name = f"{table.name}_rows_{buffer}"
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


def harvest_of(probe: LoadedProbe, table: Table, rows: int) -> TableHarvest:
    """Fill a table with a number of rows, and return its harvest."""
    buffer = probe.active_buffer.index ^ 1  # The buffer that no program writes to.
    fill(probe, table, buffer, rows)
    return table.drain(buffer)
