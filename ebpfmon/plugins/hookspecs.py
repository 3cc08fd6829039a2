"""The hooks by which probes and sinks join in. They are called once, at start, in a thread with a limit, and return
lists of objects, all of which are checked (`ebpfmon/contract.py`).

A plugin is a module or an object with any of these as `@hookimpl` functions, named by an entry point of the
group `ebpfmon`, or a file of the folder `plugins_dir`. It says which API it was written for:
`EBPFMON_API_VERSION = 1`.
"""

from __future__ import annotations

from collections.abc import Sequence

import pluggy

from ebpfmon.model.everything import Probe, SinkSettings

PROJECT = "ebpfmon"
hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


@hookspec
def ebpfmon_register_probes() -> Sequence[Probe]:
    """The probes that this plugin brings."""
    raise NotImplementedError


@hookspec
def ebpfmon_register_sinks() -> Sequence[type[SinkSettings]]:
    """The sink types that this plugin brings: their settings, each with `tag="its type"` and `open()`."""
    raise NotImplementedError
