"""Run a coroutine until a signal stops it."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Awaitable, Callable
from typing import TypeVar

from ebpfmon.errors import EbpfmonError

T = TypeVar("T")


async def until_stopped(work: Callable[[asyncio.Event], Awaitable[T]], for_s: float | None = None) -> T:
    """Run `work` and return its result. Its event is set by SIGINT, by SIGTERM, or after `for_s` seconds.

    If all errors in an exception group are ebpfmon's own, raises the first of them instead of the group.
    """
    stop, loop = asyncio.Event(), asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    timer = loop.call_later(for_s, stop.set) if for_s else None
    try:
        return await work(stop)
    except BaseExceptionGroup as group:  # not `except*`: Python 3.11.2 wraps what that raises in a group again
        own, others = group.split(EbpfmonError)
        if others or not own:
            raise
        raise _first(own) from None
    finally:
        if timer:
            timer.cancel()


def _first(group: BaseExceptionGroup[EbpfmonError]) -> EbpfmonError:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    assert isinstance(error, EbpfmonError)
    return error
