"""Text from outside (names of programs, hosts, files, plugins) reaches no output with characters that do something.

The numbers of two names that differ only in such characters stay apart (see test_names.py).
"""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.exposition import generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics

from ebpfmon import Chart, Column, Dimension, Kind, Snapshot, encode_json, to_json
from ebpfmon.cli import main as cli
from ebpfmon.cli.messages import JournalFormatter, MessageFormatter
from ebpfmon.plugins import registry
from ebpfmon.plugins.registry import Plugin, State
from ebpfmon.testing import view
from ebpfmon.top import view as top
from ebpfmon.top.state import State as TopState
from ebpfmon_sinks.http_json import metrics, openapi, views
from ebpfmon_sinks.http_json.middlewares import problem
from ebpfmon_sinks.http_json.query import excerpt
from ebpfmon_sinks.http_push.push import _encode as encode_for_push
from ebpfmon_sinks.log import journal
from ebpfmon_sinks.log.settings import LogSettings, message
from ebpfmon_sinks.plugins_d.stream import Stream
from ebpfmon_sinks.statsd.lines import Names, to_datagrams
from ebpfmon_sinks.statsd.settings import StatsdSettings
from tests.unit.support import data, snapshot, table
from tests.unit.test_text import NASTY

TEXT = "".join(NASTY)
COMM = TEXT.encode("utf-8", "surrogatepass")[:15]


def hostile(text: str = TEXT) -> Snapshot:
    """Return a snapshot in which every text that has an outside origin has this text in it."""
    chart = Chart(
        id="apps.x", title=f"T{text}", units=f"calls{text}/s", family=f"F{text}", priority=1, labels=("by",),
        dimensions=(Dimension("x", f"n{text}", ("read_calls",)), Dimension("y", f"n{text}{text}", ("read_bytes",))),
    )  # fmt: skip
    total = replace(chart, id="x.total", labels=())
    gauge = replace(chart, id="ebpfmon.gauge", family="ebpfmon", kind=Kind.GAUGE)
    names = (f"a{text}b", f"a{text[::-1]}c", "a?b")
    series: dict[tuple[str, ...], list[int]] = {(name,): [n + 1, n + 10] for n, name in enumerate(names)}
    columns = [Column(id="read", header=f"READ{text}", fields=("read_calls",))]
    rows = table([(7, COMM, 5, 9), (8, b"x", 6, 9)])
    tables = {f"t{text}": view(rows, columns=columns, groups={"user": names[:2]})}
    charts = [
        data(total, 1, 2),
        data(chart, series=series, names={key: (f"n{key[0]}",) for key in series}, other=[7, 8]),
        data(gauge, series=series),
    ]
    return snapshot(f"h{text}", charts, tables)


def of_plugins_d(given: Snapshot) -> bytes:
    stream, sent = Stream(1), b""
    for n in range(3):
        stream.add(replace(given, time_s=100.0 + n, elapsed_s=1.0))
        sent += stream.update(1)
    return sent


def of_journal(given: Snapshot) -> bytes:
    fields = journal.fields_of(given, journal.Names(), 9, 9)
    return "\n".join([message(given, LogSettings()), *(f"{key}={value}" for key, value in fields.items())]).encode()


def of_statsd(given: Snapshot) -> bytes:
    tags = ("none", "datadog", "influx", "graphite")
    return b"\n".join(line for t in tags for line in to_datagrams(given, Names(t), StatsdSettings(tags=t)))  # type: ignore[arg-type]


def of_top(given: Snapshot, **state: Any) -> bytes:
    return "\n".join(top.render(given, TopState(**state), 200, None)).encode()


