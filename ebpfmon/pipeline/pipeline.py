"""The only file that knows all the stages. It runs one tick."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass

from ebpfmon.daemon.self_metrics import SelfMonitor
from ebpfmon.grouping import execs
from ebpfmon.grouping.lookup import Found, Lookup
from ebpfmon.model.everything import Chart, ChartValues, Harvest, Keys, Owners, Scope, Snapshot, TableHarvest
from ebpfmon.pipeline.accounting import Accounting
from ebpfmon.pipeline.applications import Applications
from ebpfmon.pipeline.attribute import Attribution, Pending
from ebpfmon.pipeline.harvest import Harvester, Source
from ebpfmon.pipeline.keyed import Keyed
from ebpfmon.pipeline.publish import Fanout

LOOKUP_S = 0.02
"""How long one tick may ask /proc and its like about processes that are new. What is not known then has to wait."""
_MAKE_ROOM = 0.5  # of the groups that are not shown, when there are too many


@dataclass(slots=True)
class Grouping:
    """What is grouped by: may be changed at any time."""

    by: str


class Owning:
    """Attribution, with the facts that it asks for: rows to owners, and groups that nobody asks for forgotten."""

    def __init__(
        self,
        attribution: Attribution,
        applications: Applications,
        lookup: Lookup,
        executor: Executor,
        grouping: Grouping | None = None,
    ) -> None:
        """`executor` is for `lookup`, which blocks."""
        self.attribution, self.applications, self._grouping = attribution, applications, grouping
        self._lookup, self._executor = lookup, executor
        self._asked: asyncio.Future[Found] | None = None
        self._looked_up = self._forgotten = 0

    def fields(self) -> dict[str, int]:
        """What attribution costs and loses, since the last call but for what waits."""
        looked_up, self._looked_up = self._looked_up, 0
        forgotten, self._forgotten = self.attribution.forgotten - self._forgotten, self.attribution.forgotten
        return {"looked_up": looked_up, "waiting": self.attribution.waiting, "forgotten": forgotten}

    async def own(self, harvest: Harvest) -> dict[str, Owners]:
        """Whose the rows of an interval are, by table."""
        if self._grouping:
            self.attribution.by = self._grouping.by
        if self.attribution.full:
            idle = self.applications.idlest(_MAKE_ROOM)
            self.attribution.forget(idle)
            self.applications.forget(idle)
        pending = self.attribution.look(harvest.tables)
        return self.attribution.own(pending, await self._ask(pending))

    async def _ask(self, pending: Pending) -> Found:
        """Answers, as far as they come in time: what hangs in /proc must not hold up a tick."""
        if self._asked is None:
            if not pending.wanted:
                return Found()
            known = self.attribution.naming.known
            self._asked = asyncio.get_running_loop().run_in_executor(
                self._executor, self._lookup.answer, pending.wanted, known, LOOKUP_S
            )
        done, _ = await asyncio.wait({self._asked}, timeout=2 * LOOKUP_S)
        if not done:
            return Found()
        asked, self._asked = self._asked, None
        found = asked.result()
        self._looked_up += len(found.processes) + len(found.users) + len(found.cgroups)
        return found


@dataclass(frozen=True, slots=True)
class Charted:
    """What is shown, by table: the charts, and what the keys mean of tables with keys of their own."""

    charts: Mapping[str, tuple[Chart, ...]]
    keys: Mapping[str, Keys]


class Pipeline:
    """Kernel -> harvest -> attribution -> accounting -> fan-out."""

    def __init__(self, host: str, harvester: Harvester, fanout: Fanout, executor: Executor) -> None:
        """`executor` is for the harvester, which blocks. Then comes `show`."""
        self._host, self._harvester, self._fanout, self._executor = host, harvester, fanout, executor
        self._charted = Charted({}, {})
        self._accounts: dict[str, Accounting] = {}
        self._keyed: dict[str, Keyed] = {}
        self._begun: list[tuple[str, TableHarvest]] | None = None
        self._owning: Owning | None = None

    def show(self, charted: Charted, owning: Owning | None, selfmon: SelfMonitor) -> None:
        """From the next tick on this is shown; what is as it was goes on counting. `owning` None: applications are
        turned off."""
        before, self._charted = self._charted, charted
        self._accounts = {
            stem: self._accounts[stem]
            if before.charts.get(stem) == of_table
            else Accounting(c for c in of_table if c.scope is Scope.SYSTEM)
            for stem, of_table in charted.charts.items()
        }
        self._keyed = {
            stem: self._keyed[stem]
            if before.keys.get(stem) is keys and before.charts.get(stem) == charted.charts[stem]
            else self._new_keyed(stem, before, charted)
            for stem, keys in charted.keys.items()
        }
        self._begun = None
        self._owning = owning
        self._selfmon, self._self_account = selfmon, Accounting(selfmon.charts())

    def _new_keyed(self, stem: str, before: Charted, charted: Charted) -> Keyed:
        """With the levels that there are already: of what a new probe saw begin before it took over, or of the one that
        goes on under other settings."""
        keyed = Keyed((c for c in charted.charts[stem] if c.scope is Scope.KEYS), charted.keys[stem])
        if self._begun is not None:
            for table in (table for of_stem, table in self._begun if of_stem == stem):
                keyed.levels.harvest(table)
        elif stem in self._keyed and before.charts.get(stem) == charted.charts[stem]:
            keyed.levels = self._keyed[stem].levels
        return keyed

    async def tick(self, late_ticks: int = 0) -> None:
        """Harvest the interval and publish it. The kernel's part, which waits, runs in the executor."""
        await self._publish(await self._in_executor(self._harvester.harvest), late_ticks)

    async def change(self, sources: Sequence[Source]) -> None:
        """From now on harvest other sources. What the former ones have counted is published. Then comes `show`."""
        last = await self._in_executor(lambda: self._harvester.change(sources))
        self._begun = list(last.begun)
        await self._publish(last, 0)

    async def _in_executor(self, harvest: Callable[[], Harvest]) -> Harvest:
        return await asyncio.get_running_loop().run_in_executor(self._executor, harvest)

    async def _publish(self, harvest: Harvest, late_ticks: int) -> None:
        owners = await self._owning.own(harvest) if self._owning else {}
        self._fanout.publish(self._account(harvest, owners, late_ticks))

    def _own_fields(self, harvest: Harvest, late_ticks: int) -> dict[str, int | float]:
        return self._selfmon.fields(harvest, late_ticks) | (self._owning.fields() if self._owning else {})

    def _account(self, harvest: Harvest, owners: Mapping[str, Owners], late_ticks: int) -> Snapshot:
        charts: list[ChartValues] = []
        for stem, account in self._accounts.items():
            if stem in harvest.tables:
                charts += account.account(harvest.tables[stem].totals, harvest.tables[stem].since_load)
        for stem, keyed in self._keyed.items():
            if stem in harvest.tables:
                charts += keyed.account(harvest.tables[stem], harvest.elapsed_s)
        if self._owning:
            charts += self._owning.applications.account(harvest.tables, owners, harvest.elapsed_s)
        charts += self._self_account.account(self._own_fields(harvest, late_ticks))
        return Snapshot(
            host=self._host,
            time_s=harvest.time_s,
            elapsed_s=harvest.elapsed_s,
            complete=harvest.complete,
            charts=tuple(charts),
            # command lines may hold secrets: they are for attribution alone
            tables={stem: table for stem, table in harvest.tables.items() if stem != execs.TABLE},
            owners=owners,
        )
