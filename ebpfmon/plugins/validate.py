"""Call a plugin's hooks and validate what they return.

`registry` does this for every plugin. Authors get the same messages from `ebpfmon.testing.check_plugin`.
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
from ebpfmon.model import (
    API_VERSION,
    Buckets,
    Candidate,
    Chart,
    Column,
    Dimension,
    Event,
    Kind,
    LoadMode,
    Probe,
    ProbeSettings,
    SinkSettings,
    tag_of,
)
from ebpfmon.plugins import hookspecs

HOOKS = ("ebpfmon_register_probes", "ebpfmon_register_sinks")
"""The names of all hooks."""
OWN_CHARTS = "ebpfmon."
"""The prefix of the ids of ebpfmon's own charts, reserved for them."""
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_CHART_ID = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_.-]+")
COLUMNS_OF_TOP = frozenset({"pid", "user", "group", "command", "count"})
"""The ids of the columns that `top` always has."""
LETTERS_OF_TOP = frozenset("PUGN")
"""The letters that sort by these columns."""
_COLUMN_ID = re.compile(r"[A-Za-z0-9_-]+")
_WIDEST = 40
_GROUPED_ID = re.compile(r"[A-Za-z0-9_-]+")
_LABEL = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
RESERVED_LABELS = ("dimension", "le")
"""Labels that sinks add to those of a chart, to tell the numbers of a series apart."""
_DIMENSION_ID = re.compile(r"[A-Za-z0-9_.:-]+")


@dataclass(frozen=True, slots=True)
class Contribution:
    """The probes and sinks that a plugin contributes, and the hooks that it implements."""

    probes: tuple[Probe, ...] = ()
    sinks: tuple[type[SinkSettings], ...] = ()
    hooks: tuple[str, ...] = ()


def api_version(plugin: object) -> object:
    """Return the API version that a plugin states, of any type; None if it states none."""
    return getattr(plugin, "EBPFMON_API_VERSION", None)


def call_hooks(plugin: object) -> Contribution:
    """Call a plugin's hooks and return what they contribute, validated.

    Raises PluginError with the reason if the plugin cannot be used, and whatever its hooks raise.
    """
    version = api_version(plugin)
    if type(version) is not int or version != API_VERSION:
        if version is None:
            stated = "it states no API version"
        elif type(version) is not int:
            stated = f"EBPFMON_API_VERSION is {shown(version)}, not an integer"
        else:
            stated = f"it was written for API version {version}"
        raise PluginError(f"{stated}; this ebpfmon needs EBPFMON_API_VERSION = {API_VERSION}")
    # Each plugin gets its own manager. With a shared one, an exception in one plugin's hook would skip all others.
    manager = pluggy.PluginManager(hookspecs.PROJECT)
    manager.add_hookspecs(hookspecs)
    try:
        manager.register(plugin)
        manager.check_pending()
    except pluggy.PluginValidationError as error:
        raise PluginError(f"{error}".splitlines()[0] + f"; the hooks are {', '.join(HOOKS)}") from None
    hooks = tuple(name for name in HOOKS if any(h.plugin is plugin for h in _hook(manager, name).get_hookimpls()))
    if not hooks:
        raise PluginError(f"it has no hook; define {' or '.join(HOOKS)} and mark it with @hookimpl")
    probes = _returned(manager, HOOKS[0], "Probe objects")
    for probe in probes:
        _check_probe(probe)
    sinks = _returned(manager, HOOKS[1], "subclasses of SinkSettings")
    for sink in sinks:
        _check_sink(sink)
    for what, names in (("probe", [p.name for p in probes]), ("sink type", [tag_of(s) for s in sinks])):
        if duplicate := _duplicate(names):
            raise PluginError(f"it has two {what}s named '{duplicate}'")
    if duplicate := _duplicate(c.id for p in probes for c in p.charts):
        raise PluginError(f"it has two charts with the id '{duplicate}'")
    return Contribution(probes, sinks, hooks)


def _hook(manager: pluggy.PluginManager, name: str) -> Any:
    return getattr(manager.hook, name)


def _returned(manager: pluggy.PluginManager, hook: str, expected: str) -> tuple[Any, ...]:
    """Return the objects that a hook returns. Raises PluginError if it does not return a list or a tuple."""
    objects: list[Any] = []
    for result in _hook(manager, hook)():
        if inspect.iscoroutine(result):
            result.close()
            raise PluginError(f"{hook} is an async function; it must be a plain function that returns a list")
        if not isinstance(result, list | tuple):
            raise PluginError(f"{hook} returned {shown(result)}: expected a list of {expected}")
        objects += result
    return tuple(objects)


