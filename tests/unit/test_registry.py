"""Plugins are loaded one by one; a broken one is named, and the others go on."""

from __future__ import annotations

import pytest

from ebpfmon import Probe, SinkSettings, hookimpl
from ebpfmon.registry import discover
from tests.unit.support import FakeEntryPoint, plugin


class OneSettings(SinkSettings, tag="one", frozen=True):
    """A sink type."""


class OtherOneSettings(SinkSettings, tag="one", frozen=True):
    """Another that calls itself the same."""


class TwiceSettings(SinkSettings, tag="twice", frozen=True):
    """A sink type that one plugin brings ..."""


class TwiceAgainSettings(SinkSettings, tag="twice", frozen=True):
    """... twice."""


def probe(name: str) -> Probe:
    return Probe(name=name, package="nowhere", object=name, charts=())


class Misspelt:
    EBPFMON_API_VERSION = 1

    @hookimpl
    def ebpfmon_register_probe(self) -> list[Probe]:
        return []


def test_what_plugins_bring_is_found_by_name() -> None:
    both = plugin(probes=[probe("p"), probe("q")], sinks=[OneSettings])
    registry = discover([FakeEntryPoint("b", both), FakeEntryPoint("a", plugin())])
    assert set(registry.probes) == {"p", "q"}
    assert registry.sinks == {"one": OneSettings}
    assert [(p.name, p.probes, p.sinks, p.error) for p in registry.plugins] == [
        ("a", (), (), None),
        ("b", ("p", "q"), ("one",), None),
    ]


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        (plugin(version=2), "API version 2, this is 1"),
        (object(), "API version None, this is 1"),
        (ImportError("no module named 'x'"), "no module named 'x'"),
        (SyntaxError("bad"), "SyntaxError"),
        (plugin(probes=ZeroDivisionError("oops")), "ZeroDivisionError: oops"),
        (plugin(probes=["process"]), "not a Probe"),
        (plugin(probes=7), "TypeError"),
        (plugin(sinks=[OneSettings()]), "not a subclass of SinkSettings"),
        (plugin(sinks=[int]), "not a subclass of SinkSettings"),
        (Misspelt(), "ebpfmon_register_probe"),
        (plugin(probes=[probe("good")]), "already brought a probe 'good'"),
        (plugin(sinks=[OtherOneSettings]), "already brought a sink type 'one'"),
        (plugin(probes=[probe("twice"), probe("twice")]), "'twice'"),
        (plugin(sinks=[TwiceSettings, TwiceAgainSettings]), "'twice'"),
    ],
)
def test_a_broken_plugin_is_named_with_its_reason_and_the_others_go_on(broken: object, reason: str) -> None:
    good = FakeEntryPoint("a", plugin(probes=[probe("good")], sinks=[OneSettings]))
    late = FakeEntryPoint("z", plugin(probes=[probe("late")]))
    registry = discover([late, FakeEntryPoint("m", broken), good])
    assert set(registry.probes) == {"good", "late"}
    assert registry.sinks == {"one": OneSettings}
    errors = {p.name: p.error for p in registry.plugins}
    assert (errors["a"], errors["z"]) == (None, None)
    assert reason in str(errors["m"])


def test_a_plugin_with_one_bad_part_brings_nothing() -> None:
    half = plugin(probes=[probe("fine")], sinks=[OneSettings])
    registry = discover([FakeEntryPoint("a", plugin(sinks=[OneSettings])), FakeEntryPoint("b", half)])
    assert "fine" not in registry.probes


def test_the_shipped_plugins_are_registered_like_a_strangers() -> None:
    registry = discover()
    shipped = {p.name: p for p in registry.plugins if p.distribution == "ebpfmon"}
    assert [p.error for p in shipped.values()] == [None] * len(shipped)
    assert (shipped["process"].probes, shipped["log"].sinks) == (("process",), ("log",))


def test_no_two_charts_of_a_shipped_probe_have_one_id_and_no_two_dimensions_of_a_chart() -> None:
    for shipped in discover().probes.values():
        assert len({c.id for c in shipped.charts}) == len(shipped.charts)
        for chart in shipped.charts:
            assert len({d.id for d in chart.dimensions}) == len(chart.dimensions) > 0
