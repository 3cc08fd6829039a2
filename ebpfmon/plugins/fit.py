"""Check that a probe fits its compiled object, without loading anything into the kernel."""

from __future__ import annotations

from collections.abc import Collection

from ebpfmon.errors import ObjectError, PluginError
from ebpfmon.kernel.bpfobject import BpfObject
from ebpfmon.kernel.btf import Btf
from ebpfmon.kernel.libbpf import Libbpf
from ebpfmon.kernel.objects import locate, read_spec
from ebpfmon.kernel.tables import NO_TABLE, find_tables
from ebpfmon.model import PROCESS_FIELDS, Probe, Setup
from ebpfmon.plugins import validate


def fitting_tables(probe: Probe, setup: Setup) -> Collection[str]:
    """Return the names of the tables of a probe's object, which the probe fits.

    Raises ObjectError if the object cannot be read or if the probe's events do not fit it, and PluginError if its
    charts, columns or labels do not fit the tables. This does not need root.
    """
    counters, by_process = _tables(probe)
    if not counters:
        raise ObjectError(f"cannot read '{probe.object}.bpf.o': {NO_TABLE}")
    labels = {table: source.labels for table, source in setup.labels.items()}
    if violation := validate.violation(probe, counters, labels, by_process):
        raise PluginError(f"probe '{probe.name}': {violation}")
    return counters.keys()


def _tables(probe: Probe) -> tuple[dict[str, tuple[str, ...]], frozenset[str]]:
    """Return the counters of each table of a probe's object, and the names of the per-process tables."""
    with BpfObject(Libbpf(), locate(probe)) as opened:
        btf = Btf(opened.btf())
        read_spec(probe, opened, btf)
        tables = find_tables(opened)
        counters = {table: _names(btf, opened.map_info(f"{table}_totals", "btf_value_type_id")) for table in tables}
        keys = {table: _names(btf, opened.map_info(f"{table}_rows_0", "btf_key_type_id")) for table in tables}
        return counters, frozenset(table for table, key in keys.items() if key == PROCESS_FIELDS[: len(key)])


def _names(btf: Btf, type_id: int) -> tuple[str, ...]:
    return tuple(name for name in btf.dtype(type_id).names or () if name != "overflow")
