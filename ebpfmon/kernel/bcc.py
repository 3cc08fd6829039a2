"""Load probes on kernels without BTF: BCC compiles their source with this machine's kernel headers.

BCC is only used as a compiler. It runs in a process of its own, so that its hundred megabytes of memory are freed. The
compiled instructions refer to maps and rodata settings by number; `BccObject` creates the maps, fills in descriptors
and values, and loads and attaches the programs. It is a `BpfObject`, because map definitions and row types come from
the object that clang compiled.
"""

from __future__ import annotations

import base64
import ctypes
import errno
import json
import os
import struct
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

from ebpfmon import shortage
from ebpfmon.errors import KernelError, LoadError
from ebpfmon.kernel import bcc_compile, host
from ebpfmon.kernel.attach_methods import Section
from ebpfmon.kernel.bpfobject import BpfObject, raise_attach_error, raise_load_error
from ebpfmon.kernel.btf import Btf
from ebpfmon.kernel.kretprobes import Kretprobes
from ebpfmon.kernel.libbpf import Libbpf, check
from ebpfmon.kernel.tables import ACTIVE_BUFFER_MAP

_ARRAY, _ARRAY_OF_MAPS = 2, 12  # enum bpf_map_type
_PROGRAM_TYPES = {"kprobe": 2, "kretprobe": 2, "tp_btf": 17}  # enum bpf_prog_type: KPROBE, RAW_TRACEPOINT
_LD_IMM64 = 0x18  # the opcode of an instruction that loads 64 bits
_MAP_FD, _SETTING = 1, 15  # its source register: BPF_PSEUDO_MAP_FD, or our own marker for a rodata setting
_SELF_CHECK = "ebpfmon_self_check"
_SELF_CHECK_FACTS = ("tgid", "comm", "cgroup", "start")  # struct self_check in the BPF headers


class _MapOptions(ctypes.Structure):
    """struct bpf_map_create_opts of libbpf 1.0."""

    _fields_ = (("sz", ctypes.c_size_t), ("btf", ctypes.c_uint32 * 4), ("inner_map_fd", ctypes.c_uint32),
                ("map_flags", ctypes.c_uint32), ("extra", ctypes.c_uint64 * 2))  # fmt: skip


class _ProgramOptions(ctypes.Structure):
    """struct bpf_prog_load_opts of libbpf 1.0."""

    _fields_ = (("sz", ctypes.c_size_t), ("attach", ctypes.c_uint32 * 10), ("info", ctypes.c_uint64 * 5),
                ("log_level", ctypes.c_uint32), ("log_size", ctypes.c_uint32),
                ("log_buf", ctypes.c_void_p))  # fmt: skip


def compile_source(obj: BpfObject) -> dict[str, bytes]:
    """Compile the BCC source beside an opened object and return the instructions of each program.

    Programs that BCC cannot compile are left out. Raises KernelError if a package is missing (the message names it) or
    if the compilation fails.
    """
    source = obj.path.with_name(obj.path.name.removesuffix(".bpf.o") + ".bcc.c")
    step = f"cannot compile '{source.name}' with BCC"
    release = os.uname().release
    if not any(Path(place).exists() for place in host.header_paths(release)):
        raise KernelError(
            f"{step}: the headers of kernel {release} are missing; apt install linux-headers-{release} "
            f"(Fedora, RHEL: dnf install kernel-devel-{release})"
        )
    flags = [f"-DMAP_{name_in_source(name)}={n}" for n, name in enumerate((*_maps_of(obj), _SELF_CHECK))]
    flags += [f"-D{name}=bpf_pseudo_fd({_SETTING},{n})" for n, name in enumerate(_settings_of(obj))]
    programs = [name for name in obj.programs if Section.parse(obj.section(name)).kind in _PROGRAM_TYPES]
    programs.append(_SELF_CHECK)
    request = json.dumps({"text": source.read_text(encoding="utf-8"), "flags": flags, "programs": programs})
    for python in dict.fromkeys((sys.executable, "/usr/bin/python3")):  # The distribution's BCC works only there.
        try:
            done = subprocess.run([python, "-I", bcc_compile.__file__], input=request, capture_output=True, text=True)
        except OSError as error:
            code = error.errno or 0
            raise KernelError(
                f"{step}: cannot start '{python}': {os.strerror(code)}{shortage.no_process(code)}"
            ) from error
        if done.returncode == 0:
            compiled = {name: base64.b64decode(code) for name, code in json.loads(done.stdout).items()}
            if _SELF_CHECK not in compiled:
                raise KernelError(f"{step}: it returned no programs")
            return compiled
        if done.returncode != bcc_compile.NO_BCC:
            raise KernelError(f"{step}: {_error_line(done.stderr)}")
    raise KernelError(f"{step}: BCC is missing; apt install python3-bpfcc ('bcc' on PyPI is an unrelated package)")


