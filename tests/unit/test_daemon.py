"""Which charts there are of the probes that were loaded, and how each is to be loaded."""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any, cast

import pytest
import tomli

from ebpfmon import Chart, Dimension, LoadMode, Probe, ProbeSettings, Scope, Setup, config
from ebpfmon.errors import ObjectError
from ebpfmon.kernel.attach import LoadedProbe
from ebpfmon.loading import charts_of, wanted_probes
from ebpfmon.registry import Registry

ENTRY, RETURN = LoadMode


def chart(name: str, table: str = "", *, return_only: bool = False, scope: Scope = Scope.SYSTEM) -> Chart:
    return Chart(
        id=name, title="", units="calls/s", family="f", priority=1, table=table, return_only=return_only, scope=scope,
        dimensions=(Dimension("d", "d", ("calls",)),),
    )  # fmt: skip


def loaded(name: str, tables: str, *charts: Chart, keys: Mapping[str, Any] | None = None) -> LoadedProbe:
    """A probe with these tables."""
    probe = Probe(name=name, package="nowhere", object=name, charts=charts)
    stems = [SimpleNamespace(stem=s) for s in tables.split()]
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


@pytest.mark.parametrize("mode", LoadMode)
def test_a_chart_over_a_table_that_its_probe_does_not_have_is_named(mode: LoadMode) -> None:
    other = loaded("other", "b")
    wrong = loaded("p", "a", chart("ebpf.x", "b", return_only=True))
    with pytest.raises(ObjectError) as caught:
        charts_of([other, wrong], mode)
    assert str(caught.value) == "probe 'p': its object has no table 'b': a"


def test_charts_by_key_need_to_be_told_what_the_keys_mean_and_keys_need_a_table() -> None:
    by_key = chart("ebpf.x", "b", scope=Scope.KEYS)
    assert ids(loaded("p", "a b", by_key, keys={"b": None})) == {"a": [], "b": ["ebpf.x"]}
    with pytest.raises(ObjectError) as caught:
        charts_of([loaded("p", "a b", by_key, keys={"a": None})], RETURN)
    assert str(caught.value) == "probe 'p': chart 'ebpf.x' needs Setup.keys of table 'b'"
    with pytest.raises(ObjectError, match="its object has no table 'c': a, b"):
        charts_of([loaded("p", "a b", keys={"c": None})], RETURN)


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
    assert wanted["b"].setup == wanted["execs"].setup == Setup()
