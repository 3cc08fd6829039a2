"""Open, load and attach a compiled BPF object with libbpf."""

from __future__ import annotations

import ctypes
import errno
import logging
import os
import re
import struct
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import NoReturn, Self

from ebpfmon import shortage
from ebpfmon.errors import AttachError, LoadError, ObjectError
from ebpfmon.kernel.attach_methods import Section, method_of
from ebpfmon.kernel.kretprobes import Kretprobes
from ebpfmon.kernel.libbpf import Libbpf, check

VERIFIER = "ebpfmon.verifier"
"""The name of the logger that gets the whole log of the verifier for each program that it rejects, at level DEBUG."""
VERDICT = "the verifier rejects"
"""How the reason of a LoadError begins if the verifier rejects a program."""
WHOLE_LOG = "; --verifier-log FILE writes the verifier's whole log"
_LOG_BEGINS, _LOG_ENDS = "-- BEGIN PROG LOAD LOG --", "-- END PROG LOAD LOG --"
_TRACE_KPROBE_MULTI = 42  # enum bpf_attach_type
_RDONLY_CAST = 0x7EB9F001  # in bpf/loaders.bpf.h
_CALL, _MOVE_64 = 0x85, 0xBF  # opcodes
_PSEUDO_KFUNC_CALL = 2  # the source register of a call of a kernel function


class _MultiOptions(ctypes.Structure):
    """struct bpf_kprobe_multi_opts of libbpf 1.0."""

    _fields_ = (("sz", ctypes.c_size_t), ("syms", ctypes.c_void_p), ("addrs", ctypes.c_void_p),
                ("cookies", ctypes.c_void_p), ("cnt", ctypes.c_size_t), ("retprobe", ctypes.c_bool))  # fmt: skip


class _OpenOptions(ctypes.Structure):
    """The beginning of struct bpf_object_open_opts."""

    _fields_ = (("sz", ctypes.c_size_t), ("object_name", ctypes.c_char_p))


def _instruction(opcode: int, source: int, immediate: int) -> bytes:
    """Return an instruction that writes to r0 and has no offset."""
    return struct.pack("<BBhi", opcode, source << 4, 0, immediate)


def with_cast(data: bytes, rdonly_cast: int) -> bytes:
    """Return the contents of an object that calls bpf_rdonly_cast() by its BTF id; 0 to move r1 to r0 instead."""
    cast = _instruction(_CALL, _PSEUDO_KFUNC_CALL, rdonly_cast) if rdonly_cast else _instruction(_MOVE_64, 1, 0)
    return data.replace(_instruction(_CALL, 0, _RDONLY_CAST), cast)


