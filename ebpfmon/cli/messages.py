"""Write messages to stderr, each on one printable line, in the format of the journal if stderr is connected to it.

Messages of plugins and libraries, warnings and exceptions may contain text from anywhere. In the journal's format each
line begins with its priority, such as `<3>` (sd-daemon(3)).
"""

from __future__ import annotations

import logging
import os
import sys
import threading
import warnings
from contextlib import nullcontext, suppress
from types import TracebackType

from ebpfmon.descriptors import LineWriter, reopen_nonblocking, write_nonblocking
from ebpfmon.errors import describe
from ebpfmon.resources import inode_resource
from ebpfmon.text import escaped

_PRIORITIES = {logging.CRITICAL: 2, logging.ERROR: 3, logging.WARNING: 4, logging.INFO: 6}  # see syslog(3)
_DEBUG_PRIORITY = 7
_STDERR = 2
_MAX_WAITING_BYTES = 1 << 16

log = logging.getLogger(__name__)


def configure_logging() -> None:
    """Send log messages to stderr, and whatever Python itself would write there.

    Changes nothing if the program that runs the command line, such as a test, has configured logging.
    """
    root = logging.getLogger()
    if root.handlers:
        return
    handler = StderrHandler(_STDERR)
    handler.setFormatter(JournalFormatter() if _is_stderr_journal() else MessageFormatter("ebpfmon: %(message)s"))
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    warnings.showwarning = _log_warning
    sys.excepthook = _log_exception
    threading.excepthook = lambda args: _log_exception(args.exc_type, args.exc_value, args.exc_traceback)
    sys.unraisablehook = lambda args: _log_exception(args.exc_type, args.exc_value, args.exc_traceback)


def print_error(error: Exception) -> None:
    """Write an error to stderr, without a traceback. Does nothing if stderr cannot be written."""
    line = escaped(str(error))
    with suppress(OSError):
        print(for_journal(line, logging.ERROR) if _is_stderr_journal() else f"ebpfmon: {line}", file=sys.stderr)


def is_journal(fd: int, stream: str) -> bool:
    """Return whether a descriptor is the journal's; `stream` is $JOURNAL_STREAM, which has the form `device:inode`."""
    with suppress(OSError):
        status = os.fstat(fd)
        return stream == f"{status.st_dev}:{status.st_ino}"
    return False


def for_journal(text: str, level: int) -> str:
    """Return the text with the priority of this logging level before each line."""
    priority = next((number for least, number in _PRIORITIES.items() if level >= least), _DEBUG_PRIORITY)
    return "\n".join(f"<{priority}>{line}" for line in text.split("\n"))


class MessageFormatter(logging.Formatter):
    """Formats a record as one line, and each line of its traceback as an indented line."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # the name is logging's
        """Return the message on one line."""
        return escaped(super().formatMessage(record))

    def format(self, record: logging.LogRecord) -> str:
        """Return the message, followed by the traceback if there is one."""
        message, *traceback = super().format(record).split("\n")
        return "\n".join([message, *(f"  {escaped(line)}" for line in traceback)])


class JournalFormatter(MessageFormatter):
    """Formats records for the journal. It leaves out the program's name, which the journal adds."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the message, followed by the traceback if there is one."""
        return for_journal(super().format(record), record.levelno)


class StderrHandler(logging.Handler):
    """Writes messages to stderr without blocking.

    Any thread may log, and whoever reads stderr may have stopped, such as a terminal after Ctrl-S. Messages then wait
    for the next one. If there are too many, they are dropped and counted.
    """

    def __init__(self, stderr: int) -> None:
        super().__init__()
        self._fd = stderr
        with suppress(OSError):  # no descriptor is free
            self._fd = reopen_nonblocking(stderr)
        self._stream = inode_resource(os.fstat(self._fd))
        self._waiting = bytearray()
        self._dropped = 0

    def emit(self, record: logging.LogRecord) -> None:
        """Write a message. One that cannot be formatted is reported in one line."""
        try:
            line = self.format(record)
        except Exception as error:
            text = f"cannot write a message of '{record.name}' ({record.pathname}:{record.lineno}): {describe(error)}"
            line = self.format(_error(text))
        if len(self._waiting) > _MAX_WAITING_BYTES:
            self._dropped += 1
        elif self._dropped:
            lost = self.format(_error(f"{self._dropped} messages are lost, because nobody read stderr"))
            self._waiting += f"{lost}\n{line}\n".encode(errors="backslashreplace")
            self._dropped = 0
        else:
            self._waiting += f"{line}\n".encode(errors="backslashreplace")
        self.flush()

    def flush(self) -> None:
        """Write as much of what waits as stderr takes now, or drop it if stderr cannot be written."""
        with self.lock or nullcontext(), LineWriter.lock:
            try:
                # A sink may write to the same stream, so this waits for the end of its line. A pipe takes a line whole
                # or not at all.
                while self._waiting and not LineWriter.is_within_line(self._stream):
                    line = self._waiting[: self._waiting.index(b"\n") + 1]
                    del self._waiting[: write_nonblocking(self._fd, memoryview(line))]
            except BlockingIOError:
                pass
            except OSError:
                self._waiting.clear()


def _error(text: str) -> logging.LogRecord:
    return logging.LogRecord(__name__, logging.ERROR, __file__, 0, text, None, None)


def _log_warning(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, *_: object, **__: object
) -> None:
    log.warning("%s (%s:%d): %s", category.__name__, filename, lineno, message)


def _log_exception(kind: type[BaseException], error: BaseException | None, traceback: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, error or kind(), traceback)
    else:
        log.error("unexpected error", exc_info=(kind, error or kind(), traceback))


def _is_stderr_journal() -> bool:
    return is_journal(_STDERR, os.environ.get("JOURNAL_STREAM", ""))
