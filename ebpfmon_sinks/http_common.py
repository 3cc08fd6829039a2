"""Helpers for http_json and http_push: tokens, loopback addresses, and late imports."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from ipaddress import IPv6Address, ip_address

from ebpfmon import Sink, SinkError

_TOKEN = re.compile(rb"[!-~]+")
_MAX_TOKEN_BYTES = 4096


def read_token(path: str) -> str:
    """Return the token in a file, which must be its only line. Blocking. Raises SinkError."""
    try:
        with open(path, "rb") as file:
            text = file.read(_MAX_TOKEN_BYTES + 1).strip()
    except OSError as error:
        raise SinkError(f"cannot read the token in '{path}': {error.strerror}") from None
    if not _TOKEN.fullmatch(text) or len(text) > _MAX_TOKEN_BYTES:
        raise SinkError(f"cannot read the token in '{path}': expected one line of printable ASCII without spaces")
    return text.decode()


def is_loopback(host: str) -> bool:
    """Return whether only this machine can reach an address. It is False for all host names except localhost."""
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
async def open_lazily(make: Callable[[], AbstractAsyncContextManager[Sink]]) -> AsyncIterator[Sink]:
    """Open the sink that `make` returns. `make` runs in a thread, so that it can import the sink's module.

    The settings of both sinks are always imported. Importing aiohttp and prometheus_client takes 14 MB and a quarter of
    a second, so only a daemon with such a sink imports them, and without blocking its event loop.
    """
    async with await asyncio.to_thread(make) as sink:
        yield sink
