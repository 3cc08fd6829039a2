"""Write ebpfmon's messages to stderr: for people, or for the journal.

A program tells the journal the priority of a line with a number in front of it, such as `<3>` (sd-daemon(3)).
"""

from __future__ import annotations

import logging
import os
import sys
from contextlib import suppress

_PRIORITIES = {logging.CRITICAL: 2, logging.ERROR: 3, logging.WARNING: 4, logging.INFO: 6}  # of syslog(3)
_STDERR = 2


def set_up() -> None:
    """Send log messages to stderr."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JournalFormatter() if _in_journal() else logging.Formatter("ebpfmon: %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler])


def complain(error: Exception) -> None:
    """Write an error to stderr, without a traceback."""
    print(for_journal(str(error), logging.ERROR) if _in_journal() else f"ebpfmon: {error}", file=sys.stderr)


def is_journal(fd: int, stream: str) -> bool:
    """Say whether a descriptor is the stream that $JOURNAL_STREAM names, as `device:inode`."""
    with suppress(OSError):
        found = os.fstat(fd)
        return stream == f"{found.st_dev}:{found.st_ino}"
    return False


def for_journal(text: str, level: int) -> str:
    """Return the text with the priority of this logging level in front of each line."""
    priority = next((number for least, number in _PRIORITIES.items() if level >= least), 7)
    return "\n".join(f"<{priority}>{line}" for line in text.splitlines())


class JournalFormatter(logging.Formatter):
    """Formats a record for the journal, which already knows the program's name."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the message, with a traceback if there is one."""
        return for_journal(super().format(record), record.levelno)


def _in_journal() -> bool:
    return is_journal(_STDERR, os.environ.get("JOURNAL_STREAM", ""))
