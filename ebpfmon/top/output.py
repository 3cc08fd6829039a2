"""Write to a terminal without blocking."""

from __future__ import annotations

import asyncio
import os
import termios
from collections.abc import Callable
from contextlib import suppress

from ebpfmon.descriptors import reopen_nonblocking


class Output:
    """The output of a terminal. Bytes that the terminal does not accept yet are buffered and written later.

    A terminal accepts nothing while its user has stopped it with Ctrl-S, or while the connection to it hangs.
    """

    def __init__(self, fd: int, *, on_drained: Callable[[], object], on_gone: Callable[[], object]) -> None:
        """Reopen the terminal that `fd` refers to. Needs a running event loop.

        `on_drained` is called when `is_busy` becomes false, and `on_gone` when the terminal was closed.
        """
        self._loop = asyncio.get_running_loop()
        self._fd = reopen_nonblocking(fd)
        self._on_drained, self._on_gone = on_drained, on_gone
        self._unsent = b""
        self._is_gone = False

    @property
    def is_busy(self) -> bool:
        """Whether bytes wait to be written."""
        return bool(self._unsent)

    @property
    def size(self) -> os.terminal_size:
        """The size of the terminal, or 80 columns and 24 lines if it is unknown."""
        try:
            size = os.get_terminal_size(self._fd)
        except OSError:
            size = os.terminal_size((0, 0))
        return os.terminal_size((size.columns or 80, size.lines or 24))

    def write(self, data: bytes) -> None:
        """Write bytes, after those that still wait. Do nothing if the terminal was closed."""
        if not self._is_gone:
            self._unsent += data
            self._flush()

    def close(self, last: bytes = b"") -> None:
        """Drop the bytes that still wait, and write `last` if the terminal accepts it. Closing twice is harmless."""
        if self._fd == -1:
            return
        self._loop.remove_writer(self._fd)
        with suppress(OSError, termios.error):
            if self._unsent:  # Make room for `last`. Its first Escape ends a sequence that is cut off here.
                termios.tcflush(self._fd, termios.TCOFLUSH)
            _write_some(self._fd, last)
        os.close(self._fd)
        self._fd, self._unsent, self._is_gone = -1, b"", True

    def _flush(self) -> None:
        was_waiting = self._loop.remove_writer(self._fd)
        try:
            self._unsent = self._unsent[_write_some(self._fd, self._unsent) :]
        except BlockingIOError:
            pass
        except OSError:
            self._unsent, self._is_gone = b"", True
            self._on_gone()
            return
        if self._unsent:
            self._loop.add_writer(self._fd, self._flush)
        elif was_waiting:
            self._on_drained()


def _write_some(fd: int, data: bytes) -> int:
    """Write what the terminal accepts and return its length.

    The descriptor may be shared with other processes, so it is non-blocking only during the call.
    """
    is_blocking = os.get_blocking(fd)
    os.set_blocking(fd, False)
    try:
        return os.write(fd, data)
    finally:
        os.set_blocking(fd, is_blocking)
