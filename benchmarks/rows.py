"""CPU time of one tick over a table of many rows: drain, then accounting, on a real kernel map."""

from __future__ import annotations

import ctypes
import statistics
import time

import numpy as np

from ebpfmon import Probe
from ebpfmon.flow.accounting import Accounting
from ebpfmon.kernel import attach, features
from ebpfmon.kernel.attach import LoadedProbe, LoadOptions
from ebpfmon.kernel.btf import Btf
from ebpfmon.kernel.libbpf import Libbpf, check


def fill(loaded: LoadedProbe, side: int, rows: int) -> None:
    """Put rows into a side of the process table, as that many active processes would."""
    name, btf = f"process_rows_{side}", Btf(loaded.object.btf())
    keys = np.zeros(rows, btf.dtype(loaded.object.map_info(name, "btf_key_type_id")))
    values = np.zeros(rows, btf.dtype(loaded.object.map_info(name, "btf_value_type_id")))
    keys["tgid"], keys["start_ns"], values["comm"] = np.arange(1, rows + 1), np.arange(rows) * 1_000_000, b"benchmark"
    for counter in loaded.tables[0].counters:
        values[counter] = np.arange(rows)
    update = loaded.object.libbpf.lib.bpf_map_update_batch
    update.argtypes = [ctypes.c_int, *[ctypes.c_void_p] * 4]
    count, fd = ctypes.c_uint32(rows), loaded.object.map_info(name, "fd")
    check(update(fd, keys.ctypes.data, values.ctypes.data, ctypes.addressof(count), None), "fill the table")


def tick(probe: Probe, rows: int, rounds: int = 21) -> tuple[float, float]:
    """Median CPU milliseconds of a drain and of the accounting after it."""
    drains, accounts = [], []
    with attach.load(probe, Libbpf(), features.look(), LoadOptions(table_size=max(16384, rows))) as loaded:
        accounting = Accounting(probe.charts)
        for _ in range(rounds):
            side = loaded.interval.side ^ 1  # the side that no program writes to
            fill(loaded, side, rows)
            start = time.process_time()
            harvest = loaded.tables[0].drain(side)
            drained = time.process_time()
            accounting.account(harvest.totals)
            accounts.append(time.process_time() - drained)
            drains.append(drained - start)
            assert len(harvest.rows) == rows
    return statistics.median(drains) * 1000, statistics.median(accounts) * 1000
