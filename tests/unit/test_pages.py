"""The samples of every page are valid, and the commands, charts, metrics and settings that pages name exist."""

from __future__ import annotations

import errno
import itertools
import json
import os
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
import tomli
from prometheus_client import exposition

import ebpfmon
from ebpfmon import config
from ebpfmon.cli.commands import parser
from ebpfmon.grouping.registry import groupings
from ebpfmon.pipeline.publish import SinkTask
from ebpfmon.pipeline.self_metrics import SelfMetrics
from ebpfmon.plugins import registry
from ebpfmon.plugins.validate import HOOKS
from ebpfmon_sinks.http_json import metrics
from ebpfmon_sinks.log.settings import LogSettings
from tests.unit.support import snapshot

ROOT = Path(__file__).parents[2]
_NOT_OURS = {".git", ".venv", "build", "dist", "node_modules", ".pytest_cache"}
_HISTORY = {"CHANGELOG.md", "benchmarks/REPORT.md", "benchmarks/experiments.md"}  # They describe earlier versions.
PAGES = sorted(
    str(path.relative_to(ROOT))
    for path in ROOT.rglob("*.md")
    if not _NOT_OURS & set(path.relative_to(ROOT).parts) and str(path.relative_to(ROOT)) not in _HISTORY
)
FOUND = registry.discover()
_WRAPPERS = {"sudo", "exec", "systemd-run"}  # commands that run the command after them and their options


@dataclass(frozen=True)
class Block:
    page: str
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page}-{self.text.strip().partition(chr(10))[0][:40]}"


def read(page: str) -> str:
    return (ROOT / page).read_text()


def blocks(*languages: str) -> list[Block]:
    """Return the fenced blocks of all pages in these languages, also those within lists."""
    return [
        Block(page, language, dedent(text))
        for page in PAGES
        for _, language, text in re.findall(r"^( *)```(\w*)\n(.*?)^\1```$", read(page), re.M | re.S)
        if language in languages
    ]


def inline(page: str) -> list[str]:
    """Return the texts in code font in the running text of a page."""
    text = re.sub(r"^( *)```.*?^\1```$", "", read(page), flags=re.M | re.S)
    return [" ".join(code.split()) for code in re.findall(r"(?<!`)`([^`]+)`(?!`)", text)]


PYTHON = "".join(block.text for block in blocks("python"))
SAMPLE_SINKS = set(re.findall(r'tag="(\w+)"', PYTHON)) - set(FOUND.sinks)
SAMPLE_PROBES = set(re.findall(r'Probe\(\s*name="(\w+)"', PYTHON)) - set(FOUND.probes)


def is_settings(raw: dict[str, Any]) -> bool:
    return set(raw) <= set(config.Settings.__struct_fields__)


SETTINGS = [block for block in blocks("toml") if is_settings(tomli.loads(block.text))]


@pytest.mark.parametrize("block", SETTINGS, ids=str)
def test_settings_are_valid_as_they_stand(block: Block, tmp_path: Path) -> None:
    (tmp_path / "groups.conf").write_text("web: nginx\n")  # some samples name a groups file
    raw = tomli.loads(block.text)
    # The sample plugins of the pages have their own tests.
    raw["sinks"] = [sink for sink in raw.get("sinks", []) if sink["type"] not in SAMPLE_SINKS]
    raw["plugins"] = {name: section for name, section in raw.get("plugins", {}).items() if name not in SAMPLE_PROBES}
    config.validate(raw, str(tmp_path / "ebpfmon.toml"), FOUND)


def simple_commands(script: str) -> Iterator[list[str]]:
    """Yield the words of each command in a shell script, without redirections and expansions."""
    script = re.sub(r"<<'(\w+)'\n.*?^\1$", "\n", script, flags=re.M | re.S).replace("\\\n", " ")
    script = re.sub(r"\$\([^()]*\)|\$\w+", "1", script)
    pending = ""
    for line in script.splitlines():
        pending += line + "\n"
        try:
            words = split(pending)
        except ValueError:  # A quoted text continues on the next line.
            continue
        pending = ""
        for is_end, command in itertools.groupby(words, lambda word: set(word) <= set("();<>|&")):
            if not is_end:
                yield list(command)
    assert not pending, pending


