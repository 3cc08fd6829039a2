"""ebpfmon's messages: with its name for people, with a priority for the journal."""

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
