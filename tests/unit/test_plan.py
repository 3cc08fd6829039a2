"""How a candidate is chosen for each event: by looking, then by trying."""

from __future__ import annotations

import errno
import itertools
import os
from collections.abc import Container, Iterable
from dataclasses import replace
from typing import cast

import pytest

from ebpfmon import Candidate, Event, LoadMode, Setup
from ebpfmon.errors import AttachError, LoadError
from ebpfmon.kernel.attach_methods import Kernel
from ebpfmon.kernel.bpfobject import BpfObject
from ebpfmon.kernel.objects import ObjectSpec
from ebpfmon.kernel.plan import Plan, miss_reason
from tests.unit.fakes import PROBE, SECTIONS, SPEC, FakeObject, FakeSymbols, spec_of
from tests.unit.test_features import FULL

KERNEL = Kernel(kprobes=True, tracefs=True, lockdown=None, preempted_kinds=frozenset(), unlimited_kretprobes=True)
NO_KPROBES, NO_ROOM = replace(KERNEL, kprobes=False), replace(KERNEL, unlimited_kretprobes=False)
TRAMPOLINES = frozenset({"fentry", "fexit"})
PREEMPTS_TRAMPOLINES = replace(KERNEL, preempted_kinds=TRAMPOLINES)
PREEMPTS_ALL = replace(KERNEL, preempted_kinds=TRAMPOLINES | {"tp_btf"})
PREEMPTED = "may miss calls: this kernel can preempt such programs"
FEW = "may miss calls: at most 4096 concurrent calls of a function are counted"
FAULTABLE, ROOM = ("tracepoint_ext", "faultable"), ("fprobe", "hlist_array")
ENTRY, RETURN = LoadMode
NO_SETUP = Setup()


def plan_of(
    kernel: Kernel = KERNEL,
    symbols: FakeSymbols | None = None,
    *,
    mode: LoadMode = ENTRY,
    attach_method: str | None = None,
    programs: Container[str] | None = None,
    spec: ObjectSpec = SPEC,
    refused_kinds: dict[str, str] | None = None,
) -> Plan:
    kernel = replace(kernel, refused_kinds={} if refused_kinds is None else refused_kinds)
    plan = Plan(PROBE, spec, kernel, mode=mode, attach_method=attach_method)
    plan.exclude_unavailable(symbols or FakeSymbols(), programs)
    return plan


def try_load(
    plan: Plan, obj: FakeObject | None = None, *, table_size: int = 64, rows: bool = True, setup: Setup = NO_SETUP
) -> bool:
    return plan.try_load(cast(BpfObject, obj or FakeObject()), table_size=table_size, rows=rows, setup=setup)


def chosen(plan: Plan) -> dict[str, str | None]:
    """Event -> "method target" of what was chosen."""
    return {e: f"{c.chosen.method.name} {c.chosen.target}" if c.chosen else None for e, c in plan.choices.items()}


def refused(plan: Plan, event: str) -> dict[str, str]:
    """ "method target" -> the reason."""
    return {f"{c.method.name} {c.target}": reason for c, reason in plan.choices[event].refused}


def test_the_first_candidate_that_the_kernel_has_is_chosen_and_it_alone_is_loaded_and_attached() -> None:
    plan, obj = plan_of(), FakeObject()
    assert try_load(plan, obj)
    assert chosen(plan) == {"open": "trampoline f2", "exit": "tracepoint t"}
    assert obj.loaded == obj.attached == ["f2_fexit", "t_tp_btf"]
    assert refused(plan, "open") == refused(plan, "exit") == {}


NO_FUNCTION, NO_TRACEPOINT = "this kernel has no such function", "this kernel has no such tracepoint"
NO_TRACEFS = "needs tracefs: mount -t tracefs tracefs /sys/kernel/tracing"
NO_BTF = "needs the kernel's BTF, which is not available with BCC"