def split(text: str) -> list[str]:
    lexer = shlex.shlex(text, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    return list(lexer)


def without_wrappers(words: list[str]) -> list[str]:
    while words and (words[0] in _WRAPPERS or words[0].startswith("-") or re.match(r"\w+=", words[0])):
        words = words[1:]
    return words


COMMANDS = [
    (block.page, command)
    for block in blocks("sh")
    for words in simple_commands(block.text)
    if (command := without_wrappers(words))
]


def arguments_of(words: list[str]) -> list[str] | None:
    """Return the arguments of `ebpfmon`, None if this is another command."""
    return words[1:] if words[0].rpartition("/")[2] == "ebpfmon" else None


EBPFMON = [(page, arguments) for page, words in COMMANDS if (arguments := arguments_of(words)) is not None]


@pytest.mark.parametrize(("page", "arguments"), EBPFMON, ids=lambda of: of if isinstance(of, str) else " ".join(of))
def test_commands_have_arguments_that_ebpfmon_accepts(
    page: str, arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    status = 0
    try:
        parser().parse_args(arguments)
    except SystemExit as end:  # --help and --version end with 0
        status = int(end.code or 0)
    assert not status, f"{page}: ebpfmon {' '.join(arguments)}: {capsys.readouterr().err}"


@pytest.mark.parametrize("page", PAGES)
def test_commands_in_the_text_exist(page: str, capsys: pytest.CaptureFixture[str]) -> None:
    for code in inline(page):
        if re.match(r"ebpfmon [a-z]", code):
            words = itertools.takewhile(lambda word: re.fullmatch(r"[a-z-]+", word), code.split()[1:])
            with pytest.raises(SystemExit) as end:
                parser().parse_args([*words, "--help"])
            assert not end.value.code, f"{code}: {capsys.readouterr().err}"


def test_make_targets_exist() -> None:
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.M))
    named = {code.split()[1] for page in PAGES for code in inline(page) if re.match(r"make [\w-]+", code)}
    named |= {w for _, words in COMMANDS if words[0] == "make" for w in words[1:] if re.fullmatch(r"[a-z-]+", w)}
    assert named
    assert named <= targets


@pytest.mark.parametrize("block", blocks("python"), ids=str)
def test_python_samples_compile(block: Block) -> None:
    compile(block.text, block.page, "exec", dont_inherit=True)


@pytest.mark.parametrize("block", blocks("json"), ids=str)
def test_json_samples_are_json(block: Block) -> None:
    json.loads(block.text)


def in_each_grouping(chart: ebpfmon.Chart) -> list[ebpfmon.Chart]:
    """Return a chart as it is published: once, or if it is grouped, once for each grouping."""
    if not chart.grouped:
        return [chart]
    return [chart.for_grouping(grouping.prefix, grouping.name) for grouping in groupings().values()]


def sample_charts() -> list[ebpfmon.Chart]:
    """Return the charts that the samples declare, as far as their names and units go."""
    units = set(re.findall(r'units="([^"]+)"', PYTHON))
    value = (ebpfmon.Dimension.value("field_calls"),)
    return [
        published
        for id_, unit in itertools.product(set(re.findall(r'(?<!Column\()\bid="([a-z.]+)"', PYTHON)), units)
        for published in in_each_grouping(
            ebpfmon.Chart(
                id=id_, title="T", units=unit, family="F", priority=1, dimensions=value, grouped="." not in id_
            )
        )
    ]


OWN = SelfMetrics(list(FOUND.probes), [SinkTask(LogSettings())]).declared
DECLARED = [*OWN, *(published for p in FOUND.probes.values() for c in p.charts for published in in_each_grouping(c))]
CHARTS = {chart.id for chart in [*DECLARED, *sample_charts()]}
TYPES = {id_.partition(".")[0] for id_ in CHARTS}
FILES = {"h", "bpf.h", "bpf.c", "bpf.o", "bcc.c", "py", "toml", "te", "pp", "plugin", "service", "md", "conf"}


def is_chart(id_: str) -> bool:
    pattern = re.compile(re.escape(id_).replace(r"\*", ".*"))
    return any(pattern.fullmatch(chart) for chart in CHARTS)


