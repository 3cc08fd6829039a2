"""What a plugin promises: asks its hooks, and refuses what they return if ebpfmon cannot use it, saying why.

`registry` uses it for every plugin, `ebpfmon.testing.check_plugin` for an author's own: the words are the same.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import pluggy

from ebpfmon.errors import PluginError
from ebpfmon.model.everything import (
    API_VERSION,
    Buckets,
    Chart,
    Dimension,
    Kind,
    Probe,
    ProbeSettings,
    Scope,
    SinkSettings,
    tag_of,
)
from ebpfmon.plugins import hookspecs

HOOKS = ("ebpfmon_register_probes", "ebpfmon_register_sinks")
"""All there are."""
OWN_CHARTS = "ebpfmon."
"""How the ids of ebpfmon's own charts begin."""
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_CHART_ID = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_.-]+")
_DIMENSION_ID = re.compile(r"[A-Za-z0-9_.:-]+")


@dataclass(frozen=True, slots=True)
class Brought:
    """What a plugin brings, and by which hooks."""

    probes: tuple[Probe, ...] = ()
    sinks: tuple[type[SinkSettings], ...] = ()
    hooks: tuple[str, ...] = ()


def api_version(plugin: object) -> object:
    """The version of the API that a plugin says it was written for; None if it says nothing."""
    return getattr(plugin, "EBPFMON_API_VERSION", None)


def ask(plugin: object) -> Brought:
    """Call a plugin's hooks and check what they return.

    Raises PluginError with the reason why it cannot be used, and whatever its hooks raise.
    """
    version = api_version(plugin)
    if version != API_VERSION:
        said = "it does not say" if version is None else f"it was written for API version {version}"
        raise PluginError(f"{said}, this is API version {API_VERSION}: EBPFMON_API_VERSION = {API_VERSION}")
    # a manager of its own, as one raising hook would stop the rest
    manager = pluggy.PluginManager(hookspecs.PROJECT)
    manager.add_hookspecs(hookspecs)
    try:
        manager.register(plugin)
        manager.check_pending()
    except pluggy.PluginValidationError as error:
        raise PluginError(f"{error}".splitlines()[0] + f": the hooks are {', '.join(HOOKS)}") from None
    hooks = tuple(name for name in HOOKS if any(h.plugin is plugin for h in _hook(manager, name).get_hookimpls()))
    if not hooks:
        raise PluginError(f"it has no hook: mark {' or '.join(HOOKS)} with @hookimpl")
    probes = _returned(manager, HOOKS[0], "a Probe")
    for probe in probes:
        _check_probe(probe)
    sinks = _returned(manager, HOOKS[1], "a subclass of SinkSettings")
    for sink in sinks:
        _check_sink(sink)
    for what, names in (("probe", [p.name for p in probes]), ("sink type", [tag_of(s) for s in sinks])):
        if twice := _twice(names):
            raise PluginError(f"it brings two of the same name: {what} '{twice}'")
    if twice := _twice(c.id for p in probes for c in p.charts):
        raise PluginError(f"it brings two charts of the same id: '{twice}'")
    return Brought(probes, sinks, hooks)


def _hook(manager: pluggy.PluginManager, name: str) -> Any:
    return getattr(manager.hook, name)


def _returned(manager: pluggy.PluginManager, hook: str, expected: str) -> tuple[Any, ...]:
    """What a hook returns, which has to be a list or a tuple."""
    found: list[Any] = []
    for some in _hook(manager, hook)():
        if inspect.iscoroutine(some):
            some.close()
            raise PluginError(f"{hook} is an async function: expected a plain one that returns a list")
        if not isinstance(some, list | tuple):
            raise PluginError(f"{hook} returned {_shown(some)}: expected a list, each of it {expected}")
        found += some
    return tuple(found)


def _check_probe(probe: object) -> None:
    if not isinstance(probe, Probe):
        raise PluginError(f"{HOOKS[0]} returned {_shown(probe)}, not a Probe")
    if not (isinstance(probe.name, str) and _NAME.fullmatch(probe.name)):
        raise PluginError(f"probe {_shown(probe.name)}: a name has letters, digits and _, as in [plugins.NAME]")
    step = f"probe '{probe.name}'"
    for field in ("package", "object"):
        if not (isinstance(value := getattr(probe, field), str) and value):
            raise PluginError(f"{step}: {field}: {_shown(value)}: expected a name")
    if not callable(probe.setup):
        raise PluginError(f"{step}: setup: {_shown(probe.setup)}: expected a function from its settings to a Setup")
    if not isinstance(probe.charts, list | tuple):
        raise PluginError(f"{step}: charts: {_shown(probe.charts)}: expected a tuple of Chart")
    _check_settings(probe.settings, ProbeSettings, step, defaults=True)
    for chart in probe.charts:
        _check_chart(chart, step)


