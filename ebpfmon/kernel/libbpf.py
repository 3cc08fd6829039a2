"""The only binding to libbpf (>= 1.0): thin, typed, and errno and verifier text become our errors.

A `Libbpf` is the library itself; a `BpfObject` is one compiled object, from open to close.
"""

from __future__ import annotations

import ctypes
import errno
import os
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn, Self

from ebpfmon.errors import AttachError, KernelError, LoadError, ObjectError

_P, _INT, _U32, _STR, _SIZE = ctypes.c_void_p, ctypes.c_int, ctypes.c_uint32, ctypes.c_char_p, ctypes.c_size_t
_PRINT = ctypes.CFUNCTYPE(_INT, _INT, _P, _P)
_LIBBPF_DEBUG = 2
_M_MMAP_THRESHOLD = -3  # malloc.h

_SIGNATURES: dict[str, tuple[Any, ...]] = {  # name: (result, *arguments)
    "libbpf_set_print": (_P, _PRINT),
    "libbpf_version_string": (_STR,),
    "bpf_object__open_file": (_P, _STR, _P),
    "bpf_object__load": (_INT, _P),
    "bpf_object__close": (None, _P),
    "bpf_object__btf": (_P, _P),
    "bpf_object__next_program": (_P, _P, _P),
    "bpf_object__next_map": (_P, _P, _P),
    "bpf_object__find_map_by_name": (_P, _P, _STR),
    "bpf_program__name": (_STR, _P),
    "bpf_program__section_name": (_STR, _P),
    "bpf_program__set_autoload": (_INT, _P, ctypes.c_bool),
    "bpf_program__attach": (_P, _P),
    "bpf_program__fd": (_INT, _P),
    "bpf_link__destroy": (_INT, _P),
    "bpf_map__name": (_STR, _P),
    "bpf_map__type": (_INT, _P),
    "bpf_map__fd": (_INT, _P),
    "bpf_map__max_entries": (_U32, _P),
    "bpf_map__set_max_entries": (_INT, _P, _U32),
    "bpf_map__btf_key_type_id": (_U32, _P),
    "bpf_map__btf_value_type_id": (_U32, _P),
    "bpf_map__initial_value": (_P, _P, ctypes.POINTER(_SIZE)),
    "bpf_map_lookup_elem": (_INT, _INT, _P, _P),
    "bpf_map_update_elem": (_INT, _INT, _P, _P, ctypes.c_uint64),
    "bpf_map_lookup_and_delete_batch": (_INT, _INT, _P, _P, _P, _P, ctypes.POINTER(_U32), _P),
    "bpf_obj_get_info_by_fd": (_INT, _INT, _P, ctypes.POINTER(_U32)),
    "libbpf_num_possible_cpus": (_INT,),
    "btf__raw_data": (_P, _P, ctypes.POINTER(_U32)),
    "btf__load_vmlinux_btf": (_P,),
    "btf__find_by_name_kind": (_INT, _P, _STR, _U32),
    "btf__type_by_id": (ctypes.POINTER(_U32 * 3), _P, _U32),
    "btf__free": (None, _P),
}


class _ProgInfo(ctypes.Structure):
    """struct bpf_prog_info (linux/bpf.h), as far as it is read here."""

    _fields_ = (("head", ctypes.c_uint8 * 192), ("run_time_ns", ctypes.c_uint64),
                ("run_count", ctypes.c_uint64), ("recursion_misses", ctypes.c_uint64),
                ("verified_insns", _U32), ("tail", _U32 * 3))  # fmt: skip


