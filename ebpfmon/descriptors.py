"""Write to the standard streams without blocking, and without changing them for programs that share them."""

from __future__ import annotations

import os
import stat
from contextlib import suppress


def reopen_nonblocking(fd: int) -> int:
    """Return a second descriptor of the same pipe or terminal, non-blocking if it can be opened again.

    O_NONBLOCK belongs to the open file description, which stdout shares with the shell and with other programs.
    Therefore this opens the pipe or terminal a second time. If it cannot be opened again (a socket, or another user's
    terminal after su), the descriptor is duplicated instead: it shares the flags of the original, and they are left
    alone. Raises OSError if `fd` is not an open descriptor.
    """
    mode = os.fstat(fd).st_mode
    if stat.S_ISFIFO(mode) or stat.S_ISCHR(mode):
        with suppress(OSError):
            return os.open(f"/proc/self/fd/{fd}", os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    return os.dup(fd)
