"""ebpfmon's own messages as the journal reads them from a stream: a priority in front of each line (sd-daemon(3))."""

from __future__ import annotations

import logging
import os
from contextlib import suppress

_PRIORITIES = {logging.CRITICAL: 2, logging.ERROR: 3, logging.WARNING: 4, logging.INFO: 6}  # syslog's


def is_journal(fd: int, stream: str) -> bool:
    """Whether a descriptor is the stream that $JOURNAL_STREAM names, as `device:inode`."""
    with suppress(OSError):
        found = os.fstat(fd)
        return stream == f"{found.st_dev}:{found.st_ino}"
    return False


def for_journal(text: str, level: int) -> str:
    """The text, each line with the priority of a level of logging's."""
    priority = next((number for least, number in _PRIORITIES.items() if level >= least), 7)
    return "\n".join(f"<{priority}>{line}" for line in text.splitlines())


class JournalFormatter(logging.Formatter):
    """Without the program's name, which the journal knows."""

    def format(self, record: logging.LogRecord) -> str:
        """The message, and a traceback if there is one."""
        return for_journal(super().format(record), record.levelno)
