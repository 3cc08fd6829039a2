"""Report pytest's results as one table: a row per kernel, machine and probe, a column per attach method."""

from __future__ import annotations

import re
import textwrap
import xml.etree.ElementTree as ET
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from ebpfmon.kernel import attach_methods
from tests.vm.cells import Cell
from tests.vm.machine import Ended

METHODS = attach_methods.NAMES
MODES = ("entry", "return")
REFUSED = "refused_by_kernel"
"""A test that passes because the kernel rightly refused says why: `record_property("refused_by_kernel", reason)`."""
_NO_TESTS = 5  # pytest's exit status


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one test ended in one machine. If there is no `failure`, it passed."""

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
    cell: Cell
    tests: tuple[Outcome, ...] = ()
    failure: str = ""
    """What went wrong beside the tests."""
    skipped: str = ""
    """Why the machine was not run at all, where that is no failure."""
    note: str = ""
    """What else is to be said."""
    elapsed_s: float = 0

    @property
    def failed(self) -> bool:
        return bool(self.failure) or any(test.failure for test in self.tests)


def read(junit: str, cell: Cell, probes: Mapping[str, Collection[str]]) -> tuple[Outcome, ...]:
    """Return the tests in pytest's JUnit XML. `probes`: the methods that each has programs for."""
    return tuple(_test(case, cell, probes) for case in ET.fromstring(junit).iter("testcase"))


def _test(case: ET.Element, cell: Cell, probes: Mapping[str, Collection[str]]) -> Outcome:
    module, name = case.get("classname", "").rpartition(".")[2], case.get("name", "")
    given = set(re.split(r"[\[\]-]", name)[1:])  # test_it[kprobe-entry]
    failure = refused = skipped = ""
    for element in case:
        said = (element.get("message") or "").partition("\n")[0]
        if element.tag in ("failure", "error"):
            failure = said or element.tag
        elif element.tag == "skipped":
            skipped = said
    method = _first(METHODS, given)
    probe = _first(probes, given) or next((p for p in probes if p.partition("_")[0] in module.split("_")), "")
    # the kernel has no part in that: such a skip is listed, and its square stays empty
    has_no_program = bool(probe and method) and method not in probes[probe]
    allowed = has_no_program or any(reason in skipped for reason in cell.may_skip)
    if skipped and (method in cell.expect or not allowed):
        failure, skipped = f"was skipped: {skipped}", ""
    elif skipped and method and not has_no_program:
        refused, skipped = skipped, ""
    for entry in case.iter("property"):
        if entry.get("name") == REFUSED:
            refused = entry.get("value", "")
    return Outcome(f"{module}::{name}", probe, method, _first(MODES, given), failure, refused, skipped)


def _first(words: Iterable[str], given: Collection[str]) -> str:
    return next((word for word in words if word in given), "")


def judge(cell: Cell, ended: Ended, tests: Sequence[Outcome], probes: Mapping[str, Collection[str]]) -> str:
    """What is wrong with a run beside its tests, or nothing. `probes`: the methods that each has programs for."""
    if ended.status is None:
        return ended.trouble
    if ended.status == _NO_TESTS:
        return "no tests"
    if ended.status not in (0, 1) or (ended.status and not any(test.failure for test in tests)):
        return f"exit status {ended.status}"
    seen = {(test.probe, test.method, test.mode) for test in tests}
    wanted = {(p, s, m) for p, has in probes.items() for s in cell.expect if s in has for m in MODES}
    missing = ", ".join(" ".join(words) for words in sorted(wanted - seen))
    return f"no test of {missing}" if missing else ""


def table(runs: Iterable[Run]) -> str:
    """All runs in Markdown, and below it what is to be said about them."""
    rows = [["kernel", "machine", "probe", *METHODS, "by itself", "tests", "time"]]
    below: list[str] = []
    for run in runs:
        rows += _rows(run)
        said = [f"FAILED {test.name}: {test.failure}" for test in run.tests if test.failure]
        said += [f"skipped {test.name}: {test.skipped}" for test in run.tests if test.skipped]
        said += [f"FAILED: {run.failure}"] if run.failure else []
        said += [f"SKIPPED: {run.skipped}"] if run.skipped else []
        said += [run.note] if run.note else []
        below += [f"- {run.kernel} {run.cell.name}: {line}" for line in said]
    rows = [[square.replace("|", "\\|") for square in row] for row in rows]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    rows.insert(1, ["-" * width for width in widths])
    lines = ["| " + " | ".join(s.ljust(w) for s, w in zip(row, widths, strict=True)) + " |" for row in rows]
    return "\n".join([*lines, *([""] if below else []), *below]) + "\n"


def _rows(run: Run) -> list[list[str]]:
    """A row for each probe, and one for the tests that are of none."""
    head, took = [run.kernel, run.cell.name], f"{run.elapsed_s:.0f} s"
    if not run.tests:
        return [[*head, "", *("" for _ in METHODS), "SKIPPED" if run.skipped else "FAILED", "", took]]
    rows: list[list[str]] = []
    for probe in sorted({test.probe for test in run.tests}, key=lambda name: (not name, name)):
        tests = [test for test in run.tests if test.probe == probe]
        squares = [
            _square([test for test in tests if test.method == method], f"{probe} {method} " in run.failure)
            for method in (*METHODS, "")
        ]
        rows.append([*head, probe or "(any)", *squares, str(len(tests)), "" if rows else took])
    return rows


def _square(tests: Sequence[Outcome], missing: bool) -> str:
    """Say how the tests of one probe by one attach method ended; `missing`: there should have been more."""
    if missing or any(test.failure for test in tests):
        return "FAILED"
    if refused := sorted({test.refused for test in tests if test.refused}):
        return f"refused by the kernel: {textwrap.shorten('; '.join(refused), 100, placeholder=' ...')}"
    return "passed" if any(not test.skipped for test in tests) else ""


def verdict(runs: Sequence[Run]) -> str:
    """The last line."""
    failed, skipped = sum(run.failed for run in runs), sum(bool(run.skipped) for run in runs)
    tests = sum(len(run.tests) for run in runs)
    said = [f"{len(runs) - failed - skipped} of {len(runs)} machines passed"]
    said += [f"{failed} FAILED"] if failed else []
    said += [f"{skipped} SKIPPED"] if skipped else []
    return f"ebpfmon: kernel matrix: {', '.join(said)}; {tests} tests"
