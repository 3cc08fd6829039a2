"""Run the daemon with one sink that shows or keeps snapshots, for `ebpfmon top`."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterable
from concurrent.futures import Executor
from typing import Any, ClassVar, Self

import msgspec

from ebpfmon.config.settings import Settings
from ebpfmon.daemon import run as daemon
from ebpfmon.errors import SettingsError
from ebpfmon.grouping.registry import groupings
from ebpfmon.model import Column, Probe, SinkSettings, Snapshot
from ebpfmon.plugins.registry import Registry
from ebpfmon.top.columns import sort_keys
from ebpfmon.top.screen import Screen
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


class _InLoop:
    """Runs a sink in the event loop of the daemon, instead of in a thread of its own.

    The screen handles signals, which only the main thread can, and `top` has no other sink.
    """

    def __init__(self, sink: Any) -> None:
        self._sink, self._loop = sink, asyncio.get_running_loop()

    async def __aenter__(self) -> Self:
        await self._run(self._sink.__aenter__())
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._run(self._sink.__aexit__(*error))

    async def send(self, snapshot: Snapshot) -> None:
        """Hand a snapshot to the sink."""
        await self._run(self._sink.send(snapshot))

    async def _run(self, step: Coroutine[Any, Any, object]) -> None:
        await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(step, self._loop))


class _SinkSettings(SinkSettings, tag="top", frozen=True):
    """Settings of a sink that exists already. No settings file can name it."""

    sink: Any
    send_timeout_s: ClassVar[float | None] = None

    def open(self) -> _InLoop:
        sink: _InLoop = self.sink
        return sink


async def one_interval(
    settings: Settings, registry: Registry, stop: asyncio.Event, others: Iterable[Executor] = ()
) -> Snapshot | None:
    """Return the first whole interval, or None if `stop` is set too early. Raises KernelError."""
    sink = _OneInterval(stop)
    await daemon.run(_with_sink(settings, sink), registry, stop, others=others)
    return sink.snapshot


async def live(
    settings: Settings,
    registry: Registry,
    state: State,
    term: str,
    stop: asyncio.Event,
    others: Iterable[Executor] = (),
) -> None:
    """Show every interval on the terminal until `stop` is set. It is also set when the user quits.

    `term` is $TERM. Raises SettingsError if stdout is not a terminal, and KernelError if no probe can be loaded.
    """
    screen = Screen(stop.set, term=term, state=state)
    await daemon.run(_with_sink(settings, screen), registry, stop, others=others)


def check_sort(sort: str, settings: Settings, registry: Registry) -> str:
    """Return the key of the column that `sort` names by its key or its header, in any case. Empty for none.

    Raises SettingsError if the enabled probes have no such column.
    """
    enabled = [probe for name, probe in registry.probes.items() if settings.plugins[name].enabled]
    keys = sort_keys(column for probe in enabled for column in _process_columns(probe))
    if not sort:
        return ""
    word = sort.lower()
    found = [key for key in keys if key.lower() == word] + [key for key, header in keys.items() if header == word]
    if not found:
        raise SettingsError(f"top: --sort: '{sort}': expected one of {', '.join(keys)}")
    return found[0]


def _process_columns(probe: Probe) -> list[Column]:
    """Return the columns of a probe's per-process tables. Other tables are those that have charts with labels."""
    labelled = {chart.table for chart in probe.charts if chart.labels}
    return [column for column in probe.columns if column.table not in labelled]


def _with_sink(settings: Settings, sink: Any) -> Settings:
    """Return the settings with only this sink, and with all groupings, so that the key `b` can switch between them."""
    groups = msgspec.structs.replace(settings.groups, by=tuple(groupings()))
    return msgspec.structs.replace(settings, groups=groups, sinks=(_SinkSettings(sink=_InLoop(sink)),))
