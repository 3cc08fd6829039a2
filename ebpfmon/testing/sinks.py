"""A sink that keeps what it gets, and a sink of the author's, used as the daemon uses it."""

from __future__ import annotations

import asyncio
from typing import Any, Self

from ebpfmon.model import SinkSettings, Snapshot


class RecordingSettings(SinkSettings, tag="recording", frozen=True):
    """A sink that appends every snapshot to a list."""

    into: list[Any]

    def open(self) -> RecordingSink:
        """Return the sink."""
        return RecordingSink(self.into)


class RecordingSink:
    """Appends every snapshot to a list."""

    def __init__(self, into: list[Any]) -> None:
        self._into = into

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        pass

    async def send(self, snapshot: Snapshot) -> None:
        """Append it."""
        self._into.append(snapshot)


async def deliver(settings: SinkSettings, *snapshots: Snapshot) -> None:
    """Open a sink, send it these, and close it, each within the time that the daemon gives it.

    Raises what the sink raises, and TimeoutError: the daemon would log either, and try again.
    """
    sink = settings.open()
    async with asyncio.timeout(settings.send_timeout_s):
        entered = await sink.__aenter__()
    try:
        for snapshot in snapshots:
            async with asyncio.timeout(settings.send_timeout_s):
                await entered.send(snapshot)
    except BaseException as error:
        async with asyncio.timeout(settings.send_timeout_s):
            await sink.__aexit__(type(error), error, error.__traceback__)
        raise
    async with asyncio.timeout(settings.send_timeout_s):
        await sink.__aexit__(None, None, None)
