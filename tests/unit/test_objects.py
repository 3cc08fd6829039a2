"""Events are bound to the programs of an object, or one line says what does not fit."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import ClassVar, cast

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ebpfmon import Candidate, Event, LoadMode, Probe
from ebpfmon.errors import ObjectError
from ebpfmon.grouping import execs
from ebpfmon.kernel import objects
from ebpfmon.kernel.attach_methods import METHODS, Section, method_of
from ebpfmon.kernel.bpfobject import BpfObject
from ebpfmon.kernel.btf import Btf
from ebpfmon.kernel.objects import bind
from ebpfmon.testing import PROCESS_IDENTITY

ENTRY, RETURN = LoadMode
NAMES = st.text("abc", min_size=1, max_size=4)


@pytest.mark.parametrize(
    ("section", "method", "kind", "target"),
    [
        ("fexit/vfs_read", "trampoline", "fexit", "vfs_read"),
        ("fentry/do_exit", "trampoline", "fentry", "do_exit"),
        ("kprobe/__close_fd", "kprobe", "kprobe", "__close_fd"),
        ("kretprobe/close_fd", "kprobe", "kretprobe", "close_fd"),
        ("tp_btf/task_newtask", "tracepoint", "tp_btf", "task_newtask"),
        ("tp/task/task_newtask", "tracepoint", "tp", "task/task_newtask"),
    ],
)
def test_a_section_has_an_attach_method_and_a_target(section: str, method: str, kind: str, target: str) -> None:
    event = Event("e", (Candidate(programs=("p",), mode=RETURN, arguments=4, softirq=True),))
    ((found,),) = bind([event], {"p": section}, []).values()
    assert (found.method.name, found.target, found.sections) == (method, target, (Section(kind, target),))
    assert (found.event, found.programs, found.mode, found.arguments, found.softirq) == ("e", ("p",), RETURN, 4, True)


def test_every_section_kind_belongs_to_one_method() -> None:
    kinds = [kind for method in METHODS for kind in method.kinds]
    assert len(kinds) == len(set(kinds))
    assert [method_of(kind) for method in METHODS for kind in method.kinds] == [m for m in METHODS for _ in m.kinds]
    assert method_of("xdp") is None


def test_the_target_of_a_candidate_is_that_of_its_first_program() -> None:
    sections = {"keep": "kprobe/clone", "count": "kretprobe/clone", "also": "kprobe/fork"}
    ((together,),) = bind([Event("f", (Candidate(programs=("keep", "count", "also")),))], sections, []).values()
    assert together.programs == ("keep", "count", "also")
    assert (together.target, together.kinds) == ("clone", frozenset({"kprobe", "kretprobe"}))


@given(NAMES, st.lists(NAMES, min_size=1, max_size=5, unique=True))
def test_candidates_keep_their_order(event: str, targets: list[str]) -> None:
    sections = {f"at_{t}": f"kprobe/{t}" for t in targets}
    found = bind([Event(event, tuple(Candidate(programs=(p,)) for p in sections))], sections, [])
    assert [c.target for c in found[event]] == targets


def test_events_can_share_a_program_with_a_setting_for_each() -> None:
    events = [Event(name, (Candidate(programs=("shared",), setting=f"counts_{name}"),)) for name in ("open", "close")]
    found = bind(events, {"shared": "tp_btf/sys_exit"}, ["cfg_rows", "counts_open", "counts_close"])
    assert {name: c.setting for name, (c,) in found.items()} == {"open": "counts_open", "close": "counts_close"}


REMEDY = "; if its C file has it, compile it again with ebpfmon bpf build"
SECTIONS = {"f_fexit": "fexit/f", "f_kprobe": "kprobe/f"}


@pytest.mark.parametrize(
    ("programs", "setting", "sections", "message"),
    [
        (("g",), "", SECTIONS, f"event 'e': its object has no program 'g': it has f_fexit, f_kprobe{REMEDY}"),
        (("g",), "", {}, f"event 'e': its object has no program 'g': it has none{REMEDY}"),
        ((), "", SECTIONS, "event 'e': a candidate names no program"),
        (("f_fexit",), "", SECTIONS,
         "no event uses program 'f_kprobe' of its object; add a Candidate for it to Probe.events"),
        (("f_fexit",), "counts_e", SECTIONS, "event 'e': its object has no rodata setting 'counts_e'"),
        (("f_fexit", "f_kprobe"), "", SECTIONS,
         "event 'e': programs f_fexit, f_kprobe of one candidate have several attach methods: trampoline, kprobe"),
        (("x",), "", {"x": "xdp/eth0"}, "event 'e': program 'x': no attach method for SEC(\"xdp/eth0\")"),
    ],
    ids=["no program", "no programs", "nothing named", "a program left over", "no setting", "mixed", "no method"],
)  # fmt: skip
def test_a_mismatch_is_reported_in_one_line(
    programs: tuple[str, ...], setting: str, sections: dict[str, str], message: str
) -> None:
    with pytest.raises(ObjectError) as caught:
        bind([Event("e", (Candidate(programs=programs, setting=setting),))], sections, ["cfg_rows"])
    assert str(caught.value) == message


class FakeOpened:
    """An object with two tables, one of them by process, and two other maps."""

    programs: ClassVar = {"f_kprobe": 1, "g_kprobe": 2}
    maps: ClassVar = {"p_rows": 12, "p_rows_0": 1, "k_rows": 12, "k_rows_0": 2, "p_totals": 6, "other_rows": 1}

    def section(self, program: str) -> str:
        return f"kprobe/{program[0]}"

    def map_info(self, name: str, what: str) -> int:
        found: int = self.maps[name]
        return -found if what == "btf_value_type_id" else found


class FakeTypes:
    """The key types of the tables, 1 and 2, their row types, -1 and -2, and the settings."""

    def __init__(self, *, old: bool = False) -> None:
        """Invent types. In an `old` object, the key of a process's row is the process alone."""
        self._key_fields = 3 if old else len(PROCESS_IDENTITY)

    def variables(self, section: str) -> dict[str, tuple[int, int]]:
        return {"cfg_rows": (0, 1)} if section == ".rodata" else {}

    def dtype(self, type_id: int) -> np.dtype:
        key, rest = PROCESS_IDENTITY[: self._key_fields], PROCESS_IDENTITY[self._key_fields :]
        types = {1: key, -1: [*rest, ("calls", "u8")], 2: [*key[:3], ("port", "u4")], -2: [("calls", "u8")]}
        return np.dtype(types[type_id])


