"""Run one interval through all the stages. Only this module knows all of them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field

from ebpfmon.errors import describe
from ebpfmon.grouping import execs
from ebpfmon.grouping.lookup import Lookup, LookupResult
from ebpfmon.grouping.naming import Naming
from ebpfmon.grouping.registry import Grouping
from ebpfmon.model import Chart, ChartData, Column, Harvest, LabelSource, Snapshot, TableHarvest, TableView
from ebpfmon.pipeline.account import Counters, GroupAccount, GroupSums, KeyAccount, SystemAccount, sums_by
from ebpfmon.pipeline.attribute import Attributed, Attribution, Pending
from ebpfmon.pipeline.harvest import Harvester, Source
from ebpfmon.pipeline.publish import Publisher
from ebpfmon.pipeline.schedule import TimeInterval
from ebpfmon.pipeline.self_metrics import SelfMetrics

log = logging.getLogger(__name__)

LOOKUP_S = 0.02
"""How long lookups in /proc and elsewhere may take in one tick. Facts not found by then have to wait."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TableSpecs:
    """What the probes declare about their tables, by the name of the table.

    `charts` are the declared charts, `counters` the names of the counters, `labels` the label sources of keyed
    tables, and `columns` the columns of the rows. `by_process` names the per-process tables.
    """

    charts: Mapping[str, tuple[Chart, ...]] = field(default_factory=dict)
    counters: Counters = field(default_factory=dict)
    labels: Mapping[str, LabelSource] = field(default_factory=dict)
    columns: Mapping[str, tuple[Column, ...]] = field(default_factory=dict)
    by_process: frozenset[str] = frozenset()


class GroupStage:
    """Attribution with its lookups, and the accounts of all groupings."""

    def __init__(
        self,
        groupings: Sequence[Grouping],
        namings: Mapping[str, Naming],
        specs: TableSpecs,
        maximum: int,
        lookup: Lookup,
        executor: Executor,
    ) -> None:
        """Create the stage. `namings` has the naming of each grouping. `executor` runs `lookup`, which blocks."""
        self.attribution = Attribution(namings)
        self._lookup, self._executor = lookup, executor
        counters = {name: specs.counters[name] for name in specs.counters if name in specs.by_process}
        self._accounts = {
            grouping.name: GroupAccount(
                [
                    chart.for_grouping(grouping.prefix, grouping.name)
                    for name in counters
                    for chart in specs.charts.get(name, ())
                    if chart.grouped
                ],
                counters,
                maximum,
            )
            for grouping in groupings
        }
        self._pending_lookup: asyncio.Future[LookupResult] | None = None
        self._has_failed = False
        self._looked_up = self._forgotten = 0

    def take_over(self, former: GroupStage) -> None:
        """Continue with the totals of groupings that have the same charts and the same maximum."""
        for name, account in self._accounts.items():
            if name in former._accounts and former._accounts[name].definition == account.definition:
                self._accounts[name] = former._accounts[name]

    def statistics(self) -> dict[str, int]:
        """Return how many facts were looked up and processes forgotten since the last call, and how many wait now."""
        looked_up, self._looked_up = self._looked_up, 0
        forgotten, self._forgotten = self.attribution.forgotten - self._forgotten, self.attribution.forgotten
        return {"looked_up": looked_up, "waiting": self.attribution.waiting, "forgotten": forgotten}

    async def attribute(self, harvest: Harvest) -> Attributed:
        """Return the groups of the rows of an interval."""
        pending = self.attribution.prepare(harvest.tables)
        return self.attribution.assign(pending, await self._look_up(pending))

    def account(
        self, tables: Mapping[str, TableHarvest], attributed: Attributed, interval: TimeInterval
    ) -> list[ChartData]:
        """Return the charts of all groupings. The rows are summed only once, by combination."""
        sums = {name: sums_by(combinations, tables[name]) for name, combinations in attributed.combinations.items()}
        charts: list[ChartData] = []
        for n, account in enumerate(self._accounts.values()):
            by_group = {
                name: GroupSums(attributed.groups[combinations, n], combination_sums)
                for name, (combinations, combination_sums) in sums.items()
            }
            charts += account.account(tables, by_group, attributed.names, interval)
        return charts

    async def _look_up(self, pending: Pending) -> LookupResult:
        """Return the facts that are found in time, by this lookup or by that of an earlier tick.

        Only one lookup runs at a time. One that hangs or fails must not delay the tick.
        """
        try:
            found = await self._finished_lookup()
            if self._pending_lookup is None and pending.request:
                self._pending_lookup = asyncio.get_running_loop().run_in_executor(
                    self._executor, self._lookup.look_up, pending.request, self.attribution.known, LOOKUP_S
                )
                found |= await self._finished_lookup()
        except Exception as error:  # the facts are requested again in the next interval
            if not self._has_failed:
                log.warning("cannot look up processes: %s; ebpfmon tries again", describe(error))
            self._has_failed = True
            return LookupResult()
        self._has_failed = False
        self._looked_up += len(found.processes) + len(found.users) + len(found.cgroups)
        return found

    async def _finished_lookup(self) -> LookupResult:
        """Return the result of the lookup if it ends in time."""
        if self._pending_lookup is None:
            return LookupResult()
        done, _ = await asyncio.wait({self._pending_lookup}, timeout=2 * LOOKUP_S)
        if not done:
            return LookupResult()
        lookup, self._pending_lookup = self._pending_lookup, None
        return lookup.result()


