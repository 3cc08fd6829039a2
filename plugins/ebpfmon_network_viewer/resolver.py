"""The names of addresses, from DNS: never waited for."""

from __future__ import annotations

import asyncio
import logging
import math
import re
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from ipaddress import ip_address
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import aiodns

KEPT = 4096
NAME_S, FAILURE_S = 600.0, 60.0
"""How long a name is good, and how long it is not asked again for one that there was not."""
AT_A_TIME, WAITING = 16, 256
LIMIT_S = 5.0

_log = logging.getLogger(__name__)
_NAME = re.compile(r"[A-Za-z0-9._-]{1,253}")

Lookup = Callable[[str], Awaitable[str]]


class Resolver:
    """Finds the names of addresses in the background, and remembers them for a while, and also that there was none.

    To be used on one event loop, after whose start alone names are asked for. `nameservers` (addresses) and `port`
    take the place of those of /etc/resolv.conf, `lookup` that of DNS itself: it returns the name, or raises. Raises
    ValueError if there is no aiodns, or if a name server is no address.
    """

    def __init__(
        self,
        *,
        lookup: Lookup | None = None,
        nameservers: Sequence[str] = (),
        port: int = 53,
        kept: int = KEPT,
        limit_s: float = LIMIT_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._lookup: Lookup = lookup or _Dns(nameservers, port, limit_s)
        self._kept, self._limit_s, self._clock = kept, limit_s, clock
        self._answers: OrderedDict[str, tuple[str | None, float]] = OrderedDict()  # and their ends; last used, last
        self._waiting: dict[str, None] = {}  # a set in order
        self._under_way: dict[str, asyncio.Task[None]] = {}
        self._closed = False

    def name(self, address: str) -> str | None:
        """Return the name of an address. Return None if it has none, or if it is not known yet; then look it up.

        An old name stays until the answer is there to whether it is still right.
        """
        name, ends = self._answers.get(address, (None, -math.inf))
        if address in self._answers:
            self._answers.move_to_end(address)
        if ends <= self._clock():
            self._ask(address)
        return name

    def close(self) -> None:
        """End what is under way; nothing is looked up any more. Closing twice is harmless."""
        self._closed = True
        self._waiting.clear()
        for task in self._under_way.values():
            task.cancel()
        if isinstance(self._lookup, _Dns):
            self._lookup.close()

    def _ask(self, address: str) -> None:
        if self._closed or address in self._under_way:
            return
        if len(self._under_way) < AT_A_TIME:
            self._start(address)
        elif len(self._waiting) < WAITING:  # what finds no place will be asked for again
            self._waiting[address] = None

    def _start(self, address: str) -> None:
        # not in a TaskGroup: a Resolver begins and ends with nobody's block, and no lookup can fail another
        task = asyncio.get_running_loop().create_task(self._look_up(address), name=f"name of {address}")
        self._under_way[address] = task

    async def _look_up(self, address: str) -> None:
        name = None
        try:
            async with asyncio.timeout(self._limit_s):
                name = _checked(await self._lookup(address))
        except asyncio.CancelledError:
            self.close()  # the loop ends, or we have been closed
            raise
        except Exception as error:  # whatever it was, there is no name
            _log.debug("no name for %s: %s", address, error)
        finally:
            del self._under_way[address]
        self._remember(address, name)
        if self._waiting:
            following = next(iter(self._waiting))
            del self._waiting[following]
            self._start(following)

    def _remember(self, address: str, name: str | None) -> None:
        self._answers[address] = name, self._clock() + (NAME_S if name else FAILURE_S)
        self._answers.move_to_end(address)
        if len(self._answers) > self._kept:
            self._answers.popitem(last=False)


def _checked(name: str) -> str | None:
    """Return the name as it is shown, None if no host can be called that: it is text from outside."""
    name = name.removesuffix(".")
    return name.lower() if _NAME.fullmatch(name) else None


class _Dns:
    """Reverse lookups by c-ares: /etc/hosts and DNS, in the order that the system's settings say."""

    def __init__(self, nameservers: Sequence[str], port: int, limit_s: float) -> None:
        try:
            import aiodns
        except ImportError as error:
            raise ValueError(f"names of hosts need aiodns ({error}): pip install 'ebpfmon[dns]'") from None
        self._make, self._limit_s = aiodns.DNSResolver, limit_s
        self._servers = [_server(server, port) for server in nameservers]
        self._resolver: aiodns.DNSResolver | None = None

    async def __call__(self, address: str) -> str:
        if not self._resolver:  # no sooner, as it needs the running loop, and starts a thread
            # c-ares waits for the first answer a quarter of the time and for the second twice as long: it
            # has done with a question when we give it up
            self._resolver = self._make(self._servers, timeout=self._limit_s / 4, tries=2)
        return (await self._resolver.gethostbyaddr(address)).name

    def close(self) -> None:
        resolver, self._resolver = self._resolver, None
        if resolver:
            resolver.cancel()  # and without a reference it closes itself; its close() is for those who can wait


def _server(address: str, port: int) -> str:
    try:
        return f"[{address}]:{port}" if ip_address(address).version == 6 else f"{address}:{port}"
    except ValueError:
        raise ValueError(f"'{address}': a name server is told by its address") from None
