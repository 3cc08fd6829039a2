"""File systems that are full or broken: a small tmpfs, and a FUSE file whose requests fail."""

from __future__ import annotations

import ctypes
import errno
import os
import stat
import struct
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_LIBC = ctypes.CDLL(None, use_errno=True)
_FORGET, _GETATTR, _SETATTR, _OPEN, _READ, _WRITE, _RELEASE, _FLUSH, _INIT = 2, 3, 4, 14, 15, 16, 18, 25, 26
_LOOKUP, _BATCH_FORGET, _INTERRUPT = 1, 42, 36
_ROOT, _FILE = 1, 2  # inodes
_DIRECT_IO = 1  # without the page cache, so that each write(2) is a request


@contextmanager
def mounted(kind: str, options: str, where: Path) -> Iterator[Path]:
    """Mount a file system, and unmount it in the end."""
    where.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", kind, "-o", options, "none", str(where)], check=True)
    try:
        yield where
    finally:
        subprocess.run(["umount", "-l", str(where)], check=True)


class BrokenFile:
    """A FUSE file system with one file, `log`, whose requests can fail. A context manager, which mounts it."""

    def __init__(self, where: Path) -> None:
        where.mkdir()
        self.path = where / "log"
        self.contents = bytearray()
        self.room: int | None = None
        """How many bytes can still be written. After that, `write` fails with its error."""
        self.errors: dict[str, int] = {}
        """The errors of requests: `write`, `flush` (of each close(2)), `truncate`."""
        self._where = where
        self._fd = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
        self._thread = threading.Thread(target=self._serve, name="fuse", daemon=True)

    def __enter__(self) -> BrokenFile:
        options = f"fd={self._fd},rootmode=40000,user_id=0,group_id=0"
        if _LIBC.mount(b"broken", os.fsencode(self._where), b"fuse", 0, options.encode()):
            raise OSError(ctypes.get_errno(), "mount")
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        _LIBC.umount2(os.fsencode(self._where), 2)  # MNT_DETACH; the server then reads ENODEV
        self._thread.join(10)
        os.close(self._fd)

    def _serve(self) -> None:
        with suppress(OSError):
            while True:
                request = os.read(self._fd, 1 << 20)
                _, operation, unique, node = struct.unpack_from("<IIQQ", request)
                if operation in (_FORGET, _BATCH_FORGET, _INTERRUPT):
                    continue
                error, answer = 0, b""
                try:
                    answer = self._answer(operation, node, request[40:])
                except OSError as failure:
                    error = -(failure.errno or errno.EIO)
                os.write(self._fd, struct.pack("<IiQ", 16 + len(answer), error, unique) + answer)

    def _answer(self, operation: int, node: int, body: bytes) -> bytes:
        answers: dict[int, Callable[[], bytes]] = {
            _INIT: lambda: struct.pack("<IIIIHHII", 7, 31, 0, 0, 1, 1, 1 << 17, 1) + bytes(36),
            _LOOKUP: lambda: self._lookup(body),
            _GETATTR: lambda: bytes(16) + self._attributes(node),
            _SETATTR: lambda: self._truncate(node, *struct.unpack_from("<I12xQ", body)),
            _OPEN: lambda: struct.pack("<QII", 0, _DIRECT_IO, 0),
            _READ: lambda: self._read(*struct.unpack_from("<8xQI", body)),
            _WRITE: lambda: self._write(struct.unpack_from("<8xQ", body)[0], body[40:]),
            _FLUSH: lambda: self._fail("flush"),
            _RELEASE: lambda: b"",
        }
        if operation not in answers:
            raise OSError(errno.ENOSYS, "")
        return answers[operation]()

    def _fail(self, request: str) -> bytes:
        if number := self.errors.get(request):
            raise OSError(number, request)
        return b""

    def _lookup(self, name: bytes) -> bytes:
        if name.rstrip(b"\0") != b"log":
            raise OSError(errno.ENOENT, "")
        return struct.pack("<QQQQII", _FILE, 0, 0, 0, 0, 0) + self._attributes(_FILE)

    def _attributes(self, node: int) -> bytes:
        mode = stat.S_IFDIR | 0o755 if node == _ROOT else stat.S_IFREG | 0o644
        return struct.pack("<6Q10I", node, len(self.contents), 0, 0, 0, 0, 0, 0, 0, mode, 1, 0, 0, 0, 4096, 0)

    def _truncate(self, node: int, valid: int, size: int) -> bytes:
        if valid & 8:
            self._fail("truncate")
            self.contents[size:] = bytes(max(size - len(self.contents), 0))
        return bytes(16) + self._attributes(node)

    def _read(self, offset: int, size: int) -> bytes:
        return bytes(self.contents[offset : offset + size])

    def _write(self, offset: int, data: bytes) -> bytes:
        size = len(data)
        if self.room is not None:
            size = min(size, self.room)
            self.room -= size
            if not size:
                self._fail("write")
        self.contents[offset : offset + size] = data[:size]
        return struct.pack("<II", size, 0)
