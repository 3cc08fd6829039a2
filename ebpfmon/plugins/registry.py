"""Load plugins one by one. A broken one is left out with its reason, and the others are used."""

from __future__ import annotations

import enum
import importlib.metadata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Protocol

import msgspec

from ebpfmon.errors import PluginError
from ebpfmon.model import Probe, SinkSettings, tag_of
from ebpfmon.plugins import hookspecs, validate
from ebpfmon.plugins.folder import File, files
from ebpfmon.plugins.validate import Contribution
from ebpfmon.text import escaped

_OURS = "ebpfmon"  # the distribution whose plugins come first, so that no third-party plugin can take their place


_Origin = tuple[str, str]  # a distribution's name and version
_NOWHERE = "", ""


class EntryPoint(Protocol):
    """The part of importlib.metadata.EntryPoint that is used here."""

    @property
    def name(self) -> str: ...
    @property
    def dist(self) -> importlib.metadata.Distribution | None: ...
    def load(self) -> object: ...


class State(enum.StrEnum):
    """Whether a plugin is used."""

    ACTIVE = "active"
    DISABLED = "disabled"
    """By the settings: it was not even imported."""
    LEFT_OUT = "left out"


class Plugin(msgspec.Struct, frozen=True, kw_only=True):
    """A plugin as `ebpfmon plugins` shows it: from a distribution with its version, or from a file of the folder.
    `api_version` is what it says that it was written for, 0 if that is not known; `error` why it is left out."""

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

    @property
    def origin(self) -> str:
        """Say where the plugin is from: its file, or its distribution and version."""
        return self.file or " ".join(part for part in (self.distribution, self.version) if part) or "nowhere"


@dataclass(slots=True)
class Registry:
    """The probes by name, the sink settings by type, and the plugins that they come from."""

    probes: dict[str, Probe] = field(default_factory=dict)
    sinks: dict[str, type[SinkSettings]] = field(default_factory=dict)
    plugins: list[Plugin] = field(default_factory=list)

    @property
    def left_out(self) -> list[Plugin]:
        """The plugins that cannot be used."""
        return [p for p in self.plugins if p.state is State.LEFT_OUT]

    @property
    def disabled(self) -> list[Plugin]:
        """The plugins that the settings turn off."""
        return [p for p in self.plugins if p.state is State.DISABLED]


@dataclass(frozen=True, slots=True)
class PluginOptions:
    """Which plugins to load besides those installed (a folder's: an absolute path, or ""), and which not, by name."""

    folder: str = ""
    disabled: tuple[str, ...] = ()


def discover(entry_points: Iterable[EntryPoint] | None = None, options: PluginOptions = PluginOptions()) -> Registry:
    """Load the plugins that are installed, or those given, then those of the folder, by name.

    A plugin that cannot be used is in `Registry.left_out`. Raises PluginError if the folder cannot be used.
    """
    if entry_points is None:
        entry_points = importlib.metadata.entry_points(group=hookspecs.PROJECT)
    registry = Registry()
    sources: list[tuple[EntryPoint | File, _Origin]] = [*_in_order(entry_points)]
    sources += [(file, _NOWHERE) for file in _of_folder(options.folder)]
    for source, origin in sources:
        _take(registry, source, origin, disabled=source.name in options.disabled)
    registry.plugins.sort(key=lambda p: p.name)
    return registry


def _in_order(entry_points: Iterable[EntryPoint]) -> list[tuple[EntryPoint, _Origin]]:
    # each time it is asked for its name, a distribution parses all that it says of itself, the README with it
    origins: dict[importlib.metadata.Distribution | None, _Origin] = {None: _NOWHERE}
    found = []
    for entry_point in entry_points:
        dist = entry_point.dist
        if dist and dist not in origins:
            said = dist.metadata
            origins[dist] = said["Name"], said["Version"]
        found.append((entry_point, origins[dist]))
    return sorted(found, key=lambda each: (each[1][0] != _OURS, each[0].name, each[1][0]))