@pytest.mark.parametrize(
    ("symbols", "kernel", "event", "expected", "why"),
    [
        (FakeSymbols({"f1": 4, "f2": 4}), KERNEL, "open", "trampoline f1",
         {"trampoline f2": "it has 4 arguments in this kernel, not 3"}),
        (FakeSymbols({"f1": 4}), KERNEL, "open", "trampoline f1", {"trampoline f2": NO_FUNCTION}),
        (FakeSymbols({"f2": 9}), KERNEL, "open", "kprobe f2",
         {"trampoline f2": "it has 9 arguments in this kernel, not 3", "trampoline f1": NO_FUNCTION}),
        (FakeSymbols({"f2": 9, "f1": 9}), NO_KPROBES, "open", "tracepoint shared",
         {"trampoline f2": "it has 9 arguments in this kernel, not 3",
          "trampoline f1": "it has 9 arguments in this kernel, not 4",
          "kprobe f2": "this kernel has no kprobes (CONFIG_KPROBE_EVENTS)"}),
        (FakeSymbols({"e": 5}, ("shared",)), KERNEL, "exit", "trampoline e",
         {"tracepoint t": NO_TRACEPOINT, "tracepoint sys/t": NO_TRACEPOINT}),
    ],
)  # fmt: skip
def test_what_can_be_seen_not_to_be_there_is_crossed_out_with_its_reason(
    symbols: FakeSymbols, kernel: Kernel, event: str, expected: str, why: dict[str, str]
) -> None:
    plan = plan_of(kernel, symbols)
    assert try_load(plan)
    assert chosen(plan)[event] == expected
    assert refused(plan, event) == why


@pytest.mark.parametrize(
    ("room", "tracefs", "expected"),
    [(True, True, True), (True, False, True), (False, True, True), (False, False, False)],
)
def test_a_kretprobe_needs_tracefs_where_the_kernel_makes_no_room_for_it(
    room: bool, tracefs: bool, expected: bool
) -> None:
    kernel = replace(KERNEL, unlimited_kretprobes=room, tracefs=tracefs)
    plan = plan_of(kernel, FakeSymbols({"f2": None}, ("t",)), mode=RETURN)
    assert try_load(plan)
    assert chosen(plan)["open"] == ("kprobe f2" if expected else None)
    assert (refused(plan, "open").get("kprobe f2") == NO_TRACEFS) is not expected


@pytest.mark.parametrize("at", ["load", "attach"])
def test_a_program_that_is_refused_is_crossed_out_alone_and_the_next_is_tried(at: str) -> None:
    plan = plan_of()
    assert not try_load(plan, FakeObject({"f2_fexit": errno.EACCES}, at))
    assert try_load(plan)
    assert chosen(plan) == {"open": "trampoline f1", "exit": "tracepoint t"}
    assert refused(plan, "open") == {"trampoline f2": "why not"}


@pytest.mark.parametrize("code", [errno.EPERM, errno.EOPNOTSUPP, 524])
@pytest.mark.parametrize("at", ["load", "attach"])
def test_a_kind_that_the_kernel_refuses_is_crossed_out_as_a_whole(code: int, at: str) -> None:
    plan = plan_of()
    assert not try_load(plan, FakeObject({"f2_fexit": code}, at))
    assert try_load(plan)
    assert chosen(plan) == {"open": "kprobe f2", "exit": "tracepoint t"}
    why = f"the kernel refuses trampoline programs ({os.strerror(code)})"
    assert refused(plan, "open") == {"trampoline f2": why, "trampoline f1": why}


@pytest.mark.parametrize("lockdown", [None, "confidentiality"])
@pytest.mark.parametrize("at", ["load", "attach"])
def test_what_one_probe_was_not_permitted_the_next_does_not_try_and_says_the_same_of(
    lockdown: str | None, at: str
) -> None:
    kernel, refused_kinds = replace(KERNEL, lockdown=lockdown), dict[str, str]()
    first = plan_of(kernel, refused_kinds=refused_kinds)
    assert not try_load(first, FakeObject({"f2_fexit": errno.EPERM}, at))
    assert try_load(first)
    second, obj = plan_of(kernel, refused_kinds=refused_kinds), FakeObject()
    assert try_load(second, obj)
    assert obj.loaded == ["f2_kprobe", "t_tp_btf"]
    assert second.choices == first.choices
    assert refused(second, "open").keys() == {"trampoline f2", "trampoline f1"}


