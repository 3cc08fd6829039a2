"""Build everything from the settings, run it, change it when told to, and stop it."""

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
from ebpfmon.daemon.probes import Probes, Wanted, table_specs, wanted_probes
from ebpfmon.daemon.workers import Workers, never_preempted
from ebpfmon.daemon.workers import run as run_in
from ebpfmon.errors import EbpfmonError, SettingsError
from ebpfmon.grouping import execs
from ebpfmon.grouping.groups import DEFAULT_PATH as DEFAULT_GROUPS
from ebpfmon.grouping.groups import Groups
from ebpfmon.grouping.lookup import Lookup
from ebpfmon.grouping.registry import Context, groupings
from ebpfmon.kernel import features
from ebpfmon.kernel.attach import LoadedProbe
from ebpfmon.pipeline.harvest import Harvester
from ebpfmon.pipeline.pipeline import GroupStage, Pipeline, TableSpecs
from ebpfmon.pipeline.publish import Publisher, SinkTask
from ebpfmon.pipeline.schedule import Clock, SystemClock, ticks
from ebpfmon.pipeline.self_metrics import SelfMetrics
from ebpfmon.plugins.registry import Registry

log = logging.getLogger(__name__)

PROBLEMS = 10
"""How many lines of a groups file are complained of one by one."""
STOP_S = 1.5
"""How long sinks may take to deliver what they have when the daemon stops."""
OPENING_S = 5
"""How long sinks may take to open before the capabilities that opening may need are dropped."""
RELOAD_S = 0.2
"""How long a tick waits for settings that are read again; if it takes longer, a later tick follows them."""
LATE_S = 20
"""When a tick is later than that, the watchdog is no longer told that the daemon is alive."""


