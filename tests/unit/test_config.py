"""Settings are valid, or an error of one line names the file, the key and what was expected."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

import pytest
import tomli
from hypothesis import example, given
from hypothesis import strategies as st

from ebpfmon import LoadMode, SettingsError, SinkSettings, config
from ebpfmon.config import CommandLine, Settings, read, validate
from ebpfmon.config.writing import to_toml
from ebpfmon.grouping.registry import groupings
from ebpfmon.kernel import attach_methods
from ebpfmon.model import Loader
from ebpfmon.plugins.registry import Plugin, Registry, State, discover
from ebpfmon_sinks.log.settings import LogSettings

FOUND = discover()
ATTACH = ", ".join(sorted(["auto", *attach_methods.NAMES]))
GROUPINGS = ", ".join(groupings())
SINKS = ", ".join(sorted(FOUND.sinks))
SCALARS = (
    st.booleans() | st.integers() | st.floats() | st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
    | st.datetimes() | st.dates() | st.times() | st.sampled_from(["log", "text", "entry", "auto", "stdout"])
)  # fmt: skip
KEYS = st.text(st.characters(exclude_categories=["Cs"]), max_size=6) | st.sampled_from(
    ["ebpfmon", "interval", "load_mode", "attach", "plugins", "process", "enabled", "table_size", "type", "name",
     "sinks", "format", "path", "processes", "groups", "apps", "by", "maximum", "file"]
)  # fmt: skip
TOML = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3), max_leaves=6
)


def section(*keys: str) -> st.SearchStrategy[Any]:
    """Generate a table with some of these keys and any values, or any other value."""
    return TOML | st.fixed_dictionaries({}, optional=dict.fromkeys(keys, TOML))


TREES = st.fixed_dictionaries(
    {},
    optional={
        "ebpfmon": section("interval", "load_mode", "attach", "loader", "x"),
        "groups": section("by", "file", "maximum"),
        "apps": section("enabled", "by", "groups", "maximum"),
        "plugins": section("process", "x") | st.fixed_dictionaries({"process": section("enabled", "table_size")}),
        "sinks": TOML | st.lists(section("type", "name", "format", "path", "processes"), max_size=3),
    },
) | st.dictionaries(KEYS, TOML, max_size=3)  # fmt: skip


def error_of(text: str, tmp_path: Path) -> str:
    """Return the error message for a file with this text, without the file's name."""
    path = tmp_path / "e.toml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(SettingsError) as caught:
        read(path, FOUND)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert message.isprintable(), "it is not one line"
    return message.removeprefix(f"{path}: ")


