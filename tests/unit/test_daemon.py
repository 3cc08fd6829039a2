"""Which probes are enabled, their load options, and the charts of loaded probes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import closing
from types import SimpleNamespace
from typing import Any, cast

import pytest
import tomli

from ebpfmon import Chart, Column, Dimension, LabelSource, LoadMode, Probe, ProbeSettings, Setup, config
from ebpfmon.daemon.probes import Probes, enabled_probes, require_fit, table_specs
from ebpfmon.errors import KernelError, ObjectError, PluginError, SettingsError
from ebpfmon.grouping import execs
from ebpfmon.kernel import features
from ebpfmon.kernel.attach import LoadedProbe, LoadOptions
from ebpfmon.kernel.bpfobject import BpfObject
from ebpfmon.plugins.registry import Registry

ENTRY, RETURN = LoadMode


def chart(
    name: str, table: str = "", *labels: str, return_only: bool = False, grouped: bool = False, field: str = "calls"
) -> Chart:
    return Chart(
        id=name, title="", units="calls/s", family="f", priority=1, table=table, return_only=return_only, labels=labels,
        grouped=grouped, dimensions=(Dimension("d", "d", (field,)),),
    )  # fmt: skip


class Ports(LabelSource):
    fields, labels = ("port",), ("port",)


def loaded(
    name: str,
    tables: str,
    *charts: Chart,
    labels: Mapping[str, LabelSource] | None = None,
    columns: tuple[Column, ...] = (),
    of: Probe | None = None,
) -> LoadedProbe:
    """Return a probe with these tables. Those in capital letters are by process."""
    probe = of or Probe(name=name, package="nowhere", object=name, charts=charts, columns=columns)
    stems = [
        SimpleNamespace(name=s.lower(), counters=("calls", "bytes"), is_by_process=s.isupper()) for s in tables.split()
    ]
    return cast(LoadedProbe, SimpleNamespace(probe=probe, tables=stems, setup=Setup(labels=labels or {})))


def ids(*probes: LoadedProbe, mode: LoadMode = RETURN) -> dict[str, list[str]]:
    return {stem: [c.id for c in of_table] for stem, of_table in table_specs(probes, mode).charts.items()}


def test_a_chart_belongs_to_the_table_that_it_names_or_to_its_probes_first() -> None:
    one = loaded("one", "a b empty", chart("1", "b"), chart("2"), chart("3", "a"), chart("4", "b"))
    two = loaded("two", "c", chart("5"))
    assert ids(one, two) == {"a": ["2", "3"], "b": ["1", "4"], "empty": [], "c": ["5"]}
    assert {c.table for of_table in table_specs([one, two], ENTRY).charts.values() for c in of_table} == {"a", "b", "c"}
    assert ids(loaded("none", "t")) == {"t": []}
    assert table_specs([], ENTRY).charts == {}


def test_table_specs_have_counters_labels_and_columns_and_say_which_tables_are_by_process() -> None:
    ports = Ports()
    columns = (Column(id="1", header="1", fields=("calls",)), Column(id="2", header="2", fields=("calls",), table="b"))
    one = loaded("one", "A b", labels={"b": ports}, columns=columns)
    found = table_specs([one, loaded("execs", "EXECS", of=execs.PROBE)], RETURN)
    assert found.counters == dict.fromkeys(("a", "b", "execs"), ("calls", "bytes"))
    assert found.labels == {"b": ports}
    assert found.columns == {"a": columns[:1], "b": columns[1:], "execs": ()}
    assert found.by_process == {"a"}, "the rows of execs belong to no group"


@pytest.mark.parametrize(("mode", "expected"), [(ENTRY, ("always",)), (RETURN, ("errors", "always"))])
def test_columns_of_errors_are_left_out_if_errors_are_not_counted(mode: LoadMode, expected: tuple[str, ...]) -> None:
    columns = tuple(
        Column(id=id_, header="", fields=("calls",), return_only=id_ == "errors") for id_ in ("errors", "always")
    )
    assert tuple(c.id for c in table_specs([loaded("p", "A", columns=columns)], mode).columns["a"]) == expected


@pytest.mark.parametrize(("mode", "expected"), [(ENTRY, ["always"]), (RETURN, ["errors", "always"])])
def test_charts_of_errors_are_left_out_if_errors_are_not_counted(mode: LoadMode, expected: list[str]) -> None:
    probe = loaded("p", "a t", chart("errors", "t", return_only=True), chart("always", "t"))
    assert ids(probe, mode=mode) == {"a": [], "t": expected}


@pytest.mark.parametrize(
    ("probe", "message"),
    [
        (loaded("p", "a", chart("x.y", "b")), "chart 'x.y': its object has no table 'b'; it has a"),
        (
            loaded("p", "a b", chart("x.y", "b", field="z")),
            "chart 'x.y': table 'b' has no field 'z'; it has calls, bytes",
        ),
        (
            loaded("p", "a", chart("x.y", field="z", return_only=True)),
            "chart 'x.y': table 'a' has no field 'z'; it has calls, bytes",
        ),
        (
            loaded("p", "a b", chart("x.y", "b", "port"), labels={"a": Ports()}),
            "chart 'x.y': it has labels, but Setup.labels has none for table 'b'",
        ),
        (
            loaded("p", "a b", chart("x.y", "b", "address"), labels={"b": Ports()}),
            "chart 'x.y': labels: ('address',): Setup.labels has ('port',) for table 'b'",
        ),
        (
            loaded("p", "A b", chart("y", "b", grouped=True)),
            "chart 'y': table 'b' is not a per-process table, so the chart cannot be grouped",
        ),
        (
            loaded("p", "a", columns=(Column(id="c", header="", fields=("z",)),)),
            "column 'c': table 'a' has no field 'z'; it has calls, bytes",
        ),
        (
            loaded("p", "a", columns=(Column(id="c", header="", fields=("calls",), table="b"),)),
            "column 'c': its object has no table 'b'; it has a",
        ),
        (loaded("p", "a b", labels={"c": Ports()}), "Setup.labels: its object has no table 'c'"),
        (loaded("p", "execs"), "the table name 'execs' is reserved for ebpfmon"),
    ],
)
def test_a_probe_that_does_not_fit_its_object_is_refused_with_the_reason(probe: LoadedProbe, message: str) -> None:
    with pytest.raises(ObjectError) as caught:
        require_fit(probe)
    assert str(caught.value) == f"probe 'p': {message}"


def test_a_probe_that_fits_its_object_is_accepted() -> None:
    charts = chart("x.y", "b", "port", field="bytes"), chart("y", grouped=True)
    require_fit(loaded("p", "A b", *charts, labels={"b": Ports()}))


@pytest.mark.parametrize(
    ("by", "rows", "has_execs"),
    [
        (["application"], True, True),
        (["user"], True, False),
        (["process", "user", "container"], True, False),
        (["user", "application"], True, True),
        ([], False, False),
    ],
)
def test_execs_is_loaded_if_a_grouping_needs_it_and_there_are_no_rows_without_groupings(
    by: list[str], rows: bool, has_execs: bool
) -> None:
    found = Registry(probes={"a": Probe(name="a", package="x", object="a", charts=())})
    settings = config.validate({"groups": {"by": by}, "sinks": []}, "e.toml", found)
    enabled = list(enabled_probes(settings, found))
    assert [probe.name for probe, _ in enabled] == ["a", *["execs"] * has_execs]
    assert {options.rows for _, options in enabled} == {rows}


class PortsSettings(ProbeSettings, frozen=True, kw_only=True):
    """The settings of a probe whose set-up uses them."""

    port: int = 1


def test_each_enabled_probe_makes_its_setup_from_its_settings() -> None:
    def setup(settings: PortsSettings) -> Setup:
        return Setup(rodata={"cfg_port": settings.port})

    probes = [
        Probe(name="a", package="x", object="a", charts=(), settings=PortsSettings, setup=setup),
        Probe(name="b", package="x", object="b", charts=()),
        Probe(name="off", package="x", object="c", charts=(), settings=PortsSettings, setup=setup),
    ]
    found = Registry(probes={p.name: p for p in probes})
    text = "plugins = {a = {port = 80, table_size = 7}, off = {enabled = false}}\nsinks = []"
    settings = config.validate(tomli.loads(text), "e.toml", found)
    enabled = {probe.name: options for probe, options in enabled_probes(settings, found)}
    assert [*enabled] == ["a", "b", "execs"]
    assert (enabled["a"].setup.rodata, enabled["a"].table_size) == ({"cfg_port": 80}, 7)
    assert (enabled["b"].setup.rodata, enabled["b"].setup.labels, enabled["execs"].setup) == ({}, {}, Setup())


def counted(name: str, closed: list[str], setup: Callable[[ProbeSettings], Setup] | None = None) -> Probe:
    """Return a probe that records when its set-up is closed."""

    def make(settings: ProbeSettings) -> Setup:
        return Setup(close=lambda: closed.append(name))

    return Probe(name=name, package="x", object=name, charts=(), setup=setup or make)


def refused(settings: ProbeSettings) -> Setup:
    raise SettingsError("no such port")


@pytest.mark.parametrize(("setup", "error"), [(lambda given: broken(given), PluginError), (refused, SettingsError)])
def test_if_a_set_up_is_an_error_those_before_it_are_closed(setup: Any, error: type[Exception]) -> None:
    closed: list[str] = []
    found = Registry(probes={name: counted(name, closed, setup if name == "c" else None) for name in "abc"})
    settings = config.validate({"ebpfmon": {"strict": True}, "sinks": []}, "e.toml", found)
    with pytest.raises(error):
        enabled_probes(settings, found)
    assert closed == ["a", "b"]


def test_if_a_probe_cannot_be_loaded_and_all_must_be_every_set_up_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    closed: list[str] = []
    found = Registry(probes={name: counted(name, closed) for name in "abc"})
    settings = config.validate({"groups": {"by": []}, "sinks": []}, "e.toml", found)
    probes = loading_only("a", monkeypatch)
    with pytest.raises(KernelError, match="cannot load 'b'"):
        probes.load(enabled_probes(settings, found), all_or_nothing=True)
    assert sorted(closed) == ["a", "b", "c"]


def test_a_reload_closes_the_set_up_of_a_probe_that_was_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    closed: list[str] = []
    found = Registry(probes={name: counted(name, closed) for name in "ab"})
    settings = config.validate({"groups": {"by": []}, "sinks": []}, "e.toml", found)
    with closing(loading_only("a", monkeypatch)) as probes:
        probes.load(enabled_probes(settings, found), all_or_nothing=False)
        assert closed == ["b"]
        again = enabled_probes(settings, found)
        assert probes.can_keep(again)
        probes.apply_settings(again)
        assert closed == ["b", "a", "b"]
    assert closed == ["b", "a", "b", "a"]


def loading_only(name: str, monkeypatch: pytest.MonkeyPatch) -> Probes:
    """Return probes that can be loaded only if they have this name."""

    def load(probe: Probe, _: object, __: object, options: LoadOptions, *___: object, **____: object) -> LoadedProbe:
        if probe.name != name:
            options.setup.close()
            raise KernelError(f"cannot load '{probe.name}'")
        return LoadedFake(probe, options.setup)

    monkeypatch.setattr("ebpfmon.daemon.probes.load_one", load)
    monkeypatch.setattr("ebpfmon.kernel.features.require_permission", lambda _: None)
    return Probes(features.detect())


class LoadedFake(LoadedProbe):
    """A loaded probe without an object."""

    def __init__(self, probe: Probe, setup: Setup) -> None:
        self.probe, self.setup, self.choices, self.tables = probe, setup, (), []
        self.object = cast(BpfObject, SimpleNamespace(close=lambda: None, refill=None))


def broken(settings: ProbeSettings) -> Setup:
    raise ZeroDivisionError("oops")


def nothing(settings: ProbeSettings) -> Any:
    return None


@pytest.mark.parametrize(
    ("setup", "message"),
    [(broken, "ZeroDivisionError: oops"), (nothing, "it returned None, not a Setup")],
)
def test_a_probe_whose_set_up_fails_is_left_out_unless_it_is_the_last_or_the_settings_are_strict(
    setup: Any, message: str, caplog: pytest.LogCaptureFixture
) -> None:
    bad = Probe(name="bad", package="x", object="b", charts=(), setup=setup)
    good = Probe(name="good", package="x", object="a", charts=())

    def names(*probes: Probe, strict: bool = False) -> list[str]:
        found = Registry(probes={p.name: p for p in probes})
        settings = config.validate({"ebpfmon": {"strict": strict}, "groups": {"by": []}, "sinks": []}, "e.toml", found)
        return [probe.name for probe, _ in enabled_probes(settings, found)]

    assert names(bad, good) == ["good"]
    assert caplog.messages == [f"probe 'bad' is left out: cannot set up probe 'bad': {message}"]
    for probes, strict in [((bad,), False), ((good, bad), True), ((bad, bad), False)]:
        with pytest.raises(PluginError, match=message):
            names(*probes, strict=strict)