def _error_line(stderr: str) -> str:
    lines = stderr.strip().splitlines()
    return next((line for line in lines if "error:" in line), lines[-1] if lines else "it printed no error message")


class BccObject(BpfObject):
    """An object whose programs were compiled by BCC: `compiled` has the instructions of each, by name."""

    def __init__(
        self, libbpf: Libbpf, path: Path, kretprobes: Kretprobes | None, compiled: Mapping[str, bytes]
    ) -> None:
        super().__init__(libbpf, path, kretprobes)
        self._compiled = compiled

    def load(self, programs: Iterable[str]) -> None:
        programs = list(programs)
        self.require_descriptors(programs)
        maps = _maps_of(self)
        for name in sorted(maps, key=lambda n: self.map_info(n, "type") == _ARRAY_OF_MAPS):
            self._create_map(name)
        self._map_fds[_SELF_CHECK] = self._new_map(_ARRAY, _SELF_CHECK, 4, 8 * (1 + len(_SELF_CHECK_FACTS)), 1)
        fds = [self._map_fds[name] for name in (*maps, _SELF_CHECK)]
        settings = [self._setting(*place) for place in _settings_of(self).values()]
        for name in (_SELF_CHECK, *programs):
            kind = "tp_btf" if name == _SELF_CHECK else Section.parse(self.section(name)).kind
            code = _fill_in(self._compiled[name], fds, settings)
            self._program_fds[name] = self._load_program(name, _PROGRAM_TYPES[kind], code)
        self._check_offsets()

    def attach_by_section(self, program: str, *, counts_misses: bool = False) -> None:
        section = Section.parse(self.section(program))
        if section.kind == "kprobe":
            self._attach_kprobe(program, section.target)
        else:
            self._closing.callback(os.close, self._attach_raw_tracepoint(program, section.target))

    def _attach_kprobe(self, program: str, function: str) -> None:
        try:
            event = self.libbpf.open_kprobe(function)
            self._closing.callback(os.close, event)
            self.libbpf.attach_to_event(event, self._program_fds[program])
        except OSError as error:
            raise_attach_error(program, error.errno or 0)

    def _attach_raw_tracepoint(self, program: str, tracepoint: str) -> int:
        link: int = self._lib.bpf_raw_tracepoint_open(tracepoint.encode(), self._program_fds[program])
        if link < 0:
            raise_attach_error(program, -link)
        return link

    def share(self, name: str, fd: int) -> None:
        self._map_fds[name] = os.dup(fd)
        self._closing.callback(os.close, self._map_fds[name])

    def _create_map(self, name: str) -> None:
        if name in self._map_fds:
            return
        kind, size = (self.map_info(name, what) for what in ("type", "max_entries"))
        key, value = (self.map_info(name, what) for what in ("key_size", "value_size"))
        flags = self.map_info(name, "map_flags")
        inner = [self._map_fds[f"{name}_{n}"] for n in range(size)] if kind == _ARRAY_OF_MAPS else []
        self._map_fds[name] = self._new_map(kind, name, key, value, size, flags, *inner[:1])
        for n, fd in enumerate(inner):
            index, one = ctypes.c_uint32(n), ctypes.c_uint32(fd)
            done = self._lib.bpf_map_update_elem(self._map_fds[name], ctypes.byref(index), ctypes.byref(one), 0)
            check(done, f"fill map '{name}'")

    def _new_map(
        self, kind: int, name: str, key_size: int, value_size: int, size: int, flags: int = 0, inner: int = 0
    ) -> int:
        options = _MapOptions(sz=ctypes.sizeof(_MapOptions), map_flags=flags, inner_map_fd=inner)
        fd: int = self._lib.bpf_map_create(kind, name.encode(), key_size, value_size, size, ctypes.byref(options))
        if fd < 0:
            raise LoadError(
                f"cannot create map '{name}' of '{self.path.name}': {os.strerror(-fd)}{shortage.remedy(-fd)}", errno=-fd
            )
        self._closing.callback(os.close, fd)
        return fd

    def _load_program(self, name: str, kind: int, code: bytes) -> int:
        log = ctypes.create_string_buffer(1 << 20)
        for level in (0, 1):  # The verifier's log takes time, so ask for it only after a failure.
            options = _ProgramOptions(sz=ctypes.sizeof(_ProgramOptions), log_level=level)
            if level:
                options.log_buf, options.log_size = ctypes.addressof(log), len(log)
            fd: int = self._lib.bpf_prog_load(
                kind, name.encode()[:15], b"GPL", code, len(code) // 8, ctypes.byref(options)
            )
            if fd >= 0:
                self._closing.callback(os.close, fd)
                return fd
        raise_load_error(self.path, name, -fd, log.value.decode(errors="replace"))

    def _setting(self, offset: int, size: int) -> int:
        return int.from_bytes(bytes(self.rodata()[offset : offset + size]), "little")

    def _check_offsets(self) -> None:
        """Raise LoadError if the kernel headers do not belong to this kernel, because then field offsets are wrong.

        A test program reads facts about tasks at those offsets and counts how often they differ from what the kernel's
        helpers return.
        """
        link = self._attach_raw_tracepoint(_SELF_CHECK, "sys_exit")
        for _ in range(100):
            os.getppid()
        os.close(link)
        counts, zero = (ctypes.c_uint64 * (1 + len(_SELF_CHECK_FACTS)))(), ctypes.c_uint32()
        result = self._lib.bpf_map_lookup_elem(self._map_fds[_SELF_CHECK], ctypes.byref(zero), ctypes.byref(counts))
        check(result, "read the self-check of BCC's programs")
        wrong = [fact for fact, count in zip(_SELF_CHECK_FACTS, counts[1:], strict=True) if 2 * count > counts[0]]
        if wrong or not counts[0]:
            release = os.uname().release
            raise LoadError(
                f"cannot compile '{self.path.stem}' with BCC: the kernel headers do not belong to kernel {release} "
                f"(facts about tasks are wrong: {', '.join(wrong) or 'all'}); apt install linux-headers-{release}",
                errno=errno.EINVAL,
            )


def _maps_of(obj: BpfObject) -> list[str]:
    """Return the maps that the source refers to. The map of rodata settings is not one of them."""
    return sorted(name for name in obj.maps if name == ACTIVE_BUFFER_MAP or "." not in name)


def name_in_source(name: str) -> str:
    """Return the name of a map in the source, after MAP_. A map of variables is named after its section."""
    return name.lstrip(".").replace(".", "_")


def _settings_of(obj: BpfObject) -> dict[str, tuple[int, int]]:
    return Btf(obj.btf()).variables(".rodata")


def _fill_in(code: bytes, map_fds: list[int], settings: list[int]) -> bytes:
    """Return the instructions with map descriptors and the values of settings in place of their numbers."""
    filled = bytearray(code)
    for at in range(0, len(code), 8):
        operation, registers, _, number = struct.unpack_from("<BBhi", code, at)
        if operation != _LD_IMM64:
            continue
        if registers >> 4 == _MAP_FD:
            struct.pack_into("<i", filled, at + 4, map_fds[number])
        elif registers >> 4 == _SETTING:
            struct.pack_into("<BBhi", filled, at, operation, registers & 15, 0, settings[number])
    return bytes(filled)
