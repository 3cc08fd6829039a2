"""Write to pipes, terminals and sockets without blocking, and without changing them for programs that share them."""

from __future__ import annotations

import asyncio
import errno
import os
import select
import socket
import stat
import threading
from contextlib import suppress
from typing import ClassVar
from weakref import WeakValueDictionary

from ebpfmon.resources import inode_resource

_SAFE_BYTES = 256
"""What a terminal or pipe can take without blocking if poll(2) says that it can take something."""
_GONE = (errno.EPIPE, errno.ECONNRESET, errno.ENOTCONN, errno.EIO)  # EIO: the terminal was closed


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


class LineWriter:
    """Writes whole lines to a stream, even if a write is cut.

    The rest of a line that was cut is written before anything else, also by the next LineWriter of the same stream in
    this process. If the same lines are started again, as after an error, only the rest of them is written. A stream has
    one writer at a time.
    """

    # These belong to the streams, which outlive their writers and exist once in the process.
    _cut: ClassVar[dict[str, tuple[bytes, int]]] = {}
    """Lines that were not written whole, with the number of bytes that were, by stream."""
    _writers: ClassVar[WeakValueDictionary[str, LineWriter]] = WeakValueDictionary()
    """The writers that are open, by stream."""
    lock: ClassVar[threading.RLock] = threading.RLock()
    """Held during each write, which never blocks. Messages of ebpfmon may go to the same stream.

    A garbage collection during the write may log a message in the same thread.
    """

    def __init__(self, fd: int) -> None:
        """Take a descriptor, which is closed with the writer, or at once if the stream has another writer.

        Raises OSError.
        """
        self._stream = inode_resource(os.fstat(fd))
        if self._stream and self._writers.setdefault(self._stream, self) is not self:
            os.close(fd)
            raise OSError(errno.EBUSY, "another sink still writes to it")
        self.fd = fd
        self._lines, self._written = self._cut.pop(self._stream, (b"", 0))
        self._next = b""

    @classmethod
    def is_within_line(cls, stream: str) -> bool:
        """Return whether the last line that was written to a stream has no end yet. `stream` is its resource."""
        writer = cls._writers.get(stream)
        return stream in cls._cut or (writer is not None and 0 < writer._written < len(writer._lines))

    @property
    def pending(self) -> bool:
        """Whether something is left to write."""
        return self._written < len(self._lines) or bool(self._next)

    def start(self, lines: bytes) -> None:
        """Set the lines to write next. Lines that are written in part come first; those not yet begun are dropped."""
        if not self._written:
            self._lines = b""
        self._next = b"" if self.pending and lines == self._lines else lines

    def write(self) -> None:
        """Write as much as the stream takes now. Raises OSError, and BrokenPipeError if the reader has gone."""
        try:
            with self.lock:
                while self.pending:
                    if self._written == len(self._lines):
                        self._lines, self._written, self._next = self._next, 0, b""
                    self._written += write_nonblocking(self.fd, memoryview(self._lines)[self._written :])
        except BlockingIOError:
            pass
        except OSError as error:
            if error.errno in _GONE:  # The next reader has not seen the beginning of the line.
                self._lines = self._next = b""
                self._written = 0
                raise BrokenPipeError(error.errno, error.strerror) from None
            raise

    async def drain(self, seconds: float | None = None) -> bool:
        """Write what is left. Return False if that takes longer than `seconds`. Raises OSError."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                self.write()
                while self.pending:
                    await _writable(self.fd)
                    self.write()
        return not self.pending

    def close(self, *, finish: bool = True) -> None:
        """Close the descriptor. Closing twice is harmless.

        The next writer finishes lines that have begun, or only ends the line that was cut if `finish` is false, because
        a reader of a named pipe gets an end of file now.
        """
        if self.fd < 0:
            return
        if self._stream and 0 < self._written < len(self._lines):
            lines = self._lines if finish else self._lines[: self._written] + b"\n"
            self._cut[self._stream] = lines, self._written
        self._writers.pop(self._stream, None)
        fd, self.fd = self.fd, -1
        os.close(fd)


async def _writable(fd: int) -> None:
    loop, writable = asyncio.get_running_loop(), asyncio.Event()
    loop.add_writer(fd, writable.set)
    try:
        await writable.wait()
    finally:
        loop.remove_writer(fd)


def write_nonblocking(fd: int, data: memoryview) -> int:
    """Write to a stream without blocking, or to a file. Raises BlockingIOError if the stream takes nothing now."""
    mode = os.fstat(fd).st_mode
    if stat.S_ISSOCK(mode):
        # Other processes may share the socket, so only this call is non-blocking, not the socket.
        sock = socket.socket(fileno=fd)
        try:
            return sock.send(data, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
        finally:
            sock.detach()
    if os.get_blocking(fd) and not stat.S_ISREG(mode):
        poll = select.poll()
        poll.register(fd, select.POLLOUT)
        if not poll.poll(0):
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        data = data[:_SAFE_BYTES]
    return os.write(fd, data)
