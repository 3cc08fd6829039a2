"""Runs a stranger's code without being held up by it."""

from __future__ import annotations

import ctypes
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Generic, TypeVar

from ebpfmon.errors import PluginError

IDLE_S, LONGEST_S = 5.0, 60.0
"""How long it may do nothing at all, and how long it may take: an emulated machine is slow, but never idle."""
_LOOK_S = 0.1
_M_ARENA_MAX = -8  # malloc.h
_WORKED_S = 0.001  # of CPU time since the last look, so that it has not been idle

T = TypeVar("T")


class _Work(threading.Thread, Generic[T]):
    """A daemon thread: the interpreter ends without waiting for it."""

    def __init__(self, work: Callable[[], T], name: str) -> None:
        super().__init__(name=name, daemon=True)
        self._work = work
        self.clock: int | None = None
        self.result: T | None = None
        self.error: BaseException | None = None

    def run(self) -> None:
        self.clock = time.pthread_getcpuclockid(threading.get_ident())
        try:
            self.result = self._work()
        except BaseException as error:  # it is raised where the result is wanted
            self.error = error

    def cpu_s(self) -> float:
        """CPU time used so far."""
        try:
            return time.clock_gettime(self.clock) if self.clock is not None else 0.0
        except OSError:  # it has ended
            return 0.0


def bounded(work: Callable[[], T], name: str, *, idle_s: float = IDLE_S, longest_s: float = LONGEST_S) -> T:
    """What `work` returns or raises, if it does so in time; else PluginError.

    Then it is told to end, which it does when it next runs Python code. What waits in C stays until the process ends,
    and is in nobody's way unless it holds the GIL.
    """
    with suppress(AttributeError):  # musl has none
        # a second heap would cost a megabyte for good, and nobody contends for the first
        ctypes.pythonapi.mallopt(_M_ARENA_MAX, 1)
    thread = _Work(work, name)
    thread.start()
    began, cpu_s, idle_looks = time.monotonic(), 0.0, 0
    while thread.is_alive():
        thread.join(_LOOK_S)
        if not thread.is_alive():
            break
        so_far = thread.cpu_s()
        idle_looks = 0 if so_far - cpu_s > _WORKED_S else idle_looks + 1  # looks: this process itself may be stopped
        cpu_s = so_far if not idle_looks else cpu_s
        if idle_looks * _LOOK_S > idle_s:
            _end(thread)
            raise PluginError(f"its import and hooks did nothing for {idle_s:g} s: they must not wait for anything")
        if time.monotonic() - began > longest_s:
            _end(thread)
            raise PluginError(f"its import and hooks took longer than {longest_s:g} s")
    if thread.error is not None:
        raise thread.error
    return thread.result  # type: ignore[return-value]  # it is there, as nothing was raised


def _end(thread: threading.Thread) -> None:
    if thread.ident is not None:
        ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident), ctypes.py_object(SystemExit))