@dataclass(frozen=True, slots=True)
class Reload:
    """Read the settings again when `requested` is set. `read` returns them, or raises SettingsError."""

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
    """Run the daemon until `stop` is set. Then the last, shorter interval is harvested and sent as well.

    `reload` changes its settings while it runs; the service manager is told through the `notifier`. Raises KernelError
    if nothing can be loaded, and SettingsError if the groups cannot be read.
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
    """Settings to change to, and the probes loaded for them; None if those that run will do."""

    settings: Settings
    groups: Groups
    wanted: list[Wanted]
    probes: Probes | None = None


class _Daemon:
    """What runs, and with which settings."""

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
        self._found = features.detect()
        self._probes = Probes(self._found)
        self._stack.callback(lambda: self._probes.close())
        self._workers = Workers(stack)
        self._publisher = Publisher([])
        self._sinks: dict[asyncio.Task[None], SinkTask] = {}
        self._groups: GroupStage | None = None
        self._groups_from: tuple[GroupSettings, Groups] | None = None
        self._reloading: asyncio.Task[_Change] | None = None
        self._ticked_s = time.monotonic()

    async def run(self, settings: Settings, reload: Reload | None) -> None:
        """Run until the daemon is to stop."""
        groups, wanted = self._read(settings)
        self._probes.load(wanted, forced=settings.ebpfmon.all_or_nothing)
        if settings.ebpfmon.user:
            self._workers.become(settings.ebpfmon.user, _capabilities_of_sinks(settings))
        if self._found.preemptible is not False:
            await run_in(self._workers.harvest, never_preempted)
        harvester = Harvester(self._probes.loaded, self._clock)
        await self._workers.drop_privileges(harvester.dry_run)
        pipeline = Pipeline(
            socket.gethostname(), harvester, self._publisher, self._workers.harvest, *self._use(settings, groups)
        )
        dropping = self._tasks.create_task(self._drop_privileges(settings), name="drop privileges")
        self._notifier.ready(self._status())
        interval_s = settings.ebpfmon.interval
        living = self._tasks.create_task(self._live(interval_s), name="watchdog") if self._notifier.watched else None
        while not self._stop.is_set():
            async for tick in ticks(settings.ebpfmon.interval, self._clock, self._stop):
                await pipeline.tick(tick.late_ticks)
                self._ticked_s = time.monotonic()
                changed = await self._follow(reload, settings, pipeline) if reload else None
                if changed:
                    settings = changed
                    break  # the interval may be another one
            if living and settings.ebpfmon.interval != interval_s:
                living.cancel()
                interval_s = settings.ebpfmon.interval
                living = self._tasks.create_task(self._live(interval_s), name="watchdog")
        if living:
            living.cancel()
        dropping.cancel()
        self._notifier.stopping()
        await pipeline.tick()

    async def _live(self, interval_s: int) -> None:
        """Tell the watchdog that the daemon is alive, as long as ticks come."""
        while True:
            if time.monotonic() - self._ticked_s < interval_s + LATE_S:
                self._notifier.alive()
            await asyncio.sleep(1)

    async def _drop_privileges(self, settings: Settings) -> None:
        """Drop the event loop's capabilities when the sinks are open, but those that they ask for."""
        with suppress(TimeoutError):
            async with asyncio.timeout(OPENING_S):
                for sink in list(self._publisher.sinks):
                    await sink.open_attempted.wait()
        self._workers.drop_event_loop_privileges(_capabilities_of_sinks(settings))

    async def close(self) -> None:
        """Let the sinks deliver what they have, for a while."""
        if self._reloading:  # the thread that loads cannot be stopped
            (change,) = await asyncio.gather(self._reloading, return_exceptions=True)
            if isinstance(change, _Change) and change.probes:
                change.probes.close()
        self._publisher.close()
        if self._sinks:
            await asyncio.wait(self._sinks, timeout=STOP_S)
        for task in self._sinks:
            task.cancel()

    def _read(self, settings: Settings) -> tuple[Groups, list[Wanted]]:
        """Read what else the settings stand for. Raises SettingsError."""
        return read_groups(settings.groups), list(wanted_probes(settings, self._registry))

    async def _follow(self, reload: Reload, settings: Settings, pipeline: Pipeline) -> Settings | None:
        """Follow changed settings if that is requested: at once, or when the probes that they need are loaded. Return
        them. If something is wrong with them, say so and leave everything as it was."""
        if not self._reloading:
            if not reload.requested.is_set():
                return None
            reload.requested.clear()
            self._notifier.reloading()
            beside = self._probes.loaded
            self._reloading = asyncio.create_task(
                run_in(self._workers.loading, lambda: self._prepare(reload.read(), settings, beside)), name="reload"
            )
            await asyncio.wait({self._reloading}, timeout=RELOAD_S)
        if not self._reloading.done():
            return None
        reloading, self._reloading = self._reloading, None
        try:
            change = reloading.result()
            if not change.probes:
                await run_in(self._workers.loading, lambda: self._probes.adopt(change.wanted))
        except EbpfmonError as error:
            self._reloaded(f"the settings are left as they were: {error}")
            return None
        if change.probes:
            former, self._probes = self._probes, change.probes
            await pipeline.switch_sources(change.probes.loaded)
            former.close()
            self._groups = None  # the programs that were started are seen anew
        pipeline.reconfigure(*self._use(change.settings, change.groups))
        self._reloaded(f"the settings were read again{', and probes loaded' if change.probes else ''}")
        return change.settings

    def _prepare(self, settings: Settings, before: Settings, beside: Sequence[LoadedProbe]) -> _Change:
        """Load what changed settings need, beside what runs. Blocking. Raises SettingsError, KernelError."""
        if settings.ebpfmon.user != before.ebpfmon.user:
            raise SettingsError("ebpfmon.user: another one takes a restart")
        groups, wanted = self._read(settings)
        if self._probes.fit(wanted):
            return _Change(settings, groups, wanted)
        forced = settings.ebpfmon.all_or_nothing
        return _Change(settings, groups, wanted, Probes(self._found).load(wanted, forced=forced, beside=beside))

    def _reloaded(self, what: str) -> None:
        log.info("%s", what)
        self._notifier.ready(self._status())

    def _status(self) -> str:
        return f"{len(self._probes.loaded)} probes, {len(self._sinks)} sinks"

    def _use(self, settings: Settings, groups: Groups) -> tuple[TableSpecs, GroupStage | None, SelfMetrics]:
        """Return what is published with these settings, and start and stop sinks."""
        published = table_specs(self._probes.loaded, settings.ebpfmon.load_mode)
        self._groups = self._group_stage(settings.groups, groups, published)
        self._feed(settings)
        return published, self._groups, SelfMetrics(published.counters, self._publisher.sinks)

    def _group_stage(self, settings: GroupSettings, groups: Groups, published: TableSpecs) -> GroupStage | None:
        """Return the stage for these groupings: the one that runs if nothing of it has changed."""
        if not settings.by:
            return None
        if self._groups and self._groups_from == (settings, groups):
            return self._groups
        self._groups_from = settings, groups
        has_execs = any(p.probe is execs.PROBE for p in self._probes.loaded)
        since_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME) if has_execs else math.inf
        context, there_are = Context(groups=groups, execs_since_ns=since_ns), groupings()
        chosen = [there_are[name] for name in settings.by]
        namings = {grouping.name: grouping.make(context) for grouping in chosen}
        return GroupStage(chosen, namings, published, settings.maximum, Lookup(), self._workers.lookup)

    def _feed(self, settings: Settings) -> None:
        """Let the sinks whose settings are as they were go on; end the others, and start new ones."""
        wanted = list(settings.sinks)
        for sink in list(self._publisher.sinks):
            if sink.settings in wanted:
                wanted.remove(sink.settings)
            else:
                sink.close()
                self._publisher.sinks.remove(sink)
        for one in wanted:
            sink = SinkTask(one)
            self._publisher.sinks.append(sink)
            task = self._tasks.create_task(sink.run(), name=f"sink {sink.name}")
            self._sinks[task] = sink
            task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        """Stop the daemon when the readers of all sinks have gone away: it has no task left."""
        sink = self._sinks.pop(task)
        if sink in self._publisher.sinks and not self._stop.is_set():
            self._publisher.sinks.remove(sink)
            if not self._publisher.sinks:
                log.info("all sinks have ended")
                self._stop.set()


def read_groups(settings: GroupSettings) -> Groups:
    """Return the groups of the groups file, none if no grouping needs it. Lines that cannot be used are named, and the
    rest is used. Raises SettingsError."""
    there_are = groupings()
    if not any(there_are[name].needs_groups for name in settings.by):
        return Groups()
    groups = Groups.read(Path(settings.file) if settings.file else DEFAULT_GROUPS)
    for problem in groups.problems[:PROBLEMS]:
        log.warning("%s", problem)
    if len(groups.problems) > PROBLEMS:
        log.warning("%d more lines of %s are not used", len(groups.problems) - PROBLEMS, settings.file)
    return groups


def _capabilities_of_sinks(settings: Settings) -> frozenset[str]:
    return frozenset[str]().union(*(sink.capabilities for sink in settings.sinks))
