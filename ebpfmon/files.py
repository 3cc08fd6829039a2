"""Open files that people name: settings, groups and plugins to read, and a log to write.

Such a path may lead to anything. Opening or reading a FIFO may never return, and a device or a huge file would fill the
memory. All failures are OSErrors whose `strerror` says what is wrong, so callers need no other case.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import IO

MAX_BYTES = 1 << 20
"""The largest file that is read."""
_NOT_REGULAR = "not a regular file"
_UTF16 = (b"\xff\xfe", b"\xfe\xff")


def open_regular(path: Path) -> IO[bytes]:
    """Open a regular file for reading, without waiting for anything. Raises OSError."""
    try:
        return open(path, "rb", opener=_opened)
    except FileNotFoundError as error:
        raise FileNotFoundError(error.errno, "no such file") from None
    except ValueError:
        raise OSError(errno.EINVAL, "its name contains a NUL character") from None


def create_regular(path: str | Path) -> IO[str]:
    """Create a text file, or empty a regular one, without waiting for anything. Raises OSError."""
    return open(path, "w", encoding="utf-8", errors="backslashreplace", opener=_opened)


def read_bytes(file: IO[bytes]) -> bytes:
    """Return the rest of a file. Raises OSError, also if there are more than MAX_BYTES."""
    data = file.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise OSError(errno.EFBIG, f"larger than {MAX_BYTES >> 20} MB")
    return data


def read_text(path: Path, errors: str = "strict") -> str:
    """Return the text of a regular file in UTF-8, with or without a byte order mark. Raises OSError.

    `errors` says what happens to bytes that are not UTF-8, as in `bytes.decode`.
    """
    with open_regular(path) as file:
        data = read_bytes(file)
    if data.startswith(_UTF16):
        raise OSError(errno.EILSEQ, "its encoding is UTF-16; save it as UTF-8")
    if b"\0" in data:
        raise OSError(errno.EILSEQ, "it contains NUL bytes, so it is not text in UTF-8")
    try:
        return data.decode("utf-8-sig", errors)
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        problem = f"byte 0x{data[error.start]:02x} in line {line} is not UTF-8; save it as UTF-8"
        raise OSError(errno.EILSEQ, problem) from None


def _opened(name: str, flags: int) -> int:
    try:
        fd = os.open(name, flags | os.O_NONBLOCK | os.O_NOCTTY, 0o666)
    except OSError as error:
        if error.errno == errno.ENXIO:  # a socket, or to write, a FIFO that nobody reads
            raise OSError(errno.EINVAL, _NOT_REGULAR) from None
        raise
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise OSError(errno.EINVAL, _NOT_REGULAR)
    return fd
