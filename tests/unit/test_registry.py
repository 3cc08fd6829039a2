"""Plugins are loaded one by one; a broken one is named, and the others go on."""

from __future__ import annotations

import asyncio
import importlib.metadata
from email.message import Message
from typing import Any

import msgspec
import pytest

from ebpfmon import Chart, Dimension, Probe, SinkSettings, hookimpl
from ebpfmon.plugins.registry import Plugin, PluginOptions, State, discover, render, with_probes
from tests.unit.support import FakeEntryPoint, plugin


class OneSettings(SinkSettings, tag="one", frozen=True):
    """A sink type."""

    def open(self) -> Any:
        return None


class OtherOneSettings(OneSettings, tag="one", frozen=True):
    """Another sink type with the same tag."""


class FakeDistribution(importlib.metadata.Distribution):
    """A distribution that counts how often its metadata is read."""

    def __init__(self, name: str) -> None:
        self._name = name
        self.reads = 0

    @property
    def metadata(self) -> Any:
        self.reads += 1
        metadata = Message()
        metadata["Name"], metadata["Version"] = self._name, "7.1"
        return metadata

    def read_text(self, filename: str) -> str | None:
        return None

    def locate_file(self, path: Any) -> Any:
        raise NotImplementedError


def probe(name: str, chart: str = "") -> Probe:
    shown = Chart(
        id=chart or f"{name}.x", title="", units="n/s", family="f", priority=1,
        dimensions=(Dimension("d", "d", ("n",)),),
    )  # fmt: skip
    return Probe(name=name, package="nowhere", object=name, charts=(shown,))


class SilentError(Exception):
    """An error whose text cannot be had."""

    def __str__(self) -> str:
        raise SystemExit(7)


class Trap:
    """A plugin whose version cannot be read."""

    EBPFMON_API_VERSION = 2

    @property
    def __version__(self) -> str:
        raise KeyboardInterrupt("trap")


class Unshowable:
    """An object without a representation."""

    def __repr__(self) -> str:
        raise GeneratorExit


class Misspelt:
    EBPFMON_API_VERSION = 2

    @hookimpl
    def ebpfmon_register_probe(self) -> list[Probe]:
        return []


def test_probes_and_sinks_are_registered_by_name() -> None:
    both = plugin(probes=[probe("p"), probe("q")], sinks=[OneSettings])
    registry = discover([FakeEntryPoint("b", both), FakeEntryPoint("a", plugin(probes=[]))])
    assert set(registry.probes) == {"p", "q"}
    assert registry.sinks == {"one": OneSettings}
    assert registry.plugins == [
        Plugin(name="a", state=State.ACTIVE, api_version=2, hooks=("ebpfmon_register_probes",)),
        Plugin(
            name="b", state=State.ACTIVE, api_version=2, probes=("p", "q"), sinks=("one",),
            hooks=("ebpfmon_register_probes", "ebpfmon_register_sinks"),
        ),
    ]  # fmt: skip
    assert registry.left_out == registry.disabled == []


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        (plugin(version=99), "it was written for API version 99; this ebpfmon needs EBPFMON_API_VERSION = 2"),
        (object(), "it states no API version; this ebpfmon needs EBPFMON_API_VERSION = 2"),
        (ImportError("no module named\n'x'"), "ImportError: no module named 'x'"),
        (SyntaxError("bad"), "SyntaxError: bad"),
        (OSError("\x1b[2J"), "OSError: \\x1b[2J"),
        (SystemExit(), "SystemExit"),
        (plugin(probes=ZeroDivisionError("oops")), "ZeroDivisionError: oops"),
        (plugin(probes=["process"]), "not a Probe"),
        (Misspelt(), "ebpfmon_register_probe"),
        (GeneratorExit("stop"), "GeneratorExit: stop"),
        (KeyboardInterrupt(), "KeyboardInterrupt"),
        (asyncio.CancelledError("c"), "CancelledError: c"),
        (BaseExceptionGroup("g", [SystemExit(7)]), "BaseExceptionGroup: g (1 sub-exception)"),
        (SilentError(), "SilentError"),
        (Trap(), "KeyboardInterrupt: trap"),
        (plugin(probes=KeyboardInterrupt("k")), "KeyboardInterrupt: k"),
        (plugin(sinks=GeneratorExit()), "GeneratorExit"),
        (plugin(probes=[Unshowable()]), "returned a Unshowable, not a Probe"),
        (RuntimeError("can't start new thread"), "cannot start a thread; raise the limit of its cgroup (pids.max"),
        (plugin(version="2"), "EBPFMON_API_VERSION is '2', not an integer; this ebpfmon needs EBPFMON_API_VERSION = 2"),
        (plugin(version=2.0), "EBPFMON_API_VERSION is 2.0, not an integer; this ebpfmon needs EBPFMON_API_VERSION = 2"),
        (plugin(version=True), "EBPFMON_API_VERSION is True, not an integer; this ebpfmon needs"),
        (plugin(probes=[probe("good")]), "plugin 'a' (unknown origin) already has a probe 'good'"),
        (plugin(sinks=[OtherOneSettings]), "plugin 'a' (unknown origin) already has a sink type 'one'"),
        (plugin(probes=[probe("p", "good.x")]), "plugin 'a' (unknown origin) already has a chart 'good.x'"),
    ],
)
def test_a_broken_plugin_is_left_out_with_the_reason_and_the_others_are_used(broken: object, reason: str) -> None:
    good = FakeEntryPoint("a", plugin(probes=[probe("good")], sinks=[OneSettings]))
    late = FakeEntryPoint("z", plugin(probes=[probe("late")]))
    registry = discover([late, FakeEntryPoint("m", broken), good])
    assert set(registry.probes) == {"good", "late"}
    assert registry.sinks == {"one": OneSettings}
    errors = {p.name: p.error for p in registry.plugins}
    assert (errors["a"], errors["z"]) == (None, None)
    assert reason in str(errors["m"])
    assert len(str(errors["m"]).splitlines()) == 1
    assert [p.name for p in registry.left_out] == ["m"]


