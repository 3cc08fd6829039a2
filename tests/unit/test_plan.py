"""How a candidate is chosen for each event: by the properties of the kernel, then by trying."""

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
NO_KPROBES, LIMITED_KRETPROBES = replace(KERNEL, kprobes=False), replace(KERNEL, unlimited_kretprobes=False)
TRAMPOLINES = frozenset({"fentry", "fexit"})
PREEMPTS_TRAMPOLINES = replace(KERNEL, preempted_kinds=TRAMPOLINES)
PREEMPTS_ALL = replace(KERNEL, preempted_kinds=TRAMPOLINES | {"tp_btf"})
PREEMPTED = "may miss calls: this kernel can preempt such programs"
LIMITED = "may miss calls: at most 4096 concurrent calls of a function are counted"
FAULTABLE, HLIST_ARRAY = ("tracepoint_ext", "faultable"), ("fprobe", "hlist_array")
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
    """Return the chosen candidate of each event, as "method target"."""
    return {e: f"{c.chosen.method.name} {c.chosen.target}" if c.chosen else None for e, c in plan.choices.items()}


def refused(plan: Plan, event: str) -> dict[str, str]:
    """Return the reason of each refused candidate: "method target" -> reason."""
    return {f"{c.method.name} {c.target}": reason for c, reason in plan.choices[event].refused}


def test_the_first_available_candidate_is_chosen_and_only_it_is_loaded_and_attached() -> None:
    plan, obj = plan_of(), FakeObject()
    assert try_load(plan, obj)
    assert chosen(plan) == {"open": "trampoline f2", "exit": "tracepoint t"}
    assert obj.loaded == obj.attached == ["f2_fexit", "t_tp_btf"]
    assert refused(plan, "open") == refused(plan, "exit") == {}


NO_FUNCTION, NO_TRACEPOINT = "this kernel has no such function", "this kernel has no such tracepoint"
NO_TRACEFS = "needs tracefs; run mount -t tracefs tracefs /sys/kernel/tracing"
NO_BTF = "needs the kernel's BTF, which is not available with BCC"


