"""Bind libbpf (>= 1.0) with ctypes, and make the system calls that libbpf has no function for."""

from __future__ import annotations

import ctypes
import fcntl
import os
import struct
import threading
from collections import deque
from contextlib import suppress
from pathlib import Path
from typing import Any

from ebpfmon import shortage
from ebpfmon.errors import KernelError

_P, _INT, _U32, _STR, _SIZE = ctypes.c_void_p, ctypes.c_int, ctypes.c_uint32, ctypes.c_char_p, ctypes.c_size_t
_PRINT = ctypes.CFUNCTYPE(_INT, _INT, _P, _P)
_LIBBPF_DEBUG = 2
_MESSAGES_MAX = 1000
_VA_LIST_BYTES = 32  # the size of a va_list on aarch64; on x86-64 it has 24

_SIGNATURES: dict[str, tuple[Any, ...]] = {  # name: (result, *arguments)
    "libbpf_set_print": (_P, _PRINT),
    "libbpf_version_string": (_STR,),
    "bpf_object__open_mem": (_P, _STR, _SIZE, _P),
    "bpf_object__load": (_INT, _P),
    "bpf_object__close": (None, _P),
    "bpf_object__btf": (_P, _P),
    "bpf_object__next_program": (_P, _P, _P),
    "bpf_object__next_map": (_P, _P, _P),
    "bpf_object__find_map_by_name": (_P, _P, _STR),
    "bpf_program__name": (_STR, _P),
    "bpf_program__section_name": (_STR, _P),
    "bpf_program__set_autoload": (_INT, _P, ctypes.c_bool),
    "bpf_program__set_expected_attach_type": (_INT, _P, _INT),
    "bpf_program__attach": (_P, _P),
    "bpf_program__attach_kprobe_multi_opts": (_P, _P, _STR, _P),
    "bpf_program__fd": (_INT, _P),
    "bpf_link__destroy": (_INT, _P),
    "bpf_link__fd": (_INT, _P),
    "bpf_map__name": (_STR, _P),
    "bpf_map__type": (_INT, _P),
    "bpf_map__fd": (_INT, _P),
    "bpf_map__key_size": (_U32, _P),
    "bpf_map__value_size": (_U32, _P),
    "bpf_map__max_entries": (_U32, _P),
    "bpf_map__map_flags": (_U32, _P),
    "bpf_map__reuse_fd": (_INT, _P, _INT),
    "bpf_map__set_max_entries": (_INT, _P, _U32),
    "bpf_map__btf_key_type_id": (_U32, _P),
    "bpf_map__btf_value_type_id": (_U32, _P),
    "bpf_map__initial_value": (_P, _P, ctypes.POINTER(_SIZE)),
    "bpf_map_create": (_INT, _INT, _STR, _U32, _U32, _U32, _P),
    "bpf_map_lookup_elem": (_INT, _INT, _P, _P),
    "bpf_map_delete_elem": (_INT, _INT, _P),
    "bpf_map_update_elem": (_INT, _INT, _P, _P, ctypes.c_uint64),
    "bpf_map_lookup_and_delete_batch": (_INT, _INT, _P, _P, _P, _P, ctypes.POINTER(_U32), _P),
    "bpf_prog_load": (_INT, _INT, _STR, _STR, _P, _SIZE, _P),
    "bpf_raw_tracepoint_open": (_INT, _STR, _INT),
    "bpf_obj_get_info_by_fd": (_INT, _INT, _P, ctypes.POINTER(_U32)),
    "libbpf_num_possible_cpus": (_INT,),
    "btf__raw_data": (_P, _P, ctypes.POINTER(_U32)),
    "btf__new": (_P, _STR, _U32),
    "btf__find_by_name_kind": (_INT, _P, _STR, _U32),
    "btf__type_by_id": (ctypes.POINTER(_U32), _P, _U32),
    "btf__resolve_type": (_INT, _P, _U32),
    "btf__name_by_offset": (_STR, _P, _U32),
    "btf__free": (None, _P),
}


class _ProgInfo(ctypes.Structure):
    """The part of struct bpf_prog_info (linux/bpf.h) that ebpfmon reads."""

    _fields_ = (("head", ctypes.c_uint8 * 192), ("run_time_ns", ctypes.c_uint64),
                ("run_count", ctypes.c_uint64), ("recursion_misses", ctypes.c_uint64),
                ("verified_insns", _U32), ("tail", _U32 * 3))  # fmt: skip


class _LinkInfo(ctypes.Structure):
    """The part of struct bpf_link_info that ebpfmon reads: kprobe_multi links, and perf_event links to kprobes."""

    _fields_ = (("type", _U32), ("id", _U32), ("prog_id", _U32), ("pad", _U32), ("event_type", _U32),
                ("before", _U32 * 3), ("multi_missed", ctypes.c_uint64), ("addr", ctypes.c_uint64),
                ("kprobe_missed", ctypes.c_uint64), ("tail", ctypes.c_uint64 * 8))  # fmt: skip


PERF_TRACEPOINT = 2
"""PERF_TYPE_TRACEPOINT: the type of perf events that are listed in tracefs."""
_KPROBE_TYPE = Path("/sys/bus/event_source/devices/kprobe/type")
_PERF_EVENT_OPEN = {"x86_64": 298, "aarch64": 241}
_PERF_FD_CLOEXEC, _PERF_SET_BPF, _PERF_ENABLE = 8, 0x40042408, 0x2400  # linux/perf_event.h
_LINK_PERF_EVENT, _LINK_KPROBE_MULTI = 7, 8  # enum bpf_link_type
_PERF_EVENT_KPROBE, _PERF_EVENT_KRETPROBE = 3, 4  # enum bpf_perf_event_type


