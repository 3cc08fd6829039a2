"""Resolve addresses to host names in the background."""

from __future__ import annotations

import asyncio
import logging
import math
import re
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from ipaddress import ip_address
from typing import TYPE_CHECKING

from ebpfmon import Pool

if TYPE_CHECKING:
    import aiodns

CACHE_SIZE = 4096
NAME_TTL_S, FAILURE_TTL_S = 600.0, 60.0
"""How long an answer is cached: a name, and the fact that there is none."""
MAX_LOOKUPS, MAX_QUEUED = 16, 256
LOOKUP_TIMEOUT_S = 5.0

_log = logging.getLogger(__name__)
_NAME = re.compile(r"[A-Za-z0-9._-]{1,253}")

Lookup = Callable[[str], Awaitable[str]]


class Resolver:
    """Resolves addresses in the background, and caches names and failures.

    Use it on one event loop, and call `name()` only while the loop runs. `nameservers` (addresses) and `port` replace
    those of /etc/resolv.conf. `lookup` replaces DNS altogether: it returns the name, or raises. Raises ValueError if
    aiodns is not installed, or if a name server is not an address.
    """

    def __init__(
        self,
        *,
        lookup: Lookup | None = None,
        nameservers: Sequence[str] = (),
        port: int = 53,
        cache_size: int = CACHE_SIZE,
        timeout_s: float = LOOKUP_TIMEOUT_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._lookup: Lookup = lookup or _Dns(nameservers, port, timeout_s)
        self._cache_size, self._timeout_s, self._clock = cache_size, timeout_s, clock
        self._cache: OrderedDict[str, tuple[str | None, float]] = OrderedDict()
        """The name of each address and when it expires, least recently used first."""
        self._queue: dict[str, None] = {}  # used as an ordered set
        self._lookups: dict[str, asyncio.Task[None]] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._closed = False

    def name(self, address: str) -> str | None:
        """Return the name of an address, or None if it has none or is not known yet.

        If nothing is cached, or if it has expired, a lookup starts. An expired name is returned until the lookup ends.
        """
        name, expires = self._cache.get(address, (None, -math.inf))
        if address in self._cache:
            self._cache.move_to_end(address)
        if expires <= self._clock():
            self._request(address)
        return name

    def close(self) -> None:
        """Cancel all lookups and start no more. Closing twice is harmless. May be called in any thread."""
        self._closed = True
        if self._loop:
            with suppress(RuntimeError):  # the event loop has ended
                self._loop.call_soon_threadsafe(self._cancel)
        if isinstance(self._lookup, _Dns):
            self._lookup.close()

    def _cancel(self) -> None:
        self._queue.clear()
        for task in self._lookups.values():
            task.cancel()

    def _request(self, address: str) -> None:
        if self._closed or address in self._lookups:
            return
        if len(self._lookups) < MAX_LOOKUPS:
            self._start(address)
        elif len(self._queue) < MAX_QUEUED:  # If the queue is full, name() will request the address again.
            self._queue[address] = None

    def _start(self, address: str) -> None:
        # A TaskGroup does not fit: a Resolver outlives any block of code, and a failed lookup must not cancel others.
        loop = self._loop = asyncio.get_running_loop()
        task = loop.create_task(self._look_up(address), name=f"resolve {address}")
        self._lookups[address] = task

    async def _look_up(self, address: str) -> None:
        name = None
        try:
            async with asyncio.timeout(self._timeout_s):
                name = _checked(await self._lookup(address))
        except asyncio.CancelledError:
            self.close()  # The loop ends, or the resolver was closed.
            raise
        except Exception as error:  # Whatever failed, the address has no name.
            _log.debug("no name for %s: %s", address, error)
        finally:
            del self._lookups[address]
        self._remember(address, name)
        if self._queue:
            queued = next(iter(self._queue))
            del self._queue[queued]
            self._start(queued)

    def _remember(self, address: str, name: str | None) -> None:
        self._cache[address] = name, self._clock() + (NAME_TTL_S if name else FAILURE_TTL_S)
        self._cache.move_to_end(address)
        if len(self._cache) > self._cache_size:
            self._cache.popitem(last=False)


def _checked(name: str) -> str | None:
    """Return the name in lower case, or None if it is not a valid host name. DNS answers are not trusted."""
    name = name.removesuffix(".")
    return name.lower() if _NAME.fullmatch(name) else None


class _Dns:
    """Reverse lookups with c-ares, in /etc/hosts and DNS, in the order that the system is configured for.

    c-ares reads /etc/hosts and other files in the calling thread, and such a file may be on a file server that does not
    answer. Therefore c-ares runs in an event loop and a daemon thread of its own.
    """

    def __init__(self, nameservers: Sequence[str], port: int, timeout_s: float) -> None:
        try:
            import aiodns
        except ImportError as error:
            raise ValueError(f"host names need the package aiodns ({error}): pip install 'ebpfmon[dns]'") from None
        self._make, self._timeout_s = aiodns.DNSResolver, timeout_s
        self._servers = [_server(server, port) for server in nameservers]
        self._resolver: aiodns.DNSResolver | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._waiting_since_s: float | None = None
        """When the oldest lookup was submitted that the thread has not begun, None if it has begun all."""
        self._is_stuck = False

    async def __call__(self, address: str) -> str:
        loop = self._loop = self._loop or _start_loop()
        if self._waiting_since_s is None:
            self._waiting_since_s = time.monotonic()
            loop.call_soon_threadsafe(self._taken)
        elif time.monotonic() - self._waiting_since_s > self._timeout_s:
            if not self._is_stuck:
                _log.warning(
                    "cannot look up host names: /etc/hosts or /etc/resolv.conf does not answer; addresses are shown "
                    "until it does"
                )
            self._is_stuck = True
            raise TimeoutError("the thread for lookups is stuck")
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(self._look_up(address), loop))

    def close(self) -> None:
        """Let the thread end. Never waits."""
        loop, self._loop = self._loop, None
        if loop:
            asyncio.run_coroutine_threadsafe(self._stop(), loop)

    def _taken(self) -> None:
        self._waiting_since_s, self._is_stuck = None, False

    async def _look_up(self, address: str) -> str:
        if not self._resolver:  # Made here, because it reads files, needs the running loop and starts a thread.
            # c-ares doubles the timeout for the second try, so both tries end before the lookup's own timeout.
            self._resolver = self._make(self._servers, timeout=self._timeout_s / 4, tries=2)
        return (await self._resolver.gethostbyaddr(address)).name

    async def _stop(self) -> None:
        resolver, self._resolver = self._resolver, None
        if resolver:
            resolver.cancel()  # It closes itself once nothing refers to it; its close() would have to be awaited.
        loop = asyncio.get_running_loop()
        lookups = asyncio.all_tasks() - {asyncio.current_task(loop)}
        for lookup in lookups:
            lookup.cancel()
        await asyncio.gather(*lookups, return_exceptions=True)
        loop.stop()


def _start_loop() -> asyncio.AbstractEventLoop:
    """Return an event loop that runs in a thread of its own. Raises OSError or RuntimeError if something is short."""

    def run() -> None:
        try:
            loop.run_forever()
        finally:
            loop.close()

    loop, pool = asyncio.new_event_loop(), Pool("host names", 1)
    try:
        pool.submit(run)
    except RuntimeError:
        loop.close()
        raise
    pool.shutdown()
    return loop


def _server(address: str, port: int) -> str:
    try:
        return f"[{address}]:{port}" if ip_address(address).version == 6 else f"{address}:{port}"
    except ValueError:
        raise ValueError(f"'{address}': a name server must be an IP address") from None
