"""The pages have every chart, counter, event and setting of the code, and their samples work."""

from __future__ import annotations

import json
import re
import runpy
from pathlib import Path
from typing import Any

import jsonschema
import msgspec
import pytest
import tomli

import ebpfmon
from ebpfmon import config
from ebpfmon.errors import SettingsError
from ebpfmon.pipeline.publish import SinkTask
from ebpfmon.pipeline.self_metrics import SelfMetrics
from ebpfmon.plugins import registry
from ebpfmon_network_viewer import charts as network_charts
from ebpfmon_process import charts as process_charts
from ebpfmon_process.events import EVENTS
from ebpfmon_sinks.log.settings import LogSettings
from tests.unit.samples import sample

ROOT = Path(__file__).parents[2]
REFERENCE = ROOT / "docs" / "reference"
SETTINGS = (REFERENCE / "settings.md").read_text()
CHARTS = (REFERENCE / "charts.md").read_text()
JSON = (REFERENCE / "json.md").read_text()
PROCESS = (ROOT / "plugins" / "ebpfmon_process" / "README.md").read_text()
NETWORK = (ROOT / "plugins" / "ebpfmon_network_viewer" / "README.md").read_text()
C = (ROOT / "plugins" / "ebpfmon_process" / "process.bpf.c").read_text()
HEADER = (ROOT / "plugins" / "ebpfmon_process" / "process.h").read_text()


PAGES = [(c, PROCESS) for c in process_charts.CHARTS] + [(c, NETWORK) for c in network_charts.CHARTS]


@pytest.mark.parametrize(("chart", "page"), PAGES, ids=lambda of: str(getattr(of, "id", "")))
def test_the_probes_page_has_every_chart_with_its_dimensions_and_counters(chart: ebpfmon.Chart, page: str) -> None:
    id_ = f"apps.{chart.id}" if chart.grouped else chart.id
    start = page.index(f"| `{id_}`{' *' if chart.return_only else ''} | {chart.units} |")
    entry = page[start : page.find("\n| `", start + 1)]
    for dimension in chart.dimensions:
        if dimension.id == ebpfmon.VALUE:
            pass  # The chart's title explains it.
        elif not chart.labels:
            assert f"{dimension.name} (`{dimension.id}`)" in entry
        else:
            assert f"_{dimension.id}`" in entry or f"`{dimension.id}`" in entry or "| the same |" in entry
        if not dimension.minus:
            assert all(f"`{field}`" in entry for field in dimension.plus)


def test_the_charts_show_every_counter() -> None:
    struct = HEADER.partition("struct process_counters {")[2].partition("};")[0]
    counters = set(re.findall(r"\w+(?=[,;])", struct))
    shown = {f for chart in process_charts.CHARTS for d in chart.dimensions for f in (*d.plus, *d.minus)}
    assert shown == counters


def test_the_probes_page_has_every_event_and_every_function() -> None:
    found = re.findall(r'^SEC\("\w+/(?:\w+/)?(\w+)"\)\nint (?:BPF_\w+\()?(\w+)', C, re.M)
    targets = {program: target for target, program in found}
    programs = [(e.name, targets[p]) for e in EVENTS for c in e.candidates for p in c.programs if not c.setting]
    assert len(programs) > 30
    page = PROCESS.replace("\\", "")
    for event, target in programs:
        assert f"`{event}`" in page
        assert target in page or target == event or re.fullmatch(r"__(x64|ia32|arm64)_sys_\w+", target)


def test_the_charts_page_explains_every_chart_of_ebpfmon_itself() -> None:
    for chart in SelfMetrics(["process"], [SinkTask(LogSettings())]).declared:
        (line,) = re.findall(rf"^\| `{chart.id}` \| {chart.units} \| .*", CHARTS, re.M)
        assert len(chart.dimensions) == 1 or all(f"`{d.id}`: " in line for d in chart.dimensions)


def test_the_sample_on_the_settings_page_has_every_key_with_its_default() -> None:
    raw = tomli.loads(sample(SETTINGS, "toml", "load_mode"))
    found = registry.discover()
    shown = config.validate(raw, "settings.md", found)
    assert msgspec.to_builtins(shown.ebpfmon) == msgspec.to_builtins(config.Core())
    assert set(raw["ebpfmon"]) == set(config.Core.__struct_fields__)
    assert shown.groups == config.GroupSettings()
    assert set(raw["groups"]) == set(config.GroupSettings.__struct_fields__)
    for name, probe in found.probes.items():
        assert shown.plugins[name] == probe.settings()
        assert set(raw["plugins"][name]) == set(probe.settings.__struct_fields__)
    (log,) = raw["sinks"]
    assert set(log) == {*LogSettings.__struct_fields__, "type"}
    assert config.validate({"sinks": [{**log, "name": ""}]}, "settings.md", found).sinks == (LogSettings(),)


