"""Keep the memory of the C library small."""

from __future__ import annotations

import ctypes

_ARENA_MAX = -8  # M_ARENA_MAX in malloc.h


def trim() -> None:
    """Return freed memory to the system. Call this after probes have been loaded.

    Loading needs about 12 MB for a moment, to read the kernel's types and to compile programs. glibc would keep that
    memory, although the daemon seldom needs as much again. Does nothing if the C library has no malloc_trim.
    """
    libc = ctypes.CDLL(None)
    if hasattr(libc, "malloc_trim"):
        libc.malloc_trim(ctypes.c_size_t(0))


def share_one_heap() -> None:
    """Let all threads take memory from one heap of the C library. Call this before a second thread starts.

    glibc gives each thread a heap of its own, so that threads do not wait for each other. Python lets one thread run at
    a time anyway, and each sink has a thread whose heap would keep what the sink needed at most: with eleven sinks and
    4,000 series the daemon takes 77 MB with one heap, and 122 MB with many.
    """
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        libc.mallopt(_ARENA_MAX, 1)