@pytest.mark.parametrize("page", PAGES)
def test_charts_exist(page: str) -> None:
    # `ebpfmon.NAME` may also be a setting, or a part of the package.
    others = {*config.Core.__struct_fields__, *ebpfmon.__all__, *(path.stem for path in (ROOT / "ebpfmon").iterdir())}
    for code in inline(page):
        chart = re.fullmatch(rf"!?(({'|'.join(TYPES)})\.([a-z_*]+))", code)
        if chart and chart[3] not in FILES and not (chart[2] == "ebpfmon" and chart[3] in others):
            assert is_chart(chart[1]), code


def metric_names() -> set[str]:
    text = metrics.render(snapshot(), 0, 0, exposition.generate_latest).decode()
    names = set(re.findall(r"^# TYPE (\w+)", text, re.M))
    for chart in [*DECLARED, *sample_charts()]:
        suffixes = {"counter": ("_total",), "gauge": ("",), "histogram": ("", "_bucket", "_sum", "_count")}
        names |= {metrics.name_of(chart) + suffix for suffix in suffixes[metrics.type_of(chart)]}
    return names


METRICS = metric_names()
NEW_PLUGINS = {arguments[3] for _, arguments in EBPFMON if arguments[:2] == ["plugin", "new"]}
PACKAGES = {"ebpfmon_sinks", *(f"ebpfmon_{name}" for name in {*FOUND.probes, *NEW_PLUGINS})}
OTHERS = PACKAGES | set(HOOKS)


@pytest.mark.parametrize("page", PAGES)
def test_metrics_exist(page: str) -> None:
    named = set(re.findall(r"\bebpfmon_[a-z0-9_]*[a-z0-9]\b(?![/(_*])", read(page)))
    assert named - METRICS - OTHERS == set()


@pytest.mark.parametrize("page", PAGES)
def test_values_of_the_label_dimension_exist(page: str) -> None:
    dimensions = {metrics.name_of(c): {d.name for d in c.dimensions} for c in [*DECLARED, *sample_charts()]}
    for metric, value in re.findall(r'\b(ebpfmon_\w+)\{[^}]*?dimension="([^"]+)"', read(page)):
        assert value in dimensions[metric.removesuffix("_total")]


@pytest.mark.parametrize("page", PAGES)
def test_settings_in_the_text_exist(page: str) -> None:
    sections: dict[str, set[str]] = {
        "ebpfmon": set(config.Core.__struct_fields__),
        "groups": set(config.GroupSettings.__struct_fields__),
        "apps": set(),  # The old section is still accepted.
    }
    sections |= {f"plugins.{name}": set(probe.settings.__struct_fields__) for name, probe in FOUND.probes.items()}
    for code in inline(page):
        if name := re.fullmatch(r"\[([a-z_]+|plugins\.[a-z_]+)\](?: (\w+))?.*", code):
            section, key = name.groups()
            if section.removeprefix("plugins.") not in SAMPLE_PROBES:
                assert section in sections, code
                assert key is None or key in sections[section], code
        elif name := re.fullmatch(r"groups\.(\w+)", code):
            assert name[1] in sections["groups"], code


def test_there_are_samples_of_each_kind() -> None:
    assert len(SETTINGS) > 20
    assert len(EBPFMON) > 30
    assert len(METRICS) > 50


def test_messages_that_tables_of_problems_quote_are_in_the_code() -> None:
    files = [path for folder in ("ebpfmon", "ebpfmon_sinks") for path in (ROOT / folder).rglob("*.py")]
    # Join the literals of each string.
    code = re.sub(r'" *\n *f?"', "", "\n".join(path.read_text() for path in files)).replace('\\"', '"')
    quoted = [
        (page, part.strip(" :"))
        for page in PAGES
        for row in re.findall(r"^\| (.*?) \|", read(page).partition("What can go wrong")[2], re.M)
        for message in re.findall(r"`([^`]+)`", row)
        for part in re.split(r"[A-Z]{3,}|\.\.\.|'[^']*'", message)  # Skip the values that are formatted in.
    ]
    of_the_kernel = {os.strerror(number) for number in errno.errorcode}
    messages = [(page, part) for page, part in quoted if len(part.split()) > 3 and part not in of_the_kernel]
    assert len(messages) >= 5
    assert [(page, part) for page, part in messages if part not in code] == []
