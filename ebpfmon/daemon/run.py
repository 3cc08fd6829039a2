"""Build the daemon from the settings, run it, reload it when requested, and stop it."""

from __future__ import annotations

import asyncio
import logging
import math
import socket
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

from ebpfmon.config import GroupSettings, Settings
from ebpfmon.daemon.notify import Notifier
from ebpfmon.daemon.probes import EnabledProbe, Probes, enabled_probes, table_specs
from ebpfmon.daemon.workers import Workers, set_realtime_priority
from ebpfmon.daemon.workers import run as run_in
from ebpfmon.errors import EbpfmonError, SettingsError
from ebpfmon.grouping import execs
from ebpfmon.grouping.groups import Groups, default_groups
from ebpfmon.grouping.lookup import Lookup
from ebpfmon.grouping.registry import Context, groupings
from ebpfmon.kernel import features, views
from ebpfmon.kernel.attach import LoadedProbe
from ebpfmon.pipeline.harvest import Harvester
from ebpfmon.pipeline.pipeline import GroupStage, Pipeline, TableSpecs
from ebpfmon.pipeline.publish import Publisher, SinkTask
from ebpfmon.pipeline.schedule import Clock, SystemClock, ticks
from ebpfmon.pipeline.self_metrics import SelfMetrics
from ebpfmon.plugins.registry import Registry

log = logging.getLogger(__name__)

_MAX_LOGGED_PROBLEMS = 10
"""How many problems of a groups file are logged one by one."""
STOP_S = 1.5
"""How long sinks may take to send their queued snapshots when the daemon stops."""
OPENING_S = 5
"""How long to wait for sinks to open before dropping the capabilities that opening them may need."""
RELOAD_S = 0.2
"""How long a tick waits for a reload. If the reload takes longer, a later tick applies it."""
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
) -> None:
    """Run the daemon until `stop` is set. The last interval, which is shorter, is harvested and sent as well.

    `reload` says how to change the settings while the daemon runs. `notifier` reports to the service manager. Raises
    KernelError if no probe can be loaded, and SettingsError if the groups file cannot be read.
    """
    with ExitStack() as stack:
        async with asyncio.TaskGroup() as tasks:
            daemon = _Daemon(registry, stop, clock or SystemClock(), notifier or Notifier(None, None), stack, tasks)
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
    probes: Probes | None = None