def test_the_spec_has_the_optional_events_and_the_tables_by_process() -> None:
    events = (
        Event("a", (Candidate(programs=("f_kprobe",)),)),
        Event("b", (Candidate(programs=("g_kprobe",)),), optional=True),
    )
    probe = Probe(name="p", package="x", object="p", charts=(), events=events)
    spec = objects.read_spec(probe, cast(BpfObject, FakeOpened()), cast(Btf, FakeTypes()))
    assert {event: c.target for event, (c,) in spec.candidates.items()} == {"a": "f", "b": "g"}
    assert (spec.optional, spec.by_process) == (frozenset({"b"}), frozenset({"p"}))
    assert set(spec.settings) == {"cfg_rows"}


def test_an_object_whose_rows_have_the_process_alone_as_key_must_be_compiled_again() -> None:
    events = tuple(Event(name, (Candidate(programs=(f"{name}_kprobe",)),)) for name in "fg")
    probe = Probe(name="p", package="x", object="p", charts=(), events=events)
    with pytest.raises(ObjectError, match=r"^probe 'p': its object was compiled with other BPF headers"):
        objects.read_spec(probe, cast(BpfObject, FakeOpened()), cast(Btf, FakeTypes(old=True)))


def test_the_error_names_the_probe_that_does_not_fit_its_object() -> None:
    probe = Probe(name="p", package="x", object="p", charts=())
    with pytest.raises(ObjectError, match=r"^probe 'p': no event uses program 'f_kprobe' of its object"):
        objects.read_spec(probe, cast(BpfObject, FakeOpened()), cast(Btf, FakeTypes()))


