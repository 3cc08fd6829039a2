"""CPU time of one tick over a table of many rows: drain, attribution, accounting, on a real kernel map."""

from __future__ import annotations

import ctypes
import statistics
import time

import numpy as np

from ebpfmon import Probe, Scope
from ebpfmon.attribution.lookup import Found
from ebpfmon.attribution.naming import ByProcess
from ebpfmon.flow.accounting import Accounting
from ebpfmon.flow.applications import Applications
from ebpfmon.flow.attribution import Attribution
from ebpfmon.flow.keyed import Keyed
from ebpfmon.kernel import attach, features
from ebpfmon.kernel.attach import LoadedProbe, LoadOptions
from ebpfmon.kernel.btf import Btf
from ebpfmon.kernel.libbpf import Libbpf, check
from ebpfmon.kernel.tables import Table

GROUPS = 50
"""That many applications the processes belong to."""


def fill(loaded: LoadedProbe, table: Table, side: int, rows: int) -> None:
    """Put rows into a side of a table, as that many active processes, or destinations, would."""
    name, btf = f"{table.stem}_rows_{side}", Btf(loaded.object.btf())
    keys = np.zeros(rows, btf.dtype(loaded.object.map_info(name, "btf_key_type_id")))
    values = np.zeros(rows, btf.dtype(loaded.object.map_info(name, "btf_value_type_id")))
    if "address_low" in (keys.dtype.names or ()):
        keys["address_low"], keys["port"], keys["protocol"] = np.arange(rows) << 32, 443, 6
    else:
        keys["tgid"], keys["start_ns"] = np.arange(1, rows + 1), np.arange(rows) * 1_000_000
        values["comm"] = [b"program-%d" % (row % GROUPS) for row in range(rows)]
    for counter in table.counters:
        values[counter] = np.arange(rows)
    update = loaded.object.libbpf.lib.bpf_map_update_batch
    update.argtypes = [ctypes.c_int, *[ctypes.c_void_p] * 4]
    count, fd = ctypes.c_uint32(rows), loaded.object.map_info(name, "fd")
    check(update(fd, keys.ctypes.data, values.ctypes.data, ctypes.addressof(count), None), "fill the table")


def tick(probe: Probe, rows: int, rounds: int = 21) -> tuple[float, float, float]:
    """Median CPU milliseconds of a drain, of the attribution and of the accounting after it; processes are not new."""
    charts = {scope: [c for c in probe.charts if c.scope is scope] for scope in Scope}
    times = []
    with attach.load(probe, Libbpf(), features.look(), LoadOptions(table_size=max(16384, rows))) as loaded:
        accounting, attribution = Accounting(charts[Scope.SYSTEM]), Attribution({"process": ByProcess()}, "process")
        applications = Applications({"process": probe.charts}, 200)
        for _ in range(rounds + 1):
            side = loaded.interval.side ^ 1  # the side that no program writes to
            fill(loaded, loaded.tables[0], side, rows)
            start = time.process_time()
            tables = {"process": loaded.tables[0].drain(side)}
            drained = time.process_time()
            owners = attribution.own(attribution.look(tables), Found())
            owned = time.process_time()
            accounting.account(tables["process"].totals)
            applications.account(tables, owners, 1.0)
            times.append((drained - start, owned - drained, time.process_time() - owned))
            assert len(tables["process"].rows) == rows
    drain, attribute, account = (statistics.median(of_stage) * 1000 for of_stage in zip(*times[1:], strict=True))
    return drain, attribute, account


def destinations(probe: Probe, rows: int, rounds: int = 11) -> tuple[float, float]:
    """Median CPU milliseconds of a drain of so many destinations, and of the charts by destination after it."""
    times = []
    keys = probe.setup(probe.settings()).keys["outbound"]
    with attach.load(probe, Libbpf(), features.look(), LoadOptions(table_size=max(16384, rows))) as loaded:
        (table,) = (t for t in loaded.tables if t.stem == "outbound")
        keyed = Keyed([c for c in probe.charts if c.scope is Scope.KEYS and c.table == table.stem], keys)
        for _ in range(rounds + 1):
            side = loaded.interval.side ^ 1
            fill(loaded, table, side, rows)
            start = time.process_time()
            harvest = table.drain(side)
            drained = time.process_time()
            keyed.account(harvest, 1.0)
            times.append((drained - start, time.process_time() - drained))
            assert len(harvest.rows) == rows
    drain, account = (statistics.median(of_stage) * 1000 for of_stage in zip(*times[1:], strict=True))
    return drain, account
