"""Build the daemon from the settings, run it, reload it when requested, and stop it."""

from __future__ import annotations

import asyncio
import logging
import math
import socket
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from ebpfmon.config import GroupSettings, Settings
from ebpfmon.daemon.notify import Notifier
from ebpfmon.daemon.probes import EnabledProbe, Probes, enabled_probes, table_specs
from ebpfmon.daemon.sinks import PreparedSink, Sinks, prepare
from ebpfmon.daemon.workers import Workers, set_realtime_priority, switch_user
from ebpfmon.daemon.workers import run as run_in
from ebpfmon.errors import PluginError, SettingsError, describe
from ebpfmon.grouping import execs
from ebpfmon.grouping.groups import Groups, default_groups
from ebpfmon.grouping.lookup import Lookup
from ebpfmon.grouping.registry import Context, groupings
from ebpfmon.kernel import capabilities, features, views
from ebpfmon.kernel.attach import LoadedProbe
from ebpfmon.pipeline.harvest import Harvester
from ebpfmon.pipeline.pipeline import GroupStage, Pipeline, TableSpecs
from ebpfmon.pipeline.publish import Publisher
from ebpfmon.pipeline.schedule import Clock, SystemClock, ticks
from ebpfmon.pipeline.self_metrics import SelfMetrics
from ebpfmon.plugins.registry import Registry

T = TypeVar("T")
log = logging.getLogger(__name__)

_MAX_LOGGED_PROBLEMS = 10
"""How many problems of a groups file are logged one by one."""
STOP_S = 1.5
"""How long sinks may take to send their queued snapshots when the daemon stops."""
RELOAD_S = 0.2
"""How long to wait for a reload. If it takes longer, ticks go on meanwhile."""
LATE_S = 20
"""How late a tick may be before the daemon stops telling the watchdog that it is alive."""


@dataclass(frozen=True, slots=True)
class Reload:
    """How to reload: when `requested` is set, `read` returns the new settings, or raises SettingsError."""

    requested: asyncio.Event
    read: Callable[[], Settings]


async def run(
    settings: Settings,
    registry: Registry,
    stop: asyncio.Event,
    clock: Clock | None = None,
    reload: Reload | None = None,
    notifier: Notifier | None = None,
    others: Iterable[Executor] = (),
) -> None:
    """Run the daemon until `stop` is set. The last interval, which is shorter, is harvested and sent as well.

    `reload` says how to change the settings while the daemon runs. `notifier` reports to the service manager. `others`
    are executors whose threads run already and need no capabilities. Raises KernelError if no probe can be loaded, and
    SettingsError if the groups file cannot be read.
    """
    daemon = _Daemon(registry, stop, clock or SystemClock(), notifier or Notifier(None, None), others)
    try:
        await daemon.run(settings, reload)
    finally:
        await daemon.close()


@dataclass(frozen=True, slots=True)
class _Change:
    """New settings, and the probes that were loaded for them, or None if the running probes can be kept."""

    settings: Settings
    groups: Groups
    enabled: list[EnabledProbe]
    sinks: list[PreparedSink]
    probes: Probes | None = None


