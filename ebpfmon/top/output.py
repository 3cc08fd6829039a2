"""Write to a terminal without ever waiting for it."""

from __future__ import annotations

import asyncio
import os
import termios
from collections.abc import Callable
from contextlib import suppress

from ebpfmon.descriptors import reopen_nonblocking


class Output:
    """A terminal's output, which takes what the terminal has no room for yet and writes it when there is room.

    A terminal takes nothing while its user holds it with Ctrl-S, or while the connection to it hangs.
    """

    def __init__(self, fd: int, *, on_drained: Callable[[], object], on_gone: Callable[[], object]) -> None:
        """Take a descriptor of the terminal, and keep one of its own.

        `on_drained` is called when everything has been written after `is_busy` was true, and `on_gone` when the
        terminal was closed. Needs a running event loop.
        """
        self._loop = asyncio.get_running_loop()
        self._fd = reopen_nonblocking(fd)
        self._on_drained, self._on_gone = on_drained, on_gone
        self._unsent = b""
        self._is_gone = False

    @property
    def is_busy(self) -> bool:
        """Whether something waits to be written."""
        return bool(self._unsent)

    @property
    def size(self) -> os.terminal_size:
        """The size of the terminal: 80 columns and 24 lines if it does not say."""
        try:
            size = os.get_terminal_size(self._fd)
        except OSError:
            size = os.terminal_size((0, 0))
        return os.terminal_size((size.columns or 80, size.lines or 24))

    def write(self, data: bytes) -> None:
        """Write these bytes after those that still wait. Does nothing if the terminal has gone."""
        if not self._is_gone:
            self._unsent += data
            self._write_on()

    def close(self, last: bytes = b"") -> None:
        """Write `last` if the terminal takes it, instead of what still waits. Closing twice is harmless."""
        if self._fd == -1:
            return
        self._loop.remove_writer(self._fd)
        with suppress(OSError, termios.error):
            if self._unsent:  # this makes room, and a sequence that it cuts off ends at the first Escape of `last`
                termios.tcflush(self._fd, termios.TCOFLUSH)
            _put(self._fd, last)
        os.close(self._fd)
        self._fd, self._unsent, self._is_gone = -1, b"", True

    def _write_on(self) -> None:
        was_waiting = self._loop.remove_writer(self._fd)
        try:
            self._unsent = self._unsent[_put(self._fd, self._unsent) :]
        except BlockingIOError:
            pass
        except OSError:
            self._unsent, self._is_gone = b"", True
            self._on_gone()
            return
        if self._unsent:
            self._loop.add_writer(self._fd, self._write_on)
        elif was_waiting:
            self._on_drained()


def _put(fd: int, data: bytes) -> int:
    """Write what fits and return how much that was. A descriptor that others share is non-blocking only meanwhile."""
    is_blocking = os.get_blocking(fd)
    os.set_blocking(fd, False)
    try:
        return os.write(fd, data)
    finally:
        os.set_blocking(fd, is_blocking)
