"""Import what sinks need, and say what is missing.

A module that is imported late fails late: when the sink opens, or when the daemon has already become a user who cannot
read Python's files. Therefore the modules of the sinks in use are imported when the settings are read. Those of other
sinks are not imported, because they take memory.
"""

from __future__ import annotations

import importlib
import sys

import msgspec

from ebpfmon.errors import describe
from ebpfmon.model import SinkSettings
from ebpfmon.plugins.registry import Plugin, Registry, State

_LATE = ("concurrent.futures.thread", "difflib", "encodings.idna")
"""Modules that Python or ebpfmon import on first use: for calls in threads, for hints in errors, for host names."""


def import_late_modules() -> None:
    """Import what the daemon may import while it runs, before it becomes a user who may not read Python's files."""
    for module in _LATE:
        importlib.import_module(module)


def problem(sink: type[SinkSettings]) -> str:
    """Import the modules that a sink type requires. Return why one cannot be imported, or an empty string."""
    for module in sink.requires:
        try:
            importlib.import_module(module)
        except BaseException as error:  # a module may raise anything, even SystemExit
            return f"cannot import '{module}': {describe(error)}{_remedy(error, module)}"
    return ""


def checked(plugin: Plugin, registry: Registry) -> Plugin:
    """Return a plugin as `ebpfmon plugins` shows it: left out if one of its sink types cannot be used."""
    problems = (f"sink type '{name}': {why}" for name in plugin.sinks if (why := problem(registry.sinks[name])))
    error = next(problems, None)
    return msgspec.structs.replace(plugin, state=State.LEFT_OUT, error=error) if error else plugin


def _remedy(error: BaseException, module: str) -> str:
    if not isinstance(error, ImportError) or not error.name:
        return ""
    package = error.name.partition(".")[0]
    own = package == module.partition(".")[0] and package in sys.modules
    if own or package in sys.stdlib_module_names:  # at a reload; when ebpfmon started, it could have been imported
        return "; restart ebpfmon, because its user cannot read Python's files"
    return f"; {'install' if isinstance(error, ModuleNotFoundError) else 'upgrade'} the package of '{package}'"
