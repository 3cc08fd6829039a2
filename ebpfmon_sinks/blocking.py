"""Call functions that may never return, such as a read from a file server that is down, or a query to a name server."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Hashable
from typing import TypeVar

from ebpfmon import submit_once

T = TypeVar("T")

THREAD = "blocking call"
"""The name of the threads."""


async def within(limit_s: float, function: Callable[..., T], *arguments: Hashable) -> T:
    """Call a function in a thread, and return its result. Raises what it raises, or TimeoutError after `limit_s`.

    The thread of a call that takes longer is left behind. A function never runs twice at a time with the same
    arguments: further callers wait for the first call, and get its result.
    """
    future = submit_once(THREAD, function, *arguments)
    result = asyncio.wrap_future(future)
    try:
        done, _ = await asyncio.wait([result], timeout=limit_s)
        if not done:
            raise TimeoutError
        return result.result()
    finally:
        if future.running():
            result.cancel()  # the event loop may be closed when the call returns
