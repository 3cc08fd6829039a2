"""Read and drop capabilities (capabilities(7)).

Capabilities belong to a thread: if one thread drops some, the others still have them. A new thread gets those of the
thread that starts it. Therefore drop them in every thread, or in the first thread before it starts others.
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
from ebpfmon.threads import start_thread

NAMES = (
    "chown", "dac_override", "dac_read_search", "fowner", "fsetid", "kill", "setgid", "setuid", "setpcap",
    "linux_immutable", "net_bind_service", "net_broadcast", "net_admin", "net_raw", "ipc_lock", "ipc_owner",
    "sys_module", "sys_rawio", "sys_chroot", "sys_ptrace", "sys_pacct", "sys_admin", "sys_boot", "sys_nice",
    "sys_resource", "sys_time", "sys_tty_config", "mknod", "lease", "audit_write", "audit_control", "setfcap",
    "mac_override", "mac_admin", "syslog", "wake_alarm", "block_suspend", "audit_read", "perfmon", "bpf",
    "checkpoint_restore",
)  # fmt: skip
"""The names of capabilities, in the order of their numbers in linux/capability.h."""
_FOR_HARVEST = ("bpf", "dac_read_search", "sys_admin")
"""The capabilities that a harvest may need.

Before Linux 5.19, bpf(2) needs one of bpf and sys_admin. To read from tracefs how many calls
kretprobes missed, a user other than root needs dac_read_search."""

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
    """Return the capabilities in a field of a thread's status file (proc_pid_status(5)), by default the permitted ones.

    The set is empty if there is no such field. A capability without a name in NAMES is given by number. Raises OSError.
    """
    match = re.search(rf"^{field}:\s*([0-9a-f]+)$", status.read_text(errors="replace"), re.M)
    return _names(int(match[1], 16) if match else 0)


def held() -> frozenset[str]:
    """Return the permitted capabilities of the calling thread. Needs neither /proc nor a descriptor."""
    return _of_this_thread("permitted")


def effective() -> frozenset[str]:
    """Return the effective capabilities of the calling thread. Needs neither /proc nor a descriptor."""
    return _of_this_thread("effective")


def held_by_any_thread() -> frozenset[str]:
    """Return the permitted capabilities of all threads of this process."""
    return frozenset[str]().union(*_of_threads())


def drop(keep: frozenset[str]) -> None:
    """Drop all capabilities except `keep` for good, in the calling thread and in the threads that it starts later.

    Programs that it starts cannot gain any (no_new_privs). Raises KernelError.
    """
    kept = keep & held()
    _libc.prctl(_CAP_AMBIENT, _AMBIENT_CLEAR_ALL, 0, 0, 0)
    _limit_bounding_set(kept)
    _check(_libc.prctl(_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "set no_new_privs")
    _set(kept)


def switch_user(user: str, keep: frozenset[str]) -> None:
    """Change the user and groups of this process to those of a user, and drop all capabilities except `keep`.

    Call this before starting other threads, because only the calling thread keeps capabilities. Raises SettingsError if
    the user does not exist, and KernelError if the change is not permitted or if a thread has already dropped some.
    """
    try:
        entry = pwd.getpwnam(user)
    except (KeyError, ValueError):
        raise SettingsError(f"cannot change to user '{user}': there is no such user") from None
    kept = keep & held()
    # The C library changes the user in every thread, and aborts the process if only some threads are permitted to.
    if len(_of_threads()) > 1:
        raise KernelError(f"cannot change to user '{user}': some threads have already dropped capabilities")
    if os.getresuid() == (entry.pw_uid,) * 3 and entry.pw_uid:  # systemd, for example, has already changed the user.
        _set(kept)
        return
    _check(_libc.prctl(_SET_KEEPCAPS, 1, 0, 0, 0), "keep capabilities")
    try:
        os.initgroups(user, entry.pw_gid)
        os.setresgid(entry.pw_gid, entry.pw_gid, entry.pw_gid)
        os.setresuid(entry.pw_uid, entry.pw_uid, entry.pw_uid)
    except OSError as error:
        raise KernelError(
            f"cannot change to user '{user}': {error.strerror}; start as root or with CAP_SETUID and CAP_SETGID"
        ) from error
    finally:
        _libc.prctl(_SET_KEEPCAPS, 0, 0, 0, 0)
    _set(kept)  # The change kept the permitted capabilities, but cleared the effective ones.


def needed(operation: Callable[[], bool], timeout_s: float = 5.0) -> frozenset[str]:
    """Return the smallest set of capabilities with which an operation succeeds; all held ones if it never does.

    The set is empty on most kernels, and has some of `bpf`, `dac_read_search` and `sys_admin` on others. Each attempt
    runs in a thread of its own, so that no other thread loses capabilities. An attempt fails if the operation returns
    False or raises KernelError or OSError. All attempts together take at most `timeout_s`.
    """
    have, deadline_s = held(), time.monotonic() + timeout_s
    candidates = [name for name in _FOR_HARVEST if name in have]
    for count in range(len(candidates) + 1):
        for keep in combinations(candidates, count):
            if _works(operation, frozenset(keep), deadline_s):
                return frozenset(keep)
    return have


def _of_threads() -> set[frozenset[str]]:
    """Return the distinct sets of capabilities that the threads of this process have."""
    sets: set[frozenset[str]] = set()
    for status in Path("/proc/self/task").glob("*/status"):
        with suppress(FileNotFoundError, ProcessLookupError):  # the thread has ended
            sets.add(read(status))
    return sets


def _works(operation: Callable[[], bool], keep: frozenset[str], deadline_s: float) -> bool:
    """Return whether an operation succeeds with these capabilities.

    It runs in a thread and not in a child process, because a child would inherit locks that other threads hold, and the
    probes would count one more process.
    """
    answers: list[bool] = []

    def attempt() -> None:
        try:
            drop(keep)
            answers.append(operation())
        except (KernelError, OSError):
            answers.append(False)

    thread = threading.Thread(target=attempt, name="capabilities", daemon=True)
    start_thread(thread)
    thread.join(max(deadline_s - time.monotonic(), 0))
    return answers == [True]


def _limit_bounding_set(kept: Iterable[str]) -> None:
    """Reduce the bounding set to `kept`, so that no program can gain others. Without CAP_SETPCAP this does nothing."""
    for bit in range(64):
        if _libc.prctl(_CAPBSET_READ, bit, 0, 0, 0) < 0:  # The kernel has no capability of this number.
            return
        if _name(bit) not in kept and _libc.prctl(_CAPBSET_DROP, bit, 0, 0, 0) < 0:
            return


def _of_this_thread(field: str) -> frozenset[str]:
    words, header = (_Word * 2)(), _Header(_VERSION_3, 0)
    _check(_libc.capget(ctypes.byref(header), ctypes.byref(words)), "read capabilities")
    return _names(getattr(words[0], field) | getattr(words[1], field) << 32)


def _set(kept: Iterable[str]) -> None:
    mask = sum(1 << _bit(name) for name in kept)
    words = (_Word * 2)(*(_Word(mask >> shift & 0xFFFFFFFF, mask >> shift & 0xFFFFFFFF, 0) for shift in (0, 32)))
    header = _Header(_VERSION_3, 0)
    _check(_libc.capset(ctypes.byref(header), ctypes.byref(words)), "set capabilities")


def _check(result: int, step: str) -> None:
    if result < 0:
        raise KernelError(f"cannot {step}: {os.strerror(ctypes.get_errno())}")


def _names(mask: int) -> frozenset[str]:
    return frozenset(_name(bit) for bit in range(64) if mask >> bit & 1)


def _name(bit: int) -> str:
    return NAMES[bit] if bit < len(NAMES) else str(bit)


def _bit(name: str) -> int:
    return NAMES.index(name) if name in NAMES else int(name)
