"""A file system that never answers a read, and processes that wait for it while they hold the lock of their memory."""

from __future__ import annotations

import ctypes
import os
import stat
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

_LOOKUP, _FORGET, _GETATTR, _OPEN, _READ, _INIT, _READDIR, _BATCH_FORGET = 1, 2, 3, 14, 15, 26, 28, 42  # FUSE's opcodes
_ENOSYS, _FOPEN_DIRECT_IO = 38, 1
_TOP, _CACHE_S = 1, 60
_MNT_FORCE, _MNT_DETACH = 1, 2
_LIMIT_S = 10


class HungFiles:
    """A mounted file system. Any name in it is a file, which can be opened. Reads wait until `answer`."""

    def __init__(self, mount_point: Path) -> None:
        if not os.access("/dev/fuse", os.R_OK | os.W_OK):
            pytest.skip("this kernel has no FUSE; any kernel of a distribution does")
        self._mount_point, self._reads = mount_point, threading.Semaphore(0)
        self._last_node = _TOP
        self._opened: set[int] = set()
        self._processes: list[HungProcess] = []
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._fd = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
        options = f"fd={self._fd},rootmode={stat.S_IFDIR:o},user_id=0,group_id=0"
        if self._libc.mount(b"hung", bytes(mount_point), b"fuse", 0, options.encode()):
            os.close(self._fd)
            raise OSError(ctypes.get_errno(), "cannot mount")
        self._server = threading.Thread(target=self._serve, name="fuse")
        self._server.start()

    def start(self, script: str, *arguments: str) -> HungProcess:
        """Start a process whose command line, which has these arguments, cannot be read until `answer`."""
        process = HungProcess(self._mount_point / str(len(self._processes)), script, *arguments)
        self._processes.append(process)
        self.wait_for_read()
        process.hang()
        return process

    def wait_for_read(self) -> None:
        """Wait until one more process reads a file."""
        assert self._reads.acquire(timeout=_LIMIT_S)

    def answer(self) -> None:
        """Unmount, which ends all waiting with an error. Doing it twice is harmless."""
        if self._fd < 0:
            return
        self._libc.umount2(bytes(self._mount_point), _MNT_FORCE)  # it ends the waiting, and refuses to unmount
        self._libc.umount2(bytes(self._mount_point), _MNT_FORCE | _MNT_DETACH)
        self._server.join(_LIMIT_S)
        os.close(self._fd)
        self._fd = -1

    def close(self) -> None:
        """Unmount, and end the processes."""
        self.answer()
        for process in self._processes:
            process.close()

    def _serve(self) -> None:
        while True:
            try:
                request = os.read(self._fd, 1 << 18)
            except OSError:  # it is unmounted
                return
            operation, unique, node = struct.unpack_from("=IQQ", request, 4)
            answer = self._answer(operation, node)
            if answer is not None:
                error, data = (0, answer) if answer else (-_ENOSYS, b"")
                os.write(self._fd, struct.pack("=IiQ", 16 + len(data), error, unique) + data)

    def _answer(self, operation: int, node: int) -> bytes | None:
        """Return the answer to a request, None for no answer, and nothing for an operation that is not supported."""
        match operation:
            case n if n == _INIT:
                return struct.pack("=4I2H2I2H8I", 7, 31, 0, 0, 1, 1, 1 << 16, 1, 1, 0, *[0] * 8)
            case n if n == _LOOKUP:
                self._last_node += 1  # Each name is asked for once, because the answer is cached.
                entry = struct.pack("=4Q2I", self._last_node, 0, _CACHE_S, _CACHE_S, 0, 0)
                return entry + _attributes(self._last_node)
            case n if n == _GETATTR:
                return struct.pack("=Q2I", _CACHE_S, 0, 0) + _attributes(node)
            case n if n == _OPEN:
                # The first descriptor of a file fills the page cache, and the others bypass it.
                direct = _FOPEN_DIRECT_IO if node in self._opened else 0
                self._opened.add(node)
                return struct.pack("=Q2I", 0, direct, 0)
            case n if n in (_READ, _READDIR):
                self._reads.release()
                return None
            case n if n in (_FORGET, _BATCH_FORGET):
                return None
            case _:
                return b""


def _attributes(node: int) -> bytes:
    mode = stat.S_IFDIR | 0o755 if node == _TOP else stat.S_IFREG | 0o666
    return struct.pack("=6Q10I", node, 1 << 16, 0, 0, 0, 0, 0, 0, 0, mode, 1, 0, 0, 0, 4096, 0)


# One thread waits for a page of the file, which is locked. mmap(2) of a file that bypasses the page cache waits for the
# lock of the page, to remove it from the cache, and holds the lock of the process's memory meanwhile. The shell is a
# child that works when it is told to.
_PROCESS = """
import mmap, os, signal, subprocess, sys, threading
cached, direct = os.open(sys.argv[1], os.O_RDWR), os.open(sys.argv[1], os.O_RDWR)
print(subprocess.Popen(["sh", "-c", sys.argv[2]], stdin=0, stdout=2).pid, flush=True)
threading.excepthook = lambda _: None
threading.Thread(target=os.read, args=(cached, 1), daemon=True).start()
os.read(int(sys.argv[3]), 1)
try:
    mmap.mmap(direct, 4096, flags=mmap.MAP_PRIVATE)
except OSError:
    pass
signal.pause()
"""


class HungProcess:
    """A process that will wait while it holds the lock of its memory. Its child runs a script in a shell."""

    def __init__(self, file: Path, script: str, *arguments: str) -> None:
        go, self._go = os.pipe()
        command = [sys.executable, "-c", _PROCESS, str(file), script, str(go), *arguments]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, pass_fds=[go])
        os.close(go)
        assert self._process.stdout
        self.tgid, self.child = self._process.pid, int(self._process.stdout.readline())

    def hang(self) -> None:
        """Make the process take the lock, and wait until it has it."""
        os.close(self._go)
        task = Path(f"/proc/{self.tgid}/stat")
        while task.read_text().rpartition(")")[2].split()[0] != "D":  # now it waits, and no signal ends it
            assert self._process.poll() is None
            os.sched_yield()

    def tell(self, line: bytes) -> None:
        """Write a line to the child's standard input."""
        assert self._process.stdin
        self._process.stdin.write(line + b"\n")
        self._process.stdin.flush()

    def close(self) -> None:
        """End the process, whose file system must have been unmounted. Its child ends at the end of its input."""
        for stream in (self._process.stdin, self._process.stdout):
            assert stream
            stream.close()
        self._process.kill()
        self._process.wait(_LIMIT_S)


@contextmanager
def hung_files(mount_point: Path) -> Iterator[HungFiles]:
    """Mount a file system whose reads wait until the end."""
    files = HungFiles(mount_point)
    try:
        yield files
    finally:
        files.close()
