"""The grammar of program names and knobs: which events an object sees, and how."""

from __future__ import annotations

import os
from pathlib import Path
from typing import ClassVar, cast

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ebpfmon import LoadMode, Probe, Strategy
from ebpfmon.errors import ObjectError
from ebpfmon.kernel import objects
from ebpfmon.kernel.bpfobject import BpfObject
from ebpfmon.kernel.btf import Btf
from ebpfmon.kernel.objects import Candidate, parse_candidates

TRAMPOLINE, KPROBE, TRACEPOINT = Strategy
ENTRY, RETURN = LoadMode
FEXIT, RAW, CLASSIC = frozenset({"fexit"}), frozenset({"tp_btf"}), frozenset({"tp"})
NAMES = st.text("abc", min_size=1, max_size=4)


@pytest.mark.parametrize(
    ("section", "program", "expected"),
    [
        ("fexit/vfs_read", "vfs_read__trampoline__vfs_read__4",
         Candidate("vfs_read", TRAMPOLINE, "vfs_read", ("vfs_read__trampoline__vfs_read__4",), FEXIT, arguments=4)),
        ("fentry/do_exit", "task_exit__trampoline__do_exit",
         Candidate("task_exit", TRAMPOLINE, "do_exit", ("task_exit__trampoline__do_exit",), frozenset({"fentry"}))),
        ("kprobe/__close_fd", "file_close__kprobe____close_fd__entry",
         Candidate("file_close", KPROBE, "__close_fd", ("file_close__kprobe____close_fd__entry",),
                   frozenset({"kprobe"}), mode=ENTRY)),
        ("kretprobe/close_fd", "file_close__kprobe__close_fd__return",
         Candidate("file_close", KPROBE, "close_fd", ("file_close__kprobe__close_fd__return",),
                   frozenset({"kretprobe"}), mode=RETURN)),
        ("fexit/__x64_sys_close", "c__trampoline____x64_sys_close__1__return",
         Candidate("c", TRAMPOLINE, "__x64_sys_close", ("c__trampoline____x64_sys_close__1__return",), FEXIT,
                   mode=RETURN, arguments=1)),
        ("tp_btf/task_newtask", "task_create__tracepoint__task_newtask",
         Candidate("task_create", TRACEPOINT, "task_newtask", ("task_create__tracepoint__task_newtask",), RAW)),
        ("tp/task/task_newtask", "task_create__tracepoint__task_task_newtask",
         Candidate("task_create", TRACEPOINT, "task/task_newtask", ("task_create__tracepoint__task_task_newtask",),
                   CLASSIC)),
        ("tp/sched/sched_exit", "exit__tracepoint__sched_sched_exit__return",
         Candidate("exit", TRACEPOINT, "sched/sched_exit", ("exit__tracepoint__sched_sched_exit__return",), CLASSIC,
                   mode=RETURN)),
    ],
)  # fmt: skip
def test_a_programs_name_says_what_it_is_for(section: str, program: str, expected: Candidate) -> None:
    assert parse_candidates({program: section}, []) == {expected.event: (expected,)}


@pytest.mark.parametrize(
    ("section", "program"),
    [
        ("tp_btf/sys_exit", "sys_exit"),
        ("fexit/vfs_read", "vfs_read__fexit__vfs_read"),
        ("fexit/vfs_read", "vfs_read__trampoline"),
        ("fexit/vfs_read", "vfs_read__trampoline__vfs_write"),
        ("fexit/vfs_read", "vfs_read__trampoline__vfs_readv"),
        ("tp/task/task_newtask", "task_create__tracepoint__task_newtask"),
        ("tp/task/task_newtask", "task_newtask"),
    ],
)
def test_a_program_whose_name_is_no_candidates_sees_no_event(section: str, program: str) -> None:
    assert parse_candidates({program: section}, []) == {}


def test_programs_of_one_event_strategy_and_target_are_one_candidate() -> None:
    sections = {
        "f__kprobe__clone__return__args": "kprobe/clone",
        "f__kprobe__clone__entry": "kprobe/clone",
        "f__kprobe__clone__return": "kretprobe/clone",
    }
    together, alone = parse_candidates(sections, [])["f"]
    assert together.programs == ("f__kprobe__clone__return__args", "f__kprobe__clone__return")
    assert (together.mode, alone.mode, alone.programs) == (RETURN, ENTRY, ("f__kprobe__clone__entry",))
    assert together.kinds == {"kprobe", "kretprobe"}
    assert alone.kinds == {"kprobe"}


def test_a_program_that_attaches_elsewhere_belongs_to_the_candidate_whose_name_it_begins_with() -> None:
    main = "tcp_accept__tracepoint__syscalls_sys_exit_accept4"
    companion = f"{main}__and_accept"
    sections = {
        "tcp_accept__kprobe__inet_csk_accept": "kprobe/inet_csk_accept",
        main: "tp/syscalls/sys_exit_accept4",
        companion: "tp/syscalls/sys_exit_accept",
        "x__tracepoint__syscalls_sys_exit_x": "tp/syscalls/sys_exit_x",
    }
    found = parse_candidates(sections, [])
    assert [c.programs for c in found["tcp_accept"]] == [(next(iter(sections)),), (main, companion)]
    together = found["tcp_accept"][1]
    assert (together.target, together.kinds, together.mode) == ("syscalls/sys_exit_accept4", CLASSIC, None)
    assert found["x"][0].programs == ("x__tracepoint__syscalls_sys_exit_x",)