class _Daemon:
    """The running daemon: its probes, sinks, threads and reloads."""

    def __init__(
        self,
        registry: Registry,
        stop: asyncio.Event,
        clock: Clock,
        notifier: Notifier,
        others: Iterable[Executor],
    ) -> None:
        self._registry, self._stop, self._clock, self._notifier = registry, stop, clock, notifier
        self._others = others
        self._features = features.detect()
        self._probes = Probes(self._features)
        self._workers: Workers | None = None
        self._lookup = Lookup(views=views.detect)
        self._publisher = Publisher([])
        self._sinks = Sinks(self._publisher, self._last_sink_ended)
        self._groups: GroupStage | None = None
        self._groups_configured: tuple[GroupSettings, Groups] | None = None
        self._reloading: asyncio.Task[_Change] | None = None
        self._is_reload_requested = self._is_reload_late = False
        self._wake = asyncio.Event()
        """Set when something is to be done before the next tick."""
        self._due_ns = 0
        """When the next tick is due, on the monotonic clock. It stays in the past while ticks fail."""
        self._failed_ticks = 0

    async def run(self, settings: Settings, reload: Reload | None) -> None:
        """Run until `stop` is set."""
        groups, enabled = self._read(settings)
        self._probes.load(enabled, all_or_nothing=settings.ebpfmon.all_or_nothing)
        if settings.ebpfmon.user:
            switch_user(settings.ebpfmon.user, _capabilities_of(prepare(settings.sinks)))
        workers = self._workers = Workers(self._others)
        if self._features.preemptible is not False:
            await run_in(workers.harvest, set_realtime_priority)
        harvester = Harvester(self._probes.loaded, self._clock)
        await workers.drop_privileges(harvester.dry_run)
        sinks = prepare(settings.sinks)  # again, because another user may need other capabilities
        pipeline = Pipeline(
            socket.gethostname(),
            harvester,
            self._publisher,
            workers.harvest,
            *self._configure(settings, groups, sinks),
        )
        capabilities.drop(_capabilities_of(sinks))
        self._notifier.ready(self._status())
        watchdog = asyncio.create_task(self._feed_watchdog(), name="watchdog") if self._notifier.has_watchdog else None
        waking = [asyncio.create_task(self._wake_at_stop(), name="wake at stop")]
        if reload:
            waking.append(asyncio.create_task(self._wake_at_reloads(reload.requested), name="wake at reloads"))
        self._expect_tick(settings)
        while not self._stop.is_set():
            self._wake.clear()
            async for tick in ticks(settings.ebpfmon.interval, self._clock, self._wake):
                if await self._tick(pipeline, tick.late_ticks):
                    self._due_ns = tick.next_due_ns
            if reload and not self._stop.is_set():
                if self._clock.monotonic_ns() > self._due_ns:  # a storm of reloads must not hold up ticks
                    await self._tick(pipeline, 1)
                    self._expect_tick(settings)
                if changed := await self._apply_reload(reload, settings, pipeline):
                    previous, settings = settings, changed
                    if settings.ebpfmon.interval != previous.ebpfmon.interval:
                        self._expect_tick(settings)
        for task in waking:
            task.cancel()
        if watchdog:
            watchdog.cancel()
        self._notifier.stopping()
        await self._tick(pipeline, 0)

    async def _tick(self, pipeline: Pipeline, late_ticks: int) -> bool:
        """Harvest and publish an interval, and return whether that worked. If not, log it once.

        The next tick may work, for example if memory was short. It counts the failed ticks as late.
        """
        failed, self._failed_ticks = self._failed_ticks, 0
        try:
            await pipeline.tick(late_ticks + failed)
        except BaseException as error:  # a plugin's labels may raise anything
            self._failed_ticks = failed + 1
            if not failed:
                log.error("cannot publish an interval, and will try again: %s", describe(error))
        else:
            if failed:
                log.warning("publishing intervals works again; %d failed", failed)
        self._sinks.supervise()
        return not self._failed_ticks

    def _expect_tick(self, settings: Settings) -> None:
        """Expect a tick after one interval at most."""
        self._due_ns = self._clock.monotonic_ns() + settings.ebpfmon.interval * 1_000_000_000

    async def _wake_at_stop(self) -> None:
        await self._stop.wait()
        self._wake.set()

    async def _wake_at_reloads(self, requested: asyncio.Event) -> None:
        """Interrupt the wait for the next tick, which may take an hour, whenever a reload is requested."""
        while True:
            await requested.wait()
            requested.clear()
            self._is_reload_requested = True
            self._wake.set()

    async def _feed_watchdog(self) -> None:
        """Tell the watchdog that the daemon is alive, as long as ticks are on time."""
        while True:
            if self._clock.monotonic_ns() < self._due_ns + LATE_S * 1_000_000_000:
                self._notifier.alive()
            await asyncio.sleep(1)

    async def close(self) -> None:
        """Give the sinks some time to send their queued snapshots, then leave them. Free the probes."""
        await self._sinks.close(STOP_S)
        if self._reloading:
            # The thread that loads probes cannot be interrupted. If it hangs, the kernel frees the programs when the
            # process ends.
            done, _ = await asyncio.wait({self._reloading}, timeout=STOP_S)
            change = self._reloading.result() if done and not self._reloading.exception() else None
            if change and change.probes:
                change.probes.close()
        self._probes.close()
        self._lookup.close()
        if self._workers:
            self._workers.close()

    def _read(self, settings: Settings) -> tuple[Groups, list[EnabledProbe]]:
        """Return the groups and the enabled probes of these settings. Raises SettingsError."""
        return read_groups(settings.groups), enabled_probes(settings, self._registry)

    async def _apply_reload(self, reload: Reload, settings: Settings, pipeline: Pipeline) -> Settings | None:
        """Begin a reload if one is requested, and apply it when its probes are loaded: now, or in a later call.

        Returns the new settings when they are applied, otherwise None. Any error is logged, and the old settings stay
        in use.
        """
        if not self._reloading:
            if not self._is_reload_requested:
                return None
            self._is_reload_requested = False
            self._notifier.reloading()
            running = self._probes.loaded
            self._reloading = asyncio.create_task(
                self._in_loading_thread(lambda: self._prepare(reload.read(), settings, running)), name="reload"
            )
            self._reloading.add_done_callback(lambda _: self._wake.set())
            await asyncio.wait({self._reloading}, timeout=RELOAD_S)
        if not self._reloading.done():
            if self._is_reload_requested and not self._is_reload_late:
                self._is_reload_late = True
                log.warning("the last reload has not ended yet; the settings are read again when it has")
            return None
        self._is_reload_late = False
        reloading, self._reloading = self._reloading, None
        try:
            change = reloading.result()
            await self._switch_to(change, pipeline)
        except Exception as error:
            log.error("cannot reload the settings, so the old ones stay in use: %s", describe(error))
            self._notifier.ready(self._status())
            return None
        log.info("reloaded the settings and the probes" if change.probes else "reloaded the settings")
        self._notifier.ready(self._status())
        return change.settings

    async def _switch_to(self, change: _Change, pipeline: Pipeline) -> None:
        """Use new settings from the next interval on."""
        if change.probes:
            await pipeline.switch_sources(change.probes.loaded)
            previous, self._probes = self._probes, change.probes
            self._groups = None  # the new programs see execve(2) only from now on
            await self._in_loading_thread(previous.close)
        else:
            await self._in_loading_thread(lambda: self._probes.apply_settings(change.enabled))
        pipeline.reconfigure(*self._configure(change.settings, change.groups, change.sinks))

    async def _in_loading_thread(self, work: Callable[[], T]) -> T:
        """Return the result of work that may run a plugin's code. Whatever it raises becomes an Exception."""
        assert self._workers

        def guarded() -> T:
            try:
                return work()
            except Exception:
                raise
            except BaseException as error:
                raise PluginError(describe(error)) from error

        return await run_in(self._workers.loading, guarded)

    def _prepare(self, settings: Settings, previous: Settings, running: Sequence[LoadedProbe]) -> _Change:
        """Load the probes that new settings need, while the old ones still run.

        Blocking. Raises SettingsError, KernelError, and whatever a plugin raises.
        """
        if settings.ebpfmon.user != previous.ebpfmon.user:
            raise SettingsError("ebpfmon.user changed: restart ebpfmon to apply it")
        groups, enabled = self._read(settings)
        sinks = prepare(settings.sinks)
        if self._probes.can_keep(enabled):
            return _Change(settings, groups, enabled, sinks)
        probes = Probes(self._features)
        probes.load(enabled, all_or_nothing=settings.ebpfmon.all_or_nothing, running=running)
        return _Change(settings, groups, enabled, sinks, probes)

    def _status(self) -> str:
        return f"{len(self._probes.loaded)} probes, {len(self._sinks)} sinks"

    def _configure(
        self, settings: Settings, groups: Groups, sinks: Iterable[PreparedSink]
    ) -> tuple[TableSpecs, GroupStage | None, SelfMetrics]:
        """Start and stop sinks, and return what the pipeline needs for these settings."""
        specs = table_specs(self._probes.loaded, settings.ebpfmon.load_mode)
        self._groups = self._group_stage(settings.groups, groups, specs)
        self._sinks.update(sinks)
        return specs, self._groups, SelfMetrics(specs.counters, self._publisher.sinks)

    def _group_stage(self, settings: GroupSettings, groups: Groups, specs: TableSpecs) -> GroupStage | None:
        """Return the stage for these groupings: the running one if nothing about it has changed."""
        if not settings.by:
            return None
        if self._groups and self._groups_configured == (settings, groups):
            return self._groups
        self._groups_configured = settings, groups
        has_execs = any(p.probe is execs.PROBE for p in self._probes.loaded)
        since_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME) if has_execs else math.inf
        context, known = Context(groups=groups, execs_since_ns=since_ns), groupings()
        chosen = [known[name] for name in settings.by]
        namings = {grouping.name: grouping.make(context) for grouping in chosen}
        assert self._workers
        return GroupStage(chosen, namings, specs, settings.maximum, self._lookup, self._workers.lookup)

    def _last_sink_ended(self) -> None:
        log.warning("stopping: all sinks have ended")
        self._stop.set()


def read_groups(settings: GroupSettings) -> Groups:
    """Return the groups of the groups file, or none if no grouping needs them.

    Lines that cannot be used are logged and skipped. Raises SettingsError.
    """
    known = groupings()
    if not any(known[name].uses_groups_file for name in settings.by):
        return Groups()
    groups = Groups.read(Path(settings.file)) if settings.file else default_groups()
    for problem in groups.problems[:_MAX_LOGGED_PROBLEMS]:
        log.warning("%s", problem)
    if len(groups.problems) > _MAX_LOGGED_PROBLEMS:
        log.warning("%d more lines of '%s' are skipped", len(groups.problems) - _MAX_LOGGED_PROBLEMS, settings.file)
    return groups


def _capabilities_of(sinks: Iterable[PreparedSink]) -> frozenset[str]:
    return frozenset[str]().union(*(sink.capabilities for sink in sinks))
