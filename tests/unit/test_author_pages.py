"""The pages for authors of plugins have all of the API and nothing else, and their samples work.

`tests/kernel/test_plugins_samples.py` runs the samples that need the kernel."""

from __future__ import annotations

import dataclasses
import enum
import re
import subprocess
import sys
from functools import cached_property
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
import tomli

import ebpfmon
from ebpfmon import config, testing
from ebpfmon.cli import main as cli
from ebpfmon.daemon import run as daemon
from ebpfmon.errors import PluginError, SettingsError
from ebpfmon.model import KINDS
from ebpfmon.pipeline import publish
from ebpfmon.plugins import folder, registry
from ebpfmon.plugins.registry import PluginOptions, discover
from ebpfmon.plugins.validate import HOOKS, violation
from ebpfmon.testing import fixtures
from tests.unit.samples import API, FILES, HEADERS, PROBES, ROOT, SINKS, sample, write
from tests.unit.support import FakeEntryPoint, plugin

SOURCES = [ROOT / "bpf" / name for name in ("ebpfmon.bpf.h", "loaders.bpf.h", "kernel_types.h", "syscalls.bpf.h")]
PAGES = (PROBES, SINKS, API, HEADERS)
SETTINGS = (ROOT / "docs" / "reference" / "settings.md").read_text()


def tables(page: str) -> dict[str, set[str]]:
    """Return the entries in the first column of the tables of a page, by the heading of that column."""
    found: dict[str, set[str]] = {}
    for block in re.findall(r"(?:^\|.*\n)+", page, re.M):
        head, _, *rows = block.splitlines()
        names = found.setdefault(head.split("|")[1].strip().strip("`"), set())
        for row in rows:
            names |= {name.partition("(")[0] for name in re.findall(r"`([^`]+)`", row.split("|")[1])}
    return found


def members(name: str) -> set[str]:
    """Return the names that users of a public class need."""
    public: Any = getattr(ebpfmon, name)
    computed = (property, cached_property)
    own = {n for n, v in vars(public).items() if not n.startswith("_") and (callable(v) or isinstance(v, computed))}
    if issubclass(public, enum.Enum):
        return set(public.__members__)
    if issubclass(public, ebpfmon.SinkSettings):
        return {*public.__struct_fields__, *own, "tag", "send_timeout_s", "requires", "files"}
    if issubclass(public, msgspec.Struct):
        return {*public.__struct_fields__, *own}
    if public is ebpfmon.LabelSource:
        return {*public.__annotations__, *own}
    if public is ebpfmon.Kind:
        return {f.name for f in dataclasses.fields(public)} | {name.upper() for name in KINDS}
    if dataclasses.is_dataclass(public):
        fields = {f.name for f in dataclasses.fields(public)}
        return fields | {n for n in own if isinstance(vars(public)[n], computed)}
    return own | ({"__aenter__", "__aexit__"} if name == "Sink" else set())


DESCRIBED = sorted(set(tables(API)) & set(ebpfmon.__all__))


def test_every_public_name_is_on_the_api_page() -> None:
    words = {word for code in re.findall(r"`([^`\n]+)`", API) for word in re.findall(r"\w+", code)}
    assert set(ebpfmon.__all__) <= words
    assert {
        "Probe",
        "Chart",
        "Dimension",
        "Setup",
        "LabelSource",
        "Kind",
        "SinkSettings",
        "Sink",
        "Snapshot",
        "ChartData",
        "Series",
    } <= {*DESCRIBED}


@pytest.mark.parametrize("name", DESCRIBED)
def test_each_table_has_every_field_of_its_class_and_no_other(name: str) -> None:
    assert tables(API)[name] == members(name)


def test_the_api_page_has_every_hook() -> None:
    assert tables(API)["hook"] == set(HOOKS)
    assert set(re.findall(r"\bebpfmon_register_\w+", "".join(PAGES))) == set(HOOKS)


