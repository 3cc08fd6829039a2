"""Builds everything from the settings, runs it, changes it when told to, stops it."""

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

from ebpfmon.config.settings import BY, Apps, Settings
from ebpfmon.daemon.notify import Notifier
from ebpfmon.daemon.probes import Probes, Wanted, charts_of, wanted_probes
from ebpfmon.daemon.self_metrics import SelfMonitor
from ebpfmon.daemon.workers import Workers, never_preempted
from ebpfmon.daemon.workers import run as run_in
from ebpfmon.errors import EbpfmonError, SettingsError
from ebpfmon.grouping import execs
from ebpfmon.grouping.groups import DEFAULT_PATH as GROUPS
from ebpfmon.grouping.groups import Groups
from ebpfmon.grouping.lookup import Lookup
from ebpfmon.grouping.naming import ByApp, ByCgroup, ByProcess, ByUser, Naming
from ebpfmon.kernel import features
from ebpfmon.kernel.attach import LoadedProbe
from ebpfmon.model.everything import Chart
from ebpfmon.pipeline.applications import Applications
from ebpfmon.pipeline.attribute import Attribution
from ebpfmon.pipeline.harvest import Harvester
from ebpfmon.pipeline.pipeline import Charted, Grouping, Owning, Pipeline
from ebpfmon.pipeline.publish import Fanout, SinkTask
from ebpfmon.pipeline.schedule import Clock, SystemClock, ticks
from ebpfmon.plugins.registry import Registry

log = logging.getLogger(__name__)

PROBLEMS = 10
"""Lines of a groups file that are complained of one by one."""
STOP_S = 1.5
"""How long sinks may take to deliver what they have when the daemon stops."""
CONFINE_S = 5
"""How long sinks may take to open before the capabilities that this may take are given up."""
QUICKLY_S = 0.2
"""So long a tick waits for settings that are read again; what takes longer comes with a later one."""
LATE_S = 20
"""When a tick is later than that, the watchdog hears nothing any more."""


@dataclass(frozen=True, slots=True)
class Again:
    """The settings are to be read again when `asked` is set; `read` raises SettingsError."""

    asked: asyncio.Event
    read: Callable[[], Settings]


async def run(
    settings: Settings,
    registry: Registry,
    stop: asyncio.Event,
    clock: Clock | None = None,
    grouping: Grouping | None = None,
    again: Again | None = None,
    notifier: Notifier | None = None,
) -> None:
    """The daemon, until `stop` is set. Then the last, shorter interval is harvested and sent as well.

    With a `grouping` it groups by whatever that says at the time; `again` changes its settings while it runs; the
    service manager is told through the `notifier`. Raises KernelError if nothing can be loaded, and SettingsError if
    the groups cannot be read.
    """
    with ExitStack() as stack:
        async with asyncio.TaskGroup() as tasks:
            daemon = _Daemon(registry, stop, clock or SystemClock(), grouping, notifier or Notifier(None, None), stack)
            try:
                await daemon.run(settings, tasks, again)
            finally:
                await daemon.close()