@pytest.mark.parametrize(
    ("symbols", "kernel", "event", "expected", "reasons"),
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
def test_unavailable_candidates_are_excluded_with_the_reason(
    symbols: FakeSymbols, kernel: Kernel, event: str, expected: str, reasons: dict[str, str]
) -> None:
    plan = plan_of(kernel, symbols)
    assert try_load(plan)
    assert chosen(plan)[event] == expected
    assert refused(plan, event) == reasons


@pytest.mark.parametrize(
    ("unlimited", "tracefs", "expected"),
    [(True, True, True), (True, False, True), (False, True, True), (False, False, False)],
)
def test_a_kretprobe_needs_tracefs_if_the_kernel_limits_it(unlimited: bool, tracefs: bool, expected: bool) -> None:
    kernel = replace(KERNEL, unlimited_kretprobes=unlimited, tracefs=tracefs)
    plan = plan_of(kernel, FakeSymbols({"f2": None}, ("t",)), mode=RETURN)
    assert try_load(plan)
    assert chosen(plan)["open"] == ("kprobe f2" if expected else None)
    assert (refused(plan, "open").get("kprobe f2") == NO_TRACEFS) is not expected


@pytest.mark.parametrize("at", ["load", "attach"])
def test_only_a_refused_program_is_excluded_and_the_next_is_tried(at: str) -> None:
    plan = plan_of()
    assert not try_load(plan, FakeObject({"f2_fexit": errno.EACCES}, at))
    assert try_load(plan)
    assert chosen(plan) == {"open": "trampoline f1", "exit": "tracepoint t"}
    assert refused(plan, "open") == {"trampoline f2": "no reason"}


@pytest.mark.parametrize("code", [errno.EPERM, errno.EOPNOTSUPP, 524])
@pytest.mark.parametrize("at", ["load", "attach"])
def test_a_refused_kind_is_excluded_as_a_whole(code: int, at: str) -> None:
    plan = plan_of()
    assert not try_load(plan, FakeObject({"f2_fexit": code}, at))
    assert try_load(plan)
    assert chosen(plan) == {"open": "kprobe f2", "exit": "tracepoint t"}
    reason = f"the kernel refuses trampoline programs ({os.strerror(code)})"
    assert refused(plan, "open") == {"trampoline f2": reason, "trampoline f1": reason}


@pytest.mark.parametrize("lockdown", [None, "confidentiality"])
@pytest.mark.parametrize("at", ["load", "attach"])
def test_a_kind_that_was_not_permitted_is_not_tried_for_the_next_probe(lockdown: str | None, at: str) -> None:
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
def test_an_error_that_one_target_may_cause_is_tried_again_for_the_next_probe(code: int) -> None:
    refused_kinds = dict[str, str]()
    assert not try_load(plan_of(refused_kinds=refused_kinds), FakeObject({"f2_fexit": code}))
    assert not refused_kinds
    assert try_load(second := plan_of(refused_kinds=refused_kinds))
    assert chosen(second)["open"] == "trampoline f2"


def test_a_forced_attach_method_fails_with_the_same_message_for_the_next_probe() -> None:
    refused_kinds, messages = dict[str, str](), []
    first = plan_of(mode=RETURN, attach_method="trampoline", refused_kinds=refused_kinds)
    assert not try_load(first, FakeObject({"f2_fexit": errno.EPERM}))
    for plan in (first, plan_of(mode=RETURN, attach_method="trampoline", refused_kinds=refused_kinds)):
        with pytest.raises(AttachError) as caught:
            try_load(plan)
        messages.append(str(caught.value))
    assert messages[0] == messages[1]
    assert "the kernel refuses trampoline programs (Operation not permitted)" in messages[0]
    assert messages[0].endswith('; set attach = "auto"')


@pytest.mark.parametrize("code", [errno.EACCES, errno.EPERM])
@pytest.mark.parametrize(("lockdown", "mentioned"), [
    (None, False), ("none", False), ("integrity", False), ("confidentiality", True),
])  # fmt: skip
def test_a_lockdown_that_may_be_the_cause_is_mentioned(lockdown: str | None, mentioned: bool, code: int) -> None:
    plan = plan_of(replace(KERNEL, lockdown=lockdown))
    assert not try_load(plan, FakeObject({"f2_fexit": code}))
    assert try_load(plan)
    assert refused(plan, "open")["trampoline f2"].endswith(" (lockdown: confidentiality)") is mentioned


def test_events_are_removed_from_a_refused_shared_program_one_by_one_from_the_last() -> None:
    plan = plan_of(NO_KPROBES, FakeSymbols({}, ("shared",)))
    assert not try_load(plan, FakeObject({"shared": errno.E2BIG}))
    obj = FakeObject()
    assert try_load(plan, obj)
    assert chosen(plan) == {"open": "tracepoint shared", "exit": "tracepoint sys/shared"}
    assert refused(plan, "exit")["tracepoint shared"] == "no reason"
    assert obj.loaded == ["shared", "sys_shared"]
    assert bytes(obj.data[8:12]) == bytes([1, 0, 0, 1]), "each program counts only its own events"


def test_a_shared_program_without_events_is_not_tried_again() -> None:
    plan = plan_of(NO_KPROBES, FakeSymbols({}, ("shared",)))
    refuse = {"shared": errno.EINVAL, "sys_shared": errno.E2BIG}
    for loaded in (["shared"], ["shared", "sys_shared"], ["sys_shared"], ["sys_shared"]):
        obj = FakeObject(refuse)
        assert not try_load(plan, obj)
        assert obj.loaded == loaded
    message = r"^cannot attach 'open' .* at 'sys/shared': no reason \(and 1 more of 2 events\)$"
    with pytest.raises(AttachError, match=message):
        try_load(plan)


def test_an_event_that_cannot_be_attached_is_left_out() -> None:
    plan = plan_of(NO_KPROBES, FakeSymbols({}, ("t",)))
    assert try_load(plan)
    assert chosen(plan) == {"open": None, "exit": "tracepoint t"}
    assert len(refused(plan, "open")) == 5


def test_a_failure_without_a_program_at_fault_is_raised() -> None:
    class Broken(FakeObject):
        def load(self, programs: Iterable[str]) -> None:
            raise LoadError("load: no memory", errno=errno.ENOMEM)

    with pytest.raises(LoadError, match="no memory"):
        try_load(plan_of(), Broken())


@pytest.mark.parametrize("at", ["load", "attach"])
@pytest.mark.parametrize("code", [errno.EMFILE, errno.ENFILE, errno.ENOMEM])
def test_if_descriptors_or_memory_are_short_no_other_candidate_is_tried(at: str, code: int) -> None:
    plan = plan_of()
    program = FakeObject()
    assert try_load(plan, program)
    plan = plan_of()
    with pytest.raises(LoadError if at == "load" else AttachError) as caught:
        try_load(plan, FakeObject(refuse={program.loaded[0]: code}, at=at))
    assert isinstance(caught.value, LoadError | AttachError)
    assert caught.value.errno == code
    assert {event: refused(plan, event) for event in plan.choices} == {"open": {}, "exit": {}}


def test_a_forced_attach_method_is_the_only_one_and_fails_if_an_event_has_no_candidate() -> None:
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
    ("mode", "used", "unused", "events"),
    [
        (ENTRY, "f2_kprobe", "f2_kretprobe", {"open", "exit"}),
        (RETURN, "f2_kretprobe", "f2_kprobe", {"open", "exit", "fail"}),
    ],
)
def test_programs_and_events_of_the_other_load_mode_are_not_used(
    mode: LoadMode, used: str, unused: str, events: set[str]
) -> None:
    plan, obj = plan_of(symbols=FakeSymbols({"f2": 9, "c": 1}), mode=mode), FakeObject()
    assert try_load(plan, obj)
    assert set(plan.choices) == events
    assert used in obj.attached
    assert unused not in obj.attached
    assert obj.data[4] == (mode is RETURN)