@pytest.mark.parametrize("code", [errno.EOPNOTSUPP, 524, errno.EACCES])
def test_what_may_be_due_to_one_function_the_next_probe_tries_itself(code: int) -> None:
    refused_kinds = dict[str, str]()
    assert not try_load(plan_of(refused_kinds=refused_kinds), FakeObject({"f2_fexit": code}))
    assert not refused_kinds
    assert try_load(second := plan_of(refused_kinds=refused_kinds))
    assert chosen(second)["open"] == "trampoline f2"


def test_a_forced_attach_method_that_another_probe_was_not_permitted_is_refused_in_the_same_words() -> None:
    refused_kinds, said = dict[str, str](), []
    first = plan_of(mode=RETURN, attach_method="trampoline", refused_kinds=refused_kinds)
    assert not try_load(first, FakeObject({"f2_fexit": errno.EPERM}))
    for plan in (first, plan_of(mode=RETURN, attach_method="trampoline", refused_kinds=refused_kinds)):
        with pytest.raises(AttachError) as caught:
            try_load(plan)
        said.append(str(caught.value))
    assert said[0] == said[1]
    assert "the kernel refuses trampoline programs (Operation not permitted)" in said[0]
    assert said[0].endswith('; set attach = "auto"')


@pytest.mark.parametrize("code", [errno.EACCES, errno.EPERM])
@pytest.mark.parametrize(("lockdown", "said"), [
    (None, False), ("none", False), ("integrity", False), ("confidentiality", True),
])  # fmt: skip
def test_a_lockdown_that_may_be_the_cause_is_said(lockdown: str | None, said: bool, code: int) -> None:
    plan = plan_of(replace(KERNEL, lockdown=lockdown))
    assert not try_load(plan, FakeObject({"f2_fexit": code}))
    assert try_load(plan)
    assert refused(plan, "open")["trampoline f2"].endswith(" (lockdown: confidentiality)") is said


def test_events_leave_a_shared_program_that_is_refused_one_by_one_from_the_last() -> None:
    plan = plan_of(NO_KPROBES, FakeSymbols({}, ("shared",)))
    assert not try_load(plan, FakeObject({"shared": errno.E2BIG}))
    obj = FakeObject()
    assert try_load(plan, obj)
    assert chosen(plan) == {"open": "tracepoint shared", "exit": "tracepoint sys/shared"}
    assert refused(plan, "exit")["tracepoint shared"] == "why not"
    assert obj.loaded == ["shared", "sys_shared"]
    assert bytes(obj.data[8:12]) == bytes([1, 0, 0, 1]), "each program sees its own events alone"


def test_what_all_events_have_left_is_tried_no_more() -> None:
    plan = plan_of(NO_KPROBES, FakeSymbols({}, ("shared",)))
    refuse = {"shared": errno.EINVAL, "sys_shared": errno.E2BIG}
    for seen in (["shared"], ["shared", "sys_shared"], ["sys_shared"], ["sys_shared"]):
        obj = FakeObject(refuse)
        assert not try_load(plan, obj)
        assert obj.loaded == seen
    message = r"^cannot attach 'open' .* at 'sys/shared': why not \(and 1 more of 2 events\)$"
    with pytest.raises(AttachError, match=message):
        try_load(plan)


def test_an_event_that_cannot_be_seen_is_left_out_and_the_rest_goes_on() -> None:
    plan = plan_of(NO_KPROBES, FakeSymbols({}, ("t",)))
    assert try_load(plan)
    assert chosen(plan) == {"open": None, "exit": "tracepoint t"}
    assert len(refused(plan, "open")) == 5


def test_a_failure_that_is_no_programs_fault_is_raised() -> None:
    class Broken(FakeObject):
        def load(self, programs: Iterable[str]) -> None:
            raise LoadError("load: no memory", errno=errno.ENOMEM)

    with pytest.raises(LoadError, match="no memory"):
        try_load(plan_of(), Broken())


def test_a_forced_attach_method_takes_no_other_and_fails_where_an_event_has_none_left() -> None:
    plan = plan_of(PREEMPTS_ALL, attach_method="trampoline")
    assert try_load(plan)
    assert chosen(plan) == {"open": "trampoline f2", "exit": "trampoline e"}
    assert refused(plan, "open") == refused(plan, "exit") == {}
    lacking = plan_of(symbols=FakeSymbols({"f2": 3}), attach_method="trampoline")
    with pytest.raises(AttachError) as caught:
        try_load(lacking)
    assert str(caught.value) == (
        "cannot attach 'exit' (probe p) by trampoline at 'e': this kernel has no such function; set attach = \"auto\""
    )


