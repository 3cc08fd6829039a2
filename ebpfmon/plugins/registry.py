"""Discover plugins and load them one by one. A broken plugin is left out, with the reason; the others are used."""

from __future__ import annotations

import enum
import importlib.metadata
from collections.abc import Container, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Protocol

import msgspec

from ebpfmon.errors import PluginError, SettingsError, describe
from ebpfmon.model import Probe, SinkSettings, tag_of
from ebpfmon.plugins import hookspecs, validate
from ebpfmon.plugins.folder import File, files
from ebpfmon.plugins.guard import announced_if_slow
from ebpfmon.plugins.validate import Contribution
from ebpfmon.text import escaped

_OURS = "ebpfmon"  # This distribution's plugins are loaded first, so that third-party plugins cannot replace them.


_Origin = tuple[str, str]  # a distribution's name and version
_UNKNOWN_ORIGIN = "", ""


class EntryPoint(Protocol):
    """The part of importlib.metadata.EntryPoint that `discover` uses."""

    @property
    def name(self) -> str: ...
    @property
    def dist(self) -> importlib.metadata.Distribution | None: ...
    def load(self) -> object: ...


class State(enum.StrEnum):
    """Whether a plugin is used."""

    ACTIVE = "active"
    DISABLED = "disabled"
    """Disabled in the settings, and not imported."""
    OFF = "off"
    """Its probes are off in the settings."""
    LEFT_OUT = "left out"
    """It cannot be used, for the reason in `Plugin.error`."""


class Plugin(msgspec.Struct, frozen=True, kw_only=True):
    """A plugin as `ebpfmon plugins` shows it.

    It comes from a distribution, whose version is `version`, or from a file in the folder. `api_version` is the API
    version that the plugin states, or 0 if it is unknown. `error` is the reason why the plugin is left out. `off` are
    the probes that are off in the settings, and `problems` the reasons why probes are left out, by name.
    """

    name: str
    state: State
    distribution: str = ""
    version: str = ""
    file: str = ""
    api_version: int = 0
    hooks: tuple[str, ...] = ()
    probes: tuple[str, ...] = ()
    sinks: tuple[str, ...] = ()
    error: str | None = None
    off: tuple[str, ...] = ()
    problems: dict[str, str] = {}

    @property
    def origin(self) -> str:
        """The plugin's file, or its distribution and version."""
        return self.file or " ".join(part for part in (self.distribution, self.version) if part) or "unknown origin"


@dataclass(slots=True)
class Registry:
    """The plugins, the probes by name and the sink settings by type."""

    probes: dict[str, Probe] = field(default_factory=dict)
    sinks: dict[str, type[SinkSettings]] = field(default_factory=dict)
    plugins: list[Plugin] = field(default_factory=list)

    @property
    def left_out(self) -> list[Plugin]:
        """The plugins that cannot be used."""
        return [p for p in self.plugins if p.state is State.LEFT_OUT]

    @property
    def disabled(self) -> list[Plugin]:
        """The plugins that are disabled in the settings."""
        return [p for p in self.plugins if p.state is State.DISABLED]


@dataclass(frozen=True, slots=True)
class PluginOptions:
    """A folder with more plugins (an absolute path, or ""), and the names of plugins that are not to be loaded."""

    folder: str = ""
    disabled: tuple[str, ...] = ()


def discover(entry_points: Iterable[EntryPoint] | None = None, options: PluginOptions = PluginOptions()) -> Registry:
    """Load all plugins: first the installed ones (or `entry_points`), then those in the folder.

    Plugins that cannot be used are in `Registry.left_out`. Raises SettingsError if the folder cannot be read, and
    PluginError if others can write to it.
    """
    if entry_points is None:
        entry_points = importlib.metadata.entry_points(group=hookspecs.PROJECT)
    registry = Registry()
    sources: list[tuple[EntryPoint | File, _Origin]] = [*_in_order(entry_points)]
    sources += [(file, _UNKNOWN_ORIGIN) for file in _of_folder(options.folder)]
    for source, origin in sources:
        _add(registry, source, origin, disabled=source.name in options.disabled)
    registry.plugins.sort(key=lambda p: p.name)
    return registry


def _in_order(entry_points: Iterable[EntryPoint]) -> list[tuple[EntryPoint, _Origin]]:
    # Read `metadata` only once for each distribution, because each access parses all of it, including the README.
    origins: dict[importlib.metadata.Distribution | None, _Origin] = {None: _UNKNOWN_ORIGIN}
    with_origin = []
    for entry_point in entry_points:
        dist = entry_point.dist
        if dist and dist not in origins:
            metadata = dist.metadata
            origins[dist] = metadata["Name"], metadata["Version"]
        with_origin.append((entry_point, origins[dist]))
    return sorted(with_origin, key=lambda pair: (pair[1][0] != _OURS, pair[0].name, pair[1][0]))


def _of_folder(folder: str) -> Iterator[File]:
    if not folder:
        return
    try:
        yield from files(Path(folder))
    except (PluginError, SettingsError) as error:
        raise type(error)(f"cannot load plugins from ebpfmon.plugins_dir: {error}") from None


