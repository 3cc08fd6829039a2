"""Plans with rodata and maps of a probe's own, and events with unusual candidates."""

from __future__ import annotations

import errno
from dataclasses import replace

import pytest

from ebpfmon import Candidate, Event, Setup
from ebpfmon.errors import AttachError
from ebpfmon.kernel.objects import bind
from tests.unit.fakes import EVENTS, SECTIONS, SETTINGS, SPEC, FakeObject, FakeSymbols, spec_of
from tests.unit.test_plan import KERNEL, NO_FUNCTION, NO_KPROBES, NO_TRACEPOINT, chosen, plan_of, refused, try_load

MAYBE = Event(
    "maybe",
    (
        Candidate(programs=("m_fentry",), arguments=2),
        Candidate(programs=("n_fentry",)),
        Candidate(programs=("m_kprobe",)),
    ),
    optional=True,
)
OPTIONAL = replace(
    SPEC,
    candidates=bind(
        (MAYBE, *EVENTS), {"m_fentry": "fentry/m", "n_fentry": "fentry/n", "m_kprobe": "kprobe/m", **SECTIONS}, SETTINGS
    ),
    optional=frozenset({"maybe", "of_the_other_mode"}),
)


def test_own_rodata_is_set_and_own_maps_are_filled_between_load_and_attach() -> None:
    obj, ports = FakeObject(), {b"\1": b"\2"}
    assert try_load(plan_of(), obj, setup=Setup(rodata={"cfg_own": 0x1234}, maps={"ports": ports, "networks": {}}))
    assert bytes(obj.data[12:14]) == b"\x34\x12"
    assert obj.filled == {"ports": ports, "networks": {}}
    assert obj.attached


@pytest.mark.parametrize(("lockdown", "may"), [(None, 1), ("integrity", 1), ("confidentiality", 0)])
def test_rodata_says_whether_kernel_memory_may_be_read(lockdown: str | None, may: int) -> None:
    obj = FakeObject()
    assert try_load(plan_of(replace(KERNEL, lockdown=lockdown)), obj)
    assert obj.data[14] == may


def test_an_optional_event_is_dropped_if_the_kernel_has_none_of_its_functions() -> None:
    for method, kernel in ((None, KERNEL), ("trampoline", KERNEL), (None, NO_KPROBES)):
        plan, obj = plan_of(kernel, spec=OPTIONAL, attach_method=method), FakeObject()
        assert try_load(plan, obj)
        assert set(plan.choices) == {"open", "exit"}
        assert not {"m_fentry", "n_fentry", "m_kprobe"} & {*obj.loaded}


@pytest.mark.parametrize("arguments", [2, 9])
def test_an_optional_event_is_like_any_other_if_the_kernel_has_one_of_its_functions(arguments: int) -> None:
    symbols = FakeSymbols({"m": arguments, **FakeSymbols().functions})
    plan = plan_of(symbols=symbols, spec=OPTIONAL)
    assert try_load(plan)
    assert chosen(plan)["maybe"] == ("trampoline m" if arguments == 2 else "kprobe m")
    without = plan_of(NO_KPROBES, replace(symbols, functions={**symbols.functions, "m": 9}), spec=OPTIONAL)
    assert try_load(without)
    assert chosen(without)["maybe"] is None, "the function exists, so the event is reported as not attached"
    assert refused(without, "maybe")["trampoline n"] == NO_FUNCTION


def test_an_optional_event_is_kept_if_the_kernel_has_one_of_its_tracepoints_or_may_have_it() -> None:
    targets = {"a_tp": "tp/s/there", "b_tp": "tp_btf/there", "c_tp": "tp/syscalls/sys_exit_x", "d_tp": "tp/s/absent"}
    events = [Event(name[0], (Candidate(programs=(name,)),)) for name in targets]
    spec = replace(spec_of(*events, **targets), optional=frozenset("abcd"))
    plan = plan_of(symbols=FakeSymbols({}, ("there",)), spec=spec)
    assert try_load(plan)
    assert set(plan.choices) == {"a", "b", "c"}
    assert all(plan.choices[event].chosen for event in "abc")


def test_an_optional_event_may_be_missing_if_the_attach_method_is_forced() -> None:
    plan = plan_of(spec=replace(SPEC, optional=frozenset({"exit"})), attach_method="kprobe")
    assert try_load(plan)
    assert chosen(plan) == {"open": "kprobe f2", "exit": None}
    with pytest.raises(AttachError, match="cannot attach 'exit'"):
        try_load(plan_of(attach_method="kprobe"))


def test_tracepoints_of_system_calls_are_tried_because_the_symbols_do_not_have_them() -> None:
    events = Event("a", (Candidate(programs=("x_tp",)),)), Event("b", (Candidate(programs=("y_tp",)),))
    plan = plan_of(symbols=FakeSymbols({}, ()), spec=spec_of(*events, x_tp="tp/syscalls/sys_exit_x", y_tp="tp/x/y"))
    assert try_load(plan)
    assert chosen(plan) == {"a": "tracepoint syscalls/sys_exit_x", "b": None}
    assert refused(plan, "b") == {"tracepoint x/y": NO_TRACEPOINT}
    assert not try_load(plan, FakeObject({"x_tp": errno.ENOENT}, "attach"))
    with pytest.raises(AttachError, match="'syscalls/sys_exit_x': no reason"):
        try_load(plan)


@pytest.mark.parametrize("at", ["load", "attach"])
def test_all_programs_of_a_candidate_are_attached_or_none(at: str) -> None:
    both = Candidate(programs=("accept4_tp", "accept_tp"))
    spec = spec_of(
        Event("a", (both, Candidate(programs=("f_kprobe",)))),
        accept4_tp="tp/syscalls/sys_exit_accept4",
        accept_tp="tp/syscalls/sys_exit_accept",
        f_kprobe="kprobe/f",
    )
    plan, obj = plan_of(symbols=FakeSymbols({"f": 1}), spec=spec), FakeObject()
    assert try_load(plan, obj)
    assert obj.attached == ["accept4_tp", "accept_tp"]
    assert not try_load(plan, FakeObject({"accept_tp": errno.EACCES}, at))
    assert try_load(plan)
    assert chosen(plan) == {"a": "kprobe f"}
    assert refused(plan, "a") == {"tracepoint syscalls/sys_exit_accept4": "no reason"}
