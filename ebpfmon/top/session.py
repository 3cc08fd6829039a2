"""The daemon with a terminal for its only sink: `ebpfmon top`."""

from __future__ import annotations

import asyncio
from typing import Any, ClassVar, Self

import msgspec

from ebpfmon.config.settings import Settings
from ebpfmon.daemon import run as daemon
from ebpfmon.errors import KernelError
from ebpfmon.model.everything import LoadMode, SinkSettings, Snapshot
from ebpfmon.pipeline.pipeline import Grouping
from ebpfmon.plugins.registry import Registry
from ebpfmon.top.screen import Screen, TopSettings
from ebpfmon.top.state import State


class _Keeper:
    """A sink that keeps the second snapshot, as the first interval is shorter than the others, and stops the daemon."""

    def __init__(self, stop: asyncio.Event) -> None:
        self._stop = stop
        self._first: Snapshot | None = None
        self.kept: Snapshot | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        pass

    async def send(self, snapshot: Snapshot) -> None:
        if self._first is None:
            self._first = snapshot
        elif not self._stop.is_set():  # once it is, what comes is the last, shorter interval
            self.kept = snapshot
            self._stop.set()


class _KeeperSettings(SinkSettings, tag="top", frozen=True):
    """The keeper, which is there already."""

    keeper: Any
    send_timeout_s: ClassVar[float | None] = None

    def open(self) -> _Keeper:
        keeper: _Keeper = self.keeper
        return keeper


async def one_second(settings: Settings, registry: Registry, by: str, stop: asyncio.Event) -> Snapshot:
    """The first whole interval. Raises KernelError if nothing can be loaded, or if it was stopped before."""
    keeper = _Keeper(stop)
    await daemon.run(_with(settings, _KeeperSettings(keeper=keeper)), registry, stop, grouping=Grouping(by))
    if keeper.kept is None:
        raise KernelError("top: stopped before the first interval was over")
    return keeper.kept


async def live(settings: Settings, registry: Registry, state: State, term: str, stop: asyncio.Event) -> None:
    """Every second on the terminal, until the user quits, which sets `stop`, or somebody else does. `term` is $TERM.
    Raises SettingsError if the output is no terminal, and KernelError if nothing can be loaded."""
    grouping = Grouping(state.by)

    def group_by(by: str) -> None:
        grouping.by = by

    errors = settings.ebpfmon.load_mode is LoadMode.RETURN
    screen = Screen(stop.set, group_by, term=term, state=state, errors=errors)
    await daemon.run(_with(settings, TopSettings(screen=screen)), registry, stop, grouping=grouping)


def _with(settings: Settings, sink: SinkSettings) -> Settings:
    apps = msgspec.structs.replace(settings.apps, enabled=True)
    return msgspec.structs.replace(settings, apps=apps, sinks=(sink,))