def _of_folder(folder: str) -> Iterator[File]:
    if not folder:
        return
    try:
        yield from files(Path(folder))
    except PluginError as error:
        raise PluginError(f"look for plugins in ebpfmon.plugins_dir: {error}") from None


def _take(registry: Registry, source: EntryPoint | File, origin: _Origin, *, disabled: bool) -> None:
    """Add one plugin to the registry, or record why it is left out."""
    seen = Plugin(
        name=source.name,
        state=State.ACTIVE,
        distribution=origin[0],
        version=origin[1],
        file=str(source.path) if isinstance(source, File) else "",
    )
    loaded: object = None
    try:
        _require_new_name(registry, seen)
        if disabled:
            registry.plugins.append(msgspec.structs.replace(seen, state=State.DISABLED))
            return
        loaded = source.load()
        found = validate.call_hooks(loaded)
        _require_new(registry, found)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # an import or a hook may raise anything, SystemExit too
        registry.plugins.append(
            msgspec.structs.replace(_described(seen, loaded), state=State.LEFT_OUT, error=_reason(error))
        )
        return
    registry.probes.update({p.name: p for p in found.probes})
    registry.sinks.update({tag_of(s): s for s in found.sinks})
    registry.plugins.append(
        msgspec.structs.replace(
            _described(seen, loaded),
            hooks=found.hooks,
            probes=tuple(p.name for p in found.probes),
            sinks=tuple(tag_of(s) for s in found.sinks),
        )
    )


def _reason(error: BaseException) -> str:
    """Return in one line why a plugin cannot be used."""
    text = str(error) if isinstance(error, PluginError) else f"{type(error).__name__}: {error}"
    return escaped(" ".join(text.split())).removesuffix(":") or type(error).__name__


def _described(seen: Plugin, loaded: object) -> Plugin:
    """Return the plugin with what its module says about itself, if it was imported."""
    if loaded is None:
        return seen
    said, version = validate.api_version(loaded), getattr(loaded, "__version__", "")
    # a module's attribute may be anything
    seen = msgspec.structs.replace(seen, api_version=said if isinstance(said, int) else 0)
    if isinstance(loaded, ModuleType) and seen.file and isinstance(version, str):
        seen = msgspec.structs.replace(seen, version=version)
    return seen


def _require_new_name(registry: Registry, seen: Plugin) -> None:
    for other in registry.plugins:
        if other.name == seen.name:
            raise PluginError(f"plugin '{seen.name}' of {other.origin} already has that name: rename or disable one")


def _require_new(registry: Registry, found: Contribution) -> None:
    """Raise PluginError if another plugin already uses one of the names."""
    of_probe = {name: p for p in registry.plugins for name in p.probes}
    of_sink = {name: p for p in registry.plugins for name in p.sinks}
    charts = {chart.id: of_probe[probe.name] for probe in registry.probes.values() for chart in probe.charts}
    for what, names, owners in (
        ("probe", [p.name for p in found.probes], of_probe),
        ("sink type", [tag_of(s) for s in found.sinks], of_sink),
        ("chart", [c.id for p in found.probes for c in p.charts], charts),
    ):
        for name in names:
            if name in owners:
                other = owners[name]
                raise PluginError(f"plugin '{other.name}' of {other.origin} already has a {what} '{name}'")


def render(plugins: Iterable[Plugin]) -> Iterator[str]:
    """Yield a table of the plugins for people, with the reason for each that is left out."""
    rows = [("PLUGIN", "API", "STATE", "FROM", "HOOKS", "BRINGS")]
    for plugin in plugins:
        brings = [f"probe {name}" for name in plugin.probes] + [f"sink {name}" for name in plugin.sinks]
        last = plugin.error or ", ".join(brings) or "-"
        hooks = ", ".join(hook.removeprefix("ebpfmon_register_") for hook in plugin.hooks) or "-"
        rows.append((plugin.name, str(plugin.api_version or "-"), plugin.state, plugin.origin, hooks, last))
    widths = [max(len(row[n]) for row in rows) for n in range(5)]
    for row in rows:
        yield "  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[-1]])