def _check_sink(sink: object) -> None:
    if not (isinstance(sink, type) and issubclass(sink, SinkSettings)):
        raise PluginError(f"{HOOKS[1]} returned {_shown(sink)}, not a subclass of SinkSettings")
    name = tag_of(sink)
    step = f"sink type '{name}'"
    if not _NAME.fullmatch(name) or name == sink.__name__:
        raise PluginError(f'{step}: expected a name of its own: class {sink.__name__}(SinkSettings, tag="name")')
    if sink.open is SinkSettings.open:
        raise PluginError(f"{step}: it has no open(), which returns the sink")
    if inspect.iscoroutinefunction(sink.open):
        raise PluginError(f"{step}: open() is an async function: what waits belongs to the sink's __aenter__")
    _check_settings(sink, SinkSettings, step, defaults=False)


def _check_settings(settings: object, base: type, step: str, *, defaults: bool) -> None:
    """Whether a section of the settings file can become one of these at all."""
    if not (isinstance(settings, type) and issubclass(settings, base)):
        raise PluginError(f"{step}: settings: {_shown(settings)}: expected a subclass of {base.__name__}")
    try:
        msgspec.convert({}, settings)
    except msgspec.ValidationError as error:
        if defaults:
            raise PluginError(f"{step}: settings: without a section they must hold as well: {error}") from None
    except Exception as error:  # what msgspec makes of a stranger's annotations
        raise PluginError(f"{step}: settings: {type(error).__name__}: {error}") from None


def _check_chart(chart: object, step: str) -> None:
    if not isinstance(chart, Chart):
        raise PluginError(f"{step}: charts: {_shown(chart)}: expected a Chart")
    if not (isinstance(chart.id, str) and _CHART_ID.fullmatch(chart.id)):
        raise PluginError(f"{step}: chart {_shown(chart.id)}: an id is TYPE.NAME, of letters, digits, _ and -")
    step += f": chart '{chart.id}'"
    if chart.id.startswith(OWN_CHARTS):
        raise PluginError(f"{step}: what begins with '{OWN_CHARTS}' is ebpfmon's own")
    kinds: dict[str, type] = {
        "title": str, "units": str, "family": str, "table": str, "priority": int, "return_only": bool, "kind": Kind,
        "scope": Scope, "key": str,
    }  # fmt: skip
    for field, kind in kinds.items():
        value = getattr(chart, field)
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            raise PluginError(f"{step}: {field}: {_shown(value)}: expected {kind.__name__}")
    if chart.buckets is not None and not isinstance(chart.buckets, Buckets):
        raise PluginError(f"{step}: buckets: {_shown(chart.buckets)}: expected Buckets")
    if not isinstance(chart.dimensions, list | tuple) or not chart.dimensions:
        raise PluginError(f"{step}: dimensions: {_shown(chart.dimensions)}: expected a tuple, of one Dimension or more")
    for dimension in chart.dimensions:
        _check_dimension(dimension, step, of_keys=chart.scope is Scope.KEYS)
    if twice := _twice(d.id for d in chart.dimensions):
        raise PluginError(f"{step}: it has two dimensions '{twice}'")
    if chart.scope is Scope.APPS and len(chart.dimensions) != 1:
        raise PluginError(f"{step}: {len(chart.dimensions)} dimensions: a chart by application has one")
    if chart.scope is Scope.APPS and chart.kind is Kind.LEVEL:
        raise PluginError(f"{step}: a level: by application there are counters alone")


def _check_dimension(dimension: object, step: str, *, of_keys: bool) -> None:
    if not isinstance(dimension, Dimension):
        raise PluginError(f"{step}: dimensions: {_shown(dimension)}: expected a Dimension")
    id_, step = dimension.id, f"{step}: dimension {_shown(dimension.id)}"
    # of a template it is what follows the key's
    if not (isinstance(id_, str) and (_DIMENSION_ID.fullmatch(id_) or (of_keys and not id_))):
        raise PluginError(f"{step}: an id has letters, digits and _ . : -")
    if not isinstance(dimension.name, str):
        raise PluginError(f"{step}: name: {_shown(dimension.name)}: expected str")
    for field in ("plus", "minus"):
        names = getattr(dimension, field)
        if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
            raise PluginError(f"{step}: {field}: {_shown(names)}: expected a tuple of fields, such as ('calls',)")
    if not dimension.plus and not dimension.minus:
        raise PluginError(f"{step}: it shows no field")


def _twice(names: Iterable[str]) -> str:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            return name
        seen.add(name)
    return ""


def _shown(value: object) -> str:
    text = " ".join(repr(value).split())
    return text if len(text) <= 60 else f"{text[:57]}..."


def misfit(probe: Probe, counters: Mapping[str, Sequence[str]], keyed: Container[str]) -> str:
    """Why a probe's charts do not fit the tables of its object; empty if they do.

    `counters` are the fields of each table, by its stem; `keyed` the tables that have a meaning in Setup.keys.
    """
    stems = list(counters)
    for chart in probe.charts:
        stem = chart.table or stems[0]
        if stem not in counters:
            return f"chart '{chart.id}': its object has no table '{stem}': it has {', '.join(stems)}"
        if chart.scope is Scope.KEYS and stem not in keyed:
            return f"chart '{chart.id}': Setup.keys must say what the keys of table '{stem}' mean"
        for dimension in chart.dimensions:
            for name in (*dimension.plus, *dimension.minus):
                if name not in counters[stem]:
                    has = ", ".join(counters[stem])
                    return f"chart '{chart.id}': table '{stem}' has no field '{name}': it has {has}"
    return ""
