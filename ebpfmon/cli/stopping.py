"""Run a coroutine until a signal stops it."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Awaitable, Callable
from typing import TypeVar

from ebpfmon.errors import EbpfmonError

T = TypeVar("T")


async def until_stopped(work: Callable[[asyncio.Event], Awaitable[T]], for_s: float | None = None) -> T:
    """Return the result of `work`, whose event is set by SIGINT, by SIGTERM, or after `for_s` seconds.

    If its tasks fail with nothing but errors of ebpfmon, the first of them is raised.
    """
    stop, loop = asyncio.Event(), asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    timer = loop.call_later(for_s, stop.set) if for_s else None
    try:
        return await work(stop)
    except BaseExceptionGroup as group:  # not except*: Python 3.11.2 wraps again what that raises
        ours, others = group.split(EbpfmonError)
        if others or not ours:
            raise
        raise _first(ours) from None
    finally:
        if timer:
            timer.cancel()


def _first(group: BaseExceptionGroup[EbpfmonError]) -> EbpfmonError:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    assert isinstance(error, EbpfmonError)
    return error
