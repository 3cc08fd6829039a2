"""Read and drop capabilities (capabilities(7)).

The kernel keeps them for each thread: what one thread drops, the others still have. A new thread has what the thread
that starts it has at that moment. Therefore each running thread drops them, or the first one before it starts others.
"""

from __future__ import annotations

import ctypes
import os
import pwd
import re
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from itertools import combinations
from pathlib import Path

from ebpfmon.errors import KernelError, SettingsError

NAMES = (
    "chown", "dac_override", "dac_read_search", "fowner", "fsetid", "kill", "setgid", "setuid", "setpcap",
    "linux_immutable", "net_bind_service", "net_broadcast", "net_admin", "net_raw", "ipc_lock", "ipc_owner",
    "sys_module", "sys_rawio", "sys_chroot", "sys_ptrace", "sys_pacct", "sys_admin", "sys_boot", "sys_nice",
    "sys_resource", "sys_time", "sys_tty_config", "mknod", "lease", "audit_write", "audit_control", "setfcap",
    "mac_override", "mac_admin", "syslog", "wake_alarm", "block_suspend", "audit_read", "perfmon", "bpf",
    "checkpoint_restore",
)  # fmt: skip
"""By their number in linux/capability.h."""
_OF_MAPS = ("bpf", "dac_read_search", "sys_admin")
"""What reading tables may need: for bpf(2) before Linux 5.19, and for kretprobes in tracefs without being root."""

_VERSION_3 = 0x20080522
_SET_KEEPCAPS, _CAPBSET_READ, _CAPBSET_DROP, _SET_NO_NEW_PRIVS = 8, 23, 24, 38  # linux/prctl.h
_CAP_AMBIENT, _AMBIENT_CLEAR_ALL = 47, 4


class _Header(ctypes.Structure):
    """struct __user_cap_header_struct; pid 0 is the calling thread."""

    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _Word(ctypes.Structure):
    """struct __user_cap_data_struct. There are two: for the lower and the upper 32 capabilities."""

    _fields_ = (("effective", ctypes.c_uint32), ("permitted", ctypes.c_uint32), ("inheritable", ctypes.c_uint32))


_libc = ctypes.CDLL(None, use_errno=True)
_libc.prctl.argtypes = (ctypes.c_int, *(ctypes.c_ulong,) * 4)


def read(status: Path, field: str = "CapPrm") -> frozenset[str]:
    """Return the capabilities in a field of a thread's status file (proc_pid_status(5)), by default those permitted.

    A capability that has no name here is called by its number. Nothing if there is no such field. Raises OSError.
    """
    found = re.search(rf"^{field}:\s*([0-9a-f]+)$", status.read_text(errors="replace"), re.M)
    mask = int(found[1], 16) if found else 0
    return frozenset(_name(bit) for bit in range(64) if mask >> bit & 1)


def held() -> frozenset[str]:
    """Return the capabilities that the calling thread may use or take up."""
    return read(Path("/proc/thread-self/status"))


def held_by_any_thread() -> frozenset[str]:
    """Return the capabilities that some thread of this process still has."""
    return frozenset[str]().union(*_of_threads())