class _Daemon:
    """The running daemon: its probes, sinks, threads and reloads."""

    def __init__(
        self,
        registry: Registry,
        stop: asyncio.Event,
        clock: Clock,
        notifier: Notifier,
        stack: ExitStack,
        tasks: asyncio.TaskGroup,
    ) -> None:
        self._registry, self._stop, self._clock = registry, stop, clock
        self._notifier, self._stack, self._tasks = notifier, stack, tasks
        self._features = features.detect()
        self._probes = Probes(self._features)
        self._stack.callback(lambda: self._probes.close())
        self._workers = Workers(stack)
        self._lookup = Lookup(views=views.detect())
        self._stack.callback(self._lookup.close)
        self._publisher = Publisher([])
        self._sinks: dict[asyncio.Task[None], SinkTask] = {}
        self._groups: GroupStage | None = None
        self._groups_configured: tuple[GroupSettings, Groups] | None = None
        self._reloading: asyncio.Task[_Change] | None = None
        self._ticked_s = time.monotonic()

    async def run(self, settings: Settings, reload: Reload | None) -> None:
        """Run until `stop` is set."""
        groups, enabled = self._read(settings)
        self._probes.load(enabled, all_or_nothing=settings.ebpfmon.all_or_nothing)
        if settings.ebpfmon.user:
            self._workers.switch_user(settings.ebpfmon.user, _capabilities_of_sinks(settings))
        if self._features.preemptible is not False:
            await run_in(self._workers.harvest, set_realtime_priority)
        harvester = Harvester(self._probes.loaded, self._clock)
        await self._workers.drop_privileges(harvester.dry_run)
        pipeline = Pipeline(
            socket.gethostname(), harvester, self._publisher, self._workers.harvest, *self._configure(settings, groups)
        )
        dropping = self._tasks.create_task(self._drop_privileges(settings), name="drop privileges")
        self._notifier.ready(self._status())
        interval_s = settings.ebpfmon.interval
        watchdog: asyncio.Task[None] | None = None
        if self._notifier.has_watchdog:
            watchdog = self._tasks.create_task(self._feed_watchdog(interval_s), name="watchdog")
        while not self._stop.is_set():
            async for tick in ticks(settings.ebpfmon.interval, self._clock, self._stop):
                await pipeline.tick(tick.late_ticks)
                self._ticked_s = time.monotonic()
                changed = await self._apply_reload(reload, settings, pipeline) if reload else None
                if changed:
                    settings = changed
                    break  # the interval may have changed
            if watchdog and settings.ebpfmon.interval != interval_s:
                watchdog.cancel()
                interval_s = settings.ebpfmon.interval
                watchdog = self._tasks.create_task(self._feed_watchdog(interval_s), name="watchdog")
        if watchdog:
            watchdog.cancel()
        dropping.cancel()
        self._notifier.stopping()
        await pipeline.tick()

    async def _feed_watchdog(self, interval_s: int) -> None:
        """Tell the watchdog that the daemon is alive, as long as ticks are on time."""
        while True:
            if time.monotonic() - self._ticked_s < interval_s + LATE_S:
                self._notifier.alive()
            await asyncio.sleep(1)

    async def _drop_privileges(self, settings: Settings) -> None:
        """Wait for the sinks to open, then drop all capabilities of the event loop except those that sinks ask for."""
        with suppress(TimeoutError):
            async with asyncio.timeout(OPENING_S):
                for sink in list(self._publisher.sinks):
                    await sink.open_attempted.wait()
        self._workers.drop_event_loop_privileges(_capabilities_of_sinks(settings))

    async def close(self) -> None:
        """Give the sinks some time to send their queued snapshots, then end them."""
        if self._reloading:  # the thread that loads probes cannot be interrupted
            (change,) = await asyncio.gather(self._reloading, return_exceptions=True)
            if isinstance(change, _Change) and change.probes:
                change.probes.close()
        self._publisher.close()
        if self._sinks:
            await asyncio.wait(self._sinks, timeout=STOP_S)
        for task in self._sinks:
            task.cancel()

    def _read(self, settings: Settings) -> tuple[Groups, list[EnabledProbe]]:
        """Return the groups and the enabled probes of these settings. Raises SettingsError."""
        return read_groups(settings.groups), list(enabled_probes(settings, self._registry))

    async def _apply_reload(self, reload: Reload, settings: Settings, pipeline: Pipeline) -> Settings | None:
        """Begin a reload if one is requested, and apply it when its probes are loaded, in this tick or a later one.

        Returns the new settings when they are applied, otherwise None. If they are wrong, the error is logged and
        nothing changes.
        """
        if not self._reloading:
            if not reload.requested.is_set():
                return None
            reload.requested.clear()
            self._notifier.reloading()
            running = self._probes.loaded
            self._reloading = asyncio.create_task(
                run_in(self._workers.loading, lambda: self._prepare(reload.read(), settings, running)), name="reload"
            )
            await asyncio.wait({self._reloading}, timeout=RELOAD_S)
        if not self._reloading.done():
            return None
        reloading, self._reloading = self._reloading, None
        try:
            change = reloading.result()
            if not change.probes:
                await run_in(self._workers.loading, lambda: self._probes.apply_settings(change.enabled))
        except EbpfmonError as error:
            self._end_reload(f"cannot reload the settings, so nothing changes: {error}")
            return None
        if change.probes:
            previous, self._probes = self._probes, change.probes
            await pipeline.switch_sources(change.probes.loaded)
            previous.close()
            self._groups = None  # the new programs see execve(2) only from now on
        pipeline.reconfigure(*self._configure(change.settings, change.groups))
        self._end_reload("reloaded the settings and the probes" if change.probes else "reloaded the settings")
        return change.settings

    def _prepare(self, settings: Settings, previous: Settings, running: Sequence[LoadedProbe]) -> _Change:
        """Load the probes that new settings need, while the old ones still run.

        Blocking. Raises SettingsError, KernelError.
        """
        if settings.ebpfmon.user != previous.ebpfmon.user:
            raise SettingsError("ebpfmon.user changed: restart ebpfmon to apply it")
        groups, enabled = self._read(settings)
        if self._probes.can_keep(enabled):
            return _Change(settings, groups, enabled)
        probes = Probes(self._features)
        probes.load(enabled, all_or_nothing=settings.ebpfmon.all_or_nothing, running=running)
        return _Change(settings, groups, enabled, probes)

    def _end_reload(self, message: str) -> None:
        log.info("%s", message)
        self._notifier.ready(self._status())

    def _status(self) -> str:
        return f"{len(self._probes.loaded)} probes, {len(self._sinks)} sinks"

    def _configure(self, settings: Settings, groups: Groups) -> tuple[TableSpecs, GroupStage | None, SelfMetrics]:
        """Start and stop sinks, and return what the pipeline needs for these settings."""
        specs = table_specs(self._probes.loaded, settings.ebpfmon.load_mode)
        self._groups = self._group_stage(settings.groups, groups, specs)
        self._update_sinks(settings)
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
        return GroupStage(chosen, namings, specs, settings.maximum, self._lookup, self._workers.lookup)

    def _update_sinks(self, settings: Settings) -> None:
        """Keep the sinks whose settings have not changed, end the others, and start new ones."""
        new = list(settings.sinks)
        for sink in list(self._publisher.sinks):
            if sink.settings in new:
                new.remove(sink.settings)
            else:
                sink.close()
                self._publisher.sinks.remove(sink)
        for sink_settings in new:
            sink = SinkTask(sink_settings)
            self._publisher.sinks.append(sink)
            task = self._tasks.create_task(sink.run(), name=f"sink {sink.name}")
            self._sinks[task] = sink
            task.add_done_callback(self._sink_ended)

    def _sink_ended(self, task: asyncio.Task[None]) -> None:
        """Forget a sink that has ended. Stop the daemon if it was the last one."""
        sink = self._sinks.pop(task)
        if sink in self._publisher.sinks and not self._stop.is_set():
            self._publisher.sinks.remove(sink)
            if not self._publisher.sinks:
                log.info("stopping: all sinks have ended")
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


def _capabilities_of_sinks(settings: Settings) -> frozenset[str]:
    return frozenset[str]().union(*(sink.capabilities for sink in settings.sinks))