@given(TREES)
@example({"sinks": [{"type": ["log"]}]})
@example({"sinks": [{"type": "a\nb"}]})
@example({"ebpfmon": {"a\nb": 1}})
@example({"ebpfmon": {"": 1}})
@example({"groups": {"by": ["a\nb"]}})
@example({"groups": {"file": "a\0b"}})
@example({"ebpfmon": {"interval": 10**400}})
@example({"ebpfmon": {"interval": datetime.date(2020, 1, 1)}})
def test_any_values_are_settings_or_an_error_of_one_line(tree: dict[str, Any]) -> None:
    try:
        found: object = validate(tree, "e.toml", FOUND)
    except SettingsError as error:
        message = str(error)
        assert message.startswith("e.toml: ")
        assert len(message.splitlines()) == 1
    else:
        assert isinstance(found, Settings)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[ebpfmon]\nintervall = 1", "ebpfmon.intervall: no such setting: did you mean 'interval'?"),
        (
            "[ebpfmon]\nxyz = 1",
            "ebpfmon.xyz: no such setting: expected one of attach, disabled_plugins, "
            "interval, load_mode, loader, plugins_dir, strict, user",
        ),
        ("[ebpfmn]", "ebpfmn: no such setting: did you mean 'ebpfmon'?"),
        ("[plugins.proces]", "plugins.proces: no such setting: did you mean 'process'?"),
        ("[plugins.process]\nenable = true", "plugins.process.enable: no such setting: did you mean 'enabled'?"),
        ('[[sinks]]\ntype = "log"\npaht = "x"', "sinks[0].paht: no such setting: did you mean 'path'?"),
        ('[ebpfmon]\ninterval = "1"', "ebpfmon.interval: expected an integer from 1 to 3600, got a string"),
        ("[ebpfmon]\ninterval = true", "ebpfmon.interval: expected an integer from 1 to 3600, got a boolean"),
        ("[ebpfmon]\ninterval = 0", "ebpfmon.interval: 0: expected an integer from 1 to 3600"),
        ("[ebpfmon]\ninterval = 3601", "ebpfmon.interval: 3601: expected an integer from 1 to 3600"),
        ('[ebpfmon]\nload_mode = "all"', "ebpfmon.load_mode: 'all': expected one of entry, return"),
        ('[ebpfmon]\nattach = "x"', f"ebpfmon.attach: 'x': expected one of {ATTACH}"),
        ('[ebpfmon]\nloader = "x"', "ebpfmon.loader: 'x': expected one of auto, bcc, core"),
        ("[plugins.process]\ntable_size = 0", "plugins.process.table_size: 0: expected an integer from 1 to 1048576"),
        ("[[sinks]]", f"sinks[0].type: missing: expected one of {SINKS}"),
        ('[[sinks]]\ntype = "lgo"', f"sinks[0].type: 'lgo': expected one of {SINKS}"),
        ('[[sinks]]\ntype = "log"\nformat = "xml"', "sinks[0].format: 'xml': expected one of json, text"),
        ('[[sinks]]\ntype = "log"\n[[sinks]]\ntype = "log"', "sinks[1].name: another sink is already called 'log'"),
        (
            '[[sinks]]\ntype = "log"\nname = "a"\n[[sinks]]\ntype = "log"\nname = "a"',
            "sinks[1].name: another sink is already called 'a'",
        ),
        ('[[sinks]]\ntype = "log"\nname = "a\\nb"', r"sinks[0].name: 'a\nb': expected printable characters"),
        ('[[sinks]]\ntype = "log"\nname = "a\\u009bb"', r"sinks[0].name: 'a\x9bb': expected printable characters"),
        ('[[sinks]]\ntype = "log"\nname = "a\\u202Eb"', r"sinks[0].name: 'a\u202eb': expected printable characters"),
        ('[groups]\nby = ["user", "x"]', f"groups.by: 'x': expected any of {GROUPINGS}"),
        ('[groups]\nby = ["user", "user"]', "groups.by: 'user' is listed twice; remove one"),
        ('[groups]\nby = "user"', "groups.by: expected an array, got a string"),
        ("[groups]\nmaximum = 1001", "groups.maximum: 1001: expected an integer from 1 to 1000"),
        ("[groups]\nmaxmum = 1", "groups.maxmum: no such setting: did you mean 'maximum'?"),
        ("[apps]\nmaximum = 0", "apps.maximum: 0: expected an integer "),
        ('[apps]\nby = "container"', "apps.by: 'container': expected one of app, cgroup, process, user"),
        ("[apps]\n[groups]", "apps: [groups] has replaced [apps]; remove [apps]"),
        ("plugins = 5", "plugins: expected a table, got an integer"),
        ("[plugins]\nprocess = 5", "plugins.process: expected a table, got an integer"),
        ("[sinks]", "sinks: expected an array of tables; write [[sinks]]"),
        ("sinks = [5]", "sinks[0]: expected a table, got an integer"),
        ("[ebpfmon", "not valid TOML: "),
        ("x = " + "9" * 5000, "not valid TOML: "),
        ("x = " + "[" * 5000, "not valid TOML: "),
        ("x = 1\nx = 2\n", "not valid TOML: a key appears twice (at line 2"),
        ("[groups]\n[groups]", "not valid TOML: the section [groups] appears twice (at line 2"),
        ('[[sinks]]\ntype = "log"\npath = ""', "sinks[0].path: expected a string that is not empty"),
        ('[[sinks]]\ntype = "http_json"\nport = 70000', "sinks[0].port: 70000: expected an integer from 0 to 65535"),
        ('[[sinks]]\ntype = "log"\ncharts = ["x", 1]', "sinks[0].charts[1]: expected a string, got an integer"),
    ],
    ids=lambda value: repr(value[:40]),
)
def test_an_error_names_the_key_path_and_what_was_expected(text: str, message: str, tmp_path: Path) -> None:
    assert error_of(text, tmp_path).startswith(message)


def test_a_given_file_must_exist_and_be_readable_text(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"absent\.toml: no such file"):
        read(tmp_path / "absent.toml", FOUND)
    with pytest.raises(SettingsError, match="cannot be read"):
        read(tmp_path, FOUND)
    (tmp_path / "latin.toml").write_bytes(b"# \xe9")
    with pytest.raises(SettingsError, match=r"latin\.toml: cannot be read"):
        read(tmp_path / "latin.toml", FOUND)