def drop(keep: frozenset[str]) -> None:
    """Drop all capabilities but `keep` for good, in the calling thread and in what it starts from now on.

    Programs that it starts gain none, whatever they are (no_new_privs). Raises KernelError.
    """
    kept = keep & held()
    _libc.prctl(_CAP_AMBIENT, _AMBIENT_CLEAR_ALL, 0, 0, 0)
    _bound(kept)
    _check(_libc.prctl(_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "set no_new_privs")
    _set(kept)


def become(user: str, keep: frozenset[str]) -> None:
    """Become a user with all of the user's groups. The calling thread keeps those of `keep` that it has.

    All threads change the user, and the other threads lose their capabilities, so call this before there are any.
    Raises SettingsError for an unknown user, and KernelError if it is not permitted or if a thread has already dropped
    some.
    """
    try:
        found = pwd.getpwnam(user)
    except (KeyError, ValueError):
        raise SettingsError(f"become user '{user}': there is no such user") from None
    kept = keep & held()
    if len(_of_threads()) > 1:  # where one thread may and another may not, the C library would abort the process
        raise KernelError(f"become user '{user}': some threads have dropped capabilities already")
    if os.getresuid() == (found.pw_uid,) * 3 and found.pw_uid:  # whoever started this process has already done it
        _set(kept)
        return
    _check(_libc.prctl(_SET_KEEPCAPS, 1, 0, 0, 0), "keep capabilities")
    try:
        os.initgroups(user, found.pw_gid)
        os.setresgid(found.pw_gid, found.pw_gid, found.pw_gid)
        os.setresuid(found.pw_uid, found.pw_uid, found.pw_uid)
    except OSError as error:
        raise KernelError(
            f"become user '{user}': {error.strerror}: start as root, or with CAP_SETUID and CAP_SETGID"
        ) from error
    finally:
        _libc.prctl(_SET_KEEPCAPS, 0, 0, 0, 0)
    _set(kept)  # only the permitted ones were kept


def needed(try_it: Callable[[], bool], timeout_s: float = 5.0) -> frozenset[str]:
    """Return the fewest capabilities with which `try_it` succeeds; all that are held if it never does.

    On most kernels that is none, on others some of `bpf`, `dac_read_search` and `sys_admin`. Each try runs in a thread
    of its own that has dropped the others, so no other thread loses any. It fails if it raises KernelError or OSError.
    All tries together take at most `timeout_s`.
    """
    have, deadline_s = held(), time.monotonic() + timeout_s
    candidates = [name for name in _OF_MAPS if name in have]
    for count in range(len(candidates) + 1):
        for keep in combinations(candidates, count):
            if _works(try_it, frozenset(keep), deadline_s):
                return frozenset(keep)
    return have


def _of_threads() -> set[frozenset[str]]:
    """Return the different sets that threads of this process have."""
    found: set[frozenset[str]] = set()
    for status in Path("/proc/self/task").glob("*/status"):
        with suppress(FileNotFoundError, ProcessLookupError):  # the thread has ended
            found.add(read(status))
    return found


def _works(try_it: Callable[[], bool], keep: frozenset[str], deadline_s: float) -> bool:
    """Say whether `try_it` succeeds with these capabilities.

    A thread is enough, because each has its own capabilities. A fork would inherit locks that other threads hold, and
    would be counted as one more process.
    """
    answers: list[bool] = []

    def attempt() -> None:
        try:
            drop(keep)
            answers.append(try_it())
        except (KernelError, OSError):
            answers.append(False)

    thread = threading.Thread(target=attempt, name="capabilities", daemon=True)
    thread.start()
    thread.join(max(deadline_s - time.monotonic(), 0))
    return answers == [True]


def _bound(kept: Iterable[str]) -> None:
    """Reduce the bounding set, so that no program can gain the others. Without CAP_SETPCAP it stays as it is."""
    for bit in range(64):
        if _libc.prctl(_CAPBSET_READ, bit, 0, 0, 0) < 0:  # the kernel has no more
            return
        if _name(bit) not in kept and _libc.prctl(_CAPBSET_DROP, bit, 0, 0, 0) < 0:
            return


def _set(kept: Iterable[str]) -> None:
    mask = sum(1 << _bit(name) for name in kept)
    words = (_Word * 2)(*(_Word(mask >> shift & 0xFFFFFFFF, mask >> shift & 0xFFFFFFFF, 0) for shift in (0, 32)))
    header = _Header(_VERSION_3, 0)
    _check(_libc.capset(ctypes.byref(header), ctypes.byref(words)), "set capabilities")


def _check(result: int, step: str) -> None:
    if result < 0:
        raise KernelError(f"{step}: {os.strerror(ctypes.get_errno())}")


def _name(bit: int) -> str:
    return NAMES[bit] if bit < len(NAMES) else str(bit)


def _bit(name: str) -> int:
    return NAMES.index(name) if name in NAMES else int(name)
