"""Validate a plugin like the daemon does."""

from __future__ import annotations

from ebpfmon.errors import ObjectError, PluginError
from ebpfmon.kernel.bpfobject import BpfObject
from ebpfmon.kernel.btf import Btf
from ebpfmon.kernel.libbpf import Libbpf
from ebpfmon.kernel.objects import locate, read_spec
from ebpfmon.kernel.tables import NO_TABLE, find_tables
from ebpfmon.model import PROCESS_FIELDS, Probe
from ebpfmon.plugins import validate
from ebpfmon.plugins.validate import Contribution


def check_plugin(plugin: object) -> Contribution:
    """Validate a plugin and return its contribution: `probes`, `sinks` and `hooks`.

    It calls the plugin's hooks, checks what they return, and checks that the charts and events of its probes fit their
    compiled objects. Raises PluginError or ObjectError with the daemon's messages, and whatever the hooks raise. Root
    is not needed, because nothing is loaded.
    """
    contribution = validate.call_hooks(plugin)
    for probe in contribution.probes:
        counters, by_process = _tables(probe)
        if not counters:
            raise ObjectError(f"cannot read '{probe.object}.bpf.o': {NO_TABLE}")
        setup = probe.setup(probe.settings())
        try:
            labels = {table: source.labels for table, source in setup.labels.items()}
            if violation := validate.violation(probe, counters, labels, by_process):
                raise PluginError(f"probe '{probe.name}': {violation}")
        finally:
            setup.close()
    return contribution


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
