"""Write ebpfmon's messages to stderr, in the format of the journal if stderr is connected to it.

In the journal's format each line begins with its priority, such as `<3>` (sd-daemon(3)).
"""

from __future__ import annotations

import logging
import os
import sys
from contextlib import suppress

_PRIORITIES = {logging.CRITICAL: 2, logging.ERROR: 3, logging.WARNING: 4, logging.INFO: 6}  # see syslog(3)
_DEBUG_PRIORITY = 7
_STDERR = 2


def configure_logging() -> None:
    """Send log messages to stderr."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JournalFormatter() if _is_stderr_journal() else logging.Formatter("ebpfmon: %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler])


def print_error(error: Exception) -> None:
    """Write an error to stderr, without a traceback. If stderr cannot be written, nobody can be told."""
    with suppress(OSError):
        print(for_journal(str(error), logging.ERROR) if _is_stderr_journal() else f"ebpfmon: {error}", file=sys.stderr)


def is_journal(fd: int, stream: str) -> bool:
    """Return whether a descriptor is the journal's; `stream` is $JOURNAL_STREAM, which has the form `device:inode`."""
    with suppress(OSError):
        status = os.fstat(fd)
        return stream == f"{status.st_dev}:{status.st_ino}"
    return False


def for_journal(text: str, level: int) -> str:
    """Return the text with the priority of this logging level before each line."""
    priority = next((number for least, number in _PRIORITIES.items() if level >= least), _DEBUG_PRIORITY)
    return "\n".join(f"<{priority}>{line}" for line in text.splitlines())


class JournalFormatter(logging.Formatter):
    """Formats records for the journal. It leaves out the program's name, which the journal adds."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the message, followed by the traceback if there is one."""
        return for_journal(super().format(record), record.levelno)


def _is_stderr_journal() -> bool:
    return is_journal(_STDERR, os.environ.get("JOURNAL_STREAM", ""))
