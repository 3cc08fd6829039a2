"""The pages of the probes that are off by default match the code."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import tomli

from ebpfmon import VALUE, Chart, Probe, config
from ebpfmon.plugins import registry

FOLDER = Path(__file__).parents[2] / "plugins"
PLUGINS = registry.discover()
PROBES = [PLUGINS.probes[name] for name in ("block_io", "oom_and_signals", "syscalls")]
CHARTS = [(probe, chart) for probe in PROBES for chart in probe.charts]


def page(probe: Probe) -> str:
    return (FOLDER / f"ebpfmon_{probe.name}" / "README.md").read_text()


def source(probe: Probe) -> str:
    return (FOLDER / f"ebpfmon_{probe.name}" / f"{probe.name}.bpf.c").read_text()


@pytest.mark.parametrize(("probe", "chart"), CHARTS, ids=lambda of: str(getattr(of, "id", getattr(of, "name", ""))))
def test_the_page_lists_every_chart_with_its_units_dimensions_and_counters(probe: Probe, chart: Chart) -> None:
    text = page(probe)
    name = f"apps.{chart.id}" if chart.grouped else chart.id
    start = next(m.start() for m in re.finditer(r"^\| `.*$", text, re.M) if f"`{name}`" in m[0].split("|")[1])
    entry = text[start : text.find("\n| `", start + 1)]
    assert entry.split("|")[2].strip() == chart.units
    if chart.buckets:
        assert f"`{chart.buckets.field}`" in entry
        assert f"`{chart.buckets.sum}`" in entry
        return
    for dimension in chart.dimensions:
        if dimension.id != VALUE:
            assert f"{dimension.name} (`{dimension.id}`)" in entry
        for field in dimension.plus:
            named = f"`{field}`" in entry or re.fullmatch(r"died_by_\d+", field)
            assert named or (dimension.minus and "and so on" in entry), field


@pytest.mark.parametrize("probe", PROBES, ids=lambda p: p.name)
def test_the_page_lists_all_settings_with_their_defaults(probe: Probe) -> None:
    sample = tomli.loads(page(probe).partition("```toml\n")[2].partition("```")[0])
    settings = config.validate(sample, "README.md", PLUGINS).plugins[probe.name]
    assert settings == probe.settings()
    assert set(sample["plugins"][probe.name]) == set(probe.settings.__struct_fields__)
    assert not settings.enabled


@pytest.mark.parametrize("probe", PROBES, ids=lambda p: p.name)
def test_the_page_lists_every_event_and_tracepoint(probe: Probe) -> None:
    targets = {p: t for t, p in re.findall(r'^SEC\("tp_btf/(\w+)"\)\nint BPF_PROG\((\w+)', source(probe), re.M)}
    programs = [(e.name, p) for e in probe.events for c in e.candidates for p in c.programs if p in targets]
    assert len(programs) >= 2
    for event, program in programs:
        assert re.search(rf"^\| `{event}` \| `{targets[program]}`", page(probe), re.M)


@pytest.mark.parametrize("probe", PROBES, ids=lambda p: p.name)
def test_the_charts_show_every_counter(probe: Probe) -> None:
    code = source(probe)
    if probe.name == "block_io":
        each = re.findall(r"op##(_\w+)", code)
        counters = {f"{op}{name}" for op in ("read", "write", "flush", "discard") for name in each} | {"unfollowed"}
    else:
        structs = re.findall(r"^struct \w+_counters \{(.*?)^\};", code, re.M | re.S)
        counters = {name for struct in structs for name in re.findall(r"__u64 (\w+)", struct)}
    shown = {
        re.sub(r"_\d+$", "", field)
        for chart in probe.charts for d in chart.columns for field in (*d.plus, *d.minus)
    }  # fmt: skip
    assert shown | {"flush_bytes"} == counters | {"flush_bytes"}  # flush_bytes is always 0 and has no dimension
