"""Questions that may never be answered."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import pytest

from ebpfmon.grouping.questions import RETRY_S, Questions, UnansweredError
from ebpfmon.threads import MAX_ABANDONED, Worker

LIMIT_S = 10


class Source:
    """Something to ask, which answers only when it is told to. `asked` counts the questions that reached it."""

    def __init__(self) -> None:
        self.asked, self.answers = threading.Semaphore(0), threading.Event()

    def __call__(self) -> str:
        self.asked.release()
        assert self.answers.wait(LIMIT_S)
        return "late"


@pytest.fixture
def now() -> list[float]:
    return [0.0]


@pytest.fixture
def source() -> Iterator[Source]:
    source = Source()
    yield source
    source.answers.set()


@pytest.fixture
def questions(now: list[float]) -> Iterator[Questions[int, str]]:
    questions: Questions[int, str] = Questions("test", answer_s=0.05, clock=lambda: now[0])
    yield questions
    questions.close()


def give_up(questions: Questions[int, str], key: int, source: Source) -> None:
    with pytest.raises(UnansweredError):
        questions.ask(key, source, f"no. {key}")


def answered(questions: Questions[int, str], key: int, question: Callable[[], str] = lambda: "yes") -> str:
    """Return the answer, which comes as soon as a thread has run. On a busy machine that may take several attempts."""
    for _ in range(1000 * LIMIT_S):
        try:
            return questions.ask(key, question, "it")
        except UnansweredError:
            threading.Event().wait(0.001)
    raise AssertionError("the answer did not come")


def test_all_questions_are_asked_in_one_thread(questions: Questions[int, str]) -> None:
    threads = {questions.ask(n, lambda: str(threading.get_ident()), "it") for n in range(50)}
    assert len(threads) == 1
    assert str(threading.get_ident()) not in threads


@pytest.mark.parametrize("kind", [OSError, TimeoutError, KeyError, MemoryError])
def test_an_error_reaches_whoever_asks_and_the_next_question_is_answered(
    questions: Questions[int, str], kind: type[Exception]
) -> None:
    def fail() -> str:
        raise kind("on purpose")

    with pytest.raises(kind, match="on purpose"):
        questions.ask(1, fail, "it")
    assert answered(questions, 1) == "yes"


def test_a_question_that_was_given_up_is_not_asked_again_at_once(
    questions: Questions[int, str], source: Source
) -> None:
    for _ in range(5):
        give_up(questions, 1, source)
        assert answered(questions, 2) == "yes"
    assert source.asked.acquire(blocking=False)
    assert not source.asked.acquire(blocking=False)


def test_a_late_answer_is_used(questions: Questions[int, str], source: Source) -> None:
    give_up(questions, 1, source)
    source.answers.set()
    assert answered(questions, 1, source) == "late"


def test_a_question_is_asked_again_after_a_while_in_case_its_answer_is_lost(
    questions: Questions[int, str], source: Source, now: list[float]
) -> None:
    give_up(questions, 1, source)
    now[0] = RETRY_S - 1
    give_up(questions, 1, source)
    now[0] = RETRY_S
    assert answered(questions, 1, lambda: "back") == "back"


def test_asking_again_never_uses_up_the_threads_for_other_questions(
    questions: Questions[int, str], source: Source, now: list[float]
) -> None:
    for _ in range(20):
        now[0] += RETRY_S
        give_up(questions, 1, source)
    assert answered(questions, 2) == "yes"


def test_threads_left_behind_are_bounded_and_one_answer_is_enough_to_go_on(
    questions: Questions[int, str], caplog: pytest.LogCaptureFixture
) -> None:
    sources = [Source() for _ in range(MAX_ABANDONED + 1)]
    before = threading.active_count()
    for key, source in enumerate(sources):
        give_up(questions, key, source)
    for key in range(100, 200):
        give_up(questions, key, sources[0])
    assert threading.active_count() <= before + MAX_ABANDONED + 1
    assert sum("any further test" in message for message in caplog.messages) == 1
    sources[3].answers.set()
    assert answered(questions, 3, sources[3]) == "late"
    assert answered(questions, 100) == "yes"
    for source in sources:
        source.answers.set()


def test_without_a_thread_the_question_fails_and_the_next_one_is_answered(
    questions: Questions[int, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_thread(self: Worker) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patched:
        patched.setattr(Worker, "_start", no_thread)
        with pytest.raises(RuntimeError, match="can't start new thread"):
            questions.ask(1, lambda: "yes", "it")
    assert answered(questions, 1) == "yes"


def test_without_a_thread_to_go_on_questions_stop_until_one_is_answered(
    questions: Questions[int, str], source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_thread(self: Worker) -> None:
        raise RuntimeError("can't start new thread")

    assert answered(questions, 1) == "yes"
    monkeypatch.setattr(Worker, "_start", no_thread)
    give_up(questions, 2, source)
    give_up(questions, 3, source)
    source.answers.set()
    assert answered(questions, 2, source) == "late"
    assert answered(questions, 3) == "yes"
