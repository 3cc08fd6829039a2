"""Run the daemon with a terminal for its only sink: `ebpfmon top`."""

from __future__ import annotations

import asyncio
from typing import Any, ClassVar, Self

import msgspec

from ebpfmon.config.settings import Settings
from ebpfmon.daemon import run as daemon
from ebpfmon.errors import KernelError, SettingsError
from ebpfmon.grouping.registry import groupings
from ebpfmon.model import Column, Probe, SinkSettings, Snapshot
from ebpfmon.plugins.registry import Registry
from ebpfmon.top.columns import sort_keys
from ebpfmon.top.screen import Screen, TopSettings
from ebpfmon.top.state import State


class _Keeper:
    """Keep the second snapshot, because the first interval is shorter than the others, and stop the daemon: a sink."""

    def __init__(self, stop: asyncio.Event) -> None:
        self._stop = stop
        self._first: Snapshot | None = None
        self.kept: Snapshot | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        pass

    async def send(self, snapshot: Snapshot) -> None:
        """Keep the snapshot if it is the second."""
        if self._first is None:
            self._first = snapshot
        elif not self._stop.is_set():  # after that comes the last interval, which is shorter again
            self.kept = snapshot
            self._stop.set()


class _KeeperSettings(SinkSettings, tag="top", frozen=True):
    """Feed a keeper that exists already."""

    keeper: Any
    send_timeout_s: ClassVar[float | None] = None

    def open(self) -> _Keeper:
        keeper: _Keeper = self.keeper
        return keeper


async def one_interval(settings: Settings, registry: Registry, stop: asyncio.Event) -> Snapshot:
    """Return the first whole interval. Raises KernelError if nothing can be loaded, or if it was stopped before."""
    keeper = _Keeper(stop)
    await daemon.run(_with(settings, _KeeperSettings(keeper=keeper)), registry, stop)
    if keeper.kept is None:
        raise KernelError("top: stopped before the first interval was over")
    return keeper.kept


async def live(settings: Settings, registry: Registry, state: State, term: str, stop: asyncio.Event) -> None:
    """Show every interval on the terminal, until the user quits, which sets `stop`, or somebody else sets it.

    `term` is $TERM. Raises SettingsError if the output is no terminal, and KernelError if nothing can be loaded.
    """
    screen = Screen(stop.set, term=term, state=state)
    await daemon.run(_with(settings, TopSettings(screen=screen)), registry, stop)


def check_sort(sort: str, registry: Registry) -> str:
    """Return the key of a column if there is such a column. Raises SettingsError."""
    keys = sort_keys(column for probe in registry.probes.values() for column in _of_processes(probe))
    if sort and sort not in keys:
        raise SettingsError(f"top: --sort: '{sort}': expected one of {', '.join(keys)}")
    return sort


def _of_processes(probe: Probe) -> list[Column]:
    """Return the columns of tables by process: only tables with other keys have charts with labels."""
    with_labels = {chart.table for chart in probe.charts if chart.labels}
    return [column for column in probe.columns if column.table not in with_labels]


def _with(settings: Settings, sink: SinkSettings) -> Settings:
    """Return the settings with this sink only, and with all groupings, so that `b` can switch between them at once."""
    groups = msgspec.structs.replace(settings.groups, by=tuple(groupings()))
    return msgspec.structs.replace(settings, groups=groups, sinks=(sink,))
