"""The grammar of program names and knobs: which events an object sees, and how."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ebpfmon import LoadMode, Probe, Strategy
from ebpfmon.errors import ObjectError
from ebpfmon.kernel import objects
from ebpfmon.kernel.objects import Candidate, parse_candidates

TRAMPOLINE, KPROBE, TRACEPOINT = Strategy
ENTRY, RETURN = LoadMode
NAMES = st.text("abc", min_size=1, max_size=4)


@pytest.mark.parametrize(
    ("section", "program", "expected"),
    [
        ("fexit/vfs_read", "vfs_read__trampoline__vfs_read__4",
         Candidate("vfs_read", TRAMPOLINE, "vfs_read", ("vfs_read__trampoline__vfs_read__4",), arguments=4)),
        ("fentry/do_exit", "task_exit__trampoline__do_exit",
         Candidate("task_exit", TRAMPOLINE, "do_exit", ("task_exit__trampoline__do_exit",))),
        ("kprobe/__close_fd", "file_close__kprobe____close_fd__entry",
         Candidate("file_close", KPROBE, "__close_fd", ("file_close__kprobe____close_fd__entry",), mode=ENTRY)),
        ("kretprobe/close_fd", "file_close__kprobe__close_fd__return",
         Candidate("file_close", KPROBE, "close_fd", ("file_close__kprobe__close_fd__return",), mode=RETURN)),
        ("fexit/__x64_sys_close", "c__trampoline____x64_sys_close__1__return",
         Candidate("c", TRAMPOLINE, "__x64_sys_close", ("c__trampoline____x64_sys_close__1__return",),
                   mode=RETURN, arguments=1)),
        ("tp_btf/task_newtask", "task_create__tracepoint__task_newtask",
         Candidate("task_create", TRACEPOINT, "task_newtask", ("task_create__tracepoint__task_newtask",))),
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
    alone, together = parse_candidates(sections, [])["f"]
    assert together.programs == ("f__kprobe__clone__return__args", "f__kprobe__clone__return")
    assert (together.mode, alone.mode, alone.programs) == (RETURN, ENTRY, ("f__kprobe__clone__entry",))


@given(NAMES, st.lists(NAMES, min_size=1, max_size=5, unique=True))
def test_alternatives_keep_the_order_of_the_file(event: str, targets: list[str]) -> None:
    sections = {f"{event}__kprobe__{t}": f"kprobe/{t}" for t in targets}
    assert [c.target for c in parse_candidates(sections, [])[event]] == targets


def test_a_knob_makes_a_shared_program_a_candidate_of_every_event_it_serves() -> None:
    knobs = ["cfg_rows", "open__tracepoint__sys_exit", "fail__tracepoint__sys_exit__return", "x__tracepoint__sys_enter"]
    found = parse_candidates({"sys_exit": "tp_btf/sys_exit", "own__tracepoint__a": "tp_btf/a"}, knobs)
    shared = ("sys_exit",)
    assert found == {
        "own": (Candidate("own", TRACEPOINT, "a", ("own__tracepoint__a",)),),
        "open": (Candidate("open", TRACEPOINT, "sys_exit", shared, "open__tracepoint__sys_exit"),),
        "fail": (Candidate("fail", TRACEPOINT, "sys_exit", shared, "fail__tracepoint__sys_exit__return", RETURN),),
    }


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
        ("ebpfmon_process", "x86_64", "run make bpf, or install the wheel"),
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


def test_a_kretprobe_is_the_last_resort() -> None:
    sections = {
        "open__trampoline__do_open__3": "fexit/do_open",
        "open__kprobe__do_open__entry": "kprobe/do_open",
        "open__kprobe__do_open__return": "kretprobe/do_open",
        "sys_exit": "tp_btf/sys_exit",
    }
    found = parse_candidates(sections, ["open__tracepoint__sys_exit"])["open"]
    assert [c.programs for c in found] == [
        ("open__trampoline__do_open__3",),
        ("open__kprobe__do_open__entry",),
        ("sys_exit",),
        ("open__kprobe__do_open__return",),
    ]
