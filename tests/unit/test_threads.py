"""Blocking calls in threads that can be left behind."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import CancelledError

import pytest

from ebpfmon.threads import MAX_ABANDONED, Pool, TooManyStuckError, Worker

LIMIT_S = 10


@pytest.fixture
def worker() -> Iterator[Worker]:
    worker = Worker("test")
    yield worker
    worker.shutdown()


class Stuck:
    """A call that returns only when it is told to."""

    def __init__(self) -> None:
        self.started, self.release = threading.Event(), threading.Event()

    def __call__(self) -> str:
        self.started.set()
        self.release.wait()
        return "late"


def test_calls_run_one_after_another_in_one_thread(worker: Worker) -> None:
    order: list[int] = []
    futures = [worker.submit(lambda n=n: order.append(n) or threading.get_ident()) for n in range(100)]  # type: ignore[misc,func-returns-value]
    assert len({f.result(LIMIT_S) for f in futures}) == 1
    assert order == list(range(100))


def test_an_error_of_any_kind_reaches_the_caller_and_the_thread_goes_on(worker: Worker) -> None:
    for kind in (ValueError, SystemExit, KeyboardInterrupt, GeneratorExit):

        def fail(kind: type[BaseException] = kind) -> None:
            raise kind("on purpose")

        with pytest.raises(kind, match="on purpose"):
            worker.submit(fail).result(LIMIT_S)
    assert worker.submit(lambda: 7).result(LIMIT_S) == 7


def test_an_abandoned_call_holds_up_no_other_and_its_late_result_arrives(worker: Worker) -> None:
    stuck = Stuck()
    late = worker.submit(stuck)
    queued = worker.submit(lambda: 7)
    assert stuck.started.wait(LIMIT_S)
    worker.abandon()
    assert queued.result(LIMIT_S) == 7
    assert worker.stuck == 1
    stuck.release.set()
    assert late.result(LIMIT_S) == "late"
    assert worker.submit(lambda: 8).result(LIMIT_S) == 8


def test_abandoning_an_idle_worker_does_nothing(worker: Worker) -> None:
    worker.abandon()
    assert worker.stuck == 0
    assert worker.submit(lambda: 7).result(LIMIT_S) == 7


def test_the_number_of_stuck_threads_is_bounded_until_one_returns(worker: Worker) -> None:
    calls = [Stuck() for _ in range(MAX_ABANDONED + 1)]
    for call in calls[:-1]:
        worker.submit(call)
        assert call.started.wait(LIMIT_S)
        worker.abandon()
    last = worker.submit(calls[-1])
    assert calls[-1].started.wait(LIMIT_S)
    with pytest.raises(TooManyStuckError, match=f"{MAX_ABANDONED} calls of 'test' do not return"):
        worker.abandon()
    for call in calls:
        call.release.set()
    assert last.result(LIMIT_S) == "late"


def test_shutdown_does_not_wait_and_refuses_more_calls() -> None:
    worker, stuck = Worker("test"), Stuck()
    worker.submit(stuck)
    queued = worker.submit(int)
    assert stuck.started.wait(LIMIT_S)
    worker.shutdown(cancel_futures=True)
    with pytest.raises(CancelledError):
        queued.result(LIMIT_S)
    with pytest.raises(RuntimeError, match="has been shut down"):
        worker.submit(int)
    stuck.release.set()


def test_python_exits_while_a_call_never_returns() -> None:
    program = """
import time
from ebpfmon.threads import Worker
worker = Worker("test")
worker.submit(time.sleep, 3600)
worker.submit(print, "never")
"""
    assert subprocess.run([sys.executable, "-c", program], timeout=60, capture_output=True).stdout == b""


def test_a_pool_runs_a_call_while_another_one_is_stuck() -> None:
    pool = Pool("test", 3)
    stuck = Stuck()
    pool.submit(stuck)
    assert stuck.started.wait(LIMIT_S)
    assert pool.submit(lambda: 7).result(LIMIT_S) == 7, "another thread runs it"
    stuck.release.set()
    pool.shutdown()


def test_the_threads_of_a_pool_are_bounded() -> None:
    pool, calls = Pool("test", 2), [Stuck() for _ in range(2)]
    for call in calls:
        pool.submit(call)
        assert call.started.wait(LIMIT_S)
    third = pool.submit(lambda: 7)
    assert not third.done()
    for call in calls:
        call.release.set()
    assert third.result(LIMIT_S) == 7
    pool.shutdown()
    with pytest.raises(RuntimeError, match="have been shut down"):
        pool.submit(int)


def test_a_pool_works_with_the_threads_that_the_system_allows(monkeypatch: pytest.MonkeyPatch) -> None:
    pool, stuck = Pool("test", 2), Stuck()
    pool.submit(stuck)
    assert stuck.started.wait(LIMIT_S)

    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    queued = pool.submit(lambda: 7)
    stuck.release.set()
    assert queued.result(LIMIT_S) == 7
    with pytest.raises(RuntimeError, match="can't start new thread"):
        Pool("other", 2).submit(int)
    pool.shutdown()


def test_a_thread_that_gets_a_stack_but_no_other_memory_is_an_error_and_no_wait() -> None:
    # The C library keeps the stack of the first thread for the second one.
    program = """
import os, resource, threading
from ebpfmon.threads import Worker, start_thread
first = threading.Thread(target=int)
start_thread(first)
first.join()
while len(os.listdir("/proc/self/task")) > 1:
    pass  # join() returns a moment before the stack is free
resource.setrlimit(resource.RLIMIT_AS, (1 << 20, resource.RLIM_INFINITY))
try:
    Worker("test")
except RuntimeError as error:
    print(error)
resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
print(Worker("test").submit(int, "7").result())
"""
    ended = subprocess.run([sys.executable, "-c", program], timeout=60, capture_output=True, text=True)
    assert (ended.stdout, ended.stderr) == ("can't start new thread\n7\n", "")
