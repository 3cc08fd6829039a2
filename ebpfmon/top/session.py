"""Run the daemon with one sink that shows or keeps snapshots, for `ebpfmon top`."""

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


class _OneInterval:
    """A sink that keeps the second snapshot and stops the daemon. The first interval is shorter than the others."""

    def __init__(self, stop: asyncio.Event) -> None:
        self._stop = stop
        self._first: Snapshot | None = None
        self.snapshot: Snapshot | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        pass

    async def send(self, snapshot: Snapshot) -> None:
        """Keep the snapshot if it is the second."""
        if self._first is None:
            self._first = snapshot
        elif not self._stop.is_set():  # the last interval is shorter again
            self.snapshot = snapshot
            self._stop.set()


class _OneIntervalSettings(SinkSettings, tag="top", frozen=True):
    """Settings of a sink that exists already."""

    sink: Any
    send_timeout_s: ClassVar[float | None] = None

    def open(self) -> _OneInterval:
        sink: _OneInterval = self.sink
        return sink


async def one_interval(settings: Settings, registry: Registry, stop: asyncio.Event) -> Snapshot:
    """Return the first whole interval. Raises KernelError if no probe can be loaded, or if `stop` is set too early."""
    sink = _OneInterval(stop)
    await daemon.run(_with_sink(settings, _OneIntervalSettings(sink=sink)), registry, stop)
    if sink.snapshot is None:
        raise KernelError("top: stopped before the first interval was over")
    return sink.snapshot


async def live(settings: Settings, registry: Registry, state: State, term: str, stop: asyncio.Event) -> None:
    """Show every interval on the terminal until `stop` is set. It is also set when the user quits.

    `term` is $TERM. Raises SettingsError if stdout is not a terminal, and KernelError if no probe can be loaded.
    """
    screen = Screen(stop.set, term=term, state=state)
    await daemon.run(_with_sink(settings, TopSettings(screen=screen)), registry, stop)


def check_sort(sort: str, registry: Registry) -> str:
    """Return the key of a column to sort by. Raises SettingsError if there is no such column."""
    keys = sort_keys(column for probe in registry.probes.values() for column in _process_columns(probe))
    if sort and sort not in keys:
        raise SettingsError(f"top: --sort: '{sort}': expected one of {', '.join(keys)}")
    return sort


def _process_columns(probe: Probe) -> list[Column]:
    """Return the columns of a probe's per-process tables. Other tables are those that have charts with labels."""
    labelled = {chart.table for chart in probe.charts if chart.labels}
    return [column for column in probe.columns if column.table not in labelled]


def _with_sink(settings: Settings, sink: SinkSettings) -> Settings:
    """Return the settings with only this sink, and with all groupings, so that the key `b` can switch between them."""
    groups = msgspec.structs.replace(settings.groups, by=tuple(groupings()))
    return msgspec.structs.replace(settings, groups=groups, sinks=(sink,))