SECTIONS: dict[str, type[msgspec.Struct]] = {
    "[ebpfmon]": config.Core,
    "[groups]": config.GroupSettings,
    "[plugins.NAME]": ebpfmon.ProbeSettings,
    **{f"[plugins.{name}]": probe.settings for name, probe in registry.discover().probes.items()},
    "[[sinks]]": ebpfmon.SinkSettings,
}


def keys(settings: type[msgspec.Struct]) -> list[tuple[str, str, str]]:
    """Return key, type with range, and default of all settings in a section, as the tables of settings show them."""
    definitions = msgspec.json.schema(settings)["$defs"]
    defaults = msgspec.to_builtins(settings())
    rows = []
    for key, schema in definitions[settings.__name__]["properties"].items():
        if key == "type":  # The tag of a union, which has no default.
            rows.append((f"`{key}`", "string", "required"))
            continue
        kind = type_of({**schema, **definitions.get(schema.get("$ref", "").rpartition("/")[2], {})})
        rows.append((f"`{key}`", kind, f"`{toml(defaults[key])}`"))
    return rows


def type_of(schema: dict[str, Any]) -> str:
    """Return the type of a setting with its range or values."""
    if values := schema.get("enum"):
        return ", ".join(f'`"{value}"`' for value in values)
    if "minimum" in schema:
        return f"integer, {schema['minimum']} to {schema['maximum']}"
    name: str = schema["type"]
    return {"array": "array of strings", "object": "table of strings"}.get(name, name)


def toml(value: object) -> str:
    """Return a value in TOML, on one line."""
    if isinstance(value, dict):
        return f"{{{', '.join(f'{name} = {toml(item)}' for name, item in value.items())}}}"
    return json.dumps(value)


@pytest.mark.parametrize("section", SECTIONS)
def test_the_tables_of_settings_have_every_key_with_type_range_and_default(section: str) -> None:
    page = re.split(rf"^#+ `{re.escape(section)}`$", SETTINGS, flags=re.M)[1].partition("\n#")[0]
    table = page[page.index("| key | type | default | meaning |") :].partition("\n\n")[0]
    rows = [tuple(cell.strip() for cell in line.split("|")[1:4]) for line in table.splitlines()[2:]]
    assert rows == keys(SECTIONS[section])


def test_the_network_viewers_page_has_every_setting_with_its_default() -> None:
    raw, found = tomli.loads(sample(NETWORK, "toml", "maximum_dimensions")), registry.discover()
    settings = config.validate(raw, "README.md", found).plugins["network_viewer"]
    assert settings == found.probes["network_viewer"].settings()
    assert set(raw["plugins"]["network_viewer"]) == set(settings.__struct_fields__)


def test_the_error_on_the_network_viewers_page_is_the_message() -> None:
    message = sample(NETWORK, "", "0-70000").strip().removeprefix("ebpfmon: ")
    raw = {"plugins": {"network_viewer": {"ports": "0-70000"}}}
    with pytest.raises(SettingsError) as caught:
        config.validate(raw, "/etc/ebpfmon/ebpfmon.toml", registry.discover())
    assert str(caught.value) == message


def test_the_errors_on_the_settings_page_are_the_messages() -> None:
    wrong: list[dict[str, Any]] = [
        {"ebpfmon": {"intervall": 5}},
        {"ebpfmon": {"interval": "5"}},
        {"ebpfmon": {"load_mode": "all"}},
        {"ebpfmon": {"interval": 2}, "sinks": [{"type": "log", "interval": 3}]},
    ]
    messages = sample(SETTINGS, "", "no such setting").splitlines()
    for raw, line in zip(wrong, messages, strict=True):
        with pytest.raises(SettingsError) as caught:
            config.validate(raw, "/etc/ebpfmon/ebpfmon.toml", registry.discover())
        assert line == f"ebpfmon: {caught.value}"


def test_the_snapshot_on_the_json_page_follows_the_schema() -> None:
    jsonschema.validate(json.loads(sample(JSON, "json", "ebpf.io")), ebpfmon.snapshot_schema())


def test_the_tables_on_the_json_page_have_every_key() -> None:
    tables = dict(re.findall(r"^## (\w+)\n\n\| key \| value \|\n(?:\|-+)+\|\n((?:\|.*\n)+)", JSON, re.M))
    assert tables.keys() == {"Snapshot", "Chart", "Series", "Dimension"}
    definitions = ebpfmon.snapshot_schema()["$defs"]
    for name, table in tables.items():
        keys = {key for cell in re.findall(r"^\|(.*?)\|", table, re.M) for key in re.findall(r"`(\w+)`", cell)}
        assert keys == set(definitions[f"{name}Json"]["properties"])


def test_the_generated_parts_of_the_reference_are_up_to_date() -> None:
    written = runpy.run_path(str(ROOT / "tools" / "reference"))["pages"]()
    assert {page.name for page in written} == {"charts.md", "cli.md", "metrics.md"}
    for page, text in written.items():
        assert page.read_text() == text, f"{page.name} is out of date: run `make reference`"
