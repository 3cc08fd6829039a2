"""The command line: exit statuses, help, and error messages of one line on stderr."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import pytest

import ebpfmon
import ebpfmon_process.events
import ebpfmon_sinks.log
from ebpfmon import Chart, Dimension, Probe, ProbeSettings, Setup, config
from ebpfmon.cli import main as cli
from ebpfmon.config import Settings
from ebpfmon.daemon.notify import Notifier
from ebpfmon.daemon.run import Reload
from ebpfmon.errors import EbpfmonError, KernelError
from ebpfmon.kernel import features
from ebpfmon.model import Loader
from ebpfmon.plugins import registry
from ebpfmon.top.state import State
from tests.unit.support import FakeEntryPoint, plugin

VERSION = version("ebpfmon")
DEFAULTS = ("--config", "/dev/null")
"""Options for default settings, whatever the machine's own settings file says."""

NAPS = """
from typing import Annotated
import msgspec
from ebpfmon import Probe, ProbeSettings, hookimpl
EBPFMON_API_VERSION = 2
class NapsSettings(ProbeSettings, frozen=True):
    nap: Annotated[int, msgspec.Meta(ge=0)] = 3
@hookimpl
def ebpfmon_register_probes():
    return [Probe(name="naps", package=__name__, object="naps", charts=(), settings=NapsSettings)]
"""
Outcome = tuple[int, str, str]
Run = Callable[..., Outcome]
WATCHING = [["run"], ["top"], ["top", "--once"]]
COMMANDS = [
    ["run"], ["top"], ["check"], ["config"], ["config", "show"], ["config", "check"], ["install"], ["reset"],
    ["plugins"], ["plugin"], ["plugin", "new"], ["bpf"], ["bpf", "build"],
]  # fmt: skip


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Run]:
    """Return a function that runs a command and returns (exit status, stdout, stderr).

    No settings of this machine are read.
    """
    level = logging.getLogger().level  # `top` changes it
    monkeypatch.setattr("ebpfmon.config.reading.DEFAULT_PATH", tmp_path / "default.toml")
    monkeypatch.setattr("ebpfmon.cli.stopping.END_S", 3600)  # Otherwise these tests would end, too.

    def command(*arguments: str) -> Outcome:
        try:
            status = cli.main(arguments)
        except SystemExit as end:
            status = int(end.code or 0)
        return (status, *capsys.readouterr())

    yield command
    logging.getLogger().setLevel(level)


def replace_daemon(monkeypatch: pytest.MonkeyPatch, act: Callable[[asyncio.Event], object]) -> list[Settings]:
    """Replace the daemon by a function that calls `act` and waits for `stop`. Return the settings that it gets."""
    given: list[Settings] = []

    async def fake(
        settings: Settings,
        found: registry.Registry,
        stop: asyncio.Event,
        reload: Reload | None = None,
        notifier: Notifier | None = None,
        others: Iterable[Executor] = (),
    ) -> None:
        given.append(settings)
        act(stop)
        async with asyncio.timeout(5):
            await stop.wait()

    monkeypatch.setattr("ebpfmon.daemon.run.run", fake)
    monkeypatch.setattr("ebpfmon.top.session.Screen", lambda *_, **__: None)  # The tests may have no terminal.
    return given


def fail_with(error: BaseException) -> Callable[[asyncio.Event], object]:
    def act(_: asyncio.Event) -> None:
        raise error

    return act


def test_the_version_is_printed(run: Run) -> None:
    assert run("--version") == (0, f"ebpfmon {ebpfmon.__version__}\n", "")


@pytest.mark.parametrize(
    "arguments",
    [[], ["rnu"], ["run", "--for", "0"], ["run", "--for", "nan"], ["run", "--for", "inf"], ["run", "--for", "x"],
     ["top", "--once", "--lines", "0"], ["top", "--once", "--lines", "-1"],
     ["run", "--load-mode", "all"], ["run", "--attach", "luck"], ["run", "--loader", "luck"],
     ["reset", "--loader", "bcc"], ["run", "--interval", "x"], ["config"]],
    ids=" ".join,
)  # fmt: skip
def test_wrong_arguments_end_with_2(run: Run, arguments: list[str]) -> None:
    status, out, err = run(*arguments)
    assert (status, out) == (2, "")
    assert "Traceback" not in err
    assert "<" not in err  # no representation of a Python object


