"""Write snapshots to a stream or a file. A file blocks the sink's own thread, and a stream blocks nothing."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

from ebpfmon import LineWriter, Sink, SinkError, SinkGoneError, Snapshot, append_record, reopen_nonblocking

# With O_NONBLOCK, opening a named pipe that has no reader fails (ENXIO) instead of blocking.
_APPEND = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_CHECK_S = 1.0
"""How often to see whether the path of a named pipe that is not read leads to something else now."""

Message = Callable[[Snapshot], str]


@asynccontextmanager
async def open_stream(path: str, stream: int | None, message: Message) -> AsyncIterator[Sink]:
    """Yield a sink that writes messages to a file, or to the standard stream with this number. Raises SinkError."""
    try:
        fd = _open(path) if stream is None else reopen_nonblocking(stream)
    except OSError as error:
        raise SinkError(f"cannot open '{path}': {error.strerror}") from error
    if stat.S_ISREG(os.fstat(fd).st_mode):
        _close_written(fd)
        yield FileSink(path, stream, message)
        return
    try:
        lines = LineWriter(fd)
    except OSError as error:
        raise SinkError(f"cannot write to '{path}': {error.strerror}") from error
    try:
        yield StreamSink(path, stream is not None, lines, message)
    finally:
        lines.close(finish=stream is not None)


class FileSink:
    """Appends to a regular file. A path is opened for each snapshot, so the file may be rotated at any time."""

    def __init__(self, path: str, stream: int | None, message: Message) -> None:
        self._path, self._stream, self._message = path, stream, message

    async def send(self, snapshot: Snapshot) -> None:
        """Append one snapshot. Raises SinkError. Nothing is awaited, so an append cannot be cut."""
        record = self._message(snapshot).encode() + b"\n"
        try:
            fd = _open(self._path) if self._stream is None else os.dup(self._stream)
            try:
                if not stat.S_ISREG(os.fstat(fd).st_mode):
                    raise SinkError(f"cannot write to '{self._path}': it is no regular file any more")
                append_record(fd, record)
            finally:
                _close_written(fd)
        except OSError as error:
            raise SinkError(f"cannot write to '{self._path}': {error.strerror}") from error


class StreamSink:
    """Writes to a terminal, a pipe or a socket, which stays open."""

    def __init__(self, path: str, is_standard: bool, lines: LineWriter, message: Message) -> None:
        self._path, self._is_standard, self._lines, self._message = path, is_standard, lines, message

    async def send(self, snapshot: Snapshot) -> None:
        """Write one snapshot. Raises SinkError, or SinkGoneError if the reader of a standard stream has gone."""
        try:
            self._expect_same_file()
            self._lines.start(self._message(snapshot).encode() + b"\n")
            while not await self._lines.drain(_CHECK_S):
                self._expect_same_file()
        except OSError as error:
            if isinstance(error, BrokenPipeError) and self._is_standard:
                raise SinkGoneError(f"the reader of {self._path} has gone") from None
            raise SinkError(f"cannot write to '{self._path}': {error.strerror}") from error

    def _expect_same_file(self) -> None:
        """Raise SinkError if the path leads to another file than the one that is open."""
        if not self._is_standard and not os.path.samestat(os.stat(self._path), os.fstat(self._lines.fd)):
            raise SinkError(f"cannot write to '{self._path}': it has been replaced")


def _open(path: str) -> int:
    """Open a file, a named pipe or a terminal. Raises OSError, which says why nothing can be written."""
    try:
        fd = os.open(path, _APPEND, 0o640)
    except OSError as error:
        if error.errno == errno.ENXIO and (reason := _refusal(os.stat(path).st_mode)):
            error.strerror = reason
        raise
    if stat.S_ISBLK(mode := os.fstat(fd).st_mode):
        os.close(fd)
        raise OSError(errno.EINVAL, _refusal(mode))
    return fd


def _close_written(fd: int) -> None:
    """Close a file to which nothing is left to write, so an error is not about what was appended."""
    with suppress(OSError):
        os.close(fd)


def _refusal(mode: int) -> str:
    if stat.S_ISFIFO(mode):
        return "nobody reads this named pipe"
    return "it is a socket" if stat.S_ISSOCK(mode) else "it is a block device" if stat.S_ISBLK(mode) else ""
