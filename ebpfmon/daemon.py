"""Builds everything from the settings, runs it, stops it."""

from __future__ import annotations

import asyncio
import logging
import socket
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

from ebpfmon.config import Settings
from ebpfmon.errors import KernelError
from ebpfmon.flow.fanout import Fanout, SinkTask
from ebpfmon.flow.harvest import Harvester
from ebpfmon.flow.pipeline import Pipeline
from ebpfmon.flow.scheduler import Clock, SystemClock, ticks
from ebpfmon.kernel import attach, features
from ebpfmon.kernel.attach import LoadedProbe, LoadOptions
from ebpfmon.kernel.libbpf import Libbpf
from ebpfmon.model import Chart, LoadMode, ProbeSettings
from ebpfmon.registry import Registry
from ebpfmon.selfmon import SelfMonitor

log = logging.getLogger(__name__)

STOP_S = 1.5
"""How long sinks may take to deliver what they have when the daemon stops."""


def load_probes(settings: Settings, registry: Registry, stack: ExitStack) -> list[LoadedProbe]:
    """Load the enabled probes; `stack` closes them. One that cannot load is named, and the others go on.

    Raises KernelError where none can, or where a strategy is forced.
    """
    found = features.look()
    features.require_permission(found)
    libbpf, loaded = Libbpf(), []
    failed: dict[str, KernelError] = {}
    for name, of_probe in settings.plugins.items():
        if not of_probe.enabled:
            continue
        try:
            probe = stack.enter_context(
                attach.load(registry.probes[name], libbpf, found, load_options(settings, of_probe))
            )
        except KernelError as error:
            if settings.ebpfmon.strategy:
                raise
            failed[name] = error
        else:
            loaded.append(probe)
            log.info("probe '%s': %s", name, describe(probe))
    if failed and not loaded:
        raise next(iter(failed.values()))
    for name, why in failed.items():
        log.warning("probe '%s' is left out: %s", name, why)
    libbpf.trim()
    return loaded


def load_options(settings: Settings, of_probe: ProbeSettings) -> LoadOptions:
    """How the settings want a probe to be loaded."""
    core = settings.ebpfmon
    return LoadOptions(mode=core.load_mode, strategy=core.strategy, table_size=of_probe.table_size)


def describe(probe: LoadedProbe) -> str:
    """How a probe's events are seen, in a line."""
    ways: dict[str, int] = {}
    for choice in probe.choices:
        if choice.taken:
            ways[choice.taken.strategy] = ways.get(choice.taken.strategy, 0) + 1
    missing = [c.event for c in probe.choices if not c.taken]
    seen = ", ".join(f"{count} events by {way}" for way, count in ways.items())
    return seen + (f"; not seen: {', '.join(missing)}" if missing else "")


async def run(
    settings: Settings,
    registry: Registry,
    stop: asyncio.Event,
    clock: Clock | None = None,
) -> None:
    """The daemon, until `stop` is set. Then the last, shorter interval is harvested and sent as well.

    Raises KernelError if nothing can be loaded.
    """
    clock = clock or SystemClock()
    with ExitStack() as stack:
        probes = load_probes(settings, registry, stack)
        executor = stack.enter_context(ThreadPoolExecutor(1, "harvest"))
        sinks = [SinkTask(s) for s in settings.sinks]
        fanout = Fanout(sinks)
        tables = [t.stem for p in probes for t in p.tables]
        pipeline = Pipeline(
            socket.gethostname(),
            Harvester(probes, clock),
            {t.stem: charts_of(p, settings.ebpfmon.load_mode) for p in probes for t in p.tables},
            SelfMonitor(tables, sinks),
            fanout,
            executor,
        )
        async with asyncio.TaskGroup() as group:
            delivering = group.create_task(_deliver(sinks, stop), name="sinks")
            try:
                async for tick in ticks(settings.ebpfmon.interval, clock, stop):
                    await pipeline.tick(tick.late_ticks)
                await pipeline.tick()
            finally:
                fanout.close()
            await asyncio.wait([delivering], timeout=STOP_S)
            delivering.cancel()


async def _deliver(sinks: list[SinkTask], stop: asyncio.Event) -> None:
    """Feed all sinks until they are closed. When the readers of all have gone away, the daemon has no task left."""
    async with asyncio.TaskGroup() as group:
        for sink in sinks:
            group.create_task(sink.run(), name=f"sink {sink.name}")
    if sinks and not stop.is_set():
        log.info("all sinks have ended")
        stop.set()


def charts_of(probe: LoadedProbe, mode: LoadMode) -> tuple[Chart, ...]:
    """The charts of a probe that exist in a load mode."""
    return tuple(c for c in probe.probe.charts if mode is LoadMode.RETURN or not c.return_only)