def test_a_companion_may_be_of_another_kind_and_a_shared_program_has_none() -> None:
    sections = {"a__trampoline__f": "fexit/f", "a__trampoline__f__and_g": "fentry/g", "shared": "tp_btf/shared"}
    sections["b__tracepoint__shared__and_g"] = "fentry/g"
    found = parse_candidates(sections, ["b__tracepoint__shared"])
    assert found["a"][0].programs == ("a__trampoline__f", "a__trampoline__f__and_g")
    assert found["a"][0].kinds == frozenset({"fentry", "fexit"})
    assert found["b"][0].programs == ("shared",)


class FakeOpened:
    """An object with two tables, one of them by process, and two maps that are none."""

    programs: ClassVar = {"a__kprobe__f": 1, "b__kprobe__g": 2}
    maps: ClassVar = {"p_rows": 12, "p_rows_0": 1, "k_rows": 12, "k_rows_0": 2, "p_totals": 6, "other_rows": 1}

    def section(self, program: str) -> str:
        return program.removeprefix(f"{program[0]}__").replace("__", "/")

    def map_info(self, name: str, what: str) -> int:
        found: int = self.maps[name]
        return found


class FakeTypes:
    """The types of its keys, 1 and 2, and its knobs."""

    def variables(self, section: str) -> dict[str, tuple[int, int]]:
        return {"cfg_rows": (0, 1), "b__if_any": (1, 1)} if section == ".rodata" else {}

    def dtype(self, type_id: int) -> np.dtype:
        process = [("start_ns", "u8"), ("tgid", "u4"), ("exec_id", "u4")]
        return np.dtype(process if type_id == 1 else [*process, ("port", "u4")])


def test_an_object_says_which_events_may_be_nowhere_and_which_tables_are_by_process() -> None:
    spec = objects.read_spec(cast(BpfObject, FakeOpened()), cast(Btf, FakeTypes()))
    assert {event: c.target for event, (c,) in spec.candidates.items()} == {"a": "f", "b": "g"}
    assert (spec.if_any, spec.by_process) == (frozenset({"b"}), frozenset({"p"}))
    assert set(spec.knobs) == {"cfg_rows", "b__if_any"}


@given(NAMES, st.lists(NAMES, min_size=1, max_size=5, unique=True))
def test_alternatives_keep_the_order_of_the_file(event: str, targets: list[str]) -> None:
    sections = {f"{event}__kprobe__{t}": f"kprobe/{t}" for t in targets}
    assert [c.target for c in parse_candidates(sections, [])[event]] == targets


def test_a_knob_makes_a_shared_program_a_candidate_of_every_event_it_serves() -> None:
    knobs = ["cfg_rows", "open__tracepoint__sys_exit", "fail__tracepoint__sys_exit__return", "x__tracepoint__sys_enter"]
    found = parse_candidates({"sys_exit": "tp_btf/sys_exit", "own__tracepoint__a": "tp_btf/a"}, knobs)
    shared = ("sys_exit",)
    assert found == {
        "own": (Candidate("own", TRACEPOINT, "a", ("own__tracepoint__a",), RAW),),
        "open": (Candidate("open", TRACEPOINT, "sys_exit", shared, RAW, "open__tracepoint__sys_exit"),),
        "fail": (Candidate("fail", TRACEPOINT, "sys_exit", shared, RAW, "fail__tracepoint__sys_exit__return", RETURN),),
    }


def test_a_knob_tells_the_shared_program_at_a_classic_tracepoint_from_the_one_at_the_raw() -> None:
    sections = {"sys_exit": "tp_btf/sys_exit", "raw_syscalls_sys_exit": "tp/raw_syscalls/sys_exit"}
    knobs = ["open__tracepoint__sys_exit", "open__tracepoint__raw_syscalls_sys_exit"]
    raw, classic = parse_candidates(sections, knobs)["open"]
    assert (raw.target, raw.programs, raw.kinds, raw.knob) == ("sys_exit", ("sys_exit",), RAW, knobs[0])
    assert (classic.target, classic.kinds, classic.knob) == ("raw_syscalls/sys_exit", CLASSIC, knobs[1])
    assert classic.programs == ("raw_syscalls_sys_exit",)


@given(st.dictionaries(st.text("a_1/", max_size=12), st.text("a_1/", max_size=12), max_size=4), st.lists(st.text("a_")))
def test_no_names_at_all_break_the_parser(sections: dict[str, str], knobs: list[str]) -> None:
    for event, candidates in parse_candidates(sections, knobs).items():
        assert {c.event for c in candidates} == {event}


def test_the_process_probes_object_is_found_for_this_machine() -> None:
    path = objects.locate(Probe(name="process", package="ebpfmon_process", object="process", charts=()))
    assert path.parts[-3:] == ("objects", os.uname().machine, "process.bpf.o")


@pytest.mark.parametrize(
    ("package", "machine", "said"),
    [
        ("no_such_package", "x86_64", "no package 'no_such_package'"),
        ("ebpfmon_process", "x86_64", "compile it with ebpfmon bpf build"),
        ("ebpfmon_process", "s390x", "none for s390x: x86_64, aarch64"),
    ],
)
def test_an_object_that_is_not_there_is_said_with_the_remedy(
    monkeypatch: pytest.MonkeyPatch, package: str, machine: str, said: str
) -> None:
    monkeypatch.setattr("os.uname", lambda: os.uname_result(("Linux", "h", "6", "v", machine)))
    with pytest.raises(ObjectError, match=said):
        objects.locate(Probe(name="p", package=package, object="absent", charts=()))


def test_both_architectures_have_their_object() -> None:
    root = Path(__file__).parents[2] / "plugins/ebpfmon_process/objects"
    assert {p.name for p in root.iterdir()} >= set(objects.ARCHITECTURES)