def _add(registry: Registry, source: EntryPoint | File, origin: _Origin, *, disabled: bool) -> None:
    """Add one plugin to the registry, or record why it is left out."""
    plugin = Plugin(
        name=source.name,
        state=State.ACTIVE,
        distribution=origin[0],
        version=origin[1],
        file=str(source.path) if isinstance(source, File) else "",
    )
    try:
        _require_new_name(registry, plugin)
        if disabled:
            registry.plugins.append(msgspec.structs.replace(plugin, state=State.DISABLED))
            return
        with announced_if_slow(f"plugin '{plugin.name}': importing it"):
            loaded = source.load()
            plugin = _described(plugin, loaded)
            contribution = validate.call_hooks(loaded)
        _require_new(registry, contribution)
    except BaseException as error:  # An import or a hook may raise anything, even SystemExit or KeyboardInterrupt.
        reason = describe(error).removesuffix(":")
        registry.plugins.append(msgspec.structs.replace(plugin, state=State.LEFT_OUT, error=reason))
        return
    registry.probes.update({p.name: p for p in contribution.probes})
    registry.sinks.update({tag_of(s): s for s in contribution.sinks})
    registry.plugins.append(
        msgspec.structs.replace(
            plugin,
            hooks=contribution.hooks,
            probes=tuple(p.name for p in contribution.probes),
            sinks=tuple(tag_of(s) for s in contribution.sinks),
        )
    )


def _described(plugin: Plugin, loaded: object) -> Plugin:
    """Return the plugin with the versions that its module states."""
    api_version, version = validate.api_version(loaded), getattr(loaded, "__version__", "")
    # The attributes of a module may have any type.
    plugin = msgspec.structs.replace(plugin, api_version=api_version if isinstance(api_version, int) else 0)
    if isinstance(loaded, ModuleType) and plugin.file and isinstance(version, str):
        plugin = msgspec.structs.replace(plugin, version=version)
    return plugin


def _require_new_name(registry: Registry, plugin: Plugin) -> None:
    for other in registry.plugins:
        if other.name == plugin.name:
            raise PluginError(
                f"plugin '{plugin.name}' ({other.origin}) already has that name; rename or disable one of them"
            )


def _require_new(registry: Registry, contribution: Contribution) -> None:
    """Raise PluginError if another plugin already uses one of the names."""
    of_probe = {name: p for p in registry.plugins for name in p.probes}
    of_sink = {name: p for p in registry.plugins for name in p.sinks}
    charts = {chart.id: of_probe[probe.name] for probe in registry.probes.values() for chart in probe.charts}
    for what, names, owners in (
        ("probe", [p.name for p in contribution.probes], of_probe),
        ("sink type", [tag_of(s) for s in contribution.sinks], of_sink),
        ("chart", [c.id for p in contribution.probes for c in p.charts], charts),
    ):
        for name in names:
            if name in owners:
                other = owners[name]
                raise PluginError(f"plugin '{other.name}' ({other.origin}) already has a {what} '{name}'")


def with_probes(plugin: Plugin, off: Container[str], problems: Mapping[str, str]) -> Plugin:
    """Return a plugin with the states of its probes. `off` and `problems` are like the plugin's, but of all probes."""
    if plugin.state is not State.ACTIVE:
        return plugin
    its_off = tuple(name for name in plugin.probes if name in off)
    its_problems = {name: problems[name] for name in plugin.probes if name in problems}
    used = [name for name in plugin.probes if name not in its_off and name not in its_problems]
    state, error = State.ACTIVE, None
    if its_problems and not used and not plugin.sinks:
        state, error = State.LEFT_OUT, "; ".join(f"probe '{name}': {why}" for name, why in its_problems.items())
    elif its_off and not used and not plugin.sinks:
        state = State.OFF
    return msgspec.structs.replace(plugin, state=state, error=error, off=its_off, problems=its_problems)


def render(plugins: Iterable[Plugin]) -> Iterator[str]:
    """Yield the lines of a table of plugins, with the reason for each that is left out."""
    rows: list[tuple[str, ...]] = [("PLUGIN", "API", "STATE", "ORIGIN", "HOOKS", "PROVIDES")]
    for plugin in plugins:
        provided = [f"probe {name}{_state_of(plugin, name)}" for name in plugin.probes]
        provided += [f"sink {name}" for name in plugin.sinks]
        last = plugin.error or ", ".join(provided) or "-"
        hooks = ", ".join(hook.removeprefix("ebpfmon_register_") for hook in plugin.hooks) or "-"
        cells = (plugin.name, str(plugin.api_version or "-"), plugin.state, plugin.origin, hooks, last)
        rows.append(tuple(map(escaped, cells)))
    widths = [max(len(row[n]) for row in rows) for n in range(5)]
    for row in rows:
        yield "  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[-1]])


def _state_of(plugin: Plugin, probe: str) -> str:
    if probe in plugin.problems:
        return f" (left out: {plugin.problems[probe]})"
    return " (off)" if probe in plugin.off else ""
