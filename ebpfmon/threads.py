"""Run blocking calls in threads that can be left behind.

At exit Python waits without a limit for the threads of a `ThreadPoolExecutor`, and for all others that are not daemon
threads. A call that never returns, such as a read from a file server that is down, would keep the process from ending.
ebpfmon therefore starts daemon threads only.
"""

from __future__ import annotations

import mmap
import queue
import sys
import threading
from collections.abc import Callable, Hashable
from concurrent.futures import Executor, Future
from typing import Any, ParamSpec, TypeVar

from ebpfmon.errors import EbpfmonError
from ebpfmon.shortage import CANNOT_START_THREAD

P = ParamSpec("P")
T = TypeVar("T")

_IDLE = ("/selectors.py", "/ebpfmon/threads.py")
"""The files whose functions wait for work."""
MAX_ABANDONED = 4
"""How many threads of a worker may be stuck at a time. Each costs about 100 kB of memory."""
_ROOM = 16 << 20
"""How much address space must be free to start a thread: 8 MB for its stack by default, and some for Python."""


def start_thread(thread: threading.Thread) -> None:
    """Start a thread. Raises RuntimeError if the system allows no more threads, or if there is no memory for one.

    `Thread.start()` alone waits without a limit until the new thread says that it runs. A thread that gets a stack, but
    no memory for its first call, never does (CPython issue 140746).
    """
    try:
        mmap.mmap(-1, _ROOM, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS).close()  # as the limits count memory
    except OSError:
        raise RuntimeError(CANNOT_START_THREAD) from None
    thread.start()


class TooManyStuckError(EbpfmonError):
    """Too many calls of a worker do not return."""


class _Call:
    def __init__(self, future: Future[Any], function: Callable[[], Any]) -> None:
        self.future, self.function = future, function

    def run(self) -> None:
        if not self.future.set_running_or_notify_cancel():
            return
        try:
            result = self.function()
        except BaseException as error:  # whoever waits for the result decides what an error means
            self.future.set_exception(error)
        else:
            self.future.set_result(result)


class Worker(Executor):
    """A daemon thread that runs calls one after another, and that can be replaced while a call does not return."""

    def __init__(self, name: str) -> None:
        """Start the thread. Raises RuntimeError if the system allows no more threads."""
        self._name = name
        self._lock = threading.Lock()
        self._stuck = self._pending = 0
        self._calls: queue.SimpleQueue[_Call | None] = queue.SimpleQueue()
        self._running: _Call | None = None
        self._closed = False
        self._start()

    @property
    def pending(self) -> int:
        """The number of calls that are queued or running, without those that were abandoned."""
        return self._pending

    @property
    def stuck(self) -> int:
        """The number of abandoned threads that still run."""
        return self._stuck

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Run a call after those that were submitted before it. Raises RuntimeError after `shutdown`."""
        future: Future[T] = Future()
        with self._lock:
            if self._closed:
                raise RuntimeError(f"the thread '{self._name}' has been shut down")
            self._pending += 1
            self._calls.put(_Call(future, lambda: fn(*args, **kwargs)))
        return future

    def abandon(self) -> None:
        """Leave the running call behind, and run the queued calls in a new thread.

        The result of the abandoned call still reaches its future if the call ever returns. Does nothing if no call is
        running. Raises TooManyStuckError if MAX_ABANDONED threads are stuck already, and RuntimeError if the system
        allows no more threads; the running call is not left behind then.
        """
        with self._lock:
            if self._running is None:
                return
            if self._stuck >= MAX_ABANDONED:
                raise TooManyStuckError(f"{self._stuck} calls of '{self._name}' do not return")
            self._start()
            self._running = None
            self._pending -= 1
            self._stuck += 1

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """End the thread after the queued calls, or after the running one with `cancel_futures`. Never waits."""
        with self._lock:
            self._closed = True
            if cancel_futures:
                while not self._calls.empty():
                    call = self._calls.get_nowait()
                    if call:
                        call.future.cancel()
                        self._pending -= 1
            self._calls.put(None)

    def _start(self) -> None:
        start_thread(threading.Thread(target=self._work, name=self._name, daemon=True))

    def _work(self) -> None:
        while call := self._calls.get():
            with self._lock:
                self._running = call
            call.run()
            with self._lock:
                if self._running is not call:  # abandoned; another thread runs the queued calls
                    self._stuck -= 1
                    return
                self._running = None
                self._pending -= 1
            del call  # it refers to the result


def position(thread: threading.Thread) -> str:
    """Return where a thread is, as `function() (file:line)`, or nothing if it waits for work or has ended."""
    frame = sys._current_frames().get(thread.ident or 0)
    if frame is None or frame.f_code.co_filename.endswith(_IDLE):
        return ""
    return f"{frame.f_code.co_name}() ({frame.f_code.co_filename}:{frame.f_lineno})"


class Pool(Executor):
    """Up to `maximum` daemon threads, which are started when they are needed."""

    def __init__(self, name: str, maximum: int) -> None:
        self._name, self._maximum = name, maximum
        self._workers: list[Worker] = []
        self._lock = threading.Lock()
        self._closed = False

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Run a call in an idle thread, or after other calls if all threads are busy.

        Raises RuntimeError after `shutdown`, or if the system allows no more threads and the pool has none.
        """
        with self._lock:
            if self._closed:
                raise RuntimeError(f"the threads '{self._name}' have been shut down")
            return self._least_busy().submit(fn, *args, **kwargs)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """End each thread after its queued calls, or after the running one with `cancel_futures`. Never waits."""
        with self._lock:
            self._closed = True
            for worker in self._workers:
                worker.shutdown(cancel_futures=cancel_futures)

    def _least_busy(self) -> Worker:
        least_busy = min(self._workers, key=lambda worker: worker.pending, default=None)
        if least_busy and (not least_busy.pending or len(self._workers) == self._maximum):
            return least_busy
        try:
            self._workers.append(Worker(self._name))
        except RuntimeError:  # the system allows no more threads for now
            if not least_busy:
                raise
            return least_busy
        return self._workers[-1]


_unanswered: dict[Hashable, Future[Any]] = {}
"""The calls of `submit_once` that have not returned.

They belong to the process: whoever asks again must find the calls that are stuck already.
"""
_unanswered_lock = threading.Lock()


def submit_once(name: str, function: Callable[..., T], *arguments: Hashable) -> Future[T]:
    """Call a function that may never return, such as a look-up of a file, in a daemon thread of this name.

    A function never runs twice at a time with the same arguments: further callers get the future of the first call. So
    there is never more than one such thread for a file or a host name. May be called in any thread. Raises RuntimeError
    if the system allows no more threads.
    """
    key = (function, arguments)
    with _unanswered_lock:
        future: Future[T] | None = _unanswered.get(key)
        if future is None:
            worker = Worker(name)
            future = _unanswered[key] = worker.submit(function, *arguments)
            worker.shutdown()
            future.add_done_callback(lambda _: _unanswered.pop(key, None))
    return future
