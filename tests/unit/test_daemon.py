"""Which charts there are of the probes that were loaded, and how each is to be loaded."""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any, cast

import pytest
import tomli

from ebpfmon import Chart, Dimension, LoadMode, Probe, ProbeSettings, Scope, Setup
from ebpfmon.config import settings as config
from ebpfmon.daemon.probes import charts_of, require_fit, wanted_probes
from ebpfmon.errors import ObjectError, PluginError
from ebpfmon.kernel.attach import LoadedProbe
from ebpfmon.plugins.registry import Registry

ENTRY, RETURN = LoadMode


def chart(
    name: str, table: str = "", *, return_only: bool = False, scope: Scope = Scope.SYSTEM, field: str = "calls"
) -> Chart:
    return Chart(
        id=name, title="", units="calls/s", family="f", priority=1, table=table, return_only=return_only, scope=scope,
        dimensions=(Dimension("d", "d", (field,)),),
    )  # fmt: skip


def loaded(name: str, tables: str, *charts: Chart, keys: Mapping[str, Any] | None = None) -> LoadedProbe:
    """A probe with these tables."""
    probe = Probe(name=name, package="nowhere", object=name, charts=charts)
    stems = [SimpleNamespace(stem=s, counters=("calls", "bytes")) for s in tables.split()]
    return cast(LoadedProbe, SimpleNamespace(probe=probe, tables=stems, setup=Setup(keys=keys or {})))


def ids(*probes: LoadedProbe, mode: LoadMode = RETURN) -> dict[str, list[str]]:
    return {stem: [c.id for c in of_table] for stem, of_table in charts_of(probes, mode).items()}


def test_a_chart_is_over_the_table_that_it_names_or_its_probes_first_and_every_table_is_there() -> None:
    one = loaded("one", "a b empty", chart("1", "b"), chart("2"), chart("3", "a"), chart("4", "b"))
    two = loaded("two", "c", chart("5"))
    assert ids(one, two) == {"a": ["2", "3"], "b": ["1", "4"], "empty": [], "c": ["5"]}
    assert ids(loaded("none", "t")) == {"t": []}
    assert charts_of([], ENTRY) == {}


@pytest.mark.parametrize(("mode", "shown"), [(ENTRY, ["always"]), (RETURN, ["errors", "always"])])
def test_charts_of_errors_are_left_out_where_errors_are_not_counted(mode: LoadMode, shown: list[str]) -> None:
    probe = loaded("p", "a t", chart("errors", "t", return_only=True), chart("always", "t"))
    assert ids(probe, mode=mode) == {"a": [], "t": shown}


@pytest.mark.parametrize(
    ("probe", "said"),
    [
        (loaded("p", "a", chart("x.y", "b")), "chart 'x.y': its object has no table 'b': it has a"),
        (
            loaded("p", "a b", chart("x.y", "b", field="z")),
            "chart 'x.y': table 'b' has no field 'z': it has calls, bytes",
        ),
        (
            loaded("p", "a", chart("x.y", field="z", return_only=True)),
            "chart 'x.y': table 'a' has no field 'z': it has calls, bytes",
        ),
        (
            loaded("p", "a b", chart("x.y", "b", scope=Scope.KEYS), keys={"a": None}),
            "chart 'x.y': Setup.keys must say what the keys of table 'b' mean",
        ),
        (loaded("p", "a b", keys={"c": None}), "Setup.keys: its object has no table 'c'"),
        (loaded("p", "execs"), "a table of the name 'execs' is ebpfmon's own"),
    ],
)
def test_a_probe_that_does_not_fit_its_object_is_named_with_what_there_is(probe: LoadedProbe, said: str) -> None:
    with pytest.raises(ObjectError) as caught:
        require_fit(probe)
    assert str(caught.value) == f"probe 'p': {said}"


def test_a_probe_that_fits_its_object_is_taken() -> None:
    require_fit(loaded("p", "a b", chart("x.y", "b", scope=Scope.KEYS, field="bytes"), keys={"b": None}))


class PortsSettings(ProbeSettings, frozen=True, kw_only=True):
    """Those of a probe that makes something of them."""

    port: int = 1


def test_each_probe_that_is_enabled_makes_its_setup_of_its_own_settings() -> None:
    def setup(settings: PortsSettings) -> Setup:
        return Setup(knobs={"cfg_port": settings.port})

    probes = [
        Probe(name="a", package="x", object="a", charts=(), settings=PortsSettings, setup=setup),
        Probe(name="b", package="x", object="b", charts=()),
        Probe(name="off", package="x", object="c", charts=(), settings=PortsSettings, setup=setup),
    ]
    found = Registry(probes={p.name: p for p in probes})
    text = "plugins = {a = {port = 80, table_size = 7}, off = {enabled = false}}\nsinks = []"
    settings = config.check(tomli.loads(text), "e.toml", found)
    wanted = {probe.name: options for probe, options in wanted_probes(settings, found, ("app",))}
    assert [*wanted] == ["a", "b", "execs"]
    assert (wanted["a"].setup.knobs, wanted["a"].table_size) == ({"cfg_port": 80}, 7)
    assert (wanted["b"].setup.knobs, wanted["b"].setup.keys, wanted["execs"].setup) == ({}, {}, Setup())


def broken(settings: ProbeSettings) -> Setup:
    raise ZeroDivisionError("oops")


def nothing(settings: ProbeSettings) -> Any:
    return None


@pytest.mark.parametrize(
    ("setup", "said"),
    [(broken, "ZeroDivisionError: oops"), (nothing, "it returned None, not a Setup")],
)
def test_a_probe_whose_set_up_fails_is_named_and_left_out_unless_it_is_the_last_or_settings_are_strict(
    setup: Any, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    bad = Probe(name="bad", package="x", object="b", charts=(), setup=setup)
    good = Probe(name="good", package="x", object="a", charts=())

    def wanted(*probes: Probe, strict: bool = False) -> list[str]:
        found = Registry(probes={p.name: p for p in probes})
        settings = config.check({"ebpfmon": {"strict": strict}, "sinks": []}, "e.toml", found)
        return [probe.name for probe, _ in wanted_probes(settings, found, ())]

    assert wanted(bad, good) == ["good"]
    assert caplog.messages == [f"probe 'bad' is left out: set up probe 'bad': {said}"]
    for probes, strict in [((bad,), False), ((good, bad), True), ((bad, bad), False)]:
        with pytest.raises(PluginError, match=said):
            wanted(*probes, strict=strict)
