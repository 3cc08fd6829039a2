"""`config check` finds what `run` would find: missing users, modules and files, and settings without effect."""

from __future__ import annotations

import importlib
import logging
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import pytest

from ebpfmon import ProbeSettings, SinkSettings, config
from ebpfmon.cli import main as cli
from ebpfmon.errors import PluginError, SettingsError
from ebpfmon.grouping.registry import groupings
from ebpfmon.plugins import registry, requirements
from ebpfmon.plugins.registry import Plugin, Registry, State
from ebpfmon.plugins.validate import call_hooks
from tests.unit.support import FakeEntryPoint, plugin

FOUND = registry.discover()
LOG = '[[sinks]]\ntype = "log"\n'
HTTP = '[[sinks]]\ntype = "http_json"\n'
PUSH = '[[sinks]]\ntype = "http_push"\nurl = "https://h/"\n'


class Carrier(SinkSettings, tag="carrier", frozen=True):
    """Settings of a sink that needs modules of its own."""

    requires: ClassVar[tuple[str, ...]] = ("carrier_pigeons",)

    def open(self) -> None:  # type: ignore[override]  # it is never opened
        raise AssertionError


@pytest.fixture
def pigeons(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Yield the path of the module that `Carrier` needs, which does not exist yet."""
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path / "carrier_pigeons.py"
    sys.modules.pop("carrier_pigeons", None)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "e.toml"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[ebpfmon]\nuser = "nemo"', "ebpfmon.user: 'nemo': there is no such user"),
        ('[ebpfmon]\nuser = "a\\nb"', r"ebpfmon.user: 'a\nb': there is no such user"),
        (HTTP + 'token_file = "/no/t"', "sink 'http_json': token_file: '/no/t': No such file or directory"),
        (
            HTTP + 'tls_certificate = "/etc/passwd"\ntls_key = "/etc/passwd/k"',
            "sink 'http_json': tls_key: '/etc/passwd/k': Not a directory",
        ),
        (PUSH + 'ca_file = "/no/c"\nname = "p"', "sink 'p': ca_file: '/no/c': No such file or directory"),
        (
            HTTP + 'token_file = "{path}.two"',
            "sink 'http_json': cannot read the token in '{path}.two': "
            "expected one line of printable ASCII without spaces",
        ),
        (
            PUSH + 'token_file = "{path}.empty"',
            "sink 'http_push': cannot read the token in '{path}.empty': "
            "expected one line of printable ASCII without spaces",
        ),
        (
            HTTP + 'socket = "{path}.sock"\nsocket_group = "no-such-group"',
            "sink 'http_json': cannot listen on '{path}.sock': no group 'no-such-group'; "
            "create it, or change socket_group",
        ),
        (
            HTTP + 'socket = "/nowhere/s"',
            "sink 'http_json': cannot listen on '/nowhere/s': No such file or directory: '/nowhere'; "
            "create this directory",
        ),
        (LOG + 'path = "{folder}"', "sink 'log': cannot write to '{folder}': Is a directory"),
        (
            LOG + 'path = "/nowhere/e.log"',
            "sink 'log': cannot write to '/nowhere/e.log': No such file or directory: '/nowhere'; "
            "create this directory",
        ),
        (
            LOG + 'path = "{path}.empty/e.log"',
            "sink 'log': cannot write to '{path}.empty/e.log': '{path}.empty' is not a directory",
        ),
        (PUSH + f'token_file = "/{"x" * 300}"', f"sink 'http_push': token_file: '/{'x' * 300}': File name too long"),
    ],
    ids=lambda value: value[-20:],
)
def test_what_is_missing_is_an_error_of_one_line(
    path: Path, capsys: pytest.CaptureFixture[str], text: str, message: str
) -> None:
    Path(f"{path}.empty").touch()
    Path(f"{path}.two").write_text("one\ntwo\n")
    path.write_text(text.replace("{path}", str(path)).replace("{folder}", str(path.parent)))
    message = message.replace("{path}", str(path)).replace("{folder}", str(path.parent))
    assert cli.main(["config", "check", "--config", str(path)]) == 2
    assert capsys.readouterr() == ("", f"ebpfmon: {path}: {message}\n")


@pytest.mark.parametrize("settings", [
    HTTP + 'tls_certificate = "{text}"\ntls_key = "{text}"',
    PUSH + 'ca_file = "{text}"',
], ids=["http_json", "http_push"])  # fmt: skip
def test_a_file_without_a_certificate_is_refused(path: Path, capsys: pytest.CaptureFixture[str], settings: str) -> None:
    text = path.with_suffix(".pem")
    text.write_text("hello\n")
    path.write_text(settings.replace("{text}", str(text)))
    assert cli.main(["config", "check", "--config", str(path)]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert re.match(rf"ebpfmon: {path}: sink 'http_\w+': cannot use the certificates? (in )?'{text}'", err)


def test_the_directories_that_systemd_creates_need_not_exist_yet(path: Path) -> None:
    for parent in ("/var/log/ebpfmon", "/run/ebpfmon"):
        path.write_text(LOG + f'path = "{parent}/no-such.log"')
        assert cli.main(["config", "check", "--config", str(path)]) == 0


def test_only_config_check_asks_a_sink_to_check_the_machine(pigeons: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pigeons.write_text("")
    found = Registry(FOUND.probes, {**FOUND.sinks, "carrier": Carrier}, FOUND.plugins)
    settings = config.validate({"sinks": [{"type": "carrier"}]}, "e.toml", found)
    error: BaseException = ValueError("loft: it is closed")

    def check_machine(_: Carrier) -> tuple[str, ...]:
        raise error

    monkeypatch.setattr(Carrier, "check_machine", check_machine)
    config.check(settings, found, "e.toml")
    with pytest.raises(SettingsError, match=r"^e\.toml: sink 'carrier': loft: it is closed$"):
        config.check_machine(settings, "e.toml")
    error = SystemExit(3)
    with pytest.raises(SettingsError, match=r"^e\.toml: sink 'carrier': SystemExit: 3$"):
        config.check_machine(settings, "e.toml")


@pytest.mark.parametrize(
    ("text", "warnings"),
    [
        ("", []),
        ("sinks = []", ["{path}: sinks: the list is empty, so the counts are sent nowhere"]),
        (
            '[[sinks]]\ntype = "log"\ncharts = ["ebpf.io*", "user.*", "!apps.vfs*", "ebpfmon.cpu", "!nonsense"]',
            ["{path}: sink 'log': charts: 'user.*' matches no chart of these settings",
             "{path}: sink 'log': charts: '!nonsense' matches no chart of these settings"],
        ),
        (
            '[groups]\nby = ["user"]\n[[sinks]]\ntype = "log"\nname = "l"\ncharts = ["users.*", "apps.*"]',
            ["{path}: sink 'l': charts: 'apps.*' matches no chart of these settings"],
        ),
        (
            HTTP + 'token_file = "{path}.fifo"',
            ["{path}: sink 'http_json': token_file: '{path}.fifo' is not a regular file"],
        ),
        (
            LOG + 'path = "stdotu"',
            ["{path}: sink 'log': path: 'stdotu' is relative to the current directory, which is / in a systemd unit; "
             "did you mean 'stdout'?"],
        ),
        (
            LOG + 'path = "numbers.txt"',
            ["{path}: sink 'log': path: 'numbers.txt' is relative to the current directory, which is / in a systemd "
             "unit; write an absolute path"],
        ),
        (
            "".join(f"[plugins.{name}]\nenabled = false\n" for name in FOUND.probes),
            ["{path}: plugins: no probe is enabled, so nothing is counted"],
        ),
        (
            '[groups]\nfile = "my.conf"',
            ["{folder}/my.conf:2: 'nonsense': expected 'group: pattern ...'",
             "{folder}/my.conf:3: group 'db' has no patterns"],
        ),
    ],
    ids=lambda value: value[-20:] if isinstance(value, str) else "",
)  # fmt: skip
def test_what_has_no_effect_is_a_warning_and_the_status_stays_0(
    path: Path,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    text: str,
    warnings: list[str],
) -> None:
    os.mkfifo(f"{path}.fifo")
    (path.parent / "my.conf").write_text("web: nginx\nnonsense\ndb:\n")
    path.write_text(text.replace("{path}", str(path)))
    with caplog.at_level(logging.WARNING):
        assert cli.main(["config", "check", "--config", str(path)]) == 0
    assert capsys.readouterr().out == f"{path}: OK\n"
    assert caplog.messages == [w.replace("{path}", str(path)).replace("{folder}", str(path.parent)) for w in warnings]


def test_patterns_are_not_judged_if_the_charts_of_a_plugin_are_unknown(caplog: pytest.LogCaptureFixture) -> None:
    bad = Registry(FOUND.probes, FOUND.sinks, [Plugin(name="bad", state=State.LEFT_OUT, error="why")])
    settings = config.validate({"sinks": [{"type": "log", "charts": ["naps.*"]}]}, "e.toml", bad)
    config.check(settings, bad, "e.toml")
    assert caplog.messages == []
    config.check(settings, FOUND, "e.toml")
    assert caplog.messages == ["e.toml: sink 'log': charts: 'naps.*' matches no chart of these settings"]


def test_a_file_that_this_user_cannot_read_is_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)
    token = tmp_path / "token"
    token.write_text("x")
    settings = config.validate({"sinks": [{"type": "http_json", "token_file": str(token)}]}, "e.toml", FOUND)
    config.check_machine(settings, "e.toml")
    assert caplog.messages == [f"e.toml: sink 'http_json': token_file: this user cannot read '{token}'"]


@pytest.mark.parametrize(
    ("source", "problem"),
    [
        (None, "ModuleNotFoundError: No module named 'carrier_pigeons'; install the package of 'carrier_pigeons'"),
        (
            "import no_such_feathers.plumes",
            "ModuleNotFoundError: No module named 'no_such_feathers'; install the package of 'no_such_feathers'",
        ),
        ("from msgspec import no_such_name", "; upgrade the package of 'msgspec'"),
        ("raise SystemExit(3)", "SystemExit: 3"),
        ("raise KeyboardInterrupt", "KeyboardInterrupt"),
        ("raise RuntimeError('a\\nb')", "RuntimeError: a b"),
        ("x = (", "SyntaxError: '(' was never closed (carrier_pigeons.py, line 1)"),
    ],
    ids=["missing", "needs a missing one", "needs a newer one", "exits", "interrupts", "raises", "not Python"],
)
def test_a_module_that_a_sink_needs_is_imported_when_the_settings_are_read_or_named_in_the_error(
    pigeons: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], source: str | None, problem: str
) -> None:
    if source:
        pigeons.write_text(source)
    post = plugin(sinks=[Carrier])
    monkeypatch.setattr(registry.discover, "__defaults__", ([FakeEntryPoint("post", post)], registry.PluginOptions()))
    settings = pigeons.with_name("e.toml")
    settings.write_text('[[sinks]]\ntype = "carrier"\n')
    assert cli.main(["config", "check", "--config", str(settings)]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert err.startswith(f"ebpfmon: {settings}: sink 'carrier': cannot import 'carrier_pigeons': ")
    assert problem in err
    assert cli.main(["plugins", "--config", "/dev/null"]) == 1
    out = capsys.readouterr().out
    assert "left out" in out
    assert "sink type 'carrier': cannot import 'carrier_pigeons': " in out


def test_at_a_reload_a_module_that_the_user_cannot_read_is_told_from_a_missing_package(
    pigeons: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = pigeons.with_suffix("")
    package.mkdir()
    (package / "__init__.py").touch()
    importlib.import_module("carrier_pigeons")
    monkeypatch.setattr(Carrier, "requires", ("carrier_pigeons.flock",))
    remedy = "; restart ebpfmon, because its user cannot read Python's files"
    missing = "cannot import 'carrier_pigeons.flock': ModuleNotFoundError: No module named "
    assert requirements.problem(Carrier) == f"{missing}'carrier_pigeons.flock'{remedy}"
    (package / "flock.py").write_text("raise ModuleNotFoundError(\"No module named 'secrets'\", name='secrets')")
    importlib.invalidate_caches()
    assert requirements.problem(Carrier) == f"{missing}'secrets'{remedy}"


def test_only_the_modules_of_sinks_in_use_are_imported(pigeons: Path) -> None:
    pigeons.write_text("")
    found = Registry(FOUND.probes, {**FOUND.sinks, "carrier": Carrier}, FOUND.plugins)
    config.check(config.validate({}, "e.toml", found), found, "e.toml")
    assert "carrier_pigeons" not in sys.modules
    config.check(config.validate({"sinks": [{"type": "carrier"}]}, "e.toml", found), found, "e.toml")
    assert "carrier_pigeons" in sys.modules


@pytest.mark.parametrize("name", FOUND.sinks)
def test_the_sinks_of_ebpfmon_can_import_what_they_need(name: str) -> None:
    assert requirements.problem(FOUND.sinks[name]) == ""


@pytest.mark.parametrize(
    ("attribute", "value", "message"),
    [
        ("requires", "aiohttp", "requires: 'aiohttp': expected a tuple of names of modules"),
        ("requires", (1,), "requires: (1,): expected a tuple of names of modules"),
        ("files", ["x"], "files: ['x']: expected a tuple of names of settings"),
        ("files", ("x",), "files: it has no setting 'x'"),
    ],
    ids=repr,
)
def test_a_plugin_with_a_wrong_declaration_is_refused(
    monkeypatch: pytest.MonkeyPatch, attribute: str, value: object, message: str
) -> None:
    monkeypatch.setattr(Carrier, attribute, value)
    with pytest.raises(PluginError, match="sink type 'carrier': ") as caught:
        call_hooks(plugin(sinks=[Carrier]))
    assert str(caught.value) == f"sink type 'carrier': {message}"


def test_the_groupings_are_found_once_because_the_package_may_become_unreadable() -> None:
    assert groupings() is groupings()


def test_a_wrong_prefix_for_statsd_is_explained_in_words(path: Path) -> None:
    path.write_text('[[sinks]]\ntype = "statsd"\nprefix = "a..b"\n')
    with pytest.raises(SettingsError) as caught:
        config.read(path, FOUND)
    expected = "sinks[0].prefix: 'a..b': expected letters, digits, _ and -, in parts joined by dots"
    assert str(caught.value) == f"{path}: {expected}"


def test_what_python_imports_late_is_imported_if_the_daemon_becomes_another_user() -> None:
    script = (
        "import sys; from ebpfmon import config; from ebpfmon.plugins import registry; found = registry.discover();"
        "config.check(config.validate({'ebpfmon': {'user': 'nobody'}}, 'x', found), found, 'x');"
        "print(*{'difflib', 'encodings.idna', 'concurrent.futures.thread'} - sys.modules.keys())"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "\n"


def test_a_probe_that_cannot_say_which_settings_have_no_effect_is_named(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(_: ProbeSettings) -> tuple[str, ...]:
        raise SystemExit(3)

    monkeypatch.setattr(FOUND.probes["process"].settings, "without_effect", property(fail))
    config.check(config.validate({}, "e.toml", FOUND), FOUND, "e.toml")
    assert "e.toml: plugins.process.without_effect: SystemExit: 3" in caplog.messages