OUTPUTS: Mapping[str, Callable[[Snapshot], bytes]] = {
    "log text": lambda given: message(given, LogSettings()).encode(),
    "log json": lambda given: message(given, LogSettings(format="json")).encode(),
    "journal": of_journal,
    "push": encode_for_push,
    "http snapshot": views.snapshot,
    "http charts": views.charts,
    "http chart": lambda given: views.chart(given, "apps.x"),
    "http processes": lambda given: views.processes(given, "calls", 9, "", ""),
    "http connections": lambda given: views.connections(given, "calls", 9),
    "http problem": lambda given: bytes(problem(404, given.host).body),  # type: ignore[arg-type]
    "http excerpt": lambda given: excerpt(given.host).encode(),
    "http page": lambda given: openapi.page(),
    "http openapi": lambda given: openapi.document_bytes(),
    "prometheus": lambda given: metrics.render(given, 0, 0, generate_latest),
    "openmetrics": lambda given: metrics.render(given, 0, 0, generate_openmetrics),
    "plugins.d": of_plugins_d,
    "statsd": of_statsd,
    "top": of_top,
    "top groups": lambda given: of_top(given, mode="groups", by="user"),
    "top json": lambda given: encode_json(top.to_json(given, TopState())),
}
JSON = [name for name in OUTPUTS if "json" in name or name == "push" or name.startswith("http ")]
JSON = [name for name in JSON if name not in ("http excerpt", "http page")]


def unprintable(output: str) -> list[str]:
    return [ascii(line) for line in output.split("\n") if not line.isprintable()]


@pytest.mark.parametrize("output", OUTPUTS)
@pytest.mark.parametrize("text", [TEXT, *NASTY], ids=ascii)
def test_no_output_has_an_unprintable_character(output: str, text: str) -> None:
    assert unprintable(OUTPUTS[output](hostile(text)).decode()) == []


@pytest.mark.parametrize("output", JSON)
@pytest.mark.parametrize("text", [TEXT, *NASTY, "🦊é", "\U000e0001"], ids=ascii)
def test_a_reader_of_json_gets_the_same_text_on_one_line(output: str, text: str) -> None:
    line = OUTPUTS[output](hostile(text)).decode()
    assert "\n" not in line
    decoded = json.loads(line)
    if "host" in decoded:
        assert decoded["host"] == f"h{text}"
    if output == "log json":
        series = decoded["charts"][1]["series"]
        assert [s["labels"]["by"] for s in series[:2]] == [f"a{text}b", f"a{text[::-1]}c"]
        assert decoded["charts"][1]["title"] == f"T{text}"


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1.5, 0, 1 << 60, None, True, [], {"a": {}}])
def test_json_with_a_lone_surrogate_has_the_same_values_as_without(value: object) -> None:
    plain, odd = json.loads(encode_json({"k": value})), json.loads(encode_json({"k": value, "\udcff": "\ud800"}))
    assert odd == {**plain, "\udcff": "\ud800"}


def test_text_that_is_printable_is_not_changed_in_json() -> None:
    for text in ("é🦊日本", "a\\u202e", '"\\'):
        assert encode_json(text).decode() == json.dumps(text, ensure_ascii=False)
    assert json.loads(encode_json(to_json(hostile("é"))))["host"] == "hé"


@pytest.mark.parametrize("formatter", [MessageFormatter("ebpfmon: %(message)s"), JournalFormatter()])
@pytest.mark.parametrize("text", [TEXT, *NASTY], ids=ascii)
def test_a_message_of_any_logger_is_one_printable_line(formatter: logging.Formatter, text: str) -> None:
    record = logging.LogRecord(f"plugin{text}", logging.WARNING, "x.py", 1, f"a{text}%s", (f"b{text}",), None)
    line = formatter.format(record)
    assert line.isprintable()
    assert line.endswith(f"a{ascii(text)[1:-1]}b{ascii(text)[1:-1]}")


@pytest.mark.parametrize("formatter", [MessageFormatter("ebpfmon: %(message)s"), JournalFormatter()])
def test_no_line_of_a_traceback_can_pass_for_a_message(formatter: logging.Formatter) -> None:
    forged = "\nebpfmon: all is well\n<6>all is well"
    try:
        raise RuntimeError(TEXT + forged) from ValueError(forged)
    except RuntimeError:
        record = logging.LogRecord("x", logging.ERROR, "x.py", 1, f"failed{forged}", None, sys.exc_info())
    first, *rest = formatter.format(record).split("\n")
    assert unprintable("\n".join([first, *rest])) == []
    assert first.endswith(r"failed\nebpfmon: all is well\n<6>all is well")
    prefix = "<3>  " if isinstance(formatter, JournalFormatter) else "  "
    assert all(line.startswith(prefix) for line in rest)
    assert any("Traceback" in line for line in rest)


