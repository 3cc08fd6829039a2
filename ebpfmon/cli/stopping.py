"""Run a coroutine until a signal stops it, and end the process if it does not stop.

A thread of its own receives the signals. It runs even while the main thread is blocked, for example in a plugin's code.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import threading
import time
from collections import deque
from collections.abc import Awaitable, Callable
from concurrent.futures import Executor, Future, wait
from contextlib import ExitStack, suppress
from types import FrameType
from typing import Any, ParamSpec, TypeVar

from ebpfmon.cli.common import FAILURE
from ebpfmon.errors import KernelError, describe
from ebpfmon.threads import Worker, position, start_thread

P = ParamSpec("P")
T = TypeVar("T")

END_S = 4.0
"""How long the process may take to end by itself."""
PENDING_S = 0.25
"""How often to look for a signal that the kernel has given to a thread that waits for a file server."""
LAST_MESSAGE_S = 0.5
"""How long to wait until the last message is written."""
RETRY_S = 0.1
"""How long to wait for memory to handle signals."""
_STOP = (signal.SIGINT, signal.SIGTERM)
_WAKE = b"\0"  # not the number of a signal

log = logging.getLogger(__name__)


class SignalThread(Executor):
    """A daemon thread that receives signals, and that runs calls in between. A context manager for the main thread.

    `on_stop` is called when a signal asks the process to end; END_S later the process ends, whatever it is doing.
    `on_hangup` is called at SIGHUP. Both are called in this thread. Leaving the context restores the former handlers,
    but the time limit stays: what Python does at exit may hang, too.
    """

    def __init__(self, on_stop: Callable[[], None], on_hangup: Callable[[], None] | None) -> None:
        self._on_stop, self._on_hangup = on_stop, on_hangup
        self._calls: deque[Callable[[], None]] = deque()
        self._handled: deque[int] = deque()
        self._end_s: float | None = None
        self._receiver, self._sender = socket.socketpair()
        self._sender.setblocking(False)  # as set_wakeup_fd needs it
        self._stack = ExitStack()

    def __enter__(self) -> SignalThread:
        try:
            start_thread(threading.Thread(target=self._receive, name="signals", daemon=True))
        except RuntimeError as error:
            raise KernelError(f"cannot start the thread that receives signals: {describe(error)}") from None
        # Python's C code writes the number of each signal to this descriptor at once. The handlers below only run when
        # the main thread comes to it. They are needed in `top`, where asyncio replaces the descriptor by its own.
        former = signal.set_wakeup_fd(self._sender.fileno(), warn_on_full_buffer=False)
        self._stack.callback(signal.set_wakeup_fd, former)
        for number in _STOP:
            # A shell ignores SIGINT, and SIGINT only, for a program that it starts in the background.
            if number != signal.SIGINT or signal.getsignal(number) is not signal.SIG_IGN:
                self._stack.callback(signal.signal, number, signal.signal(number, self._handle))
        if self._on_hangup:
            self._stack.callback(signal.signal, signal.SIGHUP, signal.signal(signal.SIGHUP, lambda *_: None))
        # `main` has made SIGHUP wait. A parent or a plugin may have blocked the others. New threads inherit the mask.
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {*_STOP, signal.SIGHUP})
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def stop(self) -> None:
        """Do what SIGTERM does."""
        self._handle(signal.SIGTERM, None)

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Run a call in this thread. It must not block."""
        future: Future[T] = Future()

        def call() -> None:
            try:
                future.set_result(fn(*args, **kwargs))
            except BaseException as error:
                future.set_exception(error)

        self._calls.append(call)
        self._wake()
        return future

    def _wake(self) -> None:
        with suppress(BlockingIOError):  # the buffer is full of signals; the thread wakes up anyway
            self._sender.send(_WAKE)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self._handled.append(number)  # the buffer may be full, and then Python's C code has not written it
        self._wake()

    def _receive(self) -> None:
        while True:
            try:
                self._receive_signals()
            except MemoryError:  # without this thread no signal would end the process
                time.sleep(RETRY_S)

    def _receive_signals(self) -> None:
        left_s = PENDING_S if self._end_s is None else self._end_s - time.monotonic()
        if left_s <= 0:
            self._end()
        self._receiver.settimeout(min(left_s, PENDING_S))
        try:
            received = {*self._receiver.recv(64)}
        except TimeoutError:
            _take_pending()
            return
        while self._handled:
            received.add(self._handled.popleft())
        if self._end_s is None and any(number in received for number in _STOP):
            self._end_s = time.monotonic() + END_S
            self._on_stop()
        while self._calls:
            self._calls.popleft()()
        if signal.SIGHUP in received and self._on_hangup:
            self._on_hangup()

    def _end(self) -> None:
        """End the process. The kernel then frees all programs and maps."""
        try:
            message = f"has not ended within {END_S:g} s, so it ends now: {'; '.join(_blocking_threads())}"
            # Stderr may be a file on a disk that does not answer.
            wait([Worker("last message").submit(log.critical, "%s", message)], LAST_MESSAGE_S)
        finally:  # there may be no thread or memory for a message
            os._exit(FAILURE)


def _take_pending() -> None:
    """Receive the signals that are pending for the process in this thread.

    The kernel prefers the main thread. If that waits for a file server, it receives nothing, and no other thread is
    woken for the signal. A thread that changes its mask looks again.
    """
    signals = {*_STOP, signal.SIGHUP}
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, signals)


def _blocking_threads() -> list[str]:
    """Return what each thread is doing, except those that wait for work."""
    others = [thread for thread in threading.enumerate() if thread is not threading.current_thread()]
    return [f"thread '{thread.name}' is in {where}" for thread in others if (where := position(thread))]


async def until_stopped(
    work: Callable[[asyncio.Event, SignalThread], Awaitable[T]],
    for_s: float | None = None,
    on_hangup: Callable[[], object] | None = None,
) -> T:
    """Run `work` and return its result. Its event is set by SIGINT, by SIGTERM, or after `for_s` seconds.

    Its second argument is the thread that receives the signals. `on_hangup` is called in the event loop at SIGHUP.
    """
    stop, loop = asyncio.Event(), asyncio.get_running_loop()

    def in_loop(callback: Callable[[], Any]) -> Callable[[], None]:
        def call() -> None:
            with suppress(RuntimeError):  # the event loop has ended
                loop.call_soon_threadsafe(callback)

        return call

    with SignalThread(in_loop(stop.set), in_loop(on_hangup) if on_hangup else None) as signals:
        timer = loop.call_later(for_s, signals.stop) if for_s else None
        try:
            return await work(stop, signals)
        finally:
            if timer:
                timer.cancel()