class BpfObject:
    """An opened BPF object: set sizes and rodata, then load, attach, close the file, and finally close.

    `kretprobes` attaches the programs of kretprobe sections; None to use kprobe.multi links. `rdonly_cast` is the BTF
    id of bpf_rdonly_cast() in this kernel, 0 to do without. A context manager; closing twice is harmless.
    """

    def __init__(
        self, libbpf: Libbpf, path: Path, kretprobes: Kretprobes | None = None, *, rdonly_cast: int = 0
    ) -> None:
        self.libbpf, self._lib, self.path, self._kretprobes = libbpf, libbpf.lib, path, kretprobes
        self._map_fds: dict[str, int] = {}
        self._program_fds: dict[str, int] = {}
        self._counting_links: list[int] = []  # links that count the calls they missed
        self._file, self._closing = ExitStack(), ExitStack()
        self._closing.enter_context(self._file)
        self._object: int | None = self._open(rdonly_cast)
        self._file.callback(self._lib.bpf_object__close, self._object)
        if kretprobes:
            self._closing.enter_context(kretprobes)
        self.programs = {self._text("bpf_program__name", p): p for p in self._each("program")}
        self.maps = {self._text("bpf_map__name", m): m for m in self._each("map")}

    def _open(self, rdonly_cast: int) -> int:
        """Open the file with libbpf. Raises ObjectError."""
        self.libbpf.take_messages()
        try:
            data = with_cast(self.path.read_bytes(), rdonly_cast)
        except OSError as error:
            raise self._not_opened(error.errno or 0) from error
        options = _OpenOptions(ctypes.sizeof(_OpenOptions), os.fsencode(self.path.name.partition(".")[0]))
        opened: int | None = self._lib.bpf_object__open_mem(data, len(data), ctypes.byref(options))
        if opened:
            return opened
        raise self._not_opened(ctypes.get_errno(), _last_line(self.libbpf.take_messages()))

    def _not_opened(self, code: int, reason: str = "") -> ObjectError:
        return ObjectError(f"cannot open '{self.path}': {reason or os.strerror(code)}{shortage.remedy(code)}")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Detach all programs in reverse order and close all descriptors, so that the kernel frees the maps."""
        self._closing.close()

    def section(self, program: str) -> str:
        """Return the section of a program, such as "fexit/vfs_read"."""
        return self._text("bpf_program__section_name", self.programs[program])

    def btf(self) -> bytes:
        """Return the object's own BTF, with the offsets of its variables filled in."""
        size = ctypes.c_uint32()
        data = self._lib.btf__raw_data(self._lib.bpf_object__btf(self._opened()), ctypes.byref(size))
        if not data:
            raise ObjectError(f"cannot read '{self.path}': it has no BTF; compile it with -g")
        return ctypes.string_at(data, size.value)

    def map_info(self, name: str, what: str) -> int:
        """Return an attribute of a map.

        `what` is type, key_size, value_size, max_entries, map_flags, btf_key_type_id or btf_value_type_id.
        """
        return int(getattr(self._lib, f"bpf_map__{what}")(self.maps[name]))

    def map_fd(self, name: str) -> int:
        """Return the descriptor of a map. Call it after `load`."""
        return self._map_fds[name]

    def program_fd(self, program: str) -> int:
        """Return the descriptor of a loaded program."""
        return self._program_fds[program]

    def set_max_entries(self, name: str, count: int) -> None:
        """Set how many elements a map can hold. Call it before `load`."""
        check(self._lib.bpf_map__set_max_entries(self.maps[name], count), f"set the size of map '{name}'")

    def share(self, name: str, fd: int) -> None:
        """Use an existing map instead of a new one. Call it before `load`."""
        check(self._lib.bpf_map__reuse_fd(self.maps[name], fd), f"share map '{name}'")

    def rodata(self) -> ctypes.Array[ctypes.c_uint8]:
        """Return the read-only data of the object, for writing before `load`. It is empty if there is none."""
        rodata = self._lib.bpf_object__find_map_by_name(self._opened(), b".rodata")
        size = ctypes.c_size_t()
        address = self._lib.bpf_map__initial_value(rodata, ctypes.byref(size)) if rodata else None
        return (ctypes.c_uint8 * size.value).from_address(address) if address else (ctypes.c_uint8 * 0)()

    def load(self, programs: Iterable[str]) -> None:
        """Load these programs and all maps into the kernel.

        Raises LoadError with the program at fault and the last useful line of the verifier's log.
        """
        selected = frozenset(programs)
        self.require_descriptors(selected)
        for name, program in self.programs.items():
            check(self._lib.bpf_program__set_autoload(program, name in selected), f"select '{name}'")
            section = Section.parse(self.section(name))
            if method := method_of(section.kind):
                method.prepare(self, name, section)
        self.libbpf.take_messages()
        result = self._lib.bpf_object__load(self._object)
        if result < 0:
            messages = self.libbpf.take_messages()
            match = re.search(r"prog '([^']+)': (?:BPF program load failed|failed to load)", messages)
            raise_load_error(self.path, match[1] if match else None, -result, messages)
        self._map_fds = {name: self._duplicate(self._lib.bpf_map__fd(m)) for name, m in self.maps.items()}
        self._program_fds = {n: self._duplicate(self._lib.bpf_program__fd(self.programs[n])) for n in selected}

    def require_descriptors(self, programs: Collection[str]) -> None:
        """Raise LoadError if this process may not open the descriptors that loading and attaching programs takes.

        libbpf hides such a failure: it tries out what the kernel supports, takes "too many open files" for "not
        supported", and then fails for another reason.
        """
        # libbpf's descriptors of maps and programs and their duplicates, the links, the BTF, and one for a moment.
        needed = 2 * (len(self.maps) + len(programs)) + len(programs) + 2
        if (free := shortage.free_descriptors()) < needed:
            raise LoadError(
                f"cannot load '{self.path.name}': it needs {needed} open files, and only {free} more are allowed"
                + shortage.remedy(errno.EMFILE),
                errno=errno.EMFILE,
            )

    def _opened(self) -> int:
        """Return libbpf's object. Raises ObjectError if the file is closed, because libbpf would read freed memory."""
        if not self._object:
            raise ObjectError(f"cannot read '{self.path}': the file was closed")
        return self._object

    def _duplicate(self, fd: int) -> int:
        """Duplicate a descriptor, so that it outlives libbpf's object. It is closed with this object.

        Raises LoadError.
        """
        try:
            duplicate = os.dup(fd)
        except OSError as error:
            code = error.errno or 0
            raise_load_error(self.path, None, code, f"cannot duplicate a descriptor: {os.strerror(code)}")
        self._closing.callback(os.close, duplicate)
        return duplicate

    def close_file(self) -> None:
        """Free libbpf's copy of the file, up to a megabyte.

        Maps, loaded programs and links stay. Afterwards nothing can be read from the file, loaded or attached.
        """
        self._file.close()
        self._object, self.maps, self.programs = None, {}, {}

    def fill(self, name: str, elements: Mapping[bytes, bytes]) -> None:
        """Add elements, in the kernel's format, to a map. Call it after `load`. Raises KernelError."""
        if name not in self._map_fds:
            raise ObjectError(f"cannot fill map '{name}': '{self.path.name}' has no such map")
        fd = self.map_fd(name)
        for key, value in elements.items():
            check(self._lib.bpf_map_update_elem(fd, key, value, 0), f"fill map '{name}'")

    def refill(self, name: str, old: Mapping[bytes, bytes], new: Mapping[bytes, bytes]) -> None:
        """Replace the elements `old`, which `fill` added to a map, by `new`. Raises KernelError."""
        fd = self.map_fd(name)
        for key in old.keys() - new.keys():
            # An array refuses to delete elements (EINVAL), so zero them. Ignore other errors: the key may be gone.
            if self._lib.bpf_map_delete_elem(fd, key) == -errno.EINVAL:
                zeros = bytes(len(old[key]))
                check(self._lib.bpf_map_update_elem(fd, key, zeros, 0), f"refill map '{name}'")
        self.fill(name, new)

    def attach(self, program: str) -> None:
        """Attach a loaded program to the target that its section names. Raises AttachError."""
        section = Section.parse(self.section(program))
        method = method_of(section.kind)
        if method is None:
            raise AttachError(f"cannot attach '{program}': no attach method for '{section.kind}' programs")
        method.attach(self, program, section)

    def prepare_return(self, program: str) -> None:
        """Prepare a program for `attach_return`. Call it before `load`."""
        if not self._kretprobes:
            self._lib.bpf_program__set_expected_attach_type(self.programs[program], _TRACE_KPROBE_MULTI)

    def attach_by_section(self, program: str, *, counts_misses: bool = False) -> None:
        """Attach a program with libbpf, to the target of its section. Raises AttachError.

        `counts_misses` says that the link counts missed calls, which `missed_runs` then includes.
        """
        self.libbpf.take_messages()
        self._keep_link(program, self._lib.bpf_program__attach(self.programs[program]), counts_misses)

    def attach_return(self, program: str, function: str) -> None:
        """Attach a program as a kretprobe with the highest limit of concurrent calls that this kernel allows.

        Raises AttachError.
        """
        if self._kretprobes:
            self._kretprobes.attach(function, self.program_fd(program))
            return
        self.libbpf.take_messages()
        self._keep_link(program, self._attach_multi(program, function), True)

    def _keep_link(self, program: str, link: int | None, counts_misses: bool) -> None:
        if not link:
            raise_attach_error(program, ctypes.get_errno())
        if counts_misses:
            self._counting_links.append(link)
        self._closing.callback(self._lib.bpf_link__destroy, link)

    def _attach_multi(self, program: str, function: str) -> int | None:
        names = (ctypes.c_char_p * 1)(function.encode())
        options = _MultiOptions(sz=ctypes.sizeof(_MultiOptions), cnt=1, retprobe=True)
        options.syms = ctypes.addressof(names)
        link: int | None = self._lib.bpf_program__attach_kprobe_multi_opts(
            self.programs[program], None, ctypes.byref(options)
        )
        return link

    def missed_runs(self, programs: Iterable[str]) -> int:
        """Return how many runs of these programs the kernel has skipped. Some kernels do not count all of them."""
        missed = sum(self.libbpf.missed_runs(self.program_fd(program)) for program in programs)
        missed += sum(self.libbpf.missed_hits(self._lib.bpf_link__fd(link)) for link in self._counting_links)
        return missed + (self._kretprobes.missed() if self._kretprobes else 0)

    def _each(self, what: str) -> Iterator[int]:
        next_one, current = getattr(self._lib, f"bpf_object__next_{what}"), None
        while current := next_one(self._object, current):
            yield current

    def _text(self, function: str, pointer: int) -> str:
        text: bytes = getattr(self._lib, function)(pointer)
        return text.decode()


