"""Report pytest's results as one table: a row per kernel, machine and probe, a column per attach method."""

from __future__ import annotations

import re
import textwrap
import xml.etree.ElementTree as ET
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from ebpfmon.kernel import attach_methods
from tests.vm.configurations import Configuration
from tests.vm.machine import Ended

METHODS = attach_methods.NAMES
MODES = ("entry", "return")
REFUSED = "refused_by_kernel"
"""The JUnit property with which a test says why the kernel rightly refused an attach method.

A test sets it with `record_property("refused_by_kernel", reason)`, and passes.
"""
_NO_TESTS = 5  # pytest's exit status


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one test ended in one machine. It passed if `failure` is empty."""

    name: str
    probe: str = ""
    method: str = ""
    mode: str = ""
    failure: str = ""
    refused: str = ""
    skipped: str = ""


@dataclass(frozen=True, slots=True)
class Run:
    """One machine's run."""

    kernel: str
    configuration: Configuration
    tests: tuple[Outcome, ...] = ()
    failure: str = ""
    """What went wrong outside the tests."""
    skipped: str = ""
    """Why the machine did not run, if that is not a failure."""
    note: str = ""
    """A remark to print below the table."""
    elapsed_s: float = 0

    @property
    def failed(self) -> bool:
        return bool(self.failure) or any(test.failure for test in self.tests)


def read(junit: str, configuration: Configuration, probes: Mapping[str, Collection[str]]) -> tuple[Outcome, ...]:
    """Return the outcomes of the tests in pytest's JUnit XML. `probes` has each probe's supported attach methods."""
    return tuple(_test(case, configuration, probes) for case in ET.fromstring(junit).iter("testcase"))


def _test(case: ET.Element, configuration: Configuration, probes: Mapping[str, Collection[str]]) -> Outcome:
    module, name = case.get("classname", "").rpartition(".")[2], case.get("name", "")
    parameters = set(re.split(r"[\[\]-]", name)[1:])  # The parameters of the test, as in test_it[kprobe-entry].
    failure = refused = skipped = ""
    for element in case:
        message = (element.get("message") or "").partition("\n")[0]
        if element.tag in ("failure", "error"):
            failure = message or element.tag
        elif element.tag == "skipped":
            skipped = message
    method = _first(METHODS, parameters)
    probe = _first(probes, parameters) or next((p for p in probes if p.partition("_")[0] in module.split("_")), "")
    # If the probe has no program for the method, the kernel refused nothing: list the skip, and leave the cell empty.
    has_no_program = bool(probe and method) and method not in probes[probe]
    allowed = has_no_program or any(reason in skipped for reason in configuration.may_skip)
    lacks = any(reason in skipped for reason in configuration.may_lack)
    if skipped and not lacks and (method in configuration.expect or not allowed):
        failure, skipped = f"was skipped: {skipped}", ""
    elif skipped and method and not has_no_program and not lacks:
        refused, skipped = skipped, ""
    for entry in case.iter("property"):
        if entry.get("name") == REFUSED:
            refused = entry.get("value", "")
    return Outcome(f"{module}::{name}", probe, method, _first(MODES, parameters), failure, refused, skipped)


def _first(words: Iterable[str], among: Collection[str]) -> str:
    return next((word for word in words if word in among), "")


def judge(
    configuration: Configuration, ended: Ended, tests: Sequence[Outcome], probes: Mapping[str, Collection[str]]
) -> str:
    """Return what is wrong with a run apart from failed tests, or an empty string.

    `probes` has each probe's supported attach methods: each that the configuration expects must have been tested.
    """
    if ended.status is None:
        return ended.problem
    if ended.status == _NO_TESTS:
        return "no tests"
    if ended.status not in (0, 1) or (ended.status and not any(test.failure for test in tests)):
        return f"exit status {ended.status}"
    seen = {(test.probe, test.method, test.mode) for test in tests if not test.skipped}
    required = {
        (probe, method, mode)
        for probe, methods in probes.items()
        for method in configuration.expect
        if method in methods
        for mode in MODES
    }
    missing = ", ".join(" ".join(words) for words in sorted(required - seen))
    return f"no test of {missing}" if missing else ""


def table(runs: Iterable[Run]) -> str:
    """Return a Markdown table of all runs, followed by a list of failures, skips and remarks."""
    rows = [["kernel", "machine", "probe", *METHODS, "automatic", "tests", "time"]]
    remarks: list[str] = []
    for run in runs:
        rows += _rows(run)
        lines = [f"FAILED {test.name}: {test.failure}" for test in run.tests if test.failure]
        lines += [f"skipped {test.name}: {test.skipped}" for test in run.tests if test.skipped]
        lines += [f"FAILED: {run.failure}"] if run.failure else []
        lines += [f"SKIPPED: {run.skipped}"] if run.skipped else []
        lines += [run.note] if run.note else []
        remarks += [f"- {run.kernel} {run.configuration.name}: {line}" for line in lines]
    rows = [[cell.replace("|", "\\|") for cell in row] for row in rows]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    rows.insert(1, ["-" * width for width in widths])
    lines = ["| " + " | ".join(s.ljust(w) for s, w in zip(row, widths, strict=True)) + " |" for row in rows]
    return "\n".join([*lines, *([""] if remarks else []), *remarks]) + "\n"


def _rows(run: Run) -> list[list[str]]:
    """Return a row for each probe, and one for tests that belong to no probe."""
    head, took = [run.kernel, run.configuration.name], f"{run.elapsed_s:.0f} s"
    if not run.tests:
        return [[*head, "", *("" for _ in METHODS), "SKIPPED" if run.skipped else "FAILED", "", took]]
    rows: list[list[str]] = []
    for probe in sorted({test.probe for test in run.tests}, key=lambda name: (not name, name)):
        tests = [test for test in run.tests if test.probe == probe]
        outcomes = [
            _cell([test for test in tests if test.method == method], f"{probe} {method} " in run.failure)
            for method in (*METHODS, "")
        ]
        rows.append([*head, probe or "(any)", *outcomes, str(len(tests)), "" if rows else took])
    return rows


def _cell(tests: Sequence[Outcome], missing: bool) -> str:
    """Return the table cell for one probe and one attach method. `missing`: a required test did not run."""
    if missing or any(test.failure for test in tests):
        return "FAILED"
    if refused := sorted({test.refused for test in tests if test.refused}):
        return f"refused by the kernel: {textwrap.shorten('; '.join(refused), 100, placeholder=' ...')}"
    return "passed" if any(not test.skipped for test in tests) else ""


def verdict(runs: Sequence[Run]) -> str:
    """Return the last line of the output: how many machines passed, failed and were skipped."""
    failed, skipped = sum(run.failed for run in runs), sum(bool(run.skipped) for run in runs)
    tests = sum(len(run.tests) for run in runs)
    parts = [f"{len(runs) - failed - skipped} of {len(runs)} machines passed"]
    parts += [f"{failed} FAILED"] if failed else []
    parts += [f"{skipped} SKIPPED"] if skipped else []
    return f"ebpfmon: kernel matrix: {', '.join(parts)}; {tests} tests"