def test_kprobes_are_preferred_to_trampolines_that_can_be_preempted() -> None:
    plan = plan_of(PREEMPTS_TRAMPOLINES)
    assert try_load(plan)
    assert chosen(plan) == {"open": "kprobe f2", "exit": "tracepoint t"}
    assert refused(plan, "open") == {"trampoline f2": PREEMPTED, "trampoline f1": PREEMPTED}
    assert refused(plan, "exit") == {}


def test_classic_tracepoints_are_preferred_to_raw_ones_that_can_be_preempted() -> None:
    plan = plan_of(PREEMPTS_ALL, FakeSymbols({}))
    assert try_load(plan)
    assert chosen(plan) == {"open": "tracepoint sys/shared", "exit": "tracepoint sys/t"}
    assert refused(plan, "exit") == {"tracepoint t": PREEMPTED}
    assert refused(plan, "open")["tracepoint shared"] == PREEMPTED


def test_preempted_candidates_are_the_last_resort_and_keep_their_order() -> None:
    plan = plan_of(replace(PREEMPTS_ALL, kprobes=False))
    refuse = {"sys_shared": errno.EINVAL, "t_tp": errno.EINVAL}
    while not try_load(plan, FakeObject(refuse)):
        pass
    assert chosen(plan) == {"open": "trampoline f2", "exit": "tracepoint t"}


def test_a_candidate_that_misses_nothing_is_preferred_to_a_limited_kretprobe() -> None:
    plan = plan_of(LIMITED_KRETPROBES, FakeSymbols({"f2": 9}), mode=RETURN)
    assert try_load(plan)
    assert chosen(plan)["open"] == "tracepoint shared"
    assert refused(plan, "open")["kprobe f2"] == LIMITED


def test_a_limited_kretprobe_is_preferred_to_a_preempted_candidate() -> None:
    plan = plan_of(replace(PREEMPTS_ALL, unlimited_kretprobes=False), mode=RETURN)
    assert not try_load(plan, FakeObject({"sys_shared": errno.EINVAL}))
    assert try_load(plan)
    assert chosen(plan)["open"] == "kprobe f2"
    passed_over = {"trampoline f2": PREEMPTED, "trampoline f1": PREEMPTED}
    assert refused(plan, "open") == {"tracepoint sys/shared": "no reason", **passed_over}
    assert plan.choices["open"].miss_reason == LIMITED


KERNELS = [
    replace(KERNEL, preempted_kinds=preempted_kinds, unlimited_kretprobes=unlimited, kprobes=kprobes)
    for preempted_kinds, unlimited, kprobes in itertools.product(
        (frozenset[str](), TRAMPOLINES, TRAMPOLINES | {"tp_btf"}), (True, False), (True, False)
    )
]


@pytest.mark.parametrize("mode", LoadMode)
@pytest.mark.parametrize("kernel", KERNELS)
def test_a_candidate_that_misses_calls_is_never_chosen_if_another_does_not(kernel: Kernel, mode: LoadMode) -> None:
    plan = plan_of(kernel, mode=mode)
    assert try_load(plan)
    for event in ("open", "exit"):
        candidate = plan.choices[event].chosen
        assert candidate is not None
        assert not miss_reason(candidate, kernel)
        order = SPEC.candidates[event]
        before = [c for c in order[: order.index(candidate)] if c.mode in (None, mode)]
        assert {c.programs for c, reason in plan.choices[event].refused if reason} == {c.programs for c in before}


def test_programs_that_bcc_did_not_compile_are_excluded() -> None:
    compiled = {name for name, section in SECTIONS.items() if not section.startswith(("fe", "tp/"))}
    plan = plan_of(PREEMPTS_ALL, FakeSymbols({"f2": None, "e": None}), programs=compiled)
    assert try_load(plan)
    assert chosen(plan) == {"open": "kprobe f2", "exit": "tracepoint t"}
    assert refused(plan, "open") == {"trampoline f2": NO_BTF, "trampoline f1": NO_BTF}
    nothing = plan_of(programs=())
    with pytest.raises(AttachError, match=rf"{NO_BTF} \(and 1 more of 2 events\)"):
        try_load(nothing)