def test_without_a_file_the_defaults_are_used(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("ebpfmon.config.reading.DEFAULT_PATH", tmp_path / "absent.toml")
    settings = read(None, FOUND)
    assert settings.ebpfmon == config.Core(interval=1, load_mode=LoadMode.ENTRY, attach="auto", loader="auto")
    assert (settings.ebpfmon.attach_method, settings.ebpfmon.forced_loader) == (None, None)
    assert settings.plugins["process"].enabled
    assert settings.sinks == (LogSettings(),)


def test_a_file_sets_the_settings() -> None:
    text = """
        ebpfmon = {interval = 5, load_mode = "return", attach = "kprobe", loader = "bcc"}
        plugins.process = {enabled = false, table_size = 64}
        sinks = [{type = "log", name = "a", format = "json", path = "/x"}, {type = "log"}]
    """
    settings = validate(tomli.loads(text), "e.toml", FOUND)
    assert settings.ebpfmon == config.Core(interval=5, load_mode=LoadMode.RETURN, attach="kprobe", loader="bcc")
    assert (settings.ebpfmon.attach_method, settings.ebpfmon.forced_loader) == ("kprobe", Loader.BCC)
    assert (settings.plugins["process"].enabled, settings.plugins["process"].table_size) == (False, 64)
    assert settings.sinks == (LogSettings(name="a", format="json", path="/x"), LogSettings())


def test_the_command_line_overrides_the_file_and_is_named_in_its_errors() -> None:
    raw = {"ebpfmon": {"interval": 5, "attach": "kprobe"}}
    assert validate(raw, "e.toml", FOUND, CommandLine({"interval": 2})).ebpfmon == config.Core(
        interval=2, attach="kprobe"
    )
    with pytest.raises(SettingsError, match=r"^command line: ebpfmon\.interval: 0: expected an integer from 1 to 3600"):
        validate(raw, "e.toml", FOUND, CommandLine({"interval": 0}))
    with pytest.raises(SettingsError, match=r"^e\.toml: ebpfmon\.interval"):  # although the command line overrides it
        validate({"ebpfmon": {"interval": "x"}}, "e.toml", FOUND, CommandLine({"interval": 2}))


def test_with_json_no_other_sink_writes_to_stdout() -> None:
    def paths(raw: dict[str, Any]) -> list[tuple[str, str, str]]:
        sinks = validate(raw, "e.toml", FOUND, CommandLine(json=True)).sinks
        return [(s.name, s.format, s.path) for s in sinks if isinstance(s, LogSettings)]

    assert paths({}) == [("json", "json", "stdout")]
    assert paths({"sinks": [{"type": "log"}, {"type": "log", "name": "f", "path": "/f"}]}) == [
        ("", "text", "stderr"), ("f", "text", "/f"), ("json", "json", "stdout"),
    ]  # fmt: skip


TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=9)


@given(st.integers(1, 3600), st.sampled_from(LoadMode), TEXT.filter(str.isprintable), TEXT, st.booleans())
@example(1, LoadMode.ENTRY, "x", "a\x7fb", True)
def test_settings_that_are_written_read_back_as_the_same_settings(
    interval: int, mode: LoadMode, name: str, path: str, enabled: bool
) -> None:
    raw = {
        "ebpfmon": {"interval": interval, "load_mode": mode},
        "plugins": {"process": {"enabled": enabled}},
        "sinks": [{"type": "log", "name": name, "path": path}],
    }
    settings = validate(raw, "e.toml", FOUND)
    assert validate(tomli.loads(to_toml(settings)), "shown", FOUND) == settings


def test_sections_of_a_plugin_that_is_not_in_use_are_ignored_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    off = Plugin(name="off", state=State.DISABLED)
    found = Registry(FOUND.probes, FOUND.sinks, [off])
    raw = {"plugins": {"off": {"x": 1}}, "sinks": [{"type": "off"}, {"type": "log"}]}
    assert [s.name for s in validate(raw, "e.toml", found).sinks] == [""]
    expected = [f"ignoring {what}: plugin 'off' is disabled" for what in ("plugins.off", 'sinks[0] "off"')]
    assert caplog.messages == expected
    with pytest.raises(SettingsError, match=r"plugins\.of: no such setting"):
        validate({"plugins": {"of": {}}}, "e.toml", found)
    with pytest.raises(SettingsError, match=r"sinks\[1\]\.charts: "):  # the position in the file
        validate({"sinks": [{"type": "off"}, {"type": "log", "charts": [" "]}]}, "e.toml", found)
    assert [s.name for s in validate({"sinks": [{"type": "off"}]}, "e.toml", found, CommandLine(json=True)).sinks] == [
        "json"
    ]
    with pytest.raises(SettingsError, match="none of the sinks can be used; the warnings above say why"):
        validate({"sinks": [{"type": "off"}]}, "e.toml", found)


