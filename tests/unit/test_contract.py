"""What a plugin brings can be used, or one line says why not."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Annotated, Any

import msgspec
import pytest

from ebpfmon import Chart, Dimension, Kind, Probe, ProbeSettings, Scope, SinkSettings, hookimpl
from ebpfmon.errors import PluginError
from ebpfmon.plugins import hookspecs
from ebpfmon.plugins.validate import HOOKS, ask
from tests.unit.support import plugin

DIMENSION = Dimension("d", "d", ("calls",))
CHART = Chart(id="x.io", title="t", units="calls/s", family="f", priority=1, dimensions=(DIMENSION,))
PROBE = Probe(name="p", package="nowhere", object="p", charts=(CHART,))
Anything: Any = object()


class NeedySettings(ProbeSettings, frozen=True, kw_only=True):
    """Without a section, nothing can be made of it."""

    port: Annotated[int, msgspec.Meta(ge=1)]


class NoNameSettings(SinkSettings, frozen=True):
    """A sink type that says no name of its own."""


class NoOpenSettings(SinkSettings, tag="no_open", frozen=True):
    """A sink type without a sink."""


class AsyncOpenSettings(SinkSettings, tag="late", frozen=True):
    """A sink type that wants to be waited for."""

    async def open(self) -> Any:  # type: ignore[override]  # that is what is wrong with it
        return None


class GoodSettings(SinkSettings, tag="good", frozen=True):
    """A sink type; what has no default is for each section to say."""

    host: str

    def open(self) -> Any:
        return None


class GoodAgainSettings(GoodSettings, tag="good", frozen=True):
    """Another of that name."""


class Waiting:
    EBPFMON_API_VERSION = 1

    @hookimpl
    async def ebpfmon_register_probes(self) -> list[Probe]:
        return []


class Misspelt:
    EBPFMON_API_VERSION = 1

    @hookimpl
    def ebpfmon_register_probe(self) -> list[Probe]:
        return []


class Demanding:
    EBPFMON_API_VERSION = 1

    @hookimpl
    def ebpfmon_register_probes(self, kernel: str) -> list[Probe]:
        return []


def generated() -> Iterator[Probe]:
    yield PROBE


def with_chart(**changes: Any) -> Any:
    return plugin(probes=[replace(PROBE, charts=(replace(CHART, **changes),))])


def with_dimension(**changes: Any) -> Any:
    return with_chart(dimensions=(replace(DIMENSION, **changes),))


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        (plugin(version=99), "it was written for API version 99, this is API version 1: EBPFMON_API_VERSION = 1"),
        (plugin(version=None), "it does not say, this is API version 1: EBPFMON_API_VERSION = 1"),
        (plugin(), "it has no hook: mark ebpfmon_register_probes or ebpfmon_register_sinks with @hookimpl"),
        (Misspelt(), "unknown hook 'ebpfmon_register_probe' in plugin"),
        (Demanding(), "Plugin "),
        (Waiting(), "ebpfmon_register_probes is an async function: expected a plain one that returns a list"),
        (plugin(probes=generated()), "ebpfmon_register_probes returned <generator object "),
        (plugin(probes=7), "ebpfmon_register_probes returned 7: expected a list, each of it a Probe"),
        (plugin(probes=PROBE), "ebpfmon_register_probes returned Probe(name='p', "),
        (plugin(probes=["process"]), "ebpfmon_register_probes returned 'process', not a Probe"),
        (plugin(probes=[Probe]), "ebpfmon_register_probes returned <class 'ebpfmon.model.Probe'>, not a Probe"),
        (plugin(probes=[PROBE, replace(PROBE, charts=())]), "it brings two of the same name: probe 'p'"),
        (plugin(probes=[PROBE, replace(PROBE, name="q")]), "it brings two charts of the same id: 'x.io'"),
        (plugin(probes=[replace(PROBE, name="a b")]), "probe 'a b': a name has letters, digits and _, as in"),
        (plugin(probes=[replace(PROBE, name=Anything)]), "probe <object object at "),
        (plugin(probes=[replace(PROBE, package="")]), "probe 'p': package: '': expected a name"),
        (plugin(probes=[replace(PROBE, setup=Anything)]), "probe 'p': setup: <object object at "),
        (plugin(probes=[replace(PROBE, charts=Anything)]), "probe 'p': charts: <object object at "),
        (plugin(probes=[replace(PROBE, charts=(Anything,))]), "probe 'p': charts: <object object at "),
        (plugin(probes=[replace(PROBE, settings=Anything)]), "probe 'p': settings: <object object at "),
        (plugin(probes=[replace(PROBE, settings=NeedySettings)]), "probe 'p': settings: without a section they must"),
        (with_chart(id="io"), "probe 'p': chart 'io': an id is TYPE.NAME, of letters, digits, _ and -"),
        (with_chart(id="ebpfmon.io"), "probe 'p': chart 'ebpfmon.io': what begins with 'ebpfmon.' is ebpfmon's own"),
        (with_chart(priority="1"), "probe 'p': chart 'x.io': priority: '1': expected int"),
        (with_chart(priority=True), "probe 'p': chart 'x.io': priority: True: expected int"),
        (with_chart(scope="system "), "probe 'p': chart 'x.io': scope: 'system ': expected Scope"),
        (with_chart(title=None), "probe 'p': chart 'x.io': title: None: expected str"),
        (with_chart(dimensions=()), "probe 'p': chart 'x.io': dimensions: (): expected a tuple, of one Dimension"),
        (with_chart(dimensions=DIMENSION), "probe 'p': chart 'x.io': dimensions: Dimension(id='d', name='d', "),
        (with_chart(dimensions=("d",)), "probe 'p': chart 'x.io': dimensions: 'd': expected a Dimension"),
        (with_chart(dimensions=(DIMENSION, DIMENSION)), "probe 'p': chart 'x.io': it has two dimensions 'd'"),
        (
            with_chart(dimensions=(DIMENSION, replace(DIMENSION, id="e")), scope=Scope.APPS),
            "probe 'p': chart 'x.io': 2 dimensions: a chart by application has one",
        ),
        (with_chart(kind=Kind.LEVEL, scope=Scope.APPS), "probe 'p': chart 'x.io': a level: by application there are"),
        (with_dimension(id="a b"), "probe 'p': chart 'x.io': dimension 'a b': an id has letters, digits and _ . : -"),
        (with_dimension(id=""), "probe 'p': chart 'x.io': dimension '': an id has letters, digits and _ . : -"),
        (with_dimension(name=3), "probe 'p': chart 'x.io': dimension 'd': name: 3: expected str"),
        (
            with_dimension(plus="calls"),
            "probe 'p': chart 'x.io': dimension 'd': plus: 'calls': expected a tuple of fields, such as ('calls',)",
        ),
        (with_dimension(minus=(1,)), "probe 'p': chart 'x.io': dimension 'd': minus: (1,): expected a tuple of fields"),
        (with_dimension(plus=()), "probe 'p': chart 'x.io': dimension 'd': it shows no field"),
        (plugin(sinks=[GoodSettings(host="h")]), "ebpfmon_register_sinks returned GoodSettings("),
        (plugin(sinks=[int]), "ebpfmon_register_sinks returned <class 'int'>, not a subclass of SinkSettings"),
        (plugin(sinks=[NoNameSettings]), "sink type 'NoNameSettings': expected a name of its own: class NoNameSet"),
        (plugin(sinks=[NoOpenSettings]), "sink type 'no_open': it has no open(), which returns the sink"),
        (plugin(sinks=[AsyncOpenSettings]), "sink type 'late': open() is an async function: what waits belongs to"),
        (plugin(sinks=[GoodSettings, GoodAgainSettings]), "it brings two of the same name: sink type 'good'"),
    ],
)
def test_what_cannot_be_used_is_named_in_one_line(broken: object, said: str) -> None:
    with pytest.raises(PluginError) as caught:
        ask(broken)
    assert str(caught.value).startswith(said)
    assert len(str(caught.value).splitlines()) == 1


def test_what_a_hook_raises_is_raised() -> None:
    with pytest.raises(ZeroDivisionError, match="oops"):
        ask(plugin(probes=ZeroDivisionError("oops")))


def test_what_can_be_used_is_brought_by_hooks_that_are_named() -> None:
    template = replace(CHART, scope=Scope.KEYS, dimensions=(replace(DIMENSION, id=""),))
    brought = ask(plugin(probes=[replace(PROBE, charts=(template,))], sinks=(GoodSettings,)))
    assert [p.name for p in brought.probes] == ["p"]
    assert brought.sinks == (GoodSettings,)
    assert brought.hooks == HOOKS
    assert ask(plugin(sinks=[])).hooks == ("ebpfmon_register_sinks",)


def test_the_hooks_that_are_asked_are_all_that_are_specified() -> None:
    specified = {name for name, value in vars(hookspecs).items() if getattr(value, "ebpfmon_spec", None) is not None}
    assert specified == set(HOOKS)
