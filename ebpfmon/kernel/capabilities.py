"""Capabilities (capabilities(7)), which the kernel keeps for each thread: what one drops, the others still have.

The threads that a thread starts have what it had then. So they are dropped in each thread that runs, or before others
are started.
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
"""What reading tables may need: bpf(2) before Linux 5.19, what tracefs says of kretprobes for who is not root."""

_VERSION_3 = 0x20080522
_SET_KEEPCAPS, _CAPBSET_READ, _CAPBSET_DROP, _SET_NO_NEW_PRIVS = 8, 23, 24, 38  # linux/prctl.h
_CAP_AMBIENT, _AMBIENT_CLEAR_ALL = 47, 4


class _Header(ctypes.Structure):
    """struct __user_cap_header_struct; pid 0 is the calling thread."""

    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _Word(ctypes.Structure):
    """struct __user_cap_data_struct, of which there are two: for the lower and the upper 32 capabilities."""

    _fields_ = (("effective", ctypes.c_uint32), ("permitted", ctypes.c_uint32), ("inheritable", ctypes.c_uint32))


_libc = ctypes.CDLL(None, use_errno=True)
_libc.prctl.argtypes = (ctypes.c_int, *(ctypes.c_ulong,) * 4)


def held() -> frozenset[str]:
    """What the calling thread may use or take up. One that has no name here is called by its number."""
    words = (_Word * 2)()
    _capability("get", words)
    permitted = words[0].permitted | words[1].permitted << 32
    return frozenset(_name(bit) for bit in range(64) if permitted >> bit & 1)


def held_by_any_thread() -> frozenset[str]:
    """What some thread of this process still has."""
    mask = 0
    for of_thread in _of_threads():
        mask |= of_thread
    return frozenset(_name(bit) for bit in range(64) if mask >> bit & 1)


def drop(keep: frozenset[str]) -> None:
    """From now on the calling thread, and what it starts, has of its capabilities those of `keep` alone, for good.

    Programs that it starts gain none, whatever they are (no_new_privs). Raises KernelError.
    """
    kept = keep & held()
    _libc.prctl(_CAP_AMBIENT, _AMBIENT_CLEAR_ALL, 0, 0, 0)
    _bound(kept)
    _check(_libc.prctl(_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "set no_new_privs")
    _set(kept)


def become(user: str, keep: frozenset[str]) -> None:
    """Become a user, with all his groups; the calling thread keeps those of `keep` that it has.

    All threads become him, and the others lose their capabilities: to be called before there are any. Raises
    SettingsError for an unknown user, KernelError if it is not permitted or a thread has dropped some already.
    """
    try:
        found = pwd.getpwnam(user)
    except (KeyError, ValueError):
        raise SettingsError(f"become user '{user}': there is no such user") from None
    kept = keep & held()
    if len(_of_threads()) > 1:  # where one thread may and another may not, the C library would abort the process
        raise KernelError(f"become user '{user}': some threads have dropped capabilities already")
    if os.getresuid() == (found.pw_uid,) * 3 and found.pw_uid:  # as who started us wanted it
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
    """The fewest capabilities with which `try_it` succeeds: nothing on most kernels, else of `bpf`, `dac_read_search`
    and `sys_admin`; all that there are if it never does.

    It is tried in a thread that has dropped all others, and ends then; one that raises KernelError or OSError fails.
    No other thread loses anything. All tries together take no longer than `timeout_s`.
    """
    have, deadline_s = held(), time.monotonic() + timeout_s
    candidates = [name for name in _OF_MAPS if name in have]
    for count in range(len(candidates) + 1):
        for keep in combinations(candidates, count):
            if _works(try_it, frozenset(keep), deadline_s):
                return frozenset(keep)
    return have


def _of_threads() -> set[int]:
    masks: set[int] = set()
    for status in Path("/proc/self/task").glob("*/status"):
        with suppress(FileNotFoundError, ProcessLookupError):  # it has ended
            masks.update(int(found, 16) for found in re.findall(r"^CapPrm:\s*(\w+)", status.read_text(), re.M))
    return masks


def _works(try_it: Callable[[], bool], keep: frozenset[str], deadline_s: float) -> bool:
    """A thread is enough, as capabilities are a thread's; a fork of this process would take its threads' locks along,
    and be one more process that is counted."""
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
    """What is out of the bounding set, no program can have. Without CAP_SETPCAP it stays as it is."""
    for bit in range(64):
        if _libc.prctl(_CAPBSET_READ, bit, 0, 0, 0) < 0:  # the kernel has no more
            return
        if _name(bit) not in kept and _libc.prctl(_CAPBSET_DROP, bit, 0, 0, 0) < 0:
            return


def _set(kept: Iterable[str]) -> None:
    mask = sum(1 << _bit(name) for name in kept)
    words = (_Word * 2)(*(_Word(mask >> shift & 0xFFFFFFFF, mask >> shift & 0xFFFFFFFF, 0) for shift in (0, 32)))
    _capability("set", words)


def _capability(what: str, words: ctypes.Array[_Word]) -> None:
    header = _Header(_VERSION_3, 0)
    call = getattr(_libc, f"cap{what}")
    _check(call(ctypes.byref(header), ctypes.byref(words)), f"{what} capabilities")


def _check(result: int, step: str) -> None:
    if result < 0:
        raise KernelError(f"{step}: {os.strerror(ctypes.get_errno())}")


def _name(bit: int) -> str:
    return NAMES[bit] if bit < len(NAMES) else str(bit)


def _bit(name: str) -> int:
    return NAMES.index(name) if name in NAMES else int(name)
