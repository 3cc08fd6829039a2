"""Validate a plugin as the daemon does."""

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
    """Call a plugin's hooks, check all that they return, and the charts and events of its probes against their
    compiled objects.

    Returns what it contributes: `probes`, `sinks` and `hooks`. Raises PluginError or ObjectError with the daemon's
    messages, and whatever the hooks raise. Needs no root, because nothing is loaded.
    """
    found = validate.call_hooks(plugin)
    for probe in found.probes:
        counters, by_process = _tables(probe)
        if not counters:
            raise ObjectError(f"read '{probe.object}.bpf.o': {NO_TABLE}")
        made = probe.setup(probe.settings())
        try:
            if wrong := validate.violation(probe, counters, {t: s.labels for t, s in made.labels.items()}, by_process):
                raise PluginError(f"probe '{probe.name}': {wrong}")
        finally:
            made.close()
    return found


def _tables(probe: Probe) -> tuple[dict[str, tuple[str, ...]], frozenset[str]]:
    """Return the counters of each table of a probe's object, and which tables are by process."""
    with BpfObject(Libbpf(), locate(probe)) as opened:
        btf = Btf(opened.btf())
        read_spec(probe, opened, btf)
        stems = find_tables(opened)
        counters = {stem: _names(btf, opened.map_info(f"{stem}_totals", "btf_value_type_id")) for stem in stems}
        keys = {stem: _names(btf, opened.map_info(f"{stem}_rows_0", "btf_key_type_id")) for stem in stems}
        return counters, frozenset(stem for stem, key in keys.items() if key == PROCESS_FIELDS[: len(key)])


def _names(btf: Btf, type_id: int) -> tuple[str, ...]:
    return tuple(name for name in btf.dtype(type_id).names or () if name != "overflow")
