"""Write log messages in a thread of its own, so that a stderr that accepts nothing holds up nobody."""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterator
from concurrent.futures import wait
from contextlib import contextmanager

from ebpfmon.errors import KernelError, describe
from ebpfmon.threads import Worker

MAX_WAITING = 1000
"""How many messages may wait to be written. Further ones are dropped, and counted."""
FLUSH_S = 0.3
"""How long to wait for the messages that are left when the process ends."""

_formatter = logging.Formatter()


class LogThread(logging.Handler):
    """A handler that hands records to another handler in a thread of its own."""

    def __init__(self, target: logging.Handler) -> None:
        """Start the thread. Raises KernelError."""
        super().__init__()
        try:
            self.worker = Worker("log")
        except RuntimeError as error:
            raise KernelError(f"cannot start the thread that writes messages: {describe(error)}") from None
        self._target = target
        self._dropped = 0

    def emit(self, record: logging.LogRecord) -> None:
        """Queue a record, or count it if too many are waiting."""
        if self.worker.pending >= MAX_WAITING:
            self._dropped += 1
            return
        if self._dropped:
            text, self._dropped = f"{self._dropped} messages were dropped because stderr did not accept them", 0
            self._submit(logging.LogRecord(__name__, logging.WARNING, __file__, 0, text, None, None))
        record = copy.copy(record)
        # Later the arguments and the frames of the traceback might have changed.
        record.msg, record.args = record.getMessage(), None
        if record.exc_info:
            record.exc_text, record.exc_info = record.exc_text or _formatter.formatException(record.exc_info), None
        self._submit(record)

    def _submit(self, record: logging.LogRecord) -> None:
        self.worker.submit(self._target.handle, record)

    def flush(self) -> None:
        """Wait for the queued records, for at most FLUSH_S."""
        wait([self.worker.submit(self._target.flush)], FLUSH_S)


@contextmanager
def log_thread() -> Iterator[list[Worker]]:
    """Write log messages in threads of their own meanwhile, and yield these threads. Raises KernelError."""
    root = logging.getLogger()
    former = list(root.handlers)
    threads = [LogThread(handler) for handler in former if type(handler) is logging.StreamHandler]
    root.handlers[:] = [*threads, *(handler for handler in former if type(handler) is not logging.StreamHandler)]
    try:
        yield [thread.worker for thread in threads]
    finally:
        for thread in threads:
            thread.flush()
            thread.worker.shutdown()
        root.handlers[:] = former
