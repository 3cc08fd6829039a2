"""Give memory back to the system."""

from __future__ import annotations

import ctypes


def return_freed() -> None:
    """Return memory that was freed to the system, once probes are loaded.

    Reading the kernel's types and compiling programs takes some 12 MB for a moment. glibc would keep that for later,
    but the daemon does not need so much again. Other C libraries have no malloc_trim, and do not need it.
    """
    libc = ctypes.CDLL(None)
    if hasattr(libc, "malloc_trim"):
        libc.malloc_trim(ctypes.c_size_t(0))
