"""Call functions that may never return, such as a read from a file server that is down, or a query to a name server."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from typing import Any, TypeVar

from ebpfmon import Pool

T = TypeVar("T")

THREAD = "blocking call"
"""The name of the threads."""
_unanswered: dict[Hashable, Future[Any]] = {}
"""The calls that have not returned.

They belong to the process, not to a sink: a sink that is opened again must find the calls that are stuck already.
"""


async def within(limit_s: float, function: Callable[..., T], *arguments: Hashable) -> T:
    """Call a function in a thread, and return its result. Raises what it raises, or TimeoutError after `limit_s`.

    The thread of a call that takes longer is left behind. A function never runs twice at a time with the same
    arguments: further callers wait for the first call, and get its result. So there is never more than one such thread
    for a file or a host name.
    """
    key = (function, arguments)
    future: Future[T] | None = _unanswered.get(key)
    if future is None:
        pool = Pool(THREAD, 1)
        future = _unanswered[key] = pool.submit(function, *arguments)
        future.add_done_callback(lambda _: _unanswered.pop(key, None))
        pool.shutdown()
    result = asyncio.wrap_future(future)
    try:
        done, _ = await asyncio.wait([result], timeout=limit_s)
        if not done:
            raise TimeoutError
        return result.result()
    finally:
        if future.running():
            result.cancel()  # the event loop may be closed when the call returns
