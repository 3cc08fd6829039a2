"""Write to the standard streams without waiting, and without changing them for the programs that share them."""

from __future__ import annotations

import os
import stat
from contextlib import suppress


def reopened(fd: int) -> int:
    """Return a new descriptor of the same pipe or terminal that never waits to be written.

    O_NONBLOCK belongs to the open file, which stdout shares with the shell and with other programs, so the pipe or the
    terminal is opened a second time. What cannot be opened again (a socket, another user's terminal after su) is
    duplicated: it shares its flags, and they stay as they are. Raise OSError if there is no such descriptor.
    """
    mode = os.fstat(fd).st_mode
    if stat.S_ISFIFO(mode) or stat.S_ISCHR(mode):
        with suppress(OSError):
            return os.open(f"/proc/self/fd/{fd}", os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    return os.dup(fd)
