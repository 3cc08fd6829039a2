"""ebpfmon's messages: with its name for people, with a priority for the journal."""

from __future__ import annotations

import logging
import os
import pty
import subprocess
import sys
import tty
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from ebpfmon import LineWriter, reopen_nonblocking
from ebpfmon.cli import messages
from ebpfmon.cli.messages import JournalFormatter, MessageFormatter, for_journal, is_journal


@pytest.mark.parametrize(
    ("level", "priority"),
    [(logging.DEBUG, 7), (logging.INFO, 6), (logging.WARNING, 4), (logging.ERROR, 3), (logging.CRITICAL, 2), (35, 4)],
)
def test_a_level_has_the_priority_of_syslog(level: int, priority: int) -> None:
    record = logging.LogRecord("x", level, "x.py", 1, "a\n%s", ("b",), None)
    assert JournalFormatter().format(record) == f"<{priority}>a\\nb"


def test_every_line_has_a_priority() -> None:
    assert for_journal("a\nb", logging.ERROR) == "<3>a\n<3>b"


def test_the_journal_is_identified_by_device_and_inode(tmp_path: Path) -> None:
    with (tmp_path / "x").open("w") as file:
        status = os.fstat(file.fileno())
        assert is_journal(file.fileno(), f"{status.st_dev}:{status.st_ino}")
        assert not is_journal(file.fileno(), f"{status.st_dev}:{status.st_ino + 1}")
        assert not is_journal(file.fileno(), "")
        assert not is_journal(1 << 20, f"{status.st_dev}:{status.st_ino}")


@pytest.fixture(params=["pipe", "terminal"])
def stderr(request: pytest.FixtureRequest) -> Iterator[tuple[int, int]]:
    """Two connected descriptors, to read from and to write to."""
    ends = os.pipe() if request.param == "pipe" else pty.openpty()
    if request.param == "terminal":
        tty.setraw(ends[1])
    yield ends
    for end in ends:
        os.close(end)


@pytest.mark.timeout(30)
@pytest.mark.parametrize("can_be_opened_again", [True, False])
def test_a_stderr_that_nobody_reads_blocks_nothing_and_what_is_lost_is_counted(
    stderr: tuple[int, int], can_be_opened_again: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not can_be_opened_again:
        monkeypatch.setattr(messages, "reopen_nonblocking", os.dup)
    reader, writer = stderr
    handler = messages.StderrHandler(writer)
    handler.setFormatter(MessageFormatter("ebpfmon: %(message)s"))
    logger = logging.Logger("x")
    logger.addHandler(handler)
    for n in range(3000):
        logger.info("%06d %s", n, "x" * 100)
    os.set_blocking(reader, False)
    got = b""
    while handler._waiting:
        with suppress(BlockingIOError):
            got += os.read(reader, 1 << 16)
        handler.flush()
    logger.info("the last one")
    while not got.endswith(b"the last one\n"):
        with suppress(BlockingIOError):
            got += os.read(reader, 1 << 16)
        handler.flush()
    *written, lost, last = got.decode().splitlines()
    assert written == [f"ebpfmon: {n:06d} {'x' * 100}" for n in range(len(written))]
    assert lost == f"ebpfmon: {3000 - len(written)} messages are lost, because nobody read stderr"
    assert last == "ebpfmon: the last one"
    os.close(handler._fd)


def test_a_message_waits_for_the_end_of_a_line_that_a_sink_writes_to_the_same_stream(stderr: tuple[int, int]) -> None:
    reader, writer = stderr
    handler, lines = messages.StderrHandler(writer), LineWriter(reopen_nonblocking(writer))
    handler.setFormatter(MessageFormatter("ebpfmon: %(message)s"))
    sent = b"x" * 1_000_000 + b"\n"
    lines.start(sent)
    lines.write()
    assert lines.pending
    handler.handle(logging.LogRecord("x", logging.INFO, "x.py", 1, "first", None, None))
    got = b""
    os.set_blocking(reader, False)
    while len(got) < len(sent):
        handler.flush()
        with suppress(BlockingIOError):
            got += os.read(reader, 1 << 16)
        lines.write()
    handler.handle(logging.LogRecord("x", logging.INFO, "x.py", 1, "second", None, None))
    lines.close()
    expected = sent + b"ebpfmon: first\nebpfmon: second\n"
    while len(got) < len(expected):
        with suppress(BlockingIOError):
            got += os.read(reader, 1 << 16)
    assert got == expected
    os.close(handler._fd)


def test_a_stderr_whose_reader_has_gone_raises_nothing() -> None:
    reader, writer = os.pipe()
    handler = messages.StderrHandler(writer)
    os.close(reader)
    for _ in range(2):
        handler.handle(logging.LogRecord("x", logging.INFO, "x.py", 1, "lost", None, None))
    for fd in (writer, handler._fd):
        os.close(fd)


def stderr_of(settings: str, where: Path, *, journal: bool) -> str:
    """Return what the command writes to stderr if the settings are wrong."""
    config, stderr = where / "ebpfmon.toml", where / "stderr"
    config.write_text(settings)
    with stderr.open("w") as out:
        status = os.fstat(out.fileno())
        stream = f"{status.st_dev}:{status.st_ino}" if journal else "1:1"
        command = [sys.executable, "-m", "ebpfmon", "config", "check", "--config", str(config)]
        subprocess.run(command, env={**os.environ, "JOURNAL_STREAM": stream}, stderr=out, check=False)
    return stderr.read_text()


def test_an_error_has_the_priority_of_errors_in_the_journal(tmp_path: Path) -> None:
    assert stderr_of("[ebpfmon]\nintervall = 1\n", tmp_path, journal=True).startswith(f"<3>{tmp_path}")
    assert stderr_of("[ebpfmon]\nintervall = 1\n", tmp_path, journal=False).startswith(f"ebpfmon: {tmp_path}")