def raise_load_error(path: Path, name: str | None, code: int, messages: str) -> NoReturn:
    """Raise a LoadError for an errno of the kernel and the messages of libbpf or the verifier.

    `name` is the program at fault, None if that is unknown. If the verifier ran, its log goes to the logger VERIFIER.
    """
    what = f"cannot load '{name}' of '{path.name}'" if name else f"cannot load '{path.name}'"
    if shortage.is_shortage(code):
        raise LoadError(f"{what}: {os.strerror(code)}{shortage.remedy(code)}", errno=code)
    if name and (verdict := _verdict(messages)):
        logging.getLogger(VERIFIER).debug("%s:\n%s\n", what, messages.strip())
        why, where = verdict
        reason = f"{VERDICT} '{name}'{f' at {where}' if where else ''}: {why or os.strerror(code)}"
        raise LoadError(f"{what}: {reason}{WHOLE_LOG}", program=name, errno=code, reason=reason)
    # Do not pass on libbpf's advice, because some of it is misleading: it recommends `ulimit -l` for any EPERM.
    if code in (errno.EPERM, errno.EACCES):
        remedy = "" if name else (
            "; run as root, not in a user namespace and without a seccomp filter for bpf(2); before Linux 5.11 also "
            "with CAP_SYS_RESOURCE or ulimit -l unlimited"
        )  # fmt: skip
        raise LoadError(f"{what}: not permitted by the kernel{remedy}", program=name, errno=code)
    why = next(reversed(_useful_lines(messages)), "") or os.strerror(code)
    # libbpf may hide that memory is short: without room for the kernel's BTF it says "Error loading vmlinux BTF: -3".
    raise LoadError(f"{what}: {why}{shortage.address_space()}", program=name, errno=code, reason=why)