def _check_probe(probe: object) -> None:
    if not isinstance(probe, Probe):
        raise PluginError(f"{HOOKS[0]} returned {shown(probe)}, not a Probe")
    if not (isinstance(probe.name, str) and _NAME.fullmatch(probe.name)):
        raise PluginError(f"probe {shown(probe.name)}: a name may have only letters, digits and _")
    step = f"probe '{probe.name}'"
    for field in ("package", "object"):
        if not (isinstance(value := getattr(probe, field), str) and value):
            raise PluginError(f"{step}: {field}: {shown(value)}: expected a name")
    if not callable(probe.setup):
        raise PluginError(
            f"{step}: setup: {shown(probe.setup)}: expected a function that takes the settings and returns a Setup"
        )
    if not isinstance(probe.charts, list | tuple):
        raise PluginError(f"{step}: charts: {shown(probe.charts)}: expected a tuple of Chart")
    if not isinstance(probe.events, list | tuple):
        raise PluginError(f"{step}: events: {shown(probe.events)}: expected a tuple of Event")
    _check_settings(probe.settings, ProbeSettings, step, defaults=True)
    for event in probe.events:
        _check_event(event, step)
    if duplicate := _duplicate(e.name for e in probe.events):
        raise PluginError(f"{step}: it has two events named '{duplicate}'")
    for chart in probe.charts:
        _check_chart(chart, step)
    if not isinstance(probe.columns, list | tuple):
        raise PluginError(f"{step}: columns: {shown(probe.columns)}: expected a tuple of Column")
    for column in probe.columns:
        _check_column(column, step)
    if duplicate := _duplicate(f"{c.id}' of table '{c.table}" if c.table else c.id for c in probe.columns):
        raise PluginError(f"{step}: it has two columns with the id '{duplicate}'")


def _check_column(column: object, step: str) -> None:
    if not isinstance(column, Column):
        raise PluginError(f"{step}: columns: {shown(column)}: expected a Column")
    if not (isinstance(column.id, str) and _COLUMN_ID.fullmatch(column.id)):
        raise PluginError(f"{step}: column {shown(column.id)}: an id may have only letters, digits, _ and -")
    step += f": column '{column.id}'"
    if column.id in COLUMNS_OF_TOP:
        raise PluginError(f"{step}: `top` already has a column with that id; choose another")
    _check_types(
        column, step, header=str, units=str, name=str, letter=str, table=str, width=int, rank=int, summary=bool,
        return_only=bool,
    )  # fmt: skip
    for field in ("header", "units", "name"):
        text = getattr(column, field)
        if not text.isprintable() or not (text or field == "name"):
            raise PluginError(f"{step}: {field}: {shown(text)}: expected printable text")
    if not isinstance(column.fields, list | tuple) or not all(isinstance(name, str) for name in column.fields):
        raise PluginError(f"{step}: fields: {shown(column.fields)}: expected a tuple of fields, such as ('calls',)")
    if not column.fields:
        raise PluginError(f"{step}: fields: (): expected at least one field")
    if column.letter in LETTERS_OF_TOP:
        raise PluginError(f"{step}: letter: '{column.letter}': `top` uses it; choose another, or none")
    if column.letter and not re.fullmatch("[A-Z]", column.letter):
        raise PluginError(f"{step}: letter: {shown(column.letter)}: expected one capital letter from A to Z")
    if not 1 <= column.width <= _WIDEST:
        raise PluginError(f"{step}: width: {column.width}: expected 1 to {_WIDEST}")


def _check_types(what: object, step: str, **kinds: type) -> None:
    """Raise PluginError if a field does not have the type of that name. A bool is no int."""
    for field, kind in kinds.items():
        value = getattr(what, field)
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            raise PluginError(f"{step}: {field}: {shown(value)}: expected {kind.__name__}")