def test_a_plugin_with_one_invalid_part_contributes_nothing() -> None:
    half = plugin(probes=[probe("fine")], sinks=[OneSettings])
    registry = discover([FakeEntryPoint("a", plugin(sinks=[OneSettings])), FakeEntryPoint("b", half)])
    assert "fine" not in registry.probes


def test_a_disabled_plugin_is_not_imported() -> None:
    bad = FakeEntryPoint("bad", AssertionError("it was imported"), FakeDistribution("theirs"))
    registry = discover([bad, FakeEntryPoint("good", plugin(probes=[probe("p")]))], PluginOptions(disabled=("bad",)))
    assert set(registry.probes) == {"p"}
    assert registry.disabled == [Plugin(name="bad", state=State.DISABLED, distribution="theirs", version="7.1")]


def test_the_metadata_of_a_distribution_is_read_once() -> None:
    # A distribution parses its metadata each time.
    dist = FakeDistribution("theirs")
    names = ["a", "b", "c"]
    found = discover([FakeEntryPoint(name, plugin(probes=[probe(name)]), dist) for name in names])
    assert [(p.name, p.origin) for p in found.plugins] == [(name, "theirs 7.1") for name in names]
    assert dist.reads == 1


def test_a_third_party_plugin_cannot_replace_one_of_ebpfmon() -> None:
    ours, theirs, others = (FakeDistribution(name) for name in ("ebpfmon", "abc", "zyx"))
    registry = discover(
        [
            FakeEntryPoint("a", plugin(probes=[probe("process")]), theirs),
            FakeEntryPoint("process", plugin(probes=[probe("process")]), ours),
            FakeEntryPoint("process", plugin(probes=[probe("other")]), others),
        ]
    )
    assert [(p.name, p.distribution, p.error) for p in registry.plugins] == [
        ("a", "abc", "plugin 'process' (ebpfmon 7.1) already has a probe 'process'"),
        ("process", "ebpfmon", None),
        ("process", "zyx", "plugin 'process' (ebpfmon 7.1) already has that name; rename or disable one of them"),
    ]


def test_the_table_has_the_origin_state_and_contribution_of_each_plugin() -> None:
    registry = discover(
        [
            FakeEntryPoint("good", plugin(probes=[probe("p")], sinks=[OneSettings]), FakeDistribution("theirs")),
            FakeEntryPoint("bad", plugin(version=99)),
            FakeEntryPoint("off", plugin()),
        ],
        PluginOptions(disabled=("off",)),
    )
    assert list(render(registry.plugins)) == [
        "PLUGIN  API  STATE     ORIGIN          HOOKS          PROVIDES",
        "bad     99   left out  unknown origin  -              it was written for API version 99; this ebpfmon needs "
        "EBPFMON_API_VERSION = 2",
        "good    2    active    theirs 7.1      probes, sinks  probe p, sink one",
        "off     -    disabled  unknown origin  -              -",
    ]
    shown = msgspec.json.decode(msgspec.json.encode(registry.plugins))
    assert [set(plugin) for plugin in shown] == [set(Plugin.__struct_fields__)] * 3
    assert shown[1]["hooks"] == ["ebpfmon_register_probes", "ebpfmon_register_sinks"]


OFF, BAD = {"q"}, {"p": "no object"}


@pytest.mark.parametrize(
    ("probes", "sinks", "state", "error", "provides"),
    [
        (("r",), (), State.ACTIVE, None, "probe r"),
        (("q",), (), State.OFF, None, "probe q (off)"),
        (("q",), ("s",), State.ACTIVE, None, "probe q (off), sink s"),
        (("p",), (), State.LEFT_OUT, "probe 'p': no object", "probe 'p': no object"),
        (("p", "q"), (), State.LEFT_OUT, "probe 'p': no object", "probe 'p': no object"),
        (("p", "r"), (), State.ACTIVE, None, "probe p (left out: no object), probe r"),
        (("p",), ("s",), State.ACTIVE, None, "probe p (left out: no object), sink s"),
        ((), (), State.ACTIVE, None, "-"),
    ],
)
def test_a_plugin_is_active_if_any_of_its_probes_is_used_or_if_it_has_sinks(
    probes: tuple[str, ...], sinks: tuple[str, ...], state: State, error: str | None, provides: str
) -> None:
    found = with_probes(Plugin(name="x", state=State.ACTIVE, probes=probes, sinks=sinks), OFF, BAD)
    assert (found.state, found.error) == (state, error)
    assert list(render([found]))[1].endswith(f"  {provides}")


def test_a_plugin_that_is_disabled_or_left_out_stays_so() -> None:
    for state in (State.DISABLED, State.LEFT_OUT):
        found = Plugin(name="x", state=state, probes=("q",), error="why")
        assert with_probes(found, OFF, BAD) == found


def test_the_shipped_plugins_are_registered_like_third_party_ones() -> None:
    registry = discover()
    shipped = {p.name: p for p in registry.plugins if p.distribution == "ebpfmon"}
    assert [p.error for p in shipped.values()] == [None] * len(shipped)
    assert (shipped["process"].probes, shipped["log"].sinks) == (("process",), ("log",))
