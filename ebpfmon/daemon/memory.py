"""Return freed memory to the system."""

from __future__ import annotations

import ctypes


def trim() -> None:
    """Return freed memory to the system. Call this after probes have been loaded.

    Reading the kernel's types and compiling programs needs about 12 MB for a moment, which glibc would keep although
    the daemon does not need that much again. C libraries without malloc_trim are left alone.
    """
    libc = ctypes.CDLL(None)
    if hasattr(libc, "malloc_trim"):
        libc.malloc_trim(ctypes.c_size_t(0))
