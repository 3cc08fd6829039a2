"""The hooks by which plugins contribute probes and sinks. Each is called once, at start, and returns a list of objects,
which are validated (`ebpfmon/plugins/validate.py`).

A plugin is a module or an object with any of these as `@hookimpl` functions, named by an entry point of the
group `ebpfmon`, or a file of the folder `plugins_dir`. It says which API it was written for:
`EBPFMON_API_VERSION = 2`.
"""

from __future__ import annotations

from collections.abc import Sequence

import pluggy

from ebpfmon.model import Probe, SinkSettings

PROJECT = "ebpfmon"
hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


@hookspec
def ebpfmon_register_probes() -> Sequence[Probe]:
    """Return the probes of this plugin."""
    raise NotImplementedError


@hookspec
def ebpfmon_register_sinks() -> Sequence[type[SinkSettings]]:
    """Return the sink types of this plugin: their settings, each with `tag="its type"` and `open()`."""
    raise NotImplementedError
