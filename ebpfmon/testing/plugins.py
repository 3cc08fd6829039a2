"""Validate a plugin like the daemon does."""

from __future__ import annotations

from ebpfmon.plugins import fit, validate
from ebpfmon.plugins.validate import Contribution


def check_plugin(plugin: object) -> Contribution:
    """Validate a plugin and return its contribution: `probes`, `sinks` and `hooks`.

    It calls the plugin's hooks, checks what they return, and checks that the charts and events of its probes fit their
    compiled objects. Raises PluginError or ObjectError with the daemon's messages, and whatever the hooks raise. Root
    is not needed, because nothing is loaded.
    """
    contribution = validate.call_hooks(plugin)
    for probe in contribution.probes:
        setup = probe.setup(probe.settings())
        try:
            fit.fitting_tables(probe, setup)
        finally:
            setup.close()
    return contribution
