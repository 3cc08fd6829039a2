"""ebpfmon's own messages: to people with its name in front, to the journal with a priority."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ebpfmon.cli.messages import JournalFormatter, for_journal, is_journal


@pytest.mark.parametrize(
    ("level", "priority"),
    [(logging.DEBUG, 7), (logging.INFO, 6), (logging.WARNING, 4), (logging.ERROR, 3), (logging.CRITICAL, 2), (35, 4)],
)
def test_a_level_has_the_priority_of_syslog(level: int, priority: int) -> None:
    record = logging.LogRecord("x", level, "x.py", 1, "a\n%s", ("b",), None)
    assert JournalFormatter().format(record) == f"<{priority}>a\n<{priority}>b"


def test_every_line_has_its_priority() -> None:
    assert for_journal("a\nb", logging.ERROR) == "<3>a\n<3>b"


def test_the_stream_is_known_by_its_device_and_inode(tmp_path: Path) -> None:
    with (tmp_path / "x").open("w") as file:
        found = os.fstat(file.fileno())
        assert is_journal(file.fileno(), f"{found.st_dev}:{found.st_ino}")
        assert not is_journal(file.fileno(), f"{found.st_dev}:{found.st_ino + 1}")
        assert not is_journal(file.fileno(), "")
        assert not is_journal(1 << 20, f"{found.st_dev}:{found.st_ino}")


def said(settings: str, where: Path, *, journal: bool) -> str:
    """What the command says on stderr of wrong settings."""
    config, stderr = where / "ebpfmon.toml", where / "stderr"
    config.write_text(settings)
    with stderr.open("w") as out:
        found = os.fstat(out.fileno())
        named = f"{found.st_dev}:{found.st_ino}" if journal else "1:1"
        command = [sys.executable, "-m", "ebpfmon", "config", "check", "--config", str(config)]
        subprocess.run(command, env={**os.environ, "JOURNAL_STREAM": named}, stderr=out, check=False)
    return stderr.read_text()


def test_an_error_in_the_journal_is_an_error_there(tmp_path: Path) -> None:
    assert said("[ebpfmon]\nintervall = 1\n", tmp_path, journal=True).startswith(f"<3>{tmp_path}")
    assert said("[ebpfmon]\nintervall = 1\n", tmp_path, journal=False).startswith(f"ebpfmon: {tmp_path}")
