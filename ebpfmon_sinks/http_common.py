"""Share between http_json and http_push what both need: tokens, loopback addresses, and late imports."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from ipaddress import IPv6Address, ip_address

from ebpfmon import Sink, SinkError

_TOKEN = re.compile(rb"[!-~]+")
_TOKEN_BYTES = 4096  # the longest token that is read


def read_token(path: str) -> str:
    """Return the token in a file that has it on its only line. Blocks. Raises SinkError."""
    try:
        with open(path, "rb") as file:
            text = file.read(_TOKEN_BYTES + 1).strip()
    except OSError as error:
        raise SinkError(f"cannot read the token in '{path}': {error.strerror}") from None
    if not _TOKEN.fullmatch(text) or len(text) > _TOKEN_BYTES:
        raise SinkError(f"cannot read the token in '{path}': expected one line of printable ASCII without spaces")
    return text.decode()


def is_loopback(host: str) -> bool:
    """Return whether only this machine reaches an address. False for every name but localhost."""
    if host.lower() == "localhost":
        return True
    try:
        address = ip_address(host)
    except ValueError:
        return False
    if isinstance(address, IPv6Address) and address.ipv4_mapped:
        address = address.ipv4_mapped
    return address.is_loopback


@asynccontextmanager
async def opened_late(make: Callable[[], AbstractAsyncContextManager[Sink]]) -> AsyncIterator[Sink]:
    """Open the sink that `make` imports and returns. `make` runs in a thread.

    The settings of both sinks are imported wherever ebpfmon runs. aiohttp and prometheus_client take 14 MB and a
    quarter of a second, so only a daemon with such a sink imports them, and its event loop does not wait for that.
    """
    async with await asyncio.to_thread(make) as sink:
        yield sink