@pytest.mark.parametrize(
    ("mode", "chosen", "left", "events"),
    [
        (ENTRY, "f2_kprobe", "f2_kretprobe", {"open", "exit"}),
        (RETURN, "f2_kretprobe", "f2_kprobe", {"open", "exit", "fail"}),
    ],
)
def test_programs_and_events_of_the_other_load_mode_are_out_of_the_question(
    mode: LoadMode, chosen: str, left: str, events: set[str]
) -> None:
    plan, obj = plan_of(symbols=FakeSymbols({"f2": 9, "c": 1}), mode=mode), FakeObject()
    assert try_load(plan, obj)
    assert set(plan.choices) == events
    assert chosen in obj.attached
    assert left not in obj.attached
    assert obj.data[4] == (mode is RETURN)


def test_trampolines_go_behind_kprobes_on_a_kernel_that_preempts_them_and_it_is_said_why() -> None:
    plan = plan_of(PREEMPTS_TRAMPOLINES)
    assert try_load(plan)
    assert chosen(plan) == {"open": "kprobe f2", "exit": "tracepoint t"}
    assert refused(plan, "open") == {"trampoline f2": PREEMPTED, "trampoline f1": PREEMPTED}
    assert refused(plan, "exit") == {}


def test_raw_tracepoints_go_behind_classic_ones_on_a_kernel_that_preempts_them_and_it_is_said_why() -> None:
    plan = plan_of(PREEMPTS_ALL, FakeSymbols({}))
    assert try_load(plan)
    assert chosen(plan) == {"open": "tracepoint sys/shared", "exit": "tracepoint sys/t"}
    assert refused(plan, "exit") == {"tracepoint t": PREEMPTED}
    assert refused(plan, "open")["tracepoint shared"] == PREEMPTED


def test_what_is_preempted_is_better_than_nothing_and_keeps_the_order_of_the_file() -> None:
    plan = plan_of(replace(PREEMPTS_ALL, kprobes=False))
    refuse = {"sys_shared": errno.EINVAL, "t_tp": errno.EINVAL}
    while not try_load(plan, FakeObject(refuse)):
        pass
    assert chosen(plan) == {"open": "trampoline f2", "exit": "tracepoint t"}


def test_a_kretprobe_without_room_goes_behind_what_sees_every_call() -> None:
    plan = plan_of(NO_ROOM, FakeSymbols({"f2": 9}), mode=RETURN)
    assert try_load(plan)
    assert chosen(plan)["open"] == "tracepoint shared"
    assert refused(plan, "open")["kprobe f2"] == FEW


def test_a_kretprobe_without_room_goes_before_what_is_preempted() -> None:
    plan = plan_of(replace(PREEMPTS_ALL, unlimited_kretprobes=False), mode=RETURN)
    assert not try_load(plan, FakeObject({"sys_shared": errno.EINVAL}))
    assert try_load(plan)
    assert chosen(plan)["open"] == "kprobe f2"
    passed_over = {"trampoline f2": PREEMPTED, "trampoline f1": PREEMPTED}
    assert refused(plan, "open") == {"tracepoint sys/shared": "why not", **passed_over}
    assert plan.choices["open"].miss_reason == FEW


KERNELS = [
    replace(KERNEL, preempted_kinds=preempted_kinds, unlimited_kretprobes=room, kprobes=kprobes)
    for preempted_kinds, room, kprobes in itertools.product(
        (frozenset[str](), TRAMPOLINES, TRAMPOLINES | {"tp_btf"}), (True, False), (True, False)
    )
]


@pytest.mark.parametrize("mode", LoadMode)
@pytest.mark.parametrize("kernel", KERNELS)
def test_where_something_sees_every_call_nothing_that_misses_calls_is_chosen(kernel: Kernel, mode: LoadMode) -> None:
    plan = plan_of(kernel, mode=mode)
    assert try_load(plan)
    for event in ("open", "exit"):
        candidate = plan.choices[event].chosen
        assert candidate is not None
        assert not miss_reason(candidate, kernel)
        order = SPEC.candidates[event]
        before = [c for c in order[: order.index(candidate)] if c.mode in (None, mode)]
        assert {c.programs for c, reason in plan.choices[event].refused if reason} == {c.programs for c in before}


