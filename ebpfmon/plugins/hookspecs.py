"""The hooks by which plugins contribute probes and sinks.

Each hook is called once, at start, and returns a list of objects, which `ebpfmon/plugins/validate.py` validates.

A plugin is a module or another object that implements one or more of the hooks with `@hookimpl`. It is named by an
entry point of the group `ebpfmon`, or it is a file in the folder `plugins_dir`. It states the version of the API that
it was written for: `EBPFMON_API_VERSION = 2`.
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
    """Return the sink types of this plugin: subclasses of SinkSettings, each with a `tag` and a method `open()`."""
    raise NotImplementedError