@pytest.mark.parametrize("command", [["run"], ["check"], ["config", "show"], ["config", "check"]], ids=" ".join)
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[ebpfmon]\nintervall = 1", "ebpfmon.intervall: no such setting: did you mean 'interval'?"),
        ('[ebpfmon]\ninterval = "1"', "ebpfmon.interval: expected an integer from 1 to 3600, got a string"),
        ("[ebpfmon]\ninterval = 0", "ebpfmon.interval: 0: expected an integer from 1 to 3600"),
        ('[[sinks]]\ntype = "log"\n[[sinks]]\ntype = "log"', "sinks[1].name: another sink is already called 'log'"),
        ("[ebpfmon", "not valid TOML: "),
        (None, "no such file"),
    ],
    ids=["unknown key", "type", "value", "sink name", "not TOML", "missing"],
)
def test_wrong_settings_end_with_2_and_a_line_that_names_file_key_and_what_was_expected(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: list[str], text: str | None, message: str
) -> None:
    monkeypatch.setattr("ebpfmon.kernel.libbpf.Libbpf.__init__", fail_with(AssertionError("something was loaded")))
    path = tmp_path / "e.toml"
    if text is not None:
        path.write_text(text)
    status, out, err = run(*command, "--config", str(path))
    assert (status, out) == (2, "")
    assert err.startswith(f"ebpfmon: {path}: {message}")
    assert err.count("\n") == 1


def test_a_wrong_interval_on_the_command_line_is_reported_as_such(run: Run) -> None:
    assert run("run", "--interval", "0") == (
        2,
        "",
        "ebpfmon: command line: ebpfmon.interval: 0: expected an integer from 1 to 3600\n",
    )


@pytest.mark.parametrize("root", [True, False])
def test_without_capabilities_the_daemon_ends_with_1_and_a_line_that_names_them(
    run: Run, monkeypatch: pytest.MonkeyPatch, root: bool
) -> None:
    bare = replace(features.detect(), capabilities=(), root=root)
    monkeypatch.setattr(features, "detect", lambda: bare)
    status, out, err = run("run", "--for", "5")
    assert (status, out) == (1, "")
    assert err.startswith("ebpfmon: cannot load BPF programs: not permitted")
    assert err.count("\n") == 1