def test_the_object_of_the_process_probe_is_found_for_this_machine() -> None:
    path = objects.locate(Probe(name="process", package="ebpfmon_process", object="process", charts=()))
    assert path.parts[-3:] == ("objects", os.uname().machine, "process.bpf.o")


@pytest.mark.parametrize(
    ("package", "machine", "message"),
    [
        ("no_such_package", "x86_64", "no package 'no_such_package'"),
        ("ebpfmon_process", "x86_64", "compile it with ebpfmon bpf build"),
        ("ebpfmon_process", "s390x", "s390x is not supported, only x86_64 and aarch64"),
    ],
)
def test_a_missing_object_is_reported_with_the_remedy(
    monkeypatch: pytest.MonkeyPatch, package: str, machine: str, message: str
) -> None:
    monkeypatch.setattr("os.uname", lambda: os.uname_result(("Linux", "h", "6", "v", machine)))
    with pytest.raises(ObjectError, match=message):
        objects.locate(Probe(name="p", package=package, object="absent", charts=()))


def test_both_architectures_have_their_object() -> None:
    root = Path(__file__).parents[2] / "plugins/ebpfmon_process/objects"
    assert {p.name for p in root.iterdir()} >= set(objects.ARCHITECTURES)


@pytest.mark.parametrize(
    ("newer", "folder", "text"),
    [
        ({}, "", ""),
        ({"old.bpf.c": 1.5}, "", ""),
        ({"old.bpf.c": 60}, "", "{place}/old.bpf.c': compile it again with ebpfmon bpf build {place}/old.bpf.c"),
        ({"old.h": 60}, "", "{place}/old.h': compile it again with ebpfmon bpf build {place}/old.bpf.c"),
        ({"old.bpf.c": 60, "old.h": 90}, "", "{place}/old.h': compile it again with ebpfmon bpf build"),
        ({"old.bpf.c": 60}, "site-packages", ""),
        ({"old.bpf.c": None}, "", ""),
    ],
)
def test_an_object_in_a_development_tree_that_is_older_than_its_source_is_named(
    newer: dict[str, float | None], folder: str, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    package = f"outdated_{abs(hash((str(newer), folder)))}"
    place = tmp_path / folder / package
    made = place / "objects" / os.uname().machine / "old.bpf.o"
    made.parent.mkdir(parents=True)
    for path in (place / "__init__.py", place / "old.bpf.c", place / "old.h", made):
        path.touch()
    compiled_s = time.time() + 1000  # after the headers of this clone
    os.utime(made, (compiled_s, compiled_s))
    for name, seconds in newer.items():
        if seconds is None:
            (place / name).unlink()
        else:
            os.utime(place / name, (compiled_s + seconds,) * 2)
    monkeypatch.syspath_prepend(tmp_path / folder)
    assert objects.locate(Probe(name="p", package=package, object="old", charts=())) == made
    expected = [f"probe 'p': its object is older than '{text.format(place=place)}"] if text else []
    assert len(caplog.messages) == len(expected)
    assert all(map(str.startswith, caplog.messages, expected))


def test_an_object_of_this_clone_that_is_older_than_its_source_is_compiled_again_by_make(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(objects, "_COPYING_S", -1e10)  # every object is too old
    objects.locate(execs.PROBE)
    objects.locate(Probe(name="process", package="ebpfmon_process", object="process", charts=()))
    assert [message.rpartition("': ")[2] for message in caplog.messages] == ["compile it again with make bpf"] * 2