class Pipeline:
    """The stages of a tick: harvest, attribution, accounting, publish."""

    def __init__(
        self,
        host: str,
        harvester: Harvester,
        publisher: Publisher,
        executor: Executor,
        specs: TableSpecs,
        groups: GroupStage | None,
        self_metrics: SelfMetrics,
    ) -> None:
        """Create the pipeline. `executor` runs the harvester, which blocks. Without groups, `groups` is None."""
        self._host, self._harvester, self._publisher, self._executor = host, harvester, publisher, executor
        self._specs, self._groups, self._self_metrics = TableSpecs(), groups, self_metrics
        self._system: dict[str, SystemAccount] = {}
        self._by_key: dict[str, KeyAccount] = {}
        self._overlap: tuple[tuple[str, TableHarvest], ...] | None = None
        self.reconfigure(specs, groups, self_metrics)

    def reconfigure(self, specs: TableSpecs, groups: GroupStage | None, self_metrics: SelfMetrics) -> None:
        """Publish these tables and groups from the next tick on. Accounts with unchanged settings keep their totals."""
        before, self._specs = self._specs, specs
        unchanged = {
            name
            for name, charts in specs.charts.items()
            if (before.charts.get(name), before.counters.get(name)) == (charts, specs.counters[name])
        }
        self._system = {
            name: self._system[name]
            if name in unchanged
            else SystemAccount((c for c in charts if not c.labels and not c.grouped), name, specs.counters[name])
            for name, charts in specs.charts.items()
        }
        self._by_key = {
            name: self._key_account(name, labels, self._by_key.get(name) if name in unchanged else None)
            for name, labels in specs.labels.items()
        }
        if groups and self._groups and groups is not self._groups:
            groups.take_over(self._groups)
        if self_metrics is not self._self_metrics:
            self_metrics.take_over(self._self_metrics)
        self._overlap, self._groups, self._self_metrics = None, groups, self_metrics

    def _key_account(self, name: str, labels: LabelSource, former: KeyAccount | None) -> KeyAccount:
        """Return the former account with the new labels, or a new account that continues its gauges.

        If the sources were just switched, the gauges restart from what the new sources had counted before.
        """
        specs = self._specs
        if former and former.relabel(labels):
            account = former
        else:
            account = KeyAccount((c for c in specs.charts[name] if c.labels), name, specs.counters[name], labels)
            if former:
                account.take_over(former)
        if self._overlap is not None:
            account.reset_gauges(harvest for table, harvest in self._overlap if table == name)
        return account

    async def tick(self, late_ticks: int = 0) -> None:
        """Harvest an interval and publish it. The harvest itself blocks, so it runs in the executor."""
        await self._publish(await self._in_executor(self._harvester.harvest), late_ticks)

    async def switch_sources(self, sources: Sequence[Source]) -> None:
        """Publish the last interval of the former sources, and harvest other sources from now on.

        Call `reconfigure` next.
        """
        last = await self._in_executor(lambda: self._harvester.switch_sources(sources))
        await self._publish(last, 0)
        self._overlap = last.overlap

    async def _in_executor(self, harvest: Callable[[], Harvest]) -> Harvest:
        return await asyncio.get_running_loop().run_in_executor(self._executor, harvest)

    async def _publish(self, harvest: Harvest, late_ticks: int) -> None:
        attributed = await self._groups.attribute(harvest) if self._groups else None
        self._publisher.publish(self._account(harvest, attributed, late_ticks))

    def _account(self, harvest: Harvest, attributed: Attributed | None, late_ticks: int) -> Snapshot:
        tables, interval = harvest.tables, TimeInterval(harvest.time_s, harvest.elapsed_s)
        charts: list[ChartData] = []
        for name, system in self._system.items():
            if name in tables:
                charts += system.account(tables[name], interval)
        for name, by_key in self._by_key.items():
            if name in tables:
                charts += by_key.account(tables[name], interval)
        if self._groups and attributed:
            charts += self._groups.account(tables, attributed, interval)
        charts += self._self_metrics.charts(
            harvest, late_ticks, self._groups.statistics() if self._groups else {}, interval
        )
        return Snapshot(
            host=self._host,
            time_s=harvest.time_s,
            elapsed_s=harvest.elapsed_s,
            complete=harvest.complete,
            charts=tuple(charts),
            # The table `execs` is not published: command lines may contain secrets, and only attribution needs them.
            tables={name: self._view(name, table, attributed) for name, table in tables.items() if name != execs.TABLE},
        )

    def _view(self, name: str, table: TableHarvest, attributed: Attributed | None) -> TableView:
        has_groups = attributed is not None and name in attributed.combinations
        return TableView(
            harvest=table,
            columns=self._specs.columns.get(name, ()),
            labels=self._specs.labels.get(name),
            groups=attributed.row_groups(name) if attributed is not None and has_groups else {},
        )