class Libbpf:
    """The shared library. Raises KernelError, naming the package to install, where it is missing or too old."""

    def __init__(self, name: str = "libbpf.so.1") -> None:
        try:
            self.lib = ctypes.CDLL(name, use_errno=True)
        except OSError as error:
            raise KernelError(
                f"load '{name}': {error}: install libbpf 1.0 or later (Debian, Ubuntu 24.04: apt install libbpf1)"
            ) from error
        for function, (result, *arguments) in _SIGNATURES.items():
            found = getattr(self.lib, function)
            found.restype, found.argtypes = result, arguments
        self._libc = ctypes.CDLL(None)
        if hasattr(self._libc, "mallopt"):  # glibc would raise the threshold as it sees BTF come and go
            self._libc.mallopt(_M_MMAP_THRESHOLD, 128 << 10)
        self._said: list[str] = []
        self._print = _PRINT(self._hear)  # libbpf keeps the pointer, so we keep the object
        self.lib.libbpf_set_print(self._print)

    @property
    def version(self) -> str:
        """Such as "1.1.2"."""
        text: bytes = self.lib.libbpf_version_string()
        return text.decode().removeprefix("v")

    @property
    def possible_cpus(self) -> int:
        """How many values an element of a per-CPU map has."""
        return check(self.lib.libbpf_num_possible_cpus(), "count the possible CPUs")

    def said(self) -> str:
        """What libbpf has printed since this was asked last."""
        text = "".join(self._said)
        self._said.clear()
        return text

    def _hear(self, level: int, form: int, arguments: int) -> int:
        if level < _LIBBPF_DEBUG:
            text = ctypes.create_string_buffer(1 << 16)
            self._libc.vsnprintf(text, _SIZE(len(text)), _P(form), _P(arguments))
            self._said.append(text.value.decode(errors="replace"))
        return 0

    def trim(self) -> None:
        """Give back to the system what the loads have freed: reading the kernel's BTF alone takes 8 MB."""
        if hasattr(self._libc, "malloc_trim"):
            self._libc.malloc_trim(_SIZE(0))

    def kernel_btf(self) -> KernelBtf | None:
        """The running kernel's BTF, or None where it has none."""
        found = self.lib.btf__load_vmlinux_btf()
        return KernelBtf(self.lib, found) if found else None


class KernelBtf:
    """The running kernel's own types. A context manager: it holds some megabytes."""

    _FUNC, _TYPEDEF = 12, 8

    def __init__(self, lib: ctypes.CDLL, btf: int) -> None:
        self._lib, self._btf = lib, btf

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._lib.btf__free(self._btf)

    def arguments(self, function: str) -> int | None:
        """How many arguments a function has; None if this kernel has no such function."""
        found = self._lib.btf__find_by_name_kind(self._btf, function.encode(), self._FUNC)
        if found < 0:
            return None
        prototype = self._lib.btf__type_by_id(self._btf, self._lib.btf__type_by_id(self._btf, found).contents[2])
        count: int = prototype.contents[1] & 0xFFFF
        return count

    def has_tracepoint(self, name: str) -> bool:
        """Whether a tp_btf program can attach to the tracepoint."""
        found: int = self._lib.btf__find_by_name_kind(self._btf, b"btf_trace_" + name.encode(), self._TYPEDEF)
        return found > 0


