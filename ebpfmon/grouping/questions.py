"""Ask questions that may never be answered, such as one to a file server that is down."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from concurrent.futures import Future, wait
from dataclasses import dataclass
from typing import Generic, TypeVar

from ebpfmon.errors import EbpfmonError, describe
from ebpfmon.threads import MAX_ABANDONED, TooManyStuckError, Worker

K = TypeVar("K")
V = TypeVar("V")

ANSWER_S = 1.0
"""How long to wait for an answer before the question is given up. If the answer comes later, it is still used."""
RETRY_S = 60.0
"""How long to wait before a question that was given up is asked again, in case its first answer is lost for good."""
_MAX_STUCK_TO_RETRY = 1
"""Questions are asked again only while at most this many threads are stuck, so that there are threads for new ones."""
_MAX_REMEMBERED = 4 * MAX_ABANDONED

log = logging.getLogger(__name__)


class UnansweredError(EbpfmonError):
    """A question was given up, or cannot be asked now."""


@dataclass(slots=True)
class _GivenUp(Generic[V]):
    future: Future[V]
    retry_s: float


class Questions(Generic[K, V]):
    """Asks questions of one kind. It stops waiting for an answer after a time limit.

    Questions are asked in a thread, which is left behind with a question that is given up; a new thread asks the next
    one. If too many threads are left behind, no further questions are asked until one of them is answered. Use this
    from one thread only. Its threads have the capabilities of that thread.
    """

    def __init__(self, kind: str, answer_s: float = ANSWER_S, clock: Callable[[], float] = time.monotonic) -> None:
        """Start no thread yet. `kind` is a noun phrase for messages and for the name of the thread."""
        self._kind, self._answer_s, self._clock = kind, answer_s, clock
        self._worker: Worker | None = None
        self._given_up: dict[K, _GivenUp[V]] = {}
        self._asked: Future[V] | None = None  # the last question; the thread is busy until it is done
        self._has_too_many = False

    def ask(self, key: K, question: Callable[[], V], subject: str) -> V:
        """Return the answer to a question, which `key` identifies.

        If the question was given up before, the answer may have come since then. `subject` names in messages what the
        question is about. Raises UnansweredError, what the question raises, and RuntimeError if the system allows no
        more threads.
        """
        before = self._given_up.get(key)
        if before and before.future.done():
            del self._given_up[key]
            log.info("there is an answer now: the %s of %s", self._kind, subject)
            return before.future.result()
        if before and not self._may_retry(before):
            raise UnansweredError(f"no answer: the {self._kind} of {subject}")
        if not self._is_free():
            raise UnansweredError(f"too many threads wait for a {self._kind}")
        if not self._worker:
            self._worker = Worker(self._kind)
        self._asked = future = self._worker.submit(question)
        wait([future], self._answer_s)
        if future.done() or future.cancel():  # It is cancelled if the thread has had no time to begin.
            self._given_up.pop(key, None)
            if future.cancelled():
                raise UnansweredError(f"this machine is too busy to ask for the {self._kind} of {subject}")
            return future.result()
        self._give_up(key, future)
        if not before:
            log.warning(
                "cannot look up the %s of %s: no answer within %g s; ebpfmon does without it until there is an answer",
                self._kind, subject, self._answer_s,
            )  # fmt: skip
        raise UnansweredError(f"no answer: the {self._kind} of {subject}")

    def close(self) -> None:
        """Let the thread end. Never waits. Closing twice is harmless."""
        if self._worker:
            self._worker.shutdown(cancel_futures=True)

    def _may_retry(self, given_up: _GivenUp[V]) -> bool:
        is_time = self._clock() >= given_up.retry_s
        return is_time and self._worker is not None and self._worker.stuck <= _MAX_STUCK_TO_RETRY

    def _give_up(self, key: K, future: Future[V]) -> None:
        self._given_up.pop(key, None)  # An earlier question for the same key may stay unanswered for ever.
        self._given_up[key] = _GivenUp(future, self._clock() + RETRY_S)
        for answered in [k for k, given_up in self._given_up.items() if given_up.future.done()]:
            if len(self._given_up) > _MAX_REMEMBERED:
                del self._given_up[answered]
        self._is_free()

    def _is_free(self) -> bool:
        """Return whether a thread is free for the next question, after leaving one that is stuck behind if needed."""
        if self._worker is None or self._asked is None or self._asked.done():
            return True
        try:
            self._worker.abandon()
        except (TooManyStuckError, RuntimeError) as error:
            if not self._has_too_many:
                log.warning("cannot look up any further %s until one is answered: %s", self._kind, describe(error))
            self._has_too_many = True
            return False
        self._asked, self._has_too_many = None, False
        return True