def test_unknown_sections_are_ignored_if_a_plugin_that_may_know_them_is_left_out(
    caplog: pytest.LogCaptureFixture,
) -> None:
    found = Registry(FOUND.probes, FOUND.sinks, [Plugin(name="bad", state=State.LEFT_OUT, error="why")])
    validate({"plugins": {"naps": {}}, "sinks": [{"type": "naps"}, {"type": "log"}]}, "e.toml", found)
    reason = "no plugin in use knows it; it may belong to 'bad', which cannot be used"
    assert caplog.messages == [f"ignoring plugins.naps: {reason}", f'ignoring sinks[0] "naps": {reason}']


def test_plugins_dir_must_be_an_absolute_path(tmp_path: Path) -> None:
    expected = "ebpfmon.plugins_dir: 'plugins': expected an absolute path"
    assert error_of('[ebpfmon]\nplugins_dir = "plugins"', tmp_path) == expected


class OddSettings(SinkSettings, tag="odd", frozen=True):
    """Settings whose own check raises an unexpected error."""

    def __post_init__(self) -> None:
        raise KeyError("oops")


def test_an_unexpected_error_in_a_plugins_check_is_an_error_of_one_line() -> None:
    with pytest.raises(SettingsError) as caught:
        validate({"sinks": [{"type": "odd"}]}, "e.toml", Registry(sinks={"odd": OddSettings}))
    assert str(caught.value) == "e.toml: sinks[0]: KeyError: 'oops'"


@pytest.mark.parametrize("name", ["application", "process", "user", "container"])
def test_any_groupings_may_be_set_and_an_empty_list_turns_groups_off(name: str) -> None:
    assert validate({"groups": {"by": [name]}}, "e.toml", FOUND).groups == config.GroupSettings(by=(name,))
    assert validate({"groups": {"by": ["container", "process"]}}, "e.toml", FOUND).groups.by == ("container", "process")
    assert validate({"groups": {"by": []}}, "e.toml", FOUND).groups.by == ()


def test_the_groups_file_is_relative_to_the_settings_and_must_exist(tmp_path: Path) -> None:
    assert error_of('[groups]\nfile = "my.conf"', tmp_path) == f"groups.file: {tmp_path}/my.conf: no such file"
    assert error_of('[groups]\nfile = "/dev/null"', tmp_path) == "groups.file: /dev/null: not a regular file"
    assert error_of('[apps]\ngroups = "my.conf"', tmp_path) == f"apps.groups: {tmp_path}/my.conf: no such file"
    (tmp_path / "my.conf").write_text("web: nginx\n")
    for raw in ({"groups": {"file": "my.conf"}}, {"apps": {"groups": "my.conf"}}):
        assert validate(raw, f"{tmp_path}/e.toml", FOUND).groups.file == f"{tmp_path}/my.conf"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ({}, {}),
        ({"enabled": True, "maximum": 200}, {}),
        ({"enabled": False, "by": "user"}, {"by": []}),
        ({"by": "app"}, {"by": ["application"]}),
        ({"by": "process", "maximum": 7}, {"by": ["process"], "maximum": 7}),
        ({"by": "user"}, {"by": ["user"]}),
        ({"by": "cgroup"}, {"by": ["container"]}),
    ],
    ids=repr,
)
def test_the_old_section_is_read_as_the_new_one_and_the_hint_shows_the_new_one(
    old: dict[str, Any], new: dict[str, Any]
) -> None:
    meant = validate({"groups": new}, "e.toml", FOUND)
    assert validate({"apps": old}, "e.toml", FOUND) == meant
    hints = config.Document({"apps": old}, "e.toml").upgrade_hints
    written = "\n".join(line for line in hints[1:] if not line.startswith("Charts by"))
    assert validate(tomli.loads(written), "e.toml", FOUND) == meant
    assert config.Document({"groups": new}, "e.toml").upgrade_hints == ()