class BpfObject:
    """A compiled object, live: open, choose, load, attach, close. A context manager; closing twice is harmless."""

    def __init__(self, libbpf: Libbpf, path: Path) -> None:
        self.libbpf, self._lib, self.path = libbpf, libbpf.lib, path
        self._links: list[int] = []
        libbpf.said()
        self._object: int | None = self._lib.bpf_object__open_file(os.fsencode(path), None)
        if not self._object:
            raise ObjectError(f"open '{path}': {_last_line(libbpf.said()) or os.strerror(ctypes.get_errno())}")
        self.programs = {self._text("bpf_program__name", p): p for p in self._each("program")}
        self.maps = {self._text("bpf_map__name", m): m for m in self._each("map")}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Detach in reverse order, then free: the kernel drops what nobody holds any more."""
        while self._links:
            self._lib.bpf_link__destroy(self._links.pop())
        if self._object:
            self._lib.bpf_object__close(self._object)
            self._object = None

    def section(self, program: str) -> str:
        """The section of a program, such as "fexit/vfs_read"."""
        return self._text("bpf_program__section_name", self.programs[program])

    def btf(self) -> bytes:
        """The object's own BTF, with the offsets of its variables filled in."""
        size = _U32()
        data = self._lib.btf__raw_data(self._lib.bpf_object__btf(self._object), ctypes.byref(size))
        if not data:
            raise ObjectError(f"read '{self.path}': it has no BTF: compile it with -g")
        return ctypes.string_at(data, size.value)

    def map_info(self, name: str, what: str) -> int:
        """A number about a map: type, fd, max_entries, btf_key_type_id, btf_value_type_id."""
        return int(getattr(self._lib, f"bpf_map__{what}")(self.maps[name]))

    def set_max_entries(self, name: str, count: int) -> None:
        """Before the load: how many elements a map shall hold."""
        check(self._lib.bpf_map__set_max_entries(self.maps[name], count), f"size map '{name}'")

    def set_autoload(self, program: str, wanted: bool) -> None:
        """Before the load: whether a program shall be loaded at all."""
        check(self._lib.bpf_program__set_autoload(self.programs[program], wanted), f"select '{program}'")

    def rodata(self) -> ctypes.Array[ctypes.c_uint8]:
        """Before the load: the read-only data, to be written."""
        found = self._lib.bpf_object__find_map_by_name(self._object, b".rodata")
        size = _SIZE()
        at = self._lib.bpf_map__initial_value(found, ctypes.byref(size)) if found else None
        return (ctypes.c_uint8 * size.value).from_address(at) if at else (ctypes.c_uint8 * 0)()

    def load(self) -> None:
        """Into the kernel. Raises LoadError with the program at fault and the verifier's last useful line."""
        self.libbpf.said()
        result = self._lib.bpf_object__load(self._object)
        if result < 0:
            _raise_load_error(self.path, -result, self.libbpf.said())

    def attach(self, program: str) -> None:
        """Where its section says. Raises AttachError."""
        self.libbpf.said()
        link = self._lib.bpf_program__attach(self.programs[program])
        if not link:
            code = ctypes.get_errno()
            raise AttachError(f"attach '{program}': {os.strerror(code)}", errno=code)
        self._links.append(link)

    def missed_runs(self, programs: list[str]) -> int:
        """How often the kernel left out a run of these programs, because one was running on that CPU."""
        missed = 0
        for program in programs:
            info, size = _ProgInfo(), _U32(ctypes.sizeof(_ProgInfo))
            fd = self._lib.bpf_program__fd(self.programs[program])
            # a kernel that does not know the field (before 5.12) leaves it 0
            if self._lib.bpf_obj_get_info_by_fd(fd, ctypes.byref(info), ctypes.byref(size)) == 0:
                missed += info.recursion_misses
        return missed

    def _each(self, what: str) -> Iterator[int]:
        found, after = getattr(self._lib, f"bpf_object__next_{what}"), None
        while after := found(self._object, after):
            yield after

    def _text(self, function: str, pointer: int) -> str:
        text: bytes = getattr(self._lib, function)(pointer)
        return text.decode()


def check(result: int, step: str) -> int:
    """A libbpf call's result, or KernelError if it is a negative errno."""
    if result < 0:
        raise KernelError(f"{step}: {os.strerror(-result)}")
    return result


def _raise_load_error(path: Path, code: int, said: str) -> NoReturn:
    program = re.search(r"prog '([^']+)': (?:BPF program load failed|failed to load)", said)
    name = program[1] if program else None
    what = f"load '{name}' of '{path.name}'" if name else f"load '{path.name}'"
    # of libbpf's own advice some is misleading ("raise ulimit -l" for any EPERM), so our words alone
    if code in (errno.EPERM, errno.EACCES) and "processed" not in said:
        remedy = "" if name else ": run as root outside of user namespaces, and where bpf(2) is not filtered (seccomp)"
        raise LoadError(f"{what}: not permitted by the kernel{remedy}", program=name, errno=code)
    raise LoadError(f"{what}: {_verifier_line(said) or os.strerror(code)}", program=name, errno=code)


def _verifier_line(said: str) -> str:
    """The last useful line of the verifier's log: what it objects to, not its statistics."""
    log = said
    with suppress(ValueError):
        log = said[said.index("-- BEGIN PROG LOAD LOG --") : said.index("-- END PROG LOAD LOG --")]
    lines = [line.strip() for line in log.splitlines()]
    useful = [line for line in lines if line and not line.startswith(("processed ", "--", "libbpf: failed to load"))]
    return useful[-1].removeprefix("libbpf: ") if useful else ""


def _last_line(said: str) -> str:
    lines = said.strip().splitlines()
    return lines[-1].removeprefix("libbpf: ") if lines else ""
