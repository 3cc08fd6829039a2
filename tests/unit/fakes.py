"""Fakes of a BPF object and of kernel symbols."""

from __future__ import annotations

import ctypes
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from ebpfmon import Candidate, Event, LoadMode, Probe
from ebpfmon.errors import AttachError, LoadError
from ebpfmon.kernel.objects import ObjectSpec, bind

PROBE = Probe(name="p", package="nowhere", object="p", charts=())
SECTIONS = {
    "f2_fexit": "fexit/f2",
    "f1_fexit": "fexit/f1",
    "f2_kprobe": "kprobe/f2",
    "f2_kretprobe": "kretprobe/f2",
    "t_tp_btf": "tp_btf/t",
    "t_tp": "tp/sys/t",
    "e_fentry": "fentry/e",
    "c_fexit": "fexit/c",
    "shared": "tp_btf/shared",
    "sys_shared": "tp/sys/shared",
}
SETTINGS = {"cfg_rows": (0, 4), "cfg_return": (4, 4)}
SETTINGS |= {"shared_counts_open": (8, 1), "shared_counts_exit": (9, 1)}
SETTINGS |= {"sys_shared_counts_open": (10, 1), "sys_shared_counts_exit": (11, 1), "cfg_own": (12, 2)}
SETTINGS |= {"cfg_may_read": (14, 1), "cfg_cache": (15, 1), "cfg_may_cast": (16, 1)}
EVENTS = (
    Event(
        "open",
        (
            Candidate(programs=("f2_fexit",), arguments=3),
            Candidate(programs=("f1_fexit",), arguments=4),
            Candidate(programs=("f2_kprobe",), mode=LoadMode.ENTRY),
            Candidate(programs=("f2_kretprobe",), mode=LoadMode.RETURN),
            Candidate(programs=("shared",), setting="shared_counts_open"),
            Candidate(programs=("sys_shared",), setting="sys_shared_counts_open"),
        ),
    ),
    Event(
        "exit",
        (
            Candidate(programs=("t_tp_btf",)),
            Candidate(programs=("t_tp",)),
            Candidate(programs=("e_fentry",)),
            Candidate(programs=("shared",), setting="shared_counts_exit"),
            Candidate(programs=("sys_shared",), setting="sys_shared_counts_exit"),
        ),
    ),
    Event("fail", (Candidate(programs=("c_fexit",), mode=LoadMode.RETURN),)),
)
SPEC = ObjectSpec(bind(EVENTS, SECTIONS, SETTINGS), SETTINGS, by_process=frozenset({"p"}))


def spec_of(*events: Event, **sections: str) -> ObjectSpec:
    """Return the spec of an object with these events and programs, given by name and section."""
    return ObjectSpec(bind(events, sections, SETTINGS), SETTINGS)


@dataclass(frozen=True)
class FakeSymbols:
    """The symbols of a fake kernel: functions with their number of arguments, tracepoints, and members of structs."""

    functions: dict[str, int | None] = field(default_factory=lambda: {"f2": 3, "f1": 4, "e": 1, "c": 1})
    tracepoints: tuple[str, ...] = ("t", "shared")
    structs: tuple[tuple[str, str], ...] = ()
    raw: dict[str, int] = field(default_factory=dict)
    """The number of arguments of tracepoints, if known."""

    def __enter__(self) -> FakeSymbols:
        return self

    def __exit__(self, *_: object) -> None: ...

    def has_function(self, name: str) -> bool:
        return name in self.functions

    def function_id(self, name: str) -> int:
        return 0

    def arguments(self, function: str) -> int | None:
        return self.functions.get(function)

    def has_tracepoint(self, name: str) -> bool:
        return name in self.tracepoints

    def tracepoint_arguments(self, name: str) -> int | None:
        return self.raw.get(name)

    def has_struct(self, name: str, member: str = "") -> bool:
        return (name, member) in self.structs


@dataclass
class FakeObject:
    """An object with a per-process table (`p`) and a keyed table (`k`).

    The kernel refuses the programs in `refuse`, with these errors, `at` load or attach.
    """

    programs, maps = tuple(SECTIONS), ("p_rows", "p_totals", "k_rows", "k_totals")
    refuse: dict[str, int] = field(default_factory=dict)
    at: str = "load"
    loaded: list[str] = field(default_factory=list)
    sizes: dict[str, int] = field(default_factory=dict)
    attached: list[str] = field(default_factory=list)
    filled: dict[str, Mapping[bytes, bytes]] = field(default_factory=dict)
    data: ctypes.Array[ctypes.c_uint8] = field(default_factory=(ctypes.c_uint8 * 17))

    def map_info(self, name: str, what: str) -> int:
        return 12  # BPF_MAP_TYPE_ARRAY_OF_MAPS

    def set_max_entries(self, name: str, count: int) -> None:
        self.sizes[name] = count

    def rodata(self) -> ctypes.Array[ctypes.c_uint8]:
        return self.data

    def load(self, programs: Iterable[str]) -> None:
        self.loaded += programs
        for program in self.loaded if self.at == "load" else ():
            if program in self.refuse:
                raise LoadError(f"load '{program}': step: no reason", program=program, errno=self.refuse[program])

    def fill(self, name: str, elements: Mapping[bytes, bytes]) -> None:
        assert self.loaded, "maps exist only after the load"
        assert not self.attached, "maps must be filled before programs use them"
        self.filled[name] = elements

    def attach(self, program: str) -> None:
        if self.at == "attach" and program in self.refuse:
            raise AttachError(f"attach '{program}': no reason", errno=self.refuse[program])
        self.attached.append(program)
