"""The registry of attach methods: what each reports about a kernel, and what a new one needs."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from ebpfmon import Candidate, Event
from ebpfmon.config.settings import Core
from ebpfmon.kernel import attach_methods
from ebpfmon.kernel.attach_methods import METHODS, NAMES, AttachMethod, Kernel, Kprobe, Section, Tracepoint, Trampoline
from ebpfmon.kernel.objects import bind
from ebpfmon.kernel.symbols import Symbols
from tests.unit.fakes import FakeSymbols
from tests.unit.test_plan import KERNEL, LIMITED_KRETPROBES

ROOT = Path(__file__).parents[2]


class FakeLinks:
    """An object that records its calls."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def attach_by_section(self, program: str, *, counts_misses: bool = False) -> None:
        self.calls.append(f"attach_by_section {program} {counts_misses}")

    def attach_return(self, program: str, function: str) -> None:
        self.calls.append(f"attach_return {program} {function}")

    def prepare_return(self, program: str) -> None:
        self.calls.append(f"prepare_return {program}")


@pytest.mark.parametrize(
    ("method", "section", "calls"),
    [
        (Trampoline(), "fexit/f", ["attach_by_section p False"]),
        (Tracepoint(), "tp/a/b", ["attach_by_section p False"]),
        (Kprobe(), "kprobe/f", ["attach_by_section p True"]),
        (Kprobe(), "kretprobe/f", ["prepare_return p", "attach_return p f"]),
    ],
)
def test_a_method_attaches_its_kinds_of_programs(method: AttachMethod, section: str, calls: list[str]) -> None:
    links = FakeLinks()
    method.prepare(links, "p", Section.parse(section))
    method.attach(links, "p", Section.parse(section))
    assert links.calls == calls


@pytest.mark.parametrize(
    ("method", "section", "arguments", "reason"),
    [
        (Trampoline(), "fexit/f", 3, ""),
        (Trampoline(), "fexit/f", 4, "it has 3 arguments in this kernel, not 4"),
        (Trampoline(), "fentry/g", None, "this kernel has no such function"),
        (Kprobe(), "kprobe/f", None, ""),
        (Kprobe(), "kretprobe/g", None, "this kernel has no such function"),
        (Tracepoint(), "tp_btf/t", None, ""),
        (Tracepoint(), "tp/system/t", None, ""),
        (Tracepoint(), "tp/syscalls/sys_exit_x", None, ""),
        (Tracepoint(), "tp_btf/u", None, "this kernel has no such tracepoint"),
        (Tracepoint(), "tp_btf/t", 1, "it has 2 arguments in this kernel, not 1"),
    ],
)
def test_a_method_says_why_a_target_is_unavailable(
    method: AttachMethod, section: str, arguments: int | None, reason: str
) -> None:
    symbols = FakeSymbols({"f": 3}, ("t",), raw={"t": 2})
    assert method.unavailable_reason(Section.parse(section), arguments, KERNEL, symbols) == reason


def test_without_preemption_only_limited_kretprobes_miss_calls() -> None:
    missing = [
        (method.name, kind)
        for method in METHODS
        for kind in sorted(method.kinds)
        if method.miss_reason([kind], LIMITED_KRETPROBES)
    ]
    assert missing == [("kprobe", "kretprobe")]
    assert not any(method.miss_reason(method.kinds, KERNEL) for method in METHODS)


def test_the_setting_accepts_the_methods_and_nothing_else() -> None:
    assert [msgspec.convert({"attach": name}, Core).attach_method for name in ("auto", *NAMES)] == [None, *NAMES]
    with pytest.raises(msgspec.ValidationError, match="attach"):
        msgspec.convert({"attach": "invented"}, Core)


def test_the_docs_list_every_method_with_its_section_kinds() -> None:
    kernels = (ROOT / "docs" / "reference" / "kernels.md").read_text()
    settings = (ROOT / "ebpfmon" / "install" / "files" / "ebpfmon.toml").read_text()
    (attach,) = re.findall(r"^attach = .*", settings, re.M)
    for method in METHODS:
        (line,) = re.findall(rf"^- \*{method.name}\* \((.*?)\):", kernels, re.M)
        assert set(re.findall(r"`(\w+)`", line)) == method.kinds
        assert f'"{method.name}"' in attach.partition("#")[2]


class Invented(AttachMethod):
    """A method that does not exist."""

    name = "invented"
    kinds = frozenset({"invented_entry", "invented_return"})

    def unavailable_reason(self, section: Section, arguments: int | None, kernel: Kernel, symbols: Symbols) -> str:
        return "" if kernel.kprobes else "this kernel has nothing invented"


def test_a_new_method_needs_only_its_class_in_the_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    event = Event("malloc", (Candidate(programs=("malloc_entry",)),))
    monkeypatch.setattr(attach_methods, "METHODS", (*METHODS, Invented()))
    ((found,),) = bind([event], {"malloc_entry": "invented_entry//lib/libc.so.6:malloc"}, []).values()
    assert (found.method.name, found.target) == ("invented", "/lib/libc.so.6:malloc")
    assert not found.method.unavailable_reason(found.sections[0], None, KERNEL, FakeSymbols())
    assert found.method.unavailable_reason(found.sections[0], None, replace(KERNEL, kprobes=False), FakeSymbols())
    links = FakeLinks()
    found.method.attach(links, "malloc_entry", found.sections[0])
    assert links.calls == ["attach_by_section malloc_entry False"]
