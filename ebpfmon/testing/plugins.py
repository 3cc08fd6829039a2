"""Whether a plugin keeps the contract."""

from __future__ import annotations

from ebpfmon.errors import ObjectError, PluginError
from ebpfmon.kernel.bpfobject import BpfObject
from ebpfmon.kernel.btf import Btf
from ebpfmon.kernel.libbpf import Libbpf
from ebpfmon.kernel.objects import locate
from ebpfmon.kernel.tables import find_tables
from ebpfmon.model.everything import Probe
from ebpfmon.plugins import validate as contract
from ebpfmon.plugins.validate import Brought


def check_plugin(plugin: object) -> Brought:
    """Call a plugin's hooks, check all that they return, and the charts of its probes against their compiled objects.

    Returns what it brings: `probes`, `sinks` and `hooks`. Raises PluginError or ObjectError in the words of the daemon,
    and whatever the hooks raise. Needs no root: nothing is loaded.
    """
    brought = contract.ask(plugin)
    for probe in brought.probes:
        counters = _counters(probe)
        if not counters:
            raise ObjectError(f"probe '{probe.name}': its object has no table: PROCESS_TABLE in the kit makes one")
        made = probe.setup(probe.settings())
        try:
            if wrong := contract.misfit(probe, counters, made.keys):
                raise PluginError(f"probe '{probe.name}': {wrong}")
        finally:
            made.close()
    return brought


def _counters(probe: Probe) -> dict[str, tuple[str, ...]]:
    """The counters of each table of a probe's object."""
    with BpfObject(Libbpf(), locate(probe)) as opened:
        btf = Btf(opened.btf())
        return {
            stem: tuple(
                name
                for name in btf.dtype(opened.map_info(f"{stem}_totals", "btf_value_type_id")).names or ()
                if name != "overflow"
            )
            for stem in find_tables(opened)
        }
