"""A probe's object and a kernel's symbols, of a test's making."""

from __future__ import annotations

import ctypes
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from ebpfmon import Probe
from ebpfmon.errors import AttachError, LoadError
from ebpfmon.kernel.objects import ObjectSpec, parse_candidates

PROBE = Probe(name="p", package="nowhere", object="p", charts=())
SECTIONS = {
    "open__trampoline__f2__3": "fexit/f2",
    "open__trampoline__f1__4": "fexit/f1",
    "open__kprobe__f2__entry": "kprobe/f2",
    "open__kprobe__f2__return": "kretprobe/f2",
    "exit__tracepoint__t": "tp_btf/t",
    "exit__tracepoint__sys_t": "tp/sys/t",
    "exit__trampoline__e": "fentry/e",
    "fail__trampoline__c__return": "fexit/c",
    "shared": "tp_btf/shared",
    "sys_shared": "tp/sys/shared",
}
KNOBS = {"cfg_rows": (0, 4), "cfg_return": (4, 4)}
KNOBS |= {"open__tracepoint__shared": (8, 1), "exit__tracepoint__shared": (9, 1)}
KNOBS |= {"open__tracepoint__sys_shared": (10, 1), "exit__tracepoint__sys_shared": (11, 1), "cfg_own": (12, 2)}
KNOBS |= {"cfg_may_read": (14, 1), "cfg_gather": (15, 1), "cfg_may_cast": (16, 1)}
SPEC = ObjectSpec(parse_candidates(SECTIONS, KNOBS), KNOBS, by_process=frozenset({"p"}))


@dataclass(frozen=True)
class FakeSymbols:
    """What this kernel has: functions with the number of their arguments, tracepoints, members of structs."""

    functions: dict[str, int | None] = field(default_factory=lambda: {"f2": 3, "f1": 4, "e": 1, "c": 1})
    tracepoints: tuple[str, ...] = ("t", "shared")
    structs: tuple[tuple[str, str], ...] = ()
    raw: dict[str, int] = field(default_factory=dict)
    """The number of arguments of tracepoints, where it is known."""

    def __enter__(self) -> FakeSymbols:
        return self

    def __exit__(self, *_: object) -> None: ...

    def has_function(self, name: str) -> bool:
        return name in self.functions

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
    """An object that the kernel refuses to load or attach where `refuse` says so, with that errno. It has a table by
    process, `p`, and one by keys of its own, `k`."""

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
                raise LoadError(f"load '{program}': step: why not", program=program, errno=self.refuse[program])

    def fill(self, name: str, elements: Mapping[bytes, bytes]) -> None:
        assert self.loaded, "a map is there when it was loaded"
        assert not self.attached, "what is counted by a map must not miss what is in it"
        self.filled[name] = elements

    def attach(self, program: str) -> None:
        if self.at == "attach" and program in self.refuse:
            raise AttachError(f"attach '{program}': why not", errno=self.refuse[program])
        self.attached.append(program)
