"""Return freed memory to the system."""

from __future__ import annotations

import ctypes


def trim() -> None:
    """Return freed memory to the system. Call this after probes have been loaded.

    Loading needs about 12 MB for a moment, to read the kernel's types and to compile programs. glibc would keep that
    memory, although the daemon seldom needs as much again. Does nothing if the C library has no malloc_trim.
    """
    libc = ctypes.CDLL(None)
    if hasattr(libc, "malloc_trim"):
        libc.malloc_trim(ctypes.c_size_t(0))