def test_every_macro_of_the_headers_is_on_the_page_with_its_parameters() -> None:
    # Macros that are defined only for BCC replace those of libbpf, or are private.
    text = "\n".join(path.read_text() for path in SOURCES)
    text = re.sub(
        r"^#if defined\(__TARGET_ARCH_x86\)\n#define PT_REGS_.*?(?=^#include <bpf/)", "", text, flags=re.M | re.S
    )
    functions = re.findall(r"^static __always_inline .*?(\w+)\(", text, re.M)
    defined = set(re.findall(r"^#define (\w+)", text, re.M)) - {"__VMLINUX_H__"}
    defined -= {name for name in defined if name.startswith("EBPFMON_") or name.endswith("_")}
    code = " ".join(re.findall(r"`([^`\n]+)`", HEADERS))
    assert defined - set(re.findall(r"\w+", code)) == set()
    assert {name for name in tables(HEADERS)["word"] if name.isupper()} - defined == set()
    assert {"count", "count_slot", "log2_slot", "this_task", "identify"} <= tables(HEADERS)["word"] & {*functions}
    for name, parameters in re.findall(r"`([A-Z][A-Z_0-9]+)\(([a-z_, ]+)\)`", HEADERS):
        counts = {len(found.split(",")) for found in re.findall(rf"^#define {name}\(([^)]*)\)", text, re.M)}
        assert counts == {len(parameters.split(","))}, name


def test_every_rodata_setting_of_the_headers_is_on_the_page() -> None:
    text = "\n".join(path.read_text() for path in SOURCES)
    assert tables(HEADERS)["setting"] == set(re.findall(r"^const volatile __u32 (\w+)", text, re.M))


def test_every_include_template_is_on_the_page_with_what_it_makes() -> None:
    templates = {path.name for path in (ROOT / "bpf").glob("*table*.bpf.h")}
    assert tables(HEADERS)["template"] == templates
    text = "".join((ROOT / "bpf" / name).read_text() for name in templates)
    made = set(re.findall(r"\bNAME_(\w+)\(", HEADERS))
    assert made == {"find", "find_cached", "find_for", "without_row"}
    assert all(f"TABLE_NAME({name})(" in text for name in made)


def test_the_api_page_has_every_name_of_the_testing_module() -> None:
    described = tables(API)["name"]
    assert described == set(testing.__all__)
    made = {n for n, v in vars(fixtures).items() if "Fixture" in type(v).__name__}
    assert made == {"counting", "fake_clock"}
    assert all(f"fixture `{name}`" in API for name in made)


def test_the_complete_samples_are_short() -> None:
    def lines(*names: str) -> int:
        return sum(bool(line.strip()) for name in names for line in FILES[name].splitlines())

    assert lines("hello.bpf.c", "hello.py") <= 32
    assert lines("sqlite_sink.py") <= 25


def test_every_command_on_the_pages_exists(capsys: pytest.CaptureFixture[str]) -> None:
    for command in (["plugin", "new", "--help"], ["bpf", "build", "--help"], ["plugins", "--help"]):
        assert cli.main(command) == 0
        assert f"usage: ebpfmon {' '.join(command[:-1])}" in capsys.readouterr().out
    assert set(re.findall(r"ebpfmon (plugins?|bpf|install|run)\b(?! is)", "".join(PAGES))) == {
        "plugin", "plugins", "bpf", "install", "run",
    }  # fmt: skip


def test_the_numbers_on_the_pages_are_those_in_the_code() -> None:
    sinks = " ".join(API.split())
    assert f"a queue of {publish.MAILBOX_SNAPSHOTS} snapshots" in sinks
    assert f"after {publish.FIRST_DELAY_S} seconds at first and {publish.LAST_DELAY_S:g} at most" in sinks
    assert f"has {daemon.STOP_S} seconds to deliver what it still has" in sinks
    assert f"has failed: {ebpfmon.SinkSettings.send_timeout_s:g} seconds" in sinks
    assert all("EBPFMON_API_VERSION = 2" in page for page in (PROBES, SINKS, API))
    assert ebpfmon.API_VERSION == 2