@dataclass(frozen=True, slots=True)
class _Change:
    """Settings to change to, and what was loaded for them; None where what runs will do."""

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
        grouping: Grouping | None,
        notifier: Notifier,
        stack: ExitStack,
    ) -> None:
        self._registry, self._stop, self._clock = registry, stop, clock
        self._grouping, self._notifier, self._stack = grouping, notifier, stack
        self._found = features.look()
        self._probes = Probes(self._found)
        self._stack.callback(lambda: self._probes.close())
        self._workers = Workers(stack)
        self._fanout = Fanout([])
        self._sinks: dict[asyncio.Task[None], SinkTask] = {}
        self._owning: Owning | None = None
        self._owning_by: tuple[Apps, Groups] | None = None
        self._changing: asyncio.Task[_Change] | None = None
        self._ticked_s = time.monotonic()

    async def run(self, settings: Settings, tasks: asyncio.TaskGroup, again: Again | None) -> None:
        """Until the daemon is to stop."""
        groups, wanted = self._read(settings)
        self._probes.load(wanted, forced=settings.ebpfmon.all_or_nothing)
        if settings.ebpfmon.user:
            self._workers.become(settings.ebpfmon.user, _of_sinks(settings))
        if self._found.preemptible is not False:
            await run_in(self._workers.harvest, never_preempted)
        harvester = Harvester(self._probes.loaded, self._clock)
        await self._workers.confine(harvester.rehearse)
        pipeline = Pipeline(socket.gethostname(), harvester, self._fanout, self._workers.harvest)
        self._settings = self._use(settings, groups, pipeline, tasks)
        confining = tasks.create_task(self._confine(), name="confine")
        self._notifier.ready(self._status())
        living = tasks.create_task(self._live(), name="watchdog") if self._notifier.watched else None
        while not self._stop.is_set():
            async for tick in ticks(self._settings.ebpfmon.interval, self._clock, self._stop):
                await pipeline.tick(tick.late_ticks)
                self._ticked_s = time.monotonic()
                if again and await self._change(again, pipeline, tasks):
                    break  # the interval may be another one
        if living:
            living.cancel()
        confining.cancel()
        self._notifier.stopping()
        await pipeline.tick()

    async def _live(self) -> None:
        """Tell the watchdog, as long as ticks come."""
        while True:
            if time.monotonic() - self._ticked_s < self._settings.ebpfmon.interval + LATE_S:
                self._notifier.alive()
            await asyncio.sleep(1)

    async def _confine(self) -> None:
        """When the sinks are open, the event loop's thread needs no more than they ask for."""
        with suppress(TimeoutError):
            async with asyncio.timeout(CONFINE_S):
                for sink in list(self._fanout.sinks):
                    await sink.tried.wait()
        self._workers.confine_event_loop(_of_sinks(self._settings))

    async def close(self) -> None:
        """Let the sinks deliver what they have, for a while."""
        if self._changing:  # the thread that loads cannot be stopped
            (change,) = await asyncio.gather(self._changing, return_exceptions=True)
            if isinstance(change, _Change) and change.probes:
                change.probes.close()
        self._fanout.close()
        if self._sinks:
            await asyncio.wait(self._sinks, timeout=STOP_S)
        for task in self._sinks:
            task.cancel()

    def _read(self, settings: Settings) -> tuple[Groups, list[Wanted]]:
        """What else the settings stand for. Raises SettingsError."""
        groupings = self._groupings(settings)
        groups = read_groups(settings.apps) if settings.apps.enabled and "app" in groupings else Groups()
        return groups, list(wanted_probes(settings, self._registry, groupings))

    def _groupings(self, settings: Settings) -> tuple[str, ...]:
        return BY if self._grouping else (settings.apps.by,)

    async def _change(self, again: Again, pipeline: Pipeline, tasks: asyncio.TaskGroup) -> bool:
        """Follow changed settings, if they are asked for: at once, or when what needs to be loaded is. What is wrong
        with them is said, and everything stays as it was."""
        if not self._changing:
            if not again.asked.is_set():
                return False
            again.asked.clear()
            self._notifier.reloading()
            beside = self._probes.loaded
            self._changing = asyncio.create_task(
                run_in(self._workers.loading, lambda: self._prepare(again.read(), beside)), name="change"
            )
            await asyncio.wait({self._changing}, timeout=QUICKLY_S)
        if not self._changing.done():
            return False
        changing, self._changing = self._changing, None
        try:
            change = changing.result()
            if not change.probes:
                await run_in(self._workers.loading, lambda: self._probes.adopt(change.wanted))
        except EbpfmonError as error:
            self._done(f"the settings are left as they were: {error}")
            return False
        if change.probes:
            former, self._probes = self._probes, change.probes
            await pipeline.change(change.probes.loaded)
            former.close()
            self._owning = None  # what is known of execs begins anew
        self._settings = self._use(change.settings, change.groups, pipeline, tasks)
        self._done(f"the settings were read again{', and probes loaded' if change.probes else ''}")
        return True

    def _prepare(self, settings: Settings, beside: Sequence[LoadedProbe]) -> _Change:
        """What other settings take, loaded beside what runs. Blocking. Raises SettingsError, KernelError."""
        if settings.ebpfmon.user != self._settings.ebpfmon.user:
            raise SettingsError("ebpfmon.user: another one takes a restart")
        groups, wanted = self._read(settings)
        if self._probes.fit(wanted):
            return _Change(settings, groups, wanted)
        forced = settings.ebpfmon.all_or_nothing
        return _Change(settings, groups, wanted, Probes(self._found).load(wanted, forced=forced, beside=beside))

    def _done(self, what: str) -> None:
        log.info("%s", what)
        self._notifier.ready(self._status())

    def _status(self) -> str:
        return f"{len(self._probes.loaded)} probes, {len(self._sinks)} sinks"

    def _use(self, settings: Settings, groups: Groups, pipeline: Pipeline, tasks: asyncio.TaskGroup) -> Settings:
        """From the next tick on these settings hold."""
        probes = self._probes.loaded
        charts = charts_of(probes, settings.ebpfmon.load_mode)
        keys = {stem: of_table for probe in probes for stem, of_table in probe.setup.keys.items()}
        self._owning = self._owner(settings, groups, charts)
        self._feed(settings, tasks)
        pipeline.show(Charted(charts, keys), self._owning, SelfMonitor(charts, self._fanout.sinks))
        return settings

    def _owner(self, settings: Settings, groups: Groups, charts: dict[str, tuple[Chart, ...]]) -> Owning | None:
        if not settings.apps.enabled:
            return None
        facts = settings.apps, groups
        if self._owning and facts == self._owning_by:
            return self._owning
        self._owning_by = facts
        seen = any(p.probe is execs.PROBE for p in self._probes.loaded)
        namings = {by: naming(by, groups, seen) for by in self._groupings(settings)}
        applications = Applications(charts, settings.apps.maximum)
        return Owning(
            Attribution(namings, settings.apps.by), applications, Lookup(), self._workers.lookup, self._grouping
        )

    def _feed(self, settings: Settings, tasks: asyncio.TaskGroup) -> None:
        """Sinks whose settings are as they were go on; the others end, and new ones begin."""
        wanted = list(settings.sinks)
        for sink in list(self._fanout.sinks):
            if sink.settings in wanted:
                wanted.remove(sink.settings)
            else:
                sink.close()
                self._fanout.sinks.remove(sink)
        for one in wanted:
            sink = SinkTask(one)
            self._fanout.sinks.append(sink)
            task = tasks.create_task(sink.run(), name=f"sink {sink.name}")
            self._sinks[task] = sink
            task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        """When the readers of all sinks have gone away, the daemon has no task left."""
        sink = self._sinks.pop(task)
        if sink in self._fanout.sinks and not self._stop.is_set():
            self._fanout.sinks.remove(sink)
            if not self._fanout.sinks:
                log.info("all sinks have ended")
                self._stop.set()


def read_groups(apps: Apps) -> Groups:
    """The groups of applications; lines that cannot be used are named, and the rest is used. Raises SettingsError."""
    groups = Groups.read(Path(apps.groups) if apps.groups else GROUPS)
    for problem in groups.problems[:PROBLEMS]:
        log.warning("%s", problem)
    if len(groups.problems) > PROBLEMS:
        log.warning("%d more lines of %s are not used", len(groups.problems) - PROBLEMS, apps.groups)
    return groups


def naming(by: str, groups: Groups, execs_are_seen: bool) -> Naming:
    """How processes are grouped from now on."""
    match by:
        case "process":
            return ByProcess()
        case "user":
            return ByUser()
        case "cgroup":
            return ByCgroup()
        case _:
            return ByApp(groups, time.clock_gettime_ns(time.CLOCK_BOOTTIME) if execs_are_seen else math.inf)


def _of_sinks(settings: Settings) -> frozenset[str]:
    """The capabilities that its sinks ask for."""
    return frozenset[str]().union(*(sink.capabilities for sink in settings.sinks))
