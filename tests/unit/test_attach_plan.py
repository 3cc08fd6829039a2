"""How a strategy is chosen for each event: by looking, then by trying."""

from __future__ import annotations

import ctypes
import errno
import os
from dataclasses import dataclass, field, replace
from typing import cast

import pytest

from ebpfmon import LoadMode, Probe, Strategy
from ebpfmon.errors import AttachError, KernelError, LoadError
from ebpfmon.kernel import attach
from ebpfmon.kernel.attach import LoadOptions, _Plan
from ebpfmon.kernel.features import Features
from ebpfmon.kernel.libbpf import BpfObject, Libbpf
from ebpfmon.kernel.objects import ObjectSpec, parse_candidates

PROBE = Probe(name="p", package="nowhere", object="p", charts=())
FEATURES = Features(
    release="6.1", machine="x86_64", root=True, capabilities=(), btf=True, kprobes=True, jit=True, lockdown=None
)
SECTIONS = {
    "open__trampoline__f2__3": "fexit/f2",
    "open__trampoline__f1__4": "fexit/f1",
    "open__kprobe__f2__entry": "kprobe/f2",
    "open__kprobe__f2__return": "kretprobe/f2",
    "exit__tracepoint__t": "tp_btf/t",
    "exit__trampoline__e": "fentry/e",
    "fail__trampoline__c__return": "fexit/c",
    "sys_exit": "tp_btf/sys_exit",
}
KNOBS = {"cfg_rows": (0, 4), "cfg_return": (4, 4)}
KNOBS |= {"open__tracepoint__sys_exit": (8, 1), "exit__tracepoint__sys_exit": (9, 1)}
SPEC = ObjectSpec(parse_candidates(SECTIONS, KNOBS), KNOBS)
FUNCTIONS = {"f2": 3, "f1": 4, "e": 1, "c": 1}
NO_KPROBES = replace(FEATURES, kprobes=False)
BEST = LoadOptions()


@dataclass
class FakeKernel:
    """The library and the kernel's BTF in one: what this kernel has."""

    functions: dict[str, int]
    tracepoints: tuple[str, ...] = ("t", "sys_exit")

    def kernel_btf(self) -> FakeKernel:
        return self

    def __enter__(self) -> FakeKernel:
        return self

    def __exit__(self, *_: object) -> None: ...

    def arguments(self, function: str) -> int | None:
        return self.functions.get(function)

    def has_tracepoint(self, name: str) -> bool:
        return name in self.tracepoints


@dataclass
class FakeObject:
    """An object that the kernel refuses to load or attach where `refuse` says so, with that errno."""

    programs, maps = tuple(SECTIONS), ("p_rows", "p_totals")
    refuse: dict[str, int] = field(default_factory=dict)
    at: str = "load"
    wanted: dict[str, bool] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)
    attached: list[str] = field(default_factory=list)
    data: ctypes.Array[ctypes.c_uint8] = field(default_factory=(ctypes.c_uint8 * 10))
    closed: int = 0

    def map_info(self, name: str, what: str) -> int:
        return 12  # BPF_MAP_TYPE_ARRAY_OF_MAPS

    def set_autoload(self, program: str, wanted: bool) -> None:
        self.wanted[program] = wanted

    def set_max_entries(self, name: str, count: int) -> None:
        self.sizes[name] = count

    def rodata(self) -> ctypes.Array[ctypes.c_uint8]:
        return self.data

    def load(self) -> None:
        for program, code in self.refuse.items() if self.at == "load" else ():
            if self.wanted[program]:
                raise LoadError(f"load '{program}': step: why not", program=program, errno=code)

    def attach(self, program: str) -> None:
        if self.at == "attach" and program in self.refuse:
            raise AttachError(f"attach '{program}': why not", errno=self.refuse[program])
        self.attached.append(program)

    def close(self) -> None:
        self.closed += 1