def _check_event(event: object, step: str) -> None:
    if not isinstance(event, Event):
        raise PluginError(f"{step}: events: {shown(event)}: expected an Event")
    if not (isinstance(event.name, str) and _NAME.fullmatch(event.name)):
        raise PluginError(f"{step}: event {shown(event.name)}: a name may have only letters, digits and _")
    step += f": event '{event.name}'"
    if not isinstance(event.optional, bool):
        raise PluginError(f"{step}: optional: {shown(event.optional)}: expected bool")
    if not isinstance(event.candidates, list | tuple) or not event.candidates:
        raise PluginError(f"{step}: candidates: {shown(event.candidates)}: expected a tuple of at least one Candidate")
    for candidate in event.candidates:
        _check_candidate(candidate, step)


def _check_candidate(candidate: object, step: str) -> None:
    if not isinstance(candidate, Candidate):
        raise PluginError(f"{step}: candidates: {shown(candidate)}: expected a Candidate")
    programs = candidate.programs
    if not isinstance(programs, list | tuple) or not programs or not all(isinstance(name, str) for name in programs):
        raise PluginError(f"{step}: programs: {shown(programs)}: expected a tuple of names, such as ('exec_tp',)")
    kinds: dict[str, tuple[type, ...]] = {
        "mode": (LoadMode, type(None)), "arguments": (int, type(None)), "softirq": (bool,), "setting": (str,),
    }  # fmt: skip
    for field, kind in kinds.items():
        value = getattr(candidate, field)
        if not isinstance(value, kind) or (field == "arguments" and isinstance(value, bool)):
            raise PluginError(f"{step}: {field}: {shown(value)}: expected {kind[0].__name__}")


def _check_sink(sink: object) -> None:
    if not (isinstance(sink, type) and issubclass(sink, SinkSettings)):
        raise PluginError(f"{HOOKS[1]} returned {shown(sink)}, not a subclass of SinkSettings")
    name = tag_of(sink)
    step = f"sink type '{name}'"
    if not _NAME.fullmatch(name) or name == sink.__name__:
        raise PluginError(f'{step}: it has no name; write class {sink.__name__}(SinkSettings, tag="name")')
    if sink.open is SinkSettings.open:
        raise PluginError(f"{step}: it has no method open(), which must return the sink")
    if inspect.iscoroutinefunction(sink.open):
        raise PluginError(f"{step}: open() must not be an async function; wait in __aenter__ of the sink")
    for field, expected in (("requires", "names of modules"), ("files", "names of settings")):
        names = getattr(sink, field)
        if not isinstance(names, tuple) or not all(isinstance(name, str) and name for name in names):
            raise PluginError(f"{step}: {field}: {shown(names)}: expected a tuple of {expected}")
    for name in sink.files:
        if name not in sink.__struct_fields__:
            raise PluginError(f"{step}: files: it has no setting '{name}'")
    _check_settings(sink, SinkSettings, step, defaults=False)


def _check_settings(settings: object, base: type, step: str, *, defaults: bool) -> None:
    """Raise PluginError if msgspec cannot create the settings from a section of a settings file."""
    if not (isinstance(settings, type) and issubclass(settings, base)):
        raise PluginError(f"{step}: settings: {shown(settings)}: expected a subclass of {base.__name__}")
    try:
        msgspec.convert({}, settings)
    except msgspec.ValidationError as error:
        if defaults:
            raise PluginError(f"{step}: settings: all fields need valid defaults: {error}") from None
    except Exception as error:  # msgspec does not support an annotation
        raise PluginError(f"{step}: settings: {type(error).__name__}: {error}") from None


