"""Write snapshots to a stream or a file without blocking the event loop."""

from __future__ import annotations

import asyncio
import os
import socket
import stat
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from ebpfmon import Sink, SinkError, SinkGoneError, Snapshot, reopen_nonblocking

_APPEND = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC

Message = Callable[[Snapshot], str]


@asynccontextmanager
async def open_stream(path: str, stream: int | None, message: Message) -> AsyncIterator[Sink]:
    """Yield a sink that writes messages to a file, or to the standard stream with this number. Raises SinkError."""
    try:
        fd = await asyncio.to_thread(_open, path) if stream is None else reopen_nonblocking(stream)
    except OSError as error:
        raise SinkError(f"cannot open '{path}': {error.strerror}") from error
    if fd is None:
        yield FileSink(path, message)
        return
    try:
        yield StreamSink(path, fd, message)
    finally:
        os.close(fd)


class FileSink:
    """Appends to a regular file. The file is opened for each snapshot, so it may be rotated at any time."""

    def __init__(self, path: str, message: Message) -> None:
        self._path, self._message = path, message

    async def send(self, snapshot: Snapshot) -> None:
        """Append one snapshot. Raises SinkError."""
        try:
            await asyncio.to_thread(self._append, self._message(snapshot).encode() + b"\n")
        except OSError as error:
            raise SinkError(f"cannot write to '{self._path}': {error.strerror}") from error

    def _append(self, data: bytes) -> None:
        """Append to the file, or leave it as it was, because after an error the core sends the whole snapshot again."""
        with open(os.open(self._path, _APPEND, 0o640), "ab", buffering=0) as file:
            written = 0
            try:
                while written < len(data):
                    written += file.write(data[written:])
            except OSError:
                end = file.tell()
                if written and os.fstat(file.fileno()).st_size == end:  # nobody else has appended since
                    file.truncate(end - written)
                raise


class StreamSink:
    """Writes to a terminal, a pipe or a socket, which stays open."""

    def __init__(self, path: str, fd: int, message: Message) -> None:
        self._path, self._fd, self._message = path, fd, message

    async def send(self, snapshot: Snapshot) -> None:
        """Write one snapshot. Raises SinkError, or SinkGoneError if the reader has gone."""
        loop, data = asyncio.get_running_loop(), self._message(snapshot).encode() + b"\n"
        try:
            while data:
                try:
                    data = data[_write(self._fd, data) :]
                except BlockingIOError:
                    await _writable(loop, self._fd)
        except BrokenPipeError:
            raise SinkGoneError(f"the reader of {self._path} has gone") from None
        except OSError as error:
            raise SinkError(f"cannot write to '{self._path}': {error.strerror}") from error


def _open(path: str) -> int | None:
    """Return a descriptor that stays open, or None if the path is a regular file that can be written."""
    # With O_NONBLOCK, opening a named pipe that has no reader fails (ENXIO) instead of blocking.
    fd = os.open(path, _APPEND | os.O_NONBLOCK, 0o640)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        return fd
    os.close(fd)
    return None


async def _writable(loop: asyncio.AbstractEventLoop, fd: int) -> None:
    writable = asyncio.Event()
    loop.add_writer(fd, writable.set)
    try:
        await writable.wait()
    finally:
        loop.remove_writer(fd)


def _write(fd: int, data: bytes) -> int:
    if not stat.S_ISSOCK(os.fstat(fd).st_mode):
        return os.write(fd, data)
    # Other processes may share the socket, so only this call is non-blocking, not the socket.
    sock = socket.socket(fileno=fd)
    try:
        return sock.send(data, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
    finally:
        sock.detach()
