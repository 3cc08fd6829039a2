"""Record snapshots with a sink, and deliver snapshots to any sink."""

from __future__ import annotations

import asyncio
from typing import Any, Self

from ebpfmon.model import SinkSettings, Snapshot


class RecordingSettings(SinkSettings, tag="recording", frozen=True):
    """The settings of a sink that appends every snapshot to a list."""

    into: list[Any]

    def open(self) -> RecordingSink:
        """Return the sink."""
        return RecordingSink(self.into)


class RecordingSink:
    """A sink that appends every snapshot to a list."""

    def __init__(self, into: list[Any]) -> None:
        self._into = into

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        pass

    async def send(self, snapshot: Snapshot) -> None:
        """Append the snapshot to the list."""
        self._into.append(snapshot)


async def deliver(settings: SinkSettings, *snapshots: Snapshot) -> None:
    """Open a sink, send it snapshots and close it. Each step has the time limit that the daemon sets.

    Raises whatever the sink raises, and TimeoutError. The daemon would log either and try again.
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