def _check_chart(chart: object, step: str) -> None:
    if not isinstance(chart, Chart):
        raise PluginError(f"{step}: charts: {shown(chart)}: expected a Chart")
    expected = _GROUPED_ID if chart.grouped is True else _CHART_ID
    if not (isinstance(chart.id, str) and expected.fullmatch(chart.id)):
        form = "NAME for a grouped chart" if chart.grouped is True else "TYPE.NAME"
        raise PluginError(
            f"{step}: chart {shown(chart.id)}: an id has the form {form} and may have only letters, digits, _ and -"
        )
    step += f": chart '{chart.id}'"
    if chart.id.startswith(OWN_CHARTS):
        raise PluginError(f"{step}: ids that begin with '{OWN_CHARTS}' are reserved for ebpfmon's own charts")
    _check_types(
        chart, step, title=str, units=str, family=str, table=str, priority=int, return_only=bool, kind=Kind,
        grouped=bool, separator=str, unbounded=bool,
    )  # fmt: skip
    if chart.buckets is not None and not isinstance(chart.buckets, Buckets):
        raise PluginError(f"{step}: buckets: {shown(chart.buckets)}: expected Buckets")
    if not isinstance(chart.labels, list | tuple) or not all(
        isinstance(label, str) and _LABEL.fullmatch(label) for label in chart.labels
    ):
        raise PluginError(f"{step}: labels: {shown(chart.labels)}: expected a tuple of names, such as ('disk',)")
    if reserved := {*chart.labels} & {*RESERVED_LABELS}:
        raise PluginError(f"{step}: labels: '{min(reserved)}' is reserved for the numbers of a series")
    if duplicate := _duplicate(label.lower() for label in chart.labels):
        raise PluginError(f"{step}: it has two labels called '{duplicate}'")
    if chart.grouped and chart.labels:
        raise PluginError(f"{step}: labels: {shown(chart.labels)}: a grouped chart gets its label from the grouping")
    if not isinstance(chart.dimensions, list | tuple) or not (chart.dimensions or chart.buckets):
        raise PluginError(f"{step}: dimensions: {shown(chart.dimensions)}: expected a tuple of at least one Dimension")
    for dimension in chart.dimensions:
        _check_dimension(dimension, step)
    if duplicate := _duplicate(d.id for d in chart.dimensions):
        raise PluginError(f"{step}: it has two dimensions with the id '{duplicate}'")


def _check_dimension(dimension: object, step: str) -> None:
    if not isinstance(dimension, Dimension):
        raise PluginError(f"{step}: dimensions: {shown(dimension)}: expected a Dimension")
    id_, step = dimension.id, f"{step}: dimension {shown(dimension.id)}"
    if not (isinstance(id_, str) and _DIMENSION_ID.fullmatch(id_)):
        raise PluginError(f"{step}: an id may have only letters, digits and _ . : -")
    if not isinstance(dimension.name, str):
        raise PluginError(f"{step}: name: {shown(dimension.name)}: expected str")
    for field in ("plus", "minus"):
        names = getattr(dimension, field)
        if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
            raise PluginError(f"{step}: {field}: {shown(names)}: expected a tuple of fields, such as ('calls',)")
    if not dimension.plus and not dimension.minus:
        raise PluginError(f"{step}: it has no fields in plus or minus")


def _duplicate(names: Iterable[str]) -> str:
    """Return the first name that occurs twice, or an empty string."""
    seen: set[str] = set()
    for name in names:
        if name in seen:
            return name
        seen.add(name)
    return ""


def shown(value: object) -> str:
    """Return the repr() of a value in one line of at most 60 characters."""
    try:
        text = " ".join(repr(value).split())
    except BaseException:  # A plugin's object may raise anything.
        text = f"a {type(value).__name__}"
    return text if len(text) <= 60 else f"{text[:57]}..."


def violation(
    probe: Probe, counters: Mapping[str, Sequence[str]], labels: Mapping[str, Sequence[str]], by_process: Container[str]
) -> str:
    """Return why the charts or columns of a probe do not fit the tables of its object; an empty string if they fit.

    `counters` are the counters of each table. `labels` are the label names of each table that has them (Setup.labels).
    `by_process` names the per-process tables.
    """
    tables = list(counters)
    for chart in probe.charts:
        table = chart.table or tables[0]
        if table not in counters:
            return f"chart '{chart.id}': its object has no table '{table}'; it has {', '.join(tables)}"
        if chart.grouped and table not in by_process:
            return f"chart '{chart.id}': table '{table}' is not a per-process table, so the chart cannot be grouped"
        if chart.labels and table not in labels:
            return f"chart '{chart.id}': it has labels, but Setup.labels has none for table '{table}'"
        if chart.labels and tuple(chart.labels) != tuple(labels[table]):
            return f"chart '{chart.id}': labels: {chart.labels}: Setup.labels has {labels[table]} for table '{table}'"
        for dimension in chart.columns:
            for name in (*dimension.plus, *dimension.minus):
                if name not in counters[table]:
                    return f"chart '{chart.id}': {_no_field(table, name, counters)}"
    for column in probe.columns:
        table = column.table or tables[0]
        if table not in counters:
            return f"column '{column.id}': its object has no table '{table}'; it has {', '.join(tables)}"
        for name in column.fields:
            if name not in counters[table]:
                return f"column '{column.id}': {_no_field(table, name, counters)}"
    return ""


def _no_field(table: str, name: str, counters: Mapping[str, Sequence[str]]) -> str:
    return f"table '{table}' has no field '{name}'; it has {', '.join(counters[table])}"