def plan_of(kernel: FakeKernel | None = None, features: Features = FEATURES, options: LoadOptions = BEST) -> _Plan:
    plan = _Plan(PROBE, SPEC, options)
    plan.look(cast(Libbpf, kernel or FakeKernel(FUNCTIONS)), features)
    return plan


def try_out(plan: _Plan, obj: FakeObject | None = None) -> bool:
    return plan.try_out(cast(BpfObject, obj or FakeObject()))


def taken(plan: _Plan) -> dict[str, str | None]:
    """Event -> "strategy target" of what was chosen."""
    return {e: f"{c.taken.strategy} {c.taken.target}" if c.taken else None for e, c in plan.choices.items()}


def refused(plan: _Plan, event: str) -> dict[str, str]:
    return {f"{c.strategy} {c.target}": reason for c, reason in plan.choices[event].refused}


def test_the_first_candidate_that_the_kernel_has_is_taken_and_it_alone_is_loaded_and_attached() -> None:
    plan, obj = plan_of(), FakeObject()
    assert try_out(plan, obj)
    assert taken(plan) == {"open": "trampoline f2", "exit": "tracepoint t"}
    programs = ["open__trampoline__f2__3", "exit__tracepoint__t"]
    assert [p for p, wanted in obj.wanted.items() if wanted] == obj.attached == programs
    assert set(obj.wanted) == set(SECTIONS)


@pytest.mark.parametrize(
    ("kernel", "kprobes", "event", "expected", "why"),
    [
        (FakeKernel({"f1": 4, "f2": 4}), True, "open", "trampoline f1", {"trampoline f2": "has 4 arguments"}),
        (FakeKernel({"f1": 4}), True, "open", "trampoline f1", {"trampoline f2": "no such function"}),
        (FakeKernel({"f2": 9}), True, "open", "kprobe f2", {"trampoline f2": "9 arguments"}),
        (FakeKernel({"f2": 9}), False, "open", "tracepoint sys_exit", {"kprobe f2": "no kprobes"}),
        (FakeKernel({"e": 5}, ("sys_exit",)), True, "exit", "trampoline e", {"tracepoint t": "no such tracepoint"}),
    ],
)  # fmt: skip
def test_what_can_be_seen_not_to_be_there_is_crossed_out_with_its_reason(
    kernel: FakeKernel, kprobes: bool, event: str, expected: str, why: dict[str, str]
) -> None:
    plan = plan_of(kernel, replace(FEATURES, kprobes=kprobes))
    assert try_out(plan)
    assert taken(plan)[event] == expected
    for candidate, reason in why.items():
        assert reason in refused(plan, event)[candidate]


@pytest.mark.parametrize("at", ["load", "attach"])
def test_a_program_that_is_refused_is_crossed_out_alone_and_the_next_is_tried(at: str) -> None:
    plan = plan_of()
    assert not try_out(plan, FakeObject({"open__trampoline__f2__3": errno.EACCES}, at))
    assert try_out(plan)
    assert taken(plan) == {"open": "trampoline f1", "exit": "tracepoint t"}
    assert refused(plan, "open") == {"trampoline f2": "why not"}


@pytest.mark.parametrize("code", [errno.EPERM, errno.EOPNOTSUPP, 524])
@pytest.mark.parametrize("at", ["load", "attach"])
def test_a_kind_that_the_kernel_refuses_is_crossed_out_as_a_whole(code: int, at: str) -> None:
    plan = plan_of()
    assert not try_out(plan, FakeObject({"open__trampoline__f2__3": code}, at))
    assert try_out(plan)
    assert taken(plan) == {"open": "kprobe f2", "exit": "tracepoint t"}
    why = f"the kernel refuses trampoline programs ({os.strerror(code)})"
    assert refused(plan, "open") == {"trampoline f2": why, "trampoline f1": why}


def test_a_shared_program_that_is_refused_is_lost_to_every_event_it_would_serve() -> None:
    plan = plan_of(FakeKernel({}, ("sys_exit",)), NO_KPROBES)
    assert not try_out(plan, FakeObject({"sys_exit": errno.EINVAL}))
    with pytest.raises(AttachError, match=r"attach 'open' .* at 'sys_exit': why not, and 1 more events$"):
        try_out(plan)