def raise_attach_error(what: str, code: int) -> NoReturn:
    """Raise an AttachError for a program or a function and an errno of the kernel."""
    raise AttachError(f"cannot attach '{what}': {os.strerror(code)}{shortage.remedy(code)}", errno=code)


def _verdict(messages: str) -> tuple[str, str] | None:
    """Return why the verifier rejects a program, and the source line that it was at; None if it did not run.

    The reason is the last line of its log before its statistics. Both are empty if the log does not have them. The
    source line is `FILE:LINE` since Linux 6.9, and before that the text of the line, if the object has it.
    """
    begin, end = messages.find(_LOG_BEGINS), messages.find(_LOG_ENDS)
    if begin < 0 and "processed " not in messages:
        return None
    lines = _useful_lines(messages[begin if begin >= 0 else 0 : end if end >= 0 else None])
    why = next((line for line in reversed(lines) if not line.startswith(";")), "")
    for line in reversed(lines):
        if found := re.fullmatch(r";\s*(?P<text>.*?)\s*(?:@ (?P<place>\S+:\d+))?", line):
            return why, found["place"] or (f"'{found['text']}'" if found["text"] else "")
    return why, ""


def _useful_lines(messages: str) -> list[str]:
    lines = [line.strip().removeprefix("libbpf: ") for line in messages.splitlines()]
    return [line for line in lines if line and not line.startswith(("processed ", "--", "failed to load"))]


def _last_line(messages: str) -> str:
    lines = messages.strip().splitlines()
    return lines[-1].removeprefix("libbpf: ") if lines else ""