def test_the_errors_on_the_page_of_probes_are_the_messages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    messages = sample(PROBES, "", "left out").splitlines()
    old = discover([FakeEntryPoint("old", plugin(version=99))]).left_out[0]
    assert messages[0] == f"ebpfmon: plugin 'old' is left out: {old.error}"
    shown = testing.chart(ebpfmon.Dimension("d", "d", ("execs",)), id="hello.started")
    probe = ebpfmon.Probe(name="hello", package="x", object="x", charts=(shown,))
    wrong = violation(probe, {"hello": ("exec_calls",)}, {}, {"hello"})
    assert messages[1] == f"ebpfmon: probe 'hello' is left out: {wrong}"
    place = "/etc/ebpfmon/plugins"
    monkeypatch.setattr("os.listdir", lambda _: [])
    monkeypatch.setattr(folder, "require_trusted", lambda path: folder._check(path, stat_of(0o777)))
    with pytest.raises(PluginError) as caught:
        discover([], PluginOptions(place))
    assert sample(PROBES, "", "mode 0777") == f"ebpfmon: {caught.value}\n"


def stat_of(mode: int) -> Any:
    return SimpleNamespace(st_mode=mode, st_uid=0)


def test_the_settings_of_the_samples_are_validated(tmp_path: Path) -> None:
    found = discover(options=PluginOptions(str(write(tmp_path / "plugins", "users.py", "hello.py", "sqlite_sink.py"))))
    assert not found.left_out
    raw = tomli.loads(sample(PROBES, "toml", "[plugins.users]"))
    assert set(raw["plugins"]["users"]) == set(found.probes["users"].settings.__struct_fields__) - {"table_size"}
    assert config.validate(raw, "x", found).plugins["users"].minimum_uid == 1000  # type: ignore[attr-defined]  # its own
    raw["plugins"]["users"]["maximum"] = 1001
    with pytest.raises(SettingsError) as caught:
        config.validate(raw, "/etc/ebpfmon/ebpfmon.toml", found)
    assert sample(PROBES, "", "plugins.users.maximum") == f"ebpfmon: {caught.value}\n"
    (sink,) = config.validate(tomli.loads(sample(SINKS, "toml", '"sqlite"')), "x", found).sinks
    assert (sink.name, sink.interval, sink.charts) == ("archive", 10, ("ebpf.*", "!ebpf.exit"))


def test_the_settings_page_has_every_built_in_sink() -> None:
    assert tables(SETTINGS)["type"] == set(registry.discover().sinks)


def test_the_api_page_has_every_entry_point_group() -> None:
    groups = set(re.findall(r'^\[project\.entry-points\."?([\w.]+)"?\]', API, re.M))
    project = tomli.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert groups == set(project["entry-points"])
    (installer,) = tomli.loads(sample(API, "toml", "ebpfmon.install"))["project"]["entry-points"].values()
    assert installer == project["entry-points"]["ebpfmon.install"]


def test_the_test_of_the_sample_sink_passes(tmp_path: Path) -> None:
    place = write(tmp_path / "plugins", "sqlite_sink.py", "test_sqlite_sink.py")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", place], cwd=place,
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    assert "2 passed" in done.stdout


def test_the_errors_on_the_page_of_sinks_are_the_messages(tmp_path: Path) -> None:
    with_sqlite = discover(options=PluginOptions(str(write(tmp_path / "plugins", "sqlite_sink.py"))))
    lines = sample(SINKS, "", "no such setting").splitlines()
    for line, section, found in zip(
        lines,
        ({"type": "sqlite", "path": "x", "pat": 1}, {"type": "sqlite", "path": 1}, {"type": "sqlite"}),
        (with_sqlite, with_sqlite, discover()),
        strict=True,
    ):
        with pytest.raises(SettingsError) as caught:
            config.validate({"sinks": [section]}, "/etc/ebpfmon/ebpfmon.toml", found)
        assert line == f"ebpfmon: {caught.value}"


def test_every_link_on_the_pages_has_a_target() -> None:
    folders = ("plugins", "ebpfmon_sinks", "docs/reference", "docs/reference")
    for page, folder_ in zip(PAGES, folders, strict=True):
        links = re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page)
        assert links
        assert [link for link in links if not (ROOT / folder_ / link).exists()] == []
