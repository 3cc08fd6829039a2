"""An invalid contribution of a plugin is reported in one line."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Annotated, Any, cast

import msgspec
import pytest

from ebpfmon import Candidate, Chart, Column, Dimension, Event, Kind, Probe, ProbeSettings, SinkSettings, hookimpl
from ebpfmon.errors import PluginError
from ebpfmon.plugins import hookspecs
from ebpfmon.plugins.validate import COLUMNS_OF_TOP, HOOKS, LETTERS_OF_TOP, call_hooks, violation
from ebpfmon.top.columns import IDENTITY_COLUMNS, RESERVED
from tests.unit.support import plugin

DIMENSION = Dimension("d", "d", ("calls",))
CHART = Chart(id="x.io", title="t", units="calls/s", family="f", priority=1, dimensions=(DIMENSION,))
EVENT = Event("e", (Candidate(programs=("f",)),))
PROBE = Probe(name="p", package="nowhere", object="p", charts=(CHART,))
Anything: Any = object()


class NeedySettings(ProbeSettings, frozen=True, kw_only=True):
    """Settings with a field that has no default."""

    port: Annotated[int, msgspec.Meta(ge=1)]


class NoNameSettings(SinkSettings, frozen=True):
    """A sink type without a tag."""


class NoOpenSettings(SinkSettings, tag="no_open", frozen=True):
    """A sink type without open()."""


class AsyncOpenSettings(SinkSettings, tag="late", frozen=True):
    """A sink type whose open() is async."""

    async def open(self) -> Any:  # type: ignore[override]  # It must not be async.
        return None


class GoodSettings(SinkSettings, tag="good", frozen=True):
    """A valid sink type. A field without a default must be set in each section."""

    host: str

    def open(self) -> Any:
        return None


class GoodAgainSettings(GoodSettings, tag="good", frozen=True):
    """Another sink type with the same tag."""


class AsyncHook:
    EBPFMON_API_VERSION = 2

    @hookimpl
    async def ebpfmon_register_probes(self) -> list[Probe]:
        return []


class Misspelt:
    EBPFMON_API_VERSION = 2

    @hookimpl
    def ebpfmon_register_probe(self) -> list[Probe]:
        return []


class HookWithParameter:
    EBPFMON_API_VERSION = 2

    @hookimpl
    def ebpfmon_register_probes(self, kernel: str) -> list[Probe]:
        return []


def generated() -> Iterator[Probe]:
    yield PROBE


def with_event(**wrong: Any) -> object:
    return plugin(probes=[replace(PROBE, events=(replace(EVENT, **wrong),))])


def with_candidate(**wrong: Any) -> object:
    return with_event(candidates=(replace(EVENT.candidates[0], **wrong),))


def with_chart(**changes: Any) -> Any:
    return plugin(probes=[replace(PROBE, charts=(replace(CHART, **changes),))])


def with_dimension(**changes: Any) -> Any:
    return with_chart(dimensions=(replace(DIMENSION, **changes),))


def with_columns(*changes: dict[str, Any], **change: Any) -> Any:
    columns = (replace(Column(id="c", header="C", fields=("calls",)), **one) for one in changes or (change,))
    return plugin(probes=[replace(PROBE, columns=tuple(columns))])


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (plugin(version=99), "it was written for API version 99; this ebpfmon needs EBPFMON_API_VERSION = 2"),
        (plugin(version=None), "it states no API version; this ebpfmon needs EBPFMON_API_VERSION = 2"),
        (plugin(), "it has no hook; define ebpfmon_register_probes or ebpfmon_register_sinks and mark it"),
        (Misspelt(), "unknown hook 'ebpfmon_register_probe' in plugin"),
        (HookWithParameter(), "Plugin "),
        (AsyncHook(), "ebpfmon_register_probes is an async function; it must be a plain function that returns a list"),
        (plugin(probes=generated()), "ebpfmon_register_probes returned <generator object "),
        (plugin(probes=7), "ebpfmon_register_probes returned 7: expected a list of Probe objects"),
        (plugin(probes=PROBE), "ebpfmon_register_probes returned Probe(name='p', "),
        (plugin(probes=["process"]), "ebpfmon_register_probes returned 'process', not a Probe"),
        (plugin(probes=[Probe]), "ebpfmon_register_probes returned <class 'ebpfmon.model.probe.Probe'>, not a Probe"),
        (plugin(probes=[PROBE, replace(PROBE, charts=())]), "it has two probes named 'p'"),
        (plugin(probes=[PROBE, replace(PROBE, name="q")]), "it has two charts with the id 'x.io'"),
        (plugin(probes=[replace(PROBE, name="a b")]), "probe 'a b': a name may have only letters, digits and _"),
        (plugin(probes=[replace(PROBE, name=Anything)]), "probe <object object at "),
        (plugin(probes=[replace(PROBE, package="")]), "probe 'p': package: '': expected a name"),
        (plugin(probes=[replace(PROBE, setup=Anything)]), "probe 'p': setup: <object object at "),
        (plugin(probes=[replace(PROBE, charts=Anything)]), "probe 'p': charts: <object object at "),
        (plugin(probes=[replace(PROBE, charts=(Anything,))]), "probe 'p': charts: <object object at "),
        (plugin(probes=[replace(PROBE, settings=Anything)]), "probe 'p': settings: <object object at "),
        (
            plugin(probes=[replace(PROBE, settings=NeedySettings)]),
            "probe 'p': settings: all fields need valid defaults",
        ),
        (plugin(probes=[replace(PROBE, events=Anything)]), "probe 'p': events: <object object at "),
        (plugin(probes=[replace(PROBE, events=cast(Any, (7,)))]), "probe 'p': events: 7: expected an Event"),
        (plugin(probes=[replace(PROBE, events=(EVENT, EVENT))]), "probe 'p': it has two events named 'e'"),
        (with_event(name="a b"), "probe 'p': event 'a b': a name may have only letters, digits and _"),
        (with_event(optional=1), "probe 'p': event 'e': optional: 1: expected bool"),
        (with_event(candidates=()), "probe 'p': event 'e': candidates: (): expected a tuple of at least one Candidate"),
        (with_event(candidates=("f",)), "probe 'p': event 'e': candidates: 'f': expected a Candidate"),
        (with_candidate(programs="f"), "probe 'p': event 'e': programs: 'f': expected a tuple of names, such as"),
        (with_candidate(programs=()), "probe 'p': event 'e': programs: (): expected a tuple of names, such as"),
        (with_candidate(mode="entry"), "probe 'p': event 'e': mode: 'entry': expected LoadMode"),
        (with_candidate(arguments="1"), "probe 'p': event 'e': arguments: '1': expected int"),
        (with_candidate(arguments=True), "probe 'p': event 'e': arguments: True: expected int"),
        (with_candidate(softirq=None), "probe 'p': event 'e': softirq: None: expected bool"),
        (with_candidate(setting=None), "probe 'p': event 'e': setting: None: expected str"),
        (with_chart(id="io"), "probe 'p': chart 'io': an id has the form TYPE.NAME and may have only letters, digits,"),
        (
            with_chart(grouped=True),
            "probe 'p': chart 'x.io': an id has the form NAME for a grouped chart and may have only letters,",
        ),
        (with_chart(id="ebpfmon.io"), "probe 'p': chart 'ebpfmon.io': ids that begin with 'ebpfmon.' are reserved for"),
        (with_chart(priority="1"), "probe 'p': chart 'x.io': priority: '1': expected int"),
        (with_chart(priority=True), "probe 'p': chart 'x.io': priority: True: expected int"),
        (with_chart(grouped="yes"), "probe 'p': chart 'x.io': grouped: 'yes': expected bool"),
        (with_chart(separator=None), "probe 'p': chart 'x.io': separator: None: expected str"),
        (with_chart(unbounded=1), "probe 'p': chart 'x.io': unbounded: 1: expected bool"),
        (with_chart(labels="disk"), "probe 'p': chart 'x.io': labels: 'disk': expected a tuple of names, such as"),
        (with_chart(labels=("a b",)), "probe 'p': chart 'x.io': labels: ('a b',): expected a tuple of names"),
        (with_chart(labels=(1,)), "probe 'p': chart 'x.io': labels: (1,): expected a tuple of names"),
        (
            with_chart(labels=("disk", "le")),
            "probe 'p': chart 'x.io': labels: 'le' is reserved for the numbers of a series",
        ),
        (with_chart(labels=("disk", "Disk")), "probe 'p': chart 'x.io': it has two labels called 'disk'"),
        (
            with_chart(id="io", grouped=True, labels=("disk",)),
            "probe 'p': chart 'io': labels: ('disk',): a grouped chart gets its label from the grouping",
        ),
        (with_chart(title=None), "probe 'p': chart 'x.io': title: None: expected str"),
        (with_chart(dimensions=DIMENSION), "probe 'p': chart 'x.io': dimensions: Dimension(id='d', name='d', "),
        (with_chart(dimensions=("d",)), "probe 'p': chart 'x.io': dimensions: 'd': expected a Dimension"),
        (
            with_chart(dimensions=(DIMENSION, DIMENSION)),
            "probe 'p': chart 'x.io': it has two dimensions with the id 'd'",
        ),
        (plugin(probes=[replace(PROBE, columns=Anything)]), "probe 'p': columns: <object object at "),
        (plugin(probes=[replace(PROBE, columns=(Anything,))]), "probe 'p': columns: <object object at "),
        (with_columns(id=7), "probe 'p': column 7: an id may have only letters, digits, _ and -"),
        (with_columns(id="a b"), "probe 'p': column 'a b': an id may have only"),
        (with_columns(id="user"), "probe 'p': column 'user': `top` already has a column with that id; choose another"),
        (with_columns(header=""), "probe 'p': column 'c': header: '': expected printable text"),
        (with_columns(header="\x1b[2J"), "probe 'p': column 'c': header: '\\x1b[2J': expected printable text"),
        (with_columns(units=None), "probe 'p': column 'c': units: None: expected str"),
        (with_columns(fields="calls"), "probe 'p': column 'c': fields: 'calls': expected a tuple of fields"),
        (with_columns(fields=()), "probe 'p': column 'c': fields: (): expected at least one field"),
        (with_columns(width="6"), "probe 'p': column 'c': width: '6': expected int"),
        (with_columns(width=0), "probe 'p': column 'c': width: 0: expected 1 to 40"),
        (with_columns(rank=True), "probe 'p': column 'c': rank: True: expected int"),
        (with_columns(letter="q"), "probe 'p': column 'c': letter: 'q': expected one capital letter from A to Z"),
        (with_columns(letter="AB"), "probe 'p': column 'c': letter: 'AB': expected one capital letter from A to Z"),
        (with_columns(letter="P"), "probe 'p': column 'c': letter: 'P': `top` uses it; choose another, or none"),
        (with_columns(letter="N"), "probe 'p': column 'c': letter: 'N': `top` uses it; choose another, or none"),
        (with_columns({}, {"header": "D"}), "probe 'p': it has two columns with the id 'c'"),
        (with_columns({"table": "t"}, {"table": "t"}), "probe 'p': it has two columns with the id 'c' of table 't'"),
        (
            with_dimension(id="a b"),
            "probe 'p': chart 'x.io': dimension 'a b': an id may have only letters, digits and _ . : -",
        ),
        (
            with_dimension(id=""),
            "probe 'p': chart 'x.io': dimension '': an id may have only letters, digits and _ . : -",
        ),
        (with_dimension(name=3), "probe 'p': chart 'x.io': dimension 'd': name: 3: expected str"),
        (
            with_dimension(plus="calls"),
            "probe 'p': chart 'x.io': dimension 'd': plus: 'calls': expected a tuple of fields, such as ('calls',)",
        ),
        (with_dimension(minus=(1,)), "probe 'p': chart 'x.io': dimension 'd': minus: (1,): expected a tuple of fields"),
        (with_dimension(plus=()), "probe 'p': chart 'x.io': dimension 'd': it has no fields in plus or minus"),
        (plugin(sinks=[GoodSettings(host="h")]), "ebpfmon_register_sinks returned GoodSettings("),
        (plugin(sinks=[int]), "ebpfmon_register_sinks returned <class 'int'>, not a subclass of SinkSettings"),
        (plugin(sinks=[NoNameSettings]), "sink type 'NoNameSettings': it has no name; write class NoNameSet"),
        (plugin(sinks=[NoOpenSettings]), "sink type 'no_open': it has no method open(), which must return the sink"),
        (plugin(sinks=[AsyncOpenSettings]), "sink type 'late': open() must not be an async function; wait in"),
        (plugin(sinks=[GoodSettings, GoodAgainSettings]), "it has two sink types named 'good'"),
    ],
)
def test_an_invalid_contribution_is_reported_in_one_line(broken: object, message: str) -> None:
    with pytest.raises(PluginError) as caught:
        call_hooks(broken)
    assert str(caught.value).startswith(message)
    assert len(str(caught.value).splitlines()) == 1


def test_the_names_and_letters_that_belong_to_top_are_those_of_its_own_columns() -> None:
    own = {column.key for columns in IDENTITY_COLUMNS.values() for column in columns}
    assert own == COLUMNS_OF_TOP
    assert RESERVED - {""} == LETTERS_OF_TOP


@pytest.mark.parametrize("letter", ["", "A", "Z"])
def test_a_column_may_have_a_free_letter_or_none(letter: str) -> None:
    assert call_hooks(with_columns(letter=letter)).probes[0].columns[0].letter == letter


def test_an_exception_of_a_hook_is_passed_on() -> None:
    with pytest.raises(ZeroDivisionError, match="oops"):
        call_hooks(plugin(probes=ZeroDivisionError("oops")))


def test_a_valid_plugin_contributes_probes_sinks_and_the_names_of_its_hooks() -> None:
    charts = (
        CHART,
        replace(CHART, id="grouped", grouped=True),
        replace(CHART, id="x.labelled", labels=("disk", "node_name"), kind=Kind.GAUGE),
    )
    contribution = call_hooks(plugin(probes=[replace(PROBE, charts=charts)], sinks=(GoodSettings,)))
    assert [p.name for p in contribution.probes] == ["p"]
    assert contribution.sinks == (GoodSettings,)
    assert contribution.hooks == HOOKS
    assert call_hooks(plugin(sinks=[])).hooks == ("ebpfmon_register_sinks",)


def test_all_specified_hooks_are_called() -> None:
    specified = {name for name, value in vars(hookspecs).items() if getattr(value, "ebpfmon_spec", None) is not None}
    assert specified == set(HOOKS)


COUNTERS = {"t": ("calls", "bytes"), "u": ("calls",)}
LABELS = {"u": ("disk",)}


def violation_of(*charts: Chart, columns: tuple[Column, ...] = ()) -> str:
    return violation(replace(PROBE, charts=charts, columns=columns), COUNTERS, LABELS, {"t"})


def column(field: str, table: str = "") -> Column:
    return Column(id="reads", header="READS", fields=(field,), table=table)


def test_charts_that_fit_the_tables_violate_nothing() -> None:
    assert violation_of(CHART, replace(CHART, id="g", grouped=True), replace(CHART, table="u", labels=("disk",))) == ""


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"table": "v"}, "chart 'x.io': its object has no table 'v'; it has t, u"),
        (
            {"table": "u", "grouped": True},
            "chart 'x.io': table 'u' is not a per-process table, so the chart cannot be grouped",
        ),
        ({"labels": ("disk",)}, "chart 'x.io': it has labels, but Setup.labels has none for table 't'"),
        (
            {"table": "u", "labels": ("node",)},
            "chart 'x.io': labels: ('node',): Setup.labels has ('disk',) for table 'u'",
        ),
        (
            {"table": "u", "dimensions": (Dimension("d", "d", ("bytes",)),)},
            "chart 'x.io': table 'u' has no field 'bytes'",
        ),
        (
            {"dimensions": (Dimension("d", "d", ("calls",), ("no",)),)},
            "chart 'x.io': table 't' has no field 'no'; it has",
        ),
    ],
)
def test_a_chart_that_does_not_fit_the_tables_is_reported_with_the_reason(
    changes: dict[str, Any], message: str
) -> None:
    assert violation_of(CHART, replace(CHART, **changes)).startswith(message)


@pytest.mark.parametrize(
    ("shown", "message"),
    [
        (column("calls", table="v"), "column 'reads': its object has no table 'v'; it has t, u"),
        (column("no"), "column 'reads': table 't' has no field 'no'; it has calls, bytes"),
        (
            column("bytes", table="u"),
            "column 'reads': table 'u' has no field 'bytes'; it has calls",
        ),
        (column("bytes", table="t"), ""),
    ],
)
def test_a_column_that_does_not_fit_the_tables_is_reported_with_the_reason(shown: Column, message: str) -> None:
    assert violation_of(CHART, columns=(shown,)) == message
