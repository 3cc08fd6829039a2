"""Check whether this machine has what valid settings need, and warn about settings that have no effect.

`run` and reloads do not look for the files that sinks read, because a file server that is down never answers. The sinks
themselves say what they cannot read, and try again.
"""

from __future__ import annotations

import errno
import fnmatch
import logging
import os
import pwd
import stat
from collections.abc import Iterator

from ebpfmon.config.settings import Settings
from ebpfmon.errors import SettingsError, describe
from ebpfmon.grouping.registry import groupings
from ebpfmon.model import ProbeSettings, SinkSettings, tag_of
from ebpfmon.pipeline import self_metrics
from ebpfmon.plugins import requirements
from ebpfmon.plugins.registry import Registry

log = logging.getLogger(__name__)

_MISSING = {errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG}
"""Errors that say that there is no such file. After any other error, it is unknown whether there is one."""


def check(settings: Settings, registry: Registry, source: str) -> None:
    """Import what the sinks need, and log a warning about settings that have no effect.

    Raises SettingsError, which names `source` (the file), if a module cannot be imported.
    """
    if settings.ebpfmon.user:
        requirements.import_late_modules()
    for sink in settings.sinks:
        if problem := requirements.problem(type(sink)):
            raise SettingsError(f"{source}: {_described(sink)}: {problem}")
    for warning in _without_effect(settings, registry):
        log.warning("%s: %s", source, warning)


def check_machine(settings: Settings, source: str) -> None:
    """Look for the user and for what sinks need, and log a warning about files that may not be readable.

    Raises SettingsError, which names `source` (the file), if something is missing or can never work.
    """
    _require_user(settings.ebpfmon.user, source)
    for sink in settings.sinks:
        name = f"{source}: {_described(sink)}"
        # Only files that can be read are looked into.
        for warning in [*_check_files(sink, name)] or _check_needs(sink, name):
            log.warning("%s", warning)


def _described(sink: SinkSettings) -> str:
    return f"sink '{sink.name or tag_of(sink)}'"


def _require_user(name: str, source: str) -> None:
    """Raise SettingsError if there is no such user. An empty name is none."""
    try:
        if name:
            pwd.getpwnam(name)
    except (KeyError, ValueError):
        raise SettingsError(f"{source}: ebpfmon.user: '{name}': there is no such user") from None


def _check_files(sink: SinkSettings, name: str) -> Iterator[str]:
    """Yield a line about each file that a sink may not be able to read. Raises SettingsError if one is missing."""
    for key in sink.files:
        path = getattr(sink, key)
        if not path or not isinstance(path, str):
            continue
        try:
            if not stat.S_ISREG(os.stat(path).st_mode):
                yield f"{name}: {key}: '{path}' is not a regular file"
            elif not os.access(path, os.R_OK):
                yield f"{name}: {key}: this user cannot read '{path}'"
        except OSError as error:
            if error.errno in _MISSING:
                raise SettingsError(f"{name}: {key}: '{path}': {error.strerror}") from None
            yield f"{name}: {key}: this user cannot read '{path}': {error.strerror}"


def _check_needs(sink: SinkSettings, name: str) -> list[str]:
    """Return what a sink's own check warns about. Raises SettingsError if it finds an error."""
    try:
        return [f"{name}: {warning}" for warning in sink.check_machine()]
    except ValueError as error:
        raise SettingsError(f"{name}: {error}") from None
    except BaseException as error:  # a plugin's own code
        raise SettingsError(f"{name}: {describe(error)}") from None


def _lines_of(settings: ProbeSettings) -> tuple[str, ...]:
    """Return what a probe says about its settings, or why its code fails."""
    try:
        return tuple(settings.without_effect)
    except BaseException as error:  # a plugin's own code
        return (f"without_effect: {describe(error)}",)


def _without_effect(settings: Settings, registry: Registry) -> Iterator[str]:
    """Yield a line about each setting that has no effect."""
    if not any(probe.enabled for probe in settings.plugins.values()):
        yield "plugins: no probe is enabled, so nothing is counted"
    for name, probe_settings in settings.plugins.items():
        if probe_settings.enabled:
            yield from (f"plugins.{name}.{line}" for line in _lines_of(probe_settings))
    if not settings.sinks:
        yield "sinks: the list is empty, so the counts are sent nowhere"
    if registry.left_out:  # their charts are unknown
        return
    prefixes = [groupings()[name].prefix for name in settings.groups.by]
    ids = [*self_metrics.CHART_IDS]
    for chart in (chart for probe in registry.probes.values() for chart in probe.charts):
        ids += [f"{prefix}.{chart.id}" for prefix in prefixes] if chart.grouped else [chart.id]
    for sink in settings.sinks:
        for pattern in sink.charts:
            if not any(fnmatch.fnmatchcase(id_, pattern.removeprefix("!")) for id_ in ids):
                yield f"{_described(sink)}: charts: '{pattern}' matches no chart of these settings"