@pytest.mark.parametrize("text", [TEXT, *NASTY], ids=ascii)
def test_the_tables_and_errors_of_commands_are_printable(
    text: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    argument = text.replace("\0", "\1")  # which an argument cannot have
    for arguments in (
        [f"x{argument}"],
        ["run", f"--x{argument}"],
        ["top", "--by", f"x{argument}"],
        ["run", "--for", f"x{argument}"],
        ["config", "check", "--config", f"/no/such{argument}"],
        ["install", f"x{argument}"],
        ["bpf", "build", f"/no/such{argument}.bpf.c"],
        ["plugin", "new", "probe", f"x{argument}"],
    ):
        assert cli.main(arguments) in (1, 2)
        out, err = capsys.readouterr()
        assert unprintable(out + err) == []
        assert err
    plugins = [Plugin(name=f"p{text}", state=State.LEFT_OUT, error=f"e{text}", probes=(f"x{text}",))]
    assert unprintable("\n".join(registry.render(plugins))) == []


def test_settings_are_shown_as_toml_with_the_same_values(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = tmp_path / "a\u202e.toml"
    path = "/tmp/" + "".join(c for c in TEXT if c not in "\0\udcff") + "\U000e0001é"
    settings.write_text(
        f'[[sinks]]\ntype = "log"\npath = {json.dumps(path, ensure_ascii=True)}\n'.replace(
            "\\udb40\\udc01", "\\U000e0001"
        )
    )
    assert cli.main(["config", "show", "--config", str(settings)]) == 0
    shown = capsys.readouterr().out
    assert unprintable(shown) == []
    settings.write_text(shown)
    assert cli.main(["config", "show", "--config", str(settings)]) == 0
    assert capsys.readouterr().out == shown
    assert cli.main(["config", "check", "--config", str(settings)]) == 0
    assert capsys.readouterr().out == f"{tmp_path}/a\\u202e.toml: OK\n"


PROGRAM = r"""
import sys, threading, warnings, logging, asyncio
from ebpfmon.cli import messages
messages.configure_logging()
text = "a\n\x1b[31m\x9b\u202e\u2028b"
logging.getLogger("some.library").warning("%s", text)
logging.getLogger("bad").warning("%d", text)
warnings.warn(text)
thread = threading.Thread(target=lambda: {}[text]); thread.start(); thread.join()
class Odd:
    def __del__(self): raise RuntimeError(text)
Odd()
async def work():
    asyncio.get_running_loop().call_exception_handler({"message": text, "exception": ValueError(text)})
asyncio.run(work())
raise ValueError(text)
"""


@pytest.mark.parametrize("to_journal", [False, True])
def test_whatever_python_and_libraries_say_on_stderr_is_printable(tmp_path: Path, to_journal: bool) -> None:
    with (tmp_path / "stderr").open("w") as out:
        status = os.fstat(out.fileno())
        stream = f"{status.st_dev}:{status.st_ino}" if to_journal else ""
        done = subprocess.run(
            [sys.executable, "-W", "always", "-c", PROGRAM], stderr=out, env={**os.environ, "JOURNAL_STREAM": stream},
            timeout=60,
        )  # fmt: skip
    assert done.returncode == 1
    said = (tmp_path / "stderr").read_text()
    assert unprintable(said) == []
    for expected in ("cannot write a message of 'bad'", "UserWarning (<string>:8): a", "KeyError", "RuntimeError: a"):
        assert expected in said
    assert said.count("ValueError: a") == 2
    assert r"a\n\x1b[31m\x9b\u202e\u2028b" in said
    lines = said.splitlines()
    assert all(line.startswith(("<3>", "<4>") if to_journal else ("ebpfmon: ", "  ")) for line in lines)
