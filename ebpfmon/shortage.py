"""Say which limit of the system ebpfmon has reached, and how to raise it."""

from __future__ import annotations

import errno
import os
import resource
from contextlib import suppress

DESCRIPTORS = 256
"""How many descriptors are enough for all probes and some sinks: all probes keep about 120 open, and need 40 more while
they are loaded."""
_FIRST_STEPS = 8
"""How many descriptors commands need before they load a probe: imports, the event loop, and files of /proc."""
_TASKS = "raise the limit of its cgroup (pids.max; in a systemd unit: TasksMax=) or ulimit -u"
_MEMORY = "; free some memory, or raise the limit of its cgroup (memory.max; in a systemd unit: MemoryMax=)"
CANNOT_START_THREAD = "can't start new thread"
"""The text of Python's only RuntimeError about a limit."""


def raise_descriptor_limit() -> None:
    """Raise the soft limit of open files to the hard limit.

    The soft limit is usually 1,024, for the sake of programs that call select(2), which cannot handle descriptors above
    1,023. The daemon calls epoll(7) and poll(2) instead, and starts no programs that call select(2).
    """
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(ValueError, OSError):  # The hard limit is above sysctl fs.nr_open.
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def require_descriptors() -> None:
    """Raise OSError (EMFILE) if so few files may be opened that not even the first steps would give a clear error."""
    if free_descriptors() < _FIRST_STEPS:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))


def remedy(code: int) -> str:
    """Return how to raise the limit that an errno of the kernel is about, after "; ". Empty for all other errnos."""
    match code:
        case errno.EMFILE:
            limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
            enough = max(DESCRIPTORS, 2 * limit)
            return (
                f"; this process may open only {limit} files: allow {enough} "
                f"(ulimit -n {enough}; in a systemd unit: LimitNOFILE={enough})"
            )
        case errno.ENFILE:
            return "; all processes together have reached the machine's limit: raise it with sysctl fs.file-max"
        case errno.ENOMEM:
            return address_space() or _MEMORY
        case errno.ENOSPC | errno.EDQUOT:
            return "; free some space there"
        case _:
            return ""


def address_space() -> str:
    """Return how to raise the limit of this process's address space, after "; ". Empty if it has none."""
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit == resource.RLIM_INFINITY:
        return ""
    return f"; this process may have only {limit >> 20} MB of address space: raise ulimit -v (LimitAS=)"


def is_shortage(code: int) -> bool:
    """Return whether an errno of bpf(2) or perf_event_open(2) says that descriptors or memory are short."""
    return code in (errno.EMFILE, errno.ENFILE, errno.ENOMEM)


def free_descriptors() -> int:
    """Return how many more descriptors this process may open."""
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        return max(limit - len(os.listdir("/proc/self/fd")) + 1, 0)  # listing them takes one
    except OSError as error:
        return 0 if error.errno == errno.EMFILE else limit  # /proc may not be mounted


def no_process(code: int) -> str:
    """Return how to raise the limit, after "; ", if fork(2) has failed with this errno. Empty for most errnos."""
    return f"; {_TASKS}" if code == errno.EAGAIN else remedy(code)


def reason(error: BaseException) -> str:
    """Return what is short and how to get more of it, in one line. Empty if nothing is short.

    In a group of errors, the first one counts.
    """
    if isinstance(error, BaseExceptionGroup):
        return next((text for text in map(reason, error.exceptions) if text), "")
    if isinstance(error, ImportError) and error.__cause__:  # numpy adds a page of advice about other reasons
        return reason(error.__cause__)
    if isinstance(error, MemoryError):
        return os.strerror(errno.ENOMEM) + remedy(errno.ENOMEM)
    if isinstance(error, RuntimeError) and str(error) == CANNOT_START_THREAD:
        # The C library gives the same error if there is no room for the stack.
        return f"cannot start a thread; {_TASKS}{address_space()}"
    if isinstance(error, OSError) and error.errno and (how := remedy(error.errno)):
        where = f"'{error.filename}': " if error.filename else ""
        return f"{where}{os.strerror(error.errno)}{how}"
    # dlopen(3) gives no errno, but its message ends with the text of one.
    if isinstance(error, OSError | ImportError):
        for code in (errno.EMFILE, errno.ENFILE, errno.ENOMEM):
            if str(error).endswith(os.strerror(code)):
                return f"{error}{remedy(code)}"
        if str(error).endswith("failed to map segment from shared object"):
            return f"{error}{remedy(errno.ENOMEM)}"
    return ""
