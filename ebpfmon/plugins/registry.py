"""Loads plugins one by one: a broken one is named with its reason, and the others go on without it."""

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
from ebpfmon.model.everything import Probe, SinkSettings, tag_of
from ebpfmon.plugins import hookspecs
from ebpfmon.plugins import validate as contract
from ebpfmon.plugins.bounded import bounded
from ebpfmon.plugins.folder import File, files
from ebpfmon.plugins.validate import Brought

_OURS = "ebpfmon"  # the distribution whose plugins come first: a stranger's cannot take their place


_Origin = tuple[str, str]  # a distribution's name and version
_NOWHERE = "", ""


class EntryPoint(Protocol):
    """What is used of importlib.metadata.EntryPoint."""

    @property
    def name(self) -> str: ...
    @property
    def dist(self) -> importlib.metadata.Distribution | None: ...
    def load(self) -> object: ...


class State(enum.StrEnum):
    """What became of a plugin."""

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
        """Where it is from, in words."""
        return self.file or " ".join(part for part in (self.distribution, self.version) if part) or "nowhere"


@dataclass(slots=True)
class Registry:
    """What the plugins brought: probes by name, sink settings by type, and the plugins themselves."""

    probes: dict[str, Probe] = field(default_factory=dict)
    sinks: dict[str, type[SinkSettings]] = field(default_factory=dict)
    plugins: list[Plugin] = field(default_factory=list)

    @property
    def left_out(self) -> list[Plugin]:
        """The broken ones."""
        return [p for p in self.plugins if p.state is State.LEFT_OUT]

    @property
    def disabled(self) -> list[Plugin]:
        """Those that the settings turn off."""
        return [p for p in self.plugins if p.state is State.DISABLED]


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which plugins there shall be: those of a folder too (an absolute path, or ""), and not those of these names."""

    folder: str = ""
    disabled: tuple[str, ...] = ()


def discover(entry_points: Iterable[EntryPoint] | None = None, wanted: Wanted = Wanted()) -> Registry:
    """Load every plugin installed (or the ones given), then those of the folder, by name.

    Raises PluginError if the folder cannot be used. A plugin that cannot be is in `Registry.left_out`.
    """
    if entry_points is None:
        entry_points = importlib.metadata.entry_points(group=hookspecs.PROJECT)
    registry = Registry()
    sources: list[tuple[EntryPoint | File, _Origin]] = [*_in_order(entry_points)]
    sources += [(file, _NOWHERE) for file in _of_folder(wanted.folder)]
    for source, origin in sources:
        _take(registry, source, origin, disabled=source.name in wanted.disabled)
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
    """Take one plugin in, or say why not."""
    seen = Plugin(
        name=source.name,
        state=State.ACTIVE,
        distribution=origin[0],
        version=origin[1],
        file=str(source.path) if isinstance(source, File) else "",
    )
    loaded: list[object] = []

    def load() -> Brought:
        loaded.append(source.load())
        return contract.ask(loaded[0])

    try:
        _require_new_name(registry, seen)
        if disabled:
            registry.plugins.append(msgspec.structs.replace(seen, state=State.DISABLED))
            return
        brought = bounded(load, f"plugin {source.name}")
        _require_new(registry, brought)
    except (Exception, SystemExit) as error:  # whatever a stranger's code raises
        reason = str(error) if isinstance(error, PluginError) else f"{type(error).__name__}: {error}"
        reason = _one_line(reason) or type(error).__name__
        seen = _described(seen, loaded)
        registry.plugins.append(msgspec.structs.replace(seen, state=State.LEFT_OUT, error=reason))
        return
    registry.probes.update({p.name: p for p in brought.probes})
    registry.sinks.update({tag_of(s): s for s in brought.sinks})
    registry.plugins.append(
        msgspec.structs.replace(
            _described(seen, loaded),
            hooks=brought.hooks,
            probes=tuple(p.name for p in brought.probes),
            sinks=tuple(tag_of(s) for s in brought.sinks),
        )
    )


def _one_line(text: str) -> str:
    """What a stranger's code says goes to root's terminal."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in " ".join(text.split()))


def _described(seen: Plugin, loaded: list[object]) -> Plugin:
    """With what the plugin says of itself."""
    if not loaded:
        return seen
    said, version = contract.api_version(loaded[0]), getattr(loaded[0], "__version__", "")
    # a module's attribute may be anything
    seen = msgspec.structs.replace(seen, api_version=said if isinstance(said, int) else 0)
    if isinstance(loaded[0], ModuleType) and seen.file and isinstance(version, str):
        seen = msgspec.structs.replace(seen, version=version)
    return seen


def _require_new_name(registry: Registry, seen: Plugin) -> None:
    for other in registry.plugins:
        if other.name == seen.name:
            raise PluginError(f"plugin '{seen.name}' of {other.origin} has that name already: rename or disable one")


def _require_new(registry: Registry, brought: Brought) -> None:
    """Nothing may be called as what another plugin has brought."""
    of_probe = {name: p for p in registry.plugins for name in p.probes}
    of_sink = {name: p for p in registry.plugins for name in p.sinks}
    charts = {chart.id: of_probe[probe.name] for probe in registry.probes.values() for chart in probe.charts}
    for what, names, owners in (
        ("probe", [p.name for p in brought.probes], of_probe),
        ("sink type", [tag_of(s) for s in brought.sinks], of_sink),
        ("chart", [c.id for p in brought.probes for c in p.charts], charts),
    ):
        for name in names:
            if name in owners:
                other = owners[name]
                raise PluginError(f"plugin '{other.name}' of {other.origin} has brought a {what} '{name}' already")


def render(plugins: Iterable[Plugin]) -> Iterator[str]:
    """The plugins for people: a line each, what is left out with the reason."""
    rows = [("PLUGIN", "API", "STATE", "FROM", "HOOKS", "BRINGS")]
    for plugin in plugins:
        brings = [f"probe {name}" for name in plugin.probes] + [f"sink {name}" for name in plugin.sinks]
        last = plugin.error or ", ".join(brings) or "-"
        hooks = ", ".join(hook.removeprefix("ebpfmon_register_") for hook in plugin.hooks) or "-"
        rows.append((plugin.name, str(plugin.api_version or "-"), plugin.state, plugin.origin, hooks, last))
    widths = [max(len(row[n]) for row in rows) for n in range(5)]
    for row in rows:
        yield "  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[-1]])