def test_an_event_that_cannot_be_seen_is_left_out_and_the_rest_goes_on() -> None:
    plan = plan_of(FakeKernel({}, ("t",)), NO_KPROBES)
    assert try_out(plan)
    assert taken(plan) == {"open": None, "exit": "tracepoint t"}


def test_a_failure_that_is_no_programs_fault_is_raised() -> None:
    class Broken(FakeObject):
        def load(self) -> None:
            raise LoadError("load: no memory", errno=errno.ENOMEM)

    with pytest.raises(LoadError, match="no memory"):
        try_out(plan_of(), Broken())


def test_a_forced_strategy_takes_no_other_and_fails_where_an_event_has_none_left() -> None:
    options = LoadOptions(strategy=Strategy.TRAMPOLINE)
    plan = plan_of(options=options)
    assert try_out(plan)
    assert taken(plan) == {"open": "trampoline f2", "exit": "trampoline e"}
    lacking = plan_of(FakeKernel({"f2": 3}), options=options)
    with pytest.raises(AttachError) as caught:
        try_out(lacking)
    assert str(caught.value) == (
        "attach 'exit' for probe 'p' by trampoline at 'e': this kernel has no such function: set attach = \"auto\""
    )


@pytest.mark.parametrize(
    ("mode", "taken", "left", "events"),
    [
        (LoadMode.ENTRY, "open__kprobe__f2__entry", "open__kprobe__f2__return", {"open", "exit"}),
        (LoadMode.RETURN, "sys_exit", "open__kprobe__f2__entry", {"open", "exit", "fail"}),
    ],
)
def test_programs_and_events_of_the_other_load_mode_are_out_of_the_question(
    mode: LoadMode, taken: str, left: str, events: set[str]
) -> None:
    plan, obj = plan_of(FakeKernel({"f2": 9, "c": 1}), options=LoadOptions(mode=mode)), FakeObject()
    assert try_out(plan, obj)
    assert set(plan.choices) == events
    assert taken in obj.attached
    assert left not in obj.attached
    assert obj.data[4] == (mode is LoadMode.RETURN)


@pytest.mark.parametrize(("rows", "size"), [(True, 64), (False, 1)])
def test_knobs_and_table_sizes_are_set_before_the_load(rows: bool, size: int) -> None:
    plan, obj = plan_of(FakeKernel({}), options=LoadOptions(table_size=64, rows=rows)), FakeObject()
    obj.data[:] = [0xFF] * 10
    assert try_out(plan, obj)
    assert bytes(obj.data) == bytes([rows, 0, 0, 0, 0, 0, 0, 0, 1, 0xFF])
    assert obj.sizes == {"p_rows_0": size, "p_rows_1": size}


def test_a_kernel_without_btf_is_refused_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FakeKernel, "kernel_btf", lambda self: None)
    with pytest.raises(KernelError, match="CONFIG_DEBUG_INFO_BTF"):
        plan_of()


def test_every_object_that_was_tried_in_vain_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    tried = [FakeObject({"open__trampoline__f2__3": errno.EPERM}), FakeObject({"sys_exit": errno.EINVAL}), FakeObject()]
    opened = iter(tried)
    for name, answer in {
        "locate": lambda probe: None, "BpfObject": lambda library, path: next(opened), "Btf": lambda raw: None,
        "read_spec": lambda obj, types: SPEC, "LoadedProbe": lambda probe, obj, types, choices: obj,
    }.items():  # fmt: skip
        monkeypatch.setattr(attach, name, answer)
    monkeypatch.setattr(FakeObject, "btf", lambda self: b"", raising=False)
    loaded: object = attach.load(PROBE, cast(Libbpf, FakeKernel(FUNCTIONS)), NO_KPROBES, BEST)
    assert loaded is tried[2]
    assert [obj.closed for obj in tried] == [1, 1, 0]