def test_what_bcc_did_not_compile_is_crossed_out() -> None:
    compiled = {name for name, section in SECTIONS.items() if not section.startswith(("fe", "tp/"))}
    plan = plan_of(PREEMPTS_ALL, FakeSymbols({"f2": None, "e": None}), programs=compiled)
    assert try_load(plan)
    assert chosen(plan) == {"open": "kprobe f2", "exit": "tracepoint t"}
    assert refused(plan, "open") == {"trampoline f2": NO_BTF, "trampoline f1": NO_BTF}
    nothing = plan_of(programs=())
    with pytest.raises(AttachError, match=rf"{NO_BTF} \(and 1 more of 2 events\)"):
        try_load(nothing)


@pytest.mark.parametrize(
    ("preemption", "faultable", "expected"),
    [
        ("none", False, frozenset()),
        ("none", True, frozenset()),
        ("voluntary", True, frozenset()),
        ("lazy", False, TRAMPOLINES),
        ("full", True, TRAMPOLINES | {"tp_btf"}),
        ("rt", True, TRAMPOLINES | {"tp_btf"}),
        (None, True, TRAMPOLINES | {"tp_btf"}),
        (None, False, TRAMPOLINES),
    ],
)
def test_a_kernel_that_preempts_itself_preempts_trampolines_and_where_tracepoints_may_fault_them_too(
    preemption: str | None, faultable: bool, expected: frozenset[str]
) -> None:
    symbols = FakeSymbols(structs=(FAULTABLE,) if faultable else ())
    assert Kernel.of(symbols, replace(FULL, preemption=preemption)).preempted_kinds == expected


def test_what_is_known_of_the_kernel_is_what_was_seen() -> None:
    seen = replace(FULL, preemption="none", kprobes=False, lockdown="integrity")
    kernel = Kernel.of(FakeSymbols(), seen)
    assert kernel == Kernel(
        kprobes=False, tracefs=False, lockdown="integrity", preempted_kinds=frozenset(), unlimited_kretprobes=False
    )
    assert Kernel.of(FakeSymbols(structs=(ROOM,)), seen) == replace(kernel, unlimited_kretprobes=True)
    assert Kernel.of(FakeSymbols(), replace(seen, tracefs="/t", kprobes=True)) == replace(
        kernel, tracefs=True, kprobes=True
    )


def test_of_several_programs_one_that_misses_calls_is_enough() -> None:
    event = Event("a", (Candidate(programs=("f_kprobe", "f_kretprobe")),))
    ((both,),) = spec_of(event, f_kprobe="kprobe/f", f_kretprobe="kretprobe/f").candidates.values()
    assert both.kinds == {"kprobe", "kretprobe"}
    assert (miss_reason(both, KERNEL), miss_reason(both, NO_ROOM)) == ("", FEW)


def issue(*arguments: int) -> ObjectSpec:
    """An event at a tracepoint, with a program for each number of arguments."""
    candidates = tuple(Candidate(programs=(f"t{n}",), arguments=n) for n in arguments)
    return spec_of(Event("issue", candidates), **{f"t{n}": "tp_btf/t" for n in arguments})


@pytest.mark.parametrize(("arguments", "chosen"), [(1, "t1"), (2, "t2"), (None, "t1")])
def test_a_tracepoint_is_chosen_that_has_the_arguments_or_the_first_where_that_is_not_known(
    arguments: int | None, chosen: str
) -> None:
    symbols = FakeSymbols(raw={} if arguments is None else {"t": arguments})
    plan, obj = plan_of(symbols=symbols, spec=issue(1, 2)), FakeObject()
    assert try_load(plan, obj)
    assert obj.attached == [chosen]


def test_a_tracepoint_that_has_other_arguments_is_refused_with_both_numbers() -> None:
    with pytest.raises(AttachError, match="it has 3 arguments in this kernel, not 2"):
        try_load(plan_of(symbols=FakeSymbols(raw={"t": 3}), spec=issue(2)))