@pytest.mark.parametrize(
    ("preempted_kinds", "is_real_time", "expected"),
    [
        (frozenset({"tp_btf"}), False, "tracepoint t"),
        (frozenset({"tp_btf"}), True, "kprobe f2"),
        (frozenset(), True, "tracepoint t"),  # Before 6.13, no kernel preempts the programs of tracepoints.
    ],
)
def test_only_a_real_time_kernel_preempts_programs_in_softirqs(
    preempted_kinds: frozenset[str], is_real_time: bool, expected: str
) -> None:
    candidates = Candidate(programs=("t_tp_btf",), softirq=True), Candidate(programs=("f2_kprobe",))
    sections = {name: SECTIONS[name] for name in ("t_tp_btf", "f2_kprobe")}
    kernel = replace(KERNEL, preempted_kinds=preempted_kinds, preempts_softirqs=is_real_time)
    plan = plan_of(kernel, spec=spec_of(Event("e", candidates), **sections))
    assert try_load(plan)
    assert chosen(plan) == {"e": expected}
    only = plan_of(kernel, spec=spec_of(Event("e", candidates[:1]), t_tp_btf=SECTIONS["t_tp_btf"]))
    assert try_load(only)
    assert only.choices["e"].miss_reason == (PREEMPTED if expected == "kprobe f2" else "")


@pytest.mark.parametrize("preemption", ["none", "voluntary", "lazy", "full", "rt", None])
def test_softirqs_are_preempted_with_preempt_rt(preemption: str | None) -> None:
    assert Kernel.of(FakeSymbols(), replace(FULL, preemption=preemption)).preempts_softirqs == (preemption == "rt")


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
def test_a_preemptible_kernel_preempts_trampolines_and_faultable_tracepoints(
    preemption: str | None, faultable: bool, expected: frozenset[str]
) -> None:
    symbols = FakeSymbols(structs=(FAULTABLE,) if faultable else ())
    assert Kernel.of(symbols, replace(FULL, preemption=preemption)).preempted_kinds == expected


def test_the_properties_of_the_kernel_come_from_its_features_and_symbols() -> None:
    features = replace(FULL, preemption="none", kprobes=False, lockdown="integrity")
    kernel = Kernel.of(FakeSymbols(), features)
    assert kernel == Kernel(
        kprobes=False, tracefs=False, lockdown="integrity", preempted_kinds=frozenset(), unlimited_kretprobes=False
    )
    assert Kernel.of(FakeSymbols(structs=(HLIST_ARRAY,)), features) == replace(kernel, unlimited_kretprobes=True)
    assert Kernel.of(FakeSymbols(), replace(features, tracefs="/t", kprobes=True)) == replace(
        kernel, tracefs=True, kprobes=True
    )


def test_one_program_that_misses_calls_makes_its_candidate_miss_calls() -> None:
    event = Event("a", (Candidate(programs=("f_kprobe", "f_kretprobe")),))
    ((both,),) = spec_of(event, f_kprobe="kprobe/f", f_kretprobe="kretprobe/f").candidates.values()
    assert both.kinds == {"kprobe", "kretprobe"}
    assert (miss_reason(both, KERNEL), miss_reason(both, LIMITED_KRETPROBES)) == ("", LIMITED)


def issue(*arguments: int) -> ObjectSpec:
    """Return an event at a tracepoint with a candidate for each number of arguments."""
    candidates = tuple(Candidate(programs=(f"t{n}",), arguments=n) for n in arguments)
    return spec_of(Event("issue", candidates), **{f"t{n}": "tp_btf/t" for n in arguments})


@pytest.mark.parametrize(("arguments", "expected"), [(1, "t1"), (2, "t2"), (None, "t1")])
def test_the_candidate_with_the_right_number_of_arguments_is_chosen_or_the_first_if_it_is_unknown(
    arguments: int | None, expected: str
) -> None:
    symbols = FakeSymbols(raw={} if arguments is None else {"t": arguments})
    plan, obj = plan_of(symbols=symbols, spec=issue(1, 2)), FakeObject()
    assert try_load(plan, obj)
    assert obj.attached == [expected]


def test_a_wrong_number_of_arguments_is_reported_with_both_numbers() -> None:
    with pytest.raises(AttachError, match="it has 3 arguments in this kernel, not 2"):
        try_load(plan_of(symbols=FakeSymbols(raw={"t": 3}), spec=issue(2)))
