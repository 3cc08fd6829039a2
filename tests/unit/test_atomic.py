"""Files are replaced atomically, and records are appended whole or not at all."""

from __future__ import annotations

import errno
import os
import resource
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from ebpfmon.atomic import append_record, replace_file


def test_a_new_file_has_its_text_and_mode_under_any_umask(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        replace_file(tmp_path / "a", "é\n", 0o755)
    finally:
        os.umask(before)
    assert (tmp_path / "a").read_bytes() == "é\n".encode()
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o755
    assert os.listdir(tmp_path) == ["a"]


def test_a_symbolic_link_is_replaced_and_its_target_stays(tmp_path: Path) -> None:
    (tmp_path / "target").write_text("old")
    (tmp_path / "link").symlink_to("target")
    replace_file(tmp_path / "link", "new")
    assert ((tmp_path / "link").read_text(), (tmp_path / "target").read_text()) == ("new", "old")
    assert not (tmp_path / "link").is_symlink()


def test_a_failed_write_changes_nothing(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(IsADirectoryError):
        replace_file(tmp_path / "folder", "text")
    with pytest.raises(UnicodeEncodeError):
        replace_file(tmp_path / "a", "\ud800")
    with pytest.raises(FileNotFoundError):
        replace_file(tmp_path / "none" / "a", "text")
    assert os.listdir(tmp_path) == ["folder"]


def test_a_reader_never_sees_a_partial_file(tmp_path: Path) -> None:
    path, texts = tmp_path / "a", ("a" * 100_000, "b" * 70_000)
    replace_file(path, texts[0])
    seen, done = set(), threading.Event()

    def read() -> None:
        while not done.is_set():
            seen.add(path.read_text())

    reader = threading.Thread(target=read)
    reader.start()
    try:
        for n in range(50):
            replace_file(path, texts[n % 2])
    finally:
        done.set()
        reader.join()
    assert seen <= set(texts)


RECORD = b"0123456789" * 3 + b"\n"
APPEND = os.O_WRONLY | os.O_CREAT | os.O_APPEND


def append(path: Path, record: bytes = RECORD, flags: int = APPEND) -> None:
    fd = os.open(path, flags, 0o640)
    try:
        append_record(fd, record)
    finally:
        os.close(fd)


class Disk:
    """System calls on one file that fail: `write` after some bytes, `close` and `ftruncate` at once."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, path: Path) -> None:
        self.room: int | None = None
        self.errors: dict[str, int] = {}
        self.after_write: Callable[[], object] = lambda: None
        self._path, self._real = str(path), {name: getattr(os, name) for name in ("write", "close", "ftruncate")}
        for name in self._real:
            monkeypatch.setattr(os, name, getattr(self, name))

    def write(self, fd: int, data: Any) -> int:
        if self.room is None or not self._is_on_disk(fd):
            return int(self._real["write"](fd, data))
        if not self.room:
            raise OSError(self.errors["write"], "write")
        written = int(self._real["write"](fd, data[: self.room]))
        self.room -= written
        self.after_write()
        return written

    def close(self, fd: int) -> None:
        is_written = self._is_on_disk(fd) and os.O_WRONLY & int(
            Path(f"/proc/self/fdinfo/{fd}").read_text().split()[3], 8
        )
        self._real["close"](fd)
        if is_written and "close" in self.errors:
            raise OSError(self.errors.pop("close"), "close")

    def ftruncate(self, fd: int, size: int) -> None:
        if "ftruncate" in self.errors:
            raise OSError(self.errors["ftruncate"], "ftruncate")
        self._real["ftruncate"](fd, size)

    def _is_on_disk(self, fd: int) -> bool:
        return os.readlink(f"/proc/self/fd/{fd}") == self._path


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "log"


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch, path: Path) -> Disk:
    return Disk(monkeypatch, path)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EFBIG, errno.EDQUOT, errno.EIO, errno.ESTALE])
@pytest.mark.parametrize("room", [0, 1, 30])
@pytest.mark.parametrize("flags", [APPEND, os.O_WRONLY])
def test_a_record_that_was_written_in_part_is_removed(
    path: Path, disk: Disk, number: int, room: int, flags: int
) -> None:
    path.touch()
    fd = os.open(path, flags)
    append_record(fd, b"first\n")
    disk.room, disk.errors = room, {"write": number}
    for _ in range(3):
        with pytest.raises(OSError, match="write") as error:
            append_record(fd, RECORD)
        assert error.value.errno == number
        assert path.read_bytes() == b"first\n"
        disk.room = room
    disk.room = None
    append_record(fd, RECORD)
    os.close(fd)
    assert path.read_bytes() == b"first\n" + RECORD


@pytest.mark.parametrize("number", [errno.EIO, errno.EDQUOT, errno.ENOSPC])
def test_a_record_whose_write_fails_at_close_is_removed_and_raises_the_error(
    path: Path, disk: Disk, number: int
) -> None:
    path.write_bytes(b"first\n")
    disk.errors = {"close": number}
    with pytest.raises(OSError, match="close"):
        append(path)
    assert path.read_bytes() == b"first\n"
    append(path)
    assert path.read_bytes() == b"first\n" + RECORD


@pytest.mark.parametrize("room", [1, 9, 30])
def test_a_part_that_cannot_be_removed_never_fuses_with_the_next_record(path: Path, disk: Disk, room: int) -> None:
    disk.errors = {"write": errno.ENOSPC, "ftruncate": errno.EPERM}  # EPERM: chattr +a
    for _ in range(3):
        disk.room = room
        with pytest.raises(OSError, match="write"):
            append(path)
    disk.room = None
    append(path)
    append(path, b"last\n")
    *parts, whole, last, nothing = path.read_bytes().split(b"\n")
    assert (whole + b"\n", last, nothing) == (RECORD, b"last", b"")
    assert all(RECORD.startswith(part) and len(part) < 31 for part in parts)


def test_what_another_program_appended_meanwhile_is_never_removed(path: Path, disk: Disk) -> None:
    def other() -> None:
        with path.open("ab") as file:
            file.write(b"other\n")

    disk.room, disk.errors, disk.after_write = 5, {"write": errno.ENOSPC}, other
    with pytest.raises(OSError, match="write"):
        append(path)
    disk.room = None
    append(path)
    assert path.read_bytes() == b"01234other\n" + RECORD


@pytest.mark.parametrize("end", [b'{"half":', b"\0\0\0", b"x\r", "é".encode()[:1]])
def test_after_a_line_that_a_killed_writer_left_unfinished_a_record_begins_on_a_new_line(
    path: Path, end: bytes
) -> None:
    path.write_bytes(b"first\n" + end)
    append(path)
    assert path.read_bytes() == b"first\n" + end + b"\n" + RECORD


def test_the_position_of_a_file_without_append_mode_is_where_its_record_ends(path: Path) -> None:
    """For example that of stdout in `ebpfmon run > file`."""
    path.write_bytes(b"0123456789")
    with path.open("r+b", buffering=0) as file:
        append_record(file.fileno(), b"abc\n")
        append_record(file.fileno(), b"d\n")
    assert path.read_bytes() == b"abc\nd\n6789"


def test_a_record_that_does_not_end_its_line_is_refused(path: Path) -> None:
    with pytest.raises(ValueError, match="line break"):
        append(path, b"half")
    assert path.read_bytes() == b""


def test_without_a_free_descriptor_nothing_is_written(path: Path) -> None:
    fd = os.open(path, APPEND, 0o640)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (fd + 1, limits[1]))
    taken = []
    try:
        with suppress(OSError):
            while True:
                taken.append(os.dup(fd))
        with pytest.raises(OSError, match="Too many open files"):
            append_record(fd, RECORD)
    finally:
        for each in taken:
            os.close(each)
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert path.read_bytes() == b""
    append_record(fd, RECORD)
    os.close(fd)
    assert path.read_bytes() == RECORD


def test_a_file_that_reached_its_greatest_size_keeps_whole_records_only(path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
    try:
        for _ in range(3):
            append(path)
        for _ in range(2):
            with pytest.raises(OSError, match="File too large"):
                append(path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.read_bytes() == RECORD * 3


def test_whatever_moment_a_writer_is_killed_every_other_line_is_whole(path: Path) -> None:
    code = (
        "import os, sys; from ebpfmon.atomic import append_record\n"
        "fd = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT | os.O_APPEND)\n"
        "while True: append_record(fd, b'k' * 3_000_000 + b'\\n'); os.write(1, b'.')"
    )
    for _ in range(5):
        with subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE, bufsize=0) as child:
            assert child.stdout
            child.stdout.read(1)
            child.send_signal(signal.SIGKILL)
        append(path)
    *lines, nothing = path.read_bytes().split(b"\n")
    assert nothing == b""
    assert lines.count(RECORD[:-1]) == 5
    assert lines.count(b"k" * 3_000_000) >= 5
    assert all({*line} <= {*b"k"} for line in lines if line != RECORD[:-1]), "a cut line has nothing else in it"


def test_records_of_several_writers_are_never_mixed(path: Path) -> None:
    records = [bytes([letter]) * 5000 + b"\n" for letter in b"abc"]

    def work(record: bytes) -> None:
        for _ in range(50):
            append(path, record)

    threads = [threading.Thread(target=work, args=(record,)) for record in records]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    lines = path.read_bytes().splitlines(keepends=True)
    # A record that another thread is still writing looks like a line that was cut, so an empty line may follow it.
    assert sorted(line for line in lines if line != b"\n") == sorted(records * 50)
