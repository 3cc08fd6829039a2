"""Write whole files and whole records, or nothing."""

from __future__ import annotations

import errno
import fcntl
import os
import tempfile
from contextlib import suppress
from pathlib import Path


def replace_file(path: Path, text: str, mode: int = 0o644) -> None:
    """Write a text file atomically: readers see either the old file or the complete new one.

    The directory must exist. Raises OSError, and changes nothing, if the file cannot be written.
    """
    # The temporary file is in the same directory because a rename cannot cross file systems.
    fd, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".new", dir=path.parent)
    try:
        with open(fd, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fchmod(fd, mode)
            os.fsync(fd)  # Otherwise a crash could leave an empty file under the final name.
        os.replace(name, path)
    except BaseException:
        with suppress(OSError):
            os.unlink(name)
        raise


def append_record(fd: int, record: bytes) -> None:
    """Append whole lines to a regular file, or leave it as it was. Blocking. Raises OSError.

    After an error, the caller may append the same record again. If the part that was written cannot be removed, or if a
    writer was killed, the next record begins on a line of its own. `fd` must be open for writing, with O_APPEND if the
    file has other writers. If another one writes at the same moment, there may be an empty line before the record.
    """
    if not record.endswith(b"\n"):
        raise ValueError("a record ends with a line break")
    if not _is_at_line_start(fd):
        record = b"\n" + record
    spare, written = os.dup(fd), 0
    try:
        try:
            while written < len(record):
                count = os.write(fd, memoryview(record)[written:])
                if not count:
                    raise OSError(errno.EIO, os.strerror(errno.EIO))
                written += count
        finally:
            os.close(spare)  # Network file systems report here that they could not write, and `fd` can still be used.
    except BaseException:
        with suppress(OSError):
            _remove_end(fd, written)
        raise


def _is_at_line_start(fd: int) -> bool:
    """Return whether what is written next begins a line. True if the file cannot be read."""
    end = os.fstat(fd).st_size if _is_appending(fd) else os.lseek(fd, 0, os.SEEK_CUR)
    if not end:
        return True
    with suppress(OSError), open(f"/proc/self/fd/{fd}", "rb", buffering=0) as file:
        return os.pread(file.fileno(), 1, end - 1) in (b"\n", b"")
    return True


def _remove_end(fd: int, size: int) -> None:
    """Remove the last bytes that were written, unless somebody else has appended since."""
    end = os.lseek(fd, 0, os.SEEK_CUR)
    if size and os.fstat(fd).st_size == end:
        os.ftruncate(fd, end - size)
    if not _is_appending(fd):
        os.lseek(fd, end - size, os.SEEK_SET)


def _is_appending(fd: int) -> bool:
    return bool(fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_APPEND)