def test_check_without_capabilities_says_that_no_event_can_be_seen(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    bare = replace(features.detect(), capabilities=())
    monkeypatch.setattr(features, "detect", lambda: bare)
    status, out, _ = run("check")
    assert status == 2
    assert "error" in out


@pytest.mark.parametrize("command", WATCHING, ids=" ".join)
@pytest.mark.parametrize(
    "error",
    [KernelError("no"), EbpfmonError("no")],
)
def test_an_error_of_the_daemon_is_one_line_and_status_1(
    run: Run, monkeypatch: pytest.MonkeyPatch, error: Exception, command: list[str]
) -> None:
    replace_daemon(monkeypatch, fail_with(error))
    assert run(*command) == (1, "", "ebpfmon: no\n")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("command", WATCHING, ids=" ".join)
def test_a_signal_ends_a_command_with_0_or_with_130_if_there_is_nothing_to_show_yet(
    run: Run, monkeypatch: pytest.MonkeyPatch, command: list[str], number: signal.Signals
) -> None:
    replace_daemon(monkeypatch, lambda _: os.kill(os.getpid(), number))
    assert run(*command) == (130 if "--once" in command else 0, "", "")


def test_the_daemon_ends_with_0_after_the_given_time(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    replace_daemon(monkeypatch, lambda _: None)
    assert run("run", "--for", "0.01") == (0, "", "")


def test_options_override_settings(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    given = replace_daemon(monkeypatch, lambda stop: stop.set())
    assert run(
        "run", "--interval", "7", "--load-mode", "return", "--attach", "kprobe", "--loader", "bcc", "--json"
    ) == (
        0,
        "",
        "",
    )
    expected = config.Core(interval=7, load_mode=ebpfmon.LoadMode.RETURN, attach="kprobe", loader="bcc")
    assert given[0].ebpfmon == expected
    assert given[0].ebpfmon.forced_loader is Loader.BCC
    assert [s.name for s in given[0].sinks] == ["json"]


def test_config_check_tells_a_valid_file_from_a_missing_one(run: Run, tmp_path: Path) -> None:
    assert run("config", "check") == (0, f"{tmp_path}/default.toml: no such file; the defaults are used\n", "")
    (tmp_path / "default.toml").write_text("[ebpfmon]\ninterval = 3\n")
    assert run("config", "check") == (0, f"{tmp_path}/default.toml: OK\n", "")


def test_config_check_shows_the_replacement_of_the_old_section(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "default.toml"
    path.write_text('[apps]\nby = "user"\nmaximum = 50\n')
    assert run("config", "check") == (
        0,
        f"{path}: OK\n[groups] has replaced [apps]. Replace [apps] with:\n\n"
        '[groups]\nby = [\n    "user",\n]\nmaximum = 50\n\n'
        "Charts by user are now called users.* instead of apps.*: update the setting charts of your sinks.\n",
        "",
    )
    path.write_text('[groups]\nby = ["user"]\n')
    assert run("config", "check") == (0, f"{path}: OK\n", "")


def test_a_start_with_the_old_section_logs_one_warning(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    given = replace_daemon(monkeypatch, lambda stop: stop.set())
    path = tmp_path / "default.toml"
    path.write_text('[apps]\nby = "cgroup"\n')
    assert run("run")[0] == 0
    assert given[0].groups == config.GroupSettings(by=("container",))
    assert caplog.messages == [f"{path}: [groups] has replaced [apps]; `ebpfmon config check` prints the new section"]


@pytest.mark.parametrize(
    ("settings", "option", "by"),
    [
        ("", [], "application"),
        ('[groups]\nby = ["user", "process"]', [], "user"),
        ("[groups]\nby = []", [], "application"),
        ("", ["--by", "container"], "container"),
        ("", ["--by", "app"], "application"),
        ("", ["--by", "cgroup"], "container"),
    ],
    ids=repr,
)
def test_top_begins_with_the_given_grouping_by_its_old_or_present_name(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, settings: str, option: list[str], by: str
) -> None:
    states: list[State] = []

    async def live(_: object, __: object, state: State, *___: object) -> None:
        states.append(state)

    monkeypatch.setattr("ebpfmon.top.session.live", live)
    (tmp_path / "default.toml").write_text(settings)
    assert run("top", *option) == (0, "", "")
    assert [state.by for state in states] == [by]


def test_config_show_prints_a_file_with_the_same_settings(run: Run, tmp_path: Path) -> None:
    (tmp_path / "default.toml").write_text("[ebpfmon]\ninterval = 3\n[plugins.process]\ntable_size = 99\n")
    status, shown, _ = run("config", "show")
    assert status == 0
    assert {"interval = 3", "table_size = 99", 'load_mode = "entry"'} <= set(shown.splitlines())
    (tmp_path / "shown.toml").write_text(shown)
    assert run("config", "show", "--config", str(tmp_path / "shown.toml")) == (0, shown, "")


@pytest.fixture
def nothing_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make `ebpfmon plugins` behave as without root: it reads the objects of probes, but loads none."""
    monkeypatch.setattr("ebpfmon.daemon.probes._may_load", lambda *_: False)


@pytest.mark.usefixtures("nothing_is_loaded")
def test_plugins_are_listed_and_one_that_is_left_out_makes_the_status_1(
    run: Run, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    status, out, _ = run("plugins")
    assert status == 0
    provided = {line.split(VERSION)[1].strip() for line in out.splitlines()[1:]}
    sinks = {f"sinks   sink {name}" for name in ("http_json", "http_push", "log", "plugins_d", "statsd")}
    assert {*(f"probes  probe {name}" for name in ("network_viewer", "process")), *sinks} <= provided
    assert {f"probes  probe {name} (off)" for name in ("block_io", "oom_and_signals", "syscalls")} <= provided
    listed = {plugin["name"]: plugin for plugin in json.loads(run("plugins", "--json")[1])}
    log = [listed["log"][key] for key in ("state", "sinks", "distribution", "api_version", "error")]
    assert log == ["active", ["log"], "ebpfmon", 2, None]
    real = registry.discover
    bad, good = FakeEntryPoint("bad", plugin(version=7)), FakeEntryPoint("log", ebpfmon_sinks.log)
    monkeypatch.setattr(registry, "discover", lambda options: real([bad, good], options))
    status, out, _ = run("plugins")
    assert (status, out.count("\n")) == (1, 3)
    assert "it was written for API version 7" in out
    with caplog.at_level(logging.WARNING):
        assert run("config", "check")[0] == 0
    assert "plugin 'bad' is left out: it was written for API version 7" in caplog.text
    status, out, err = run("config", "check", "--strict")
    assert (status, out) == (1, "")
    assert err.startswith("ebpfmon: plugin 'bad' cannot be used, and strict is set: it was written for API version 7")


def probe_of_process(name: str, field: str) -> Probe:
    """Return a probe with the object of the process probe, and a chart of this field of its table."""
    shown = Chart(
        id=f"{name}.x", title="", units="n/s", family="f", priority=1, dimensions=(Dimension("d", "d", (field,)),)
    )
    return Probe(
        name=name, package="ebpfmon_process", object="process", charts=(shown,), events=ebpfmon_process.events.EVENTS
    )


@pytest.mark.usefixtures("nothing_is_loaded")
def test_the_list_of_plugins_shows_which_probes_are_off_or_left_out_and_why(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ends(settings: ProbeSettings) -> Setup:
        raise SystemExit(7)

    given = {
        "bad_chart": plugin(probes=[probe_of_process("bad_chart", "reads")]),
        "bad_setup": plugin(probes=[replace(probe_of_process("bad_setup", "read_calls"), setup=ends)]),
        "bad_value": plugin(probes=[probe_of_process("bad_value", "read_calls")]),
        "good": plugin(probes=[probe_of_process("good", "read_calls")]),
        "off": plugin(probes=[probe_of_process("off", "reads")]),
        "pair": plugin(probes=[probe_of_process("one", "reads"), probe_of_process("two", "read_calls")]),
    }
    real = registry.discover
    entry_points = [FakeEntryPoint(name, of) for name, of in given.items()]
    monkeypatch.setattr(registry, "discover", lambda options: real(entry_points, options))
    settings = tmp_path / "e.toml"
    settings.write_text("[plugins.off]\nenabled = false\n[plugins.bad_value]\ntable_size = -1\n")
    status, out, err = run("plugins", "--json", "--config", str(settings))
    listed = {one["name"]: one for one in json.loads(out)}
    assert (status, err) == (1, "")
    assert {name: one["state"] for name, one in listed.items()} == {
        "bad_chart": "left out", "bad_setup": "left out", "bad_value": "left out", "good": "active", "off": "off",
        "pair": "left out",
    }  # fmt: skip
    no_field = "chart 'bad_chart.x': table 'process' has no field 'reads'; it has open_calls, "
    assert listed["bad_chart"]["error"].startswith(f"probe 'bad_chart': {no_field}")
    assert listed["bad_setup"]["problems"] == {"bad_setup": "cannot set up probe 'bad_setup': SystemExit: 7"}
    assert listed["bad_value"]["problems"]["bad_value"].startswith(f"{settings}: plugins.bad_value.table_size: ")
    assert (listed["off"]["off"], listed["off"]["error"]) == (["off"], None)
    assert listed["pair"]["problems"]["two"] == "probe 'good' already has a table 'process'"


@pytest.mark.usefixtures("nothing_is_loaded")
@pytest.mark.parametrize(("field", "status"), [("read_calls", 0), ("reads", 1)])
def test_if_strict_a_probe_that_cannot_be_used_is_an_error_of_the_list_of_plugins(
    run: Run, monkeypatch: pytest.MonkeyPatch, field: str, status: int
) -> None:
    real, entry_point = registry.discover, FakeEntryPoint("p", plugin(probes=[probe_of_process("p", field)]))
    monkeypatch.setattr(registry, "discover", lambda options: real([entry_point], options))
    found, out, err = run("plugins", "--strict")
    assert (found, out.count("\n")) == (status, 2)
    error = (
        "ebpfmon: plugin 'p' cannot be used, and strict is set: probe 'p': chart 'p.x': table 'process' has no field"
    )
    assert err.startswith(error) is bool(status)
    assert bool(err) is bool(status)


@pytest.mark.usefixtures("nothing_is_loaded")
def test_the_settings_name_plugins_and_plugins_define_further_settings(
    run: Run, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "plugins"
    folder.mkdir()
    (folder / "naps.py").write_text(NAPS)
    (folder / "bad.py").write_text("import no_such_module_at_all")
    for path in (folder, *folder.iterdir()):
        path.chmod(0o755)
    settings = tmp_path / "default.toml"
    core = f'[ebpfmon]\nplugins_dir = "{folder}"\ndisabled_plugins = ["statsd", "sattsd"]\n'
    settings.write_text(core + '[plugins.naps]\nnap = 5\n[[sinks]]\ntype = "statsd"\n[[sinks]]\ntype = "log"\n')
    status, out, err = run("config", "show")
    assert (status, err) == (0, "")
    assert "[plugins.naps]\nnap = 5\nenabled = true\n" in out
    assert 'type = "statsd"' not in out
    assert caplog.messages == [
        "plugin 'bad' is left out: ModuleNotFoundError: No module named 'no_such_module_at_all'",
        f"{settings}: ebpfmon.disabled_plugins: no plugin is called 'sattsd'",
        "ignoring sinks[0] \"statsd\": plugin 'statsd' is disabled",
    ]
    status, out, _ = run("plugins")
    assert status == 1
    shown = [" ".join(line.split()) for line in out.splitlines()]
    assert [line for line in shown if line.startswith(f"naps 2 left out {folder}/naps.py probes probe 'naps': cannot")]
    assert f"statsd - disabled ebpfmon {VERSION} - -" in shown
    settings.write_text(core + "[plugins.naps]\nnap = -1\n")
    assert run("config", "check") == (
        2,
        "",
        f"ebpfmon: {settings}: plugins.naps.nap: -1: expected an integer of at least 0\n",
    )
    settings.write_text(core + "strict = true\n")
    assert run("config", "check")[0] == 1
    folder.chmod(0o777)
    status, _, err = run("plugins")
    assert (status, err.count("\n")) == (1, 1)
    assert err.startswith(f"ebpfmon: {settings}: cannot load plugins from ebpfmon.plugins_dir: '{folder}' (owner ")


def test_importing_the_command_line_starts_no_thread() -> None:
    """A thread that numpy starts would keep all capabilities, because they are dropped thread by thread."""
    script = "import os, ebpfmon.cli.main, numpy; print(len(os.listdir('/proc/self/task')))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "1\n"


@pytest.mark.parametrize(
    "arguments", [["plugins", *DEFAULTS], ["config", "show", *DEFAULTS], ["--version"]], ids=" ".join
)
def test_a_closed_stdout_is_no_failure(arguments: list[str]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "ebpfmon", *arguments]
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, timeout=30, check=False, env=buffered)
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.parametrize("arguments", [[], *COMMANDS], ids=" ".join)
def test_help_says_what_the_command_does_and_has_no_line_wider_than_80_columns(
    run: Run, monkeypatch: pytest.MonkeyPatch, arguments: list[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    status, out, err = run(*arguments, "--help")
    assert (status, err) == (0, "")
    usage, description, _ = out.split("\n\n", 2)
    assert usage.startswith(" ".join(["usage: ebpfmon", *arguments]))
    assert description[0].isupper()
    assert max(map(len, out.splitlines())) <= 80


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_an_unknown_option_shows_the_usage_of_its_command(run: Run, command: list[str]) -> None:
    arguments = {"install": ["systemd"], "new": ["sink", "naps"], "build": ["x.bpf.c"]}.get(command[-1], [])
    status, out, err = run(*command, *arguments, "--nonsense")
    assert (status, out) == (2, "")
    assert err.startswith(f"usage: ebpfmon {' '.join(command)} ")
    if command not in (["config"], ["plugin"], ["bpf"]):  # these first miss their action
        assert err.endswith(f"ebpfmon {' '.join(command)}: error: unrecognized arguments: --nonsense\n")


def test_top_refuses_an_unknown_grouping_and_offers_the_present_names(run: Run) -> None:
    status, out, err = run("top", "--by", "nonsense")
    assert (status, out) == (2, "")
    assert err.endswith("argument --by: 'nonsense': expected one of application, process, user, container\n")


COMMAND = [sys.executable, "-m", "ebpfmon"]


def shell(script: str, *arguments: str, **environment: str) -> tuple[int, str]:
    """Run a script in which "$@" is the command. Return its status and stderr."""
    done = subprocess.run(
        ["/bin/sh", "-c", script, "sh", *COMMAND, *arguments],
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, timeout=60, check=False,
        env={**os.environ, **environment},
    )  # fmt: skip
    return done.returncode, done.stderr


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize(
    "arguments",
    [["plugins", *DEFAULTS], ["plugins", "--json", *DEFAULTS], ["config", "show", *DEFAULTS], ["--version"],
     ["config", "check", *DEFAULTS], ["run", "--help"]],
    ids=" ".join,
)  # fmt: skip
def test_a_full_disk_as_stdout_is_an_error_of_one_line(arguments: list[str], unbuffered: str) -> None:
    status, err = shell('"$@" > /dev/full', *arguments, PYTHONUNBUFFERED=unbuffered)
    assert (status, err) == (1, "ebpfmon: cannot write to stdout: No space left on device\n")


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-", "2>/dev/full"])
@pytest.mark.parametrize(
    ("arguments", "status"),
    [(["plugins", "--json", *DEFAULTS], 0), (["config", "check", "--config", "/nonexistent"], 2), (["nonsense"], 2)],
    ids=["success", "wrong settings", "wrong arguments"],
)
def test_closed_streams_do_not_change_the_exit_status(closed: str, arguments: list[str], status: int) -> None:
    done, err = shell(f'"$@" {closed}', *arguments)
    assert (done, "Traceback" in err) == (status, False)


def test_no_other_file_takes_the_place_of_a_closed_stream(tmp_path: Path) -> None:
    script = "import os; from ebpfmon.cli import stdio; stdio.prepare(); print(os.open('/', os.O_RDONLY) > 2)"
    done = subprocess.run(
        ["/bin/sh", "-c", '"$@" 0<&- 2>&-', "sh", sys.executable, "-c", script],
        stdout=subprocess.PIPE, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.stdout == "True\n"


def test_text_that_the_encoding_of_stdout_lacks_is_escaped(tmp_path: Path) -> None:
    (tmp_path / "größe-\udcff.toml").touch()
    command = [*COMMAND, "config", "check", "--config", str(tmp_path / "größe-\udcff.toml")]
    done = subprocess.run(
        command, capture_output=True, timeout=60, check=False, env={**os.environ, "PYTHONIOENCODING": "ascii"}
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.endswith(rb"gr\xf6\xdfe-\udcff.toml: OK" + b"\n")


HOLD = """
import os, sys
from importlib.abc import MetaPathFinder
class Hold(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name == NAME:
            os.write(1, b"held")
            while True:
                os.read(0, 1)
sys.meta_path.insert(0, Hold())
from ebpfmon.cli.main import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize("module", ["ebpfmon.errors", "msgspec", "numpy", "pluggy", "ebpfmon_sinks.log"])
def test_ctrl_c_while_importing_ends_the_command_without_a_word(module: str) -> None:
    script = HOLD.replace("NAME", repr(module))
    with subprocess.Popen(
        [sys.executable, "-c", script, "plugins", *DEFAULTS],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ) as process:  # fmt: skip
        assert process.stdout
        assert process.stdout.read(4) == b"held"
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=30) == (b"", b"")
    assert process.returncode == -signal.SIGINT  # a shell shows 130


def test_the_command_line_prepares_for_ctrl_c_before_it_imports_anything_else() -> None:
    script = "import sys; before = {*sys.modules}; import ebpfmon.cli.main; print(*sorted({*sys.modules} - before))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.split() == ["__future__", "ebpfmon", "ebpfmon.cli", "ebpfmon.cli.main"]


def test_an_ignored_ctrl_c_stays_ignored() -> None:
    script = "import signal; from ebpfmon.cli.main import main; main(['--version']); print(signal.getsignal(2).name)"
    command = ["/bin/sh", "-c", "trap '' INT; exec \"$@\"", "sh", sys.executable, "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.splitlines()[-1] == "SIG_IGN"
