"""Loads plugins one by one: a broken one is named with its reason, and the others go on without it."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Protocol

import pluggy

from ebpfmon import hookspecs
from ebpfmon.errors import PluginError
from ebpfmon.model import API_VERSION, Probe, SinkSettings, tag_of


class EntryPoint(Protocol):
    """What is used of importlib.metadata.EntryPoint."""

    @property
    def name(self) -> str: ...
    @property
    def dist(self) -> importlib.metadata.Distribution | None: ...
    def load(self) -> object: ...


@dataclass(frozen=True, slots=True)
class Plugin:
    """A plugin as `ebpfmon plugins` shows it. `error` says why it is not in use."""

    name: str
    distribution: str
    version: str
    probes: tuple[str, ...] = ()
    sinks: tuple[str, ...] = ()
    error: str | None = None


@dataclass(slots=True)
class Registry:
    """What the plugins brought: probes by name, sink settings by type, and the plugins themselves."""

    probes: dict[str, Probe] = field(default_factory=dict)
    sinks: dict[str, type[SinkSettings]] = field(default_factory=dict)
    plugins: list[Plugin] = field(default_factory=list)


def discover(entry_points: Iterable[EntryPoint] | None = None) -> Registry:
    """Load every plugin installed (or the ones given), by name."""
    if entry_points is None:
        entry_points = importlib.metadata.entry_points(group=hookspecs.PROJECT)
    registry = Registry()
    for entry_point in sorted(entry_points, key=lambda e: e.name):
        dist = entry_point.dist
        origin = (dist.name, dist.version) if dist else ("", "")
        try:
            probes, sinks = _ask(entry_point)
            _add(registry, probes, sinks)
        except (Exception, SystemExit) as error:  # whatever a stranger's code raises
            reason = str(error) if isinstance(error, PluginError) else f"{type(error).__name__}: {error}"
            registry.plugins.append(Plugin(entry_point.name, *origin, error=reason))
        else:
            names = tuple(p.name for p in probes), tuple(tag_of(s) for s in sinks)
            registry.plugins.append(Plugin(entry_point.name, *origin, *names))
    return registry


def _ask(entry_point: EntryPoint) -> tuple[list[Probe], list[type[SinkSettings]]]:
    """Import one plugin and call its hooks; a manager of its own, as one raising hook would stop the rest."""
    plugin = entry_point.load()
    version = getattr(plugin, "EBPFMON_API_VERSION", None)
    if version != API_VERSION:
        raise PluginError(f"it was written for API version {version}, this is {API_VERSION}: EBPFMON_API_VERSION")
    manager = pluggy.PluginManager(hookspecs.PROJECT)
    manager.add_hookspecs(hookspecs)
    manager.register(plugin)
    manager.check_pending()
    probes = [p for some in manager.hook.ebpfmon_register_probes() for p in some]
    sinks = [s for some in manager.hook.ebpfmon_register_sinks() for s in some]
    for probe in probes:
        if not isinstance(probe, Probe):
            raise PluginError(f"ebpfmon_register_probes returned {probe!r}, not a Probe")
    for sink in sinks:
        if not (isinstance(sink, type) and issubclass(sink, SinkSettings)):
            raise PluginError(f"ebpfmon_register_sinks returned {sink!r}, not a subclass of SinkSettings")
    return probes, sinks


def _add(registry: Registry, probes: list[Probe], sinks: list[type[SinkSettings]]) -> None:
    for what, names, taken in (
        ("probe", [p.name for p in probes], registry.probes),
        ("sink type", [tag_of(s) for s in sinks], registry.sinks),
    ):
        for n, name in enumerate(names):
            if name in taken or name in names[:n]:
                raise PluginError(f"a plugin has already brought a {what} '{name}'")
    registry.probes.update({p.name: p for p in probes})
    registry.sinks.update({tag_of(s): s for s in sinks})