class _Messages(threading.local):
    """The messages of libbpf in the calling thread, oldest first. Bounded, because not every caller takes them."""

    def __init__(self) -> None:
        self.texts = deque[str](maxlen=_MESSAGES_MAX)


_LIBC = ctypes.CDLL(None, use_errno=True)
_MESSAGES = _Messages()


def _keep_message(level: int, format_: int, arguments: int) -> int:
    if level >= _LIBBPF_DEBUG:
        return 0
    # The verifier's log is one message of up to 16 MB, and its last line matters most, so measure the text first. That
    # takes a copy of the arguments, because printing them uses them up.
    with suppress(MemoryError):
        copy = ctypes.create_string_buffer(ctypes.string_at(arguments, _VA_LIST_BYTES), _VA_LIST_BYTES)
        length: int = _LIBC.vsnprintf(None, _SIZE(0), _P(format_), copy)
        text = ctypes.create_string_buffer(max(length, 0) + 1)
        _LIBC.vsnprintf(text, _SIZE(len(text)), _P(format_), _P(arguments))
        _MESSAGES.texts.append(text.value.decode(errors="replace"))
    return 0


# libbpf has one print callback for the whole process and keeps its address. The callback is a constant of this module
# because a callback of an instance would be freed with the instance, while libbpf could still call it.
_CALLBACK = _PRINT(_keep_message)


class Libbpf:
    """The shared library libbpf. Its functions are attributes of `lib`."""

    def __init__(self, name: str = "libbpf.so.1") -> None:
        """Load the library. Raises KernelError, which names the package to install, if it is missing or too old."""
        try:
            self.lib = ctypes.CDLL(name, use_errno=True)
        except OSError as error:
            if short := shortage.reason(error):
                raise KernelError(f"cannot load '{name}': {short}") from error
            raise KernelError(
                f"cannot load '{name}': {error}; install libbpf 1.0 or later (Debian 12, Ubuntu 24.04: "
                "apt install libbpf1)"
            ) from error
        for function, (result, *arguments) in _SIGNATURES.items():
            binding = getattr(self.lib, function)
            binding.restype, binding.argtypes = result, arguments
        self.lib.libbpf_set_print(_CALLBACK)

    @property
    def version(self) -> str:
        """The version of the library, such as "1.1.2"."""
        text: bytes = self.lib.libbpf_version_string()
        return text.decode().removeprefix("v")

    @property
    def possible_cpus(self) -> int:
        """The number of possible CPUs, which is the number of values in each element of a per-CPU map."""
        return check(self.lib.libbpf_num_possible_cpus(), "count the possible CPUs")

    def take_messages(self) -> str:
        """Return and forget what libbpf has printed in the calling thread.

        libbpf prints in the thread that calls it, and only during the call. To get the messages of one operation, call
        this before it and after it; other threads and instances do not interfere.
        """
        text = "".join(_MESSAGES.texts)
        _MESSAGES.texts.clear()
        return text

    def missed_runs(self, program_fd: int) -> int:
        """Return how many runs of a program the kernel skipped because it was already running on that CPU.

        Kernels before 5.12 do not count them; the result is 0.
        """
        info = _ProgInfo()
        return info.recursion_misses if self._info(program_fd, info) else 0

    def missed_hits(self, link_fd: int) -> int:
        """Return how often a kprobe was hit but could not run its program.

        Kernels before 6.7 do not count this; the result is 0.
        """
        info = _LinkInfo()
        if not self._info(link_fd, info):
            return 0
        if info.type == _LINK_KPROBE_MULTI:
            return int(info.multi_missed)
        kprobe = info.type == _LINK_PERF_EVENT and info.event_type in (_PERF_EVENT_KPROBE, _PERF_EVENT_KRETPROBE)
        return int(info.kprobe_missed) if kprobe else 0

    def open_perf_event(self, kind: int, config: int, config1: int = 0) -> int:
        """Open a perf event for all processes and return its descriptor, to be closed by the caller. Raises OSError."""
        # struct perf_event_attr: type, size, config, sample_period, sample_type, read_format, flags, wakeup_events,
        # bp_type, config1, config2 ...
        attr = struct.pack("=IIQQQQQIIQQQQQ", kind, 96, config, 1, 0, 0, 0, 1, 0, config1, 0, 0, 0, 0)
        number = _PERF_EVENT_OPEN[os.uname().machine]
        # CPU 0 is enough, because the kernel runs the program on every CPU that hits the probe.
        fd: int = _LIBC.syscall(number, attr, -1, 0, -1, _PERF_FD_CLOEXEC)
        if fd < 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        return fd

    def open_kprobe(self, function: str) -> int:
        """Open a kprobe at the entry of a function, as a perf event, and return its descriptor. Raises OSError."""
        name = ctypes.create_string_buffer(function.encode())
        return self.open_perf_event(int(_KPROBE_TYPE.read_text()), 0, ctypes.addressof(name))

    @staticmethod
    def attach_to_event(event_fd: int, program_fd: int) -> None:
        """Run a program at each perf event, until the event is closed. Raises OSError."""
        fcntl.ioctl(event_fd, _PERF_SET_BPF, program_fd)
        fcntl.ioctl(event_fd, _PERF_ENABLE, 0)

    def _info(self, fd: int, info: ctypes.Structure) -> bool:
        size = _U32(ctypes.sizeof(info))
        return bool(self.lib.bpf_obj_get_info_by_fd(fd, ctypes.byref(info), ctypes.byref(size)) == 0)


def check(result: int, step: str) -> int:
    """Return the result of a libbpf call. Raises KernelError, "cannot STEP: ...", if it is a negative errno."""
    if result < 0:
        raise KernelError(f"cannot {step}: {os.strerror(-result)}{shortage.remedy(-result)}")
    return result
