"""The only file that knows all the stages. It runs one tick."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from concurrent.futures import Executor

from ebpfmon.flow.accounting import Accounting
from ebpfmon.flow.fanout import Fanout
from ebpfmon.flow.harvest import Harvester
from ebpfmon.model import Chart, ChartValues, Harvest, Snapshot
from ebpfmon.selfmon import SelfMonitor


class Pipeline:
    """Kernel -> harvest -> accounting -> fan-out."""

    def __init__(
        self,
        host: str,
        harvester: Harvester,
        charts: Mapping[str, tuple[Chart, ...]],
        selfmon: SelfMonitor,
        fanout: Fanout,
        executor: Executor,
    ) -> None:
        self._host, self._harvester, self._fanout, self._executor = host, harvester, fanout, executor
        self._accounts = {stem: Accounting(of_table) for stem, of_table in charts.items()}
        self._selfmon, self._self_account = selfmon, Accounting(selfmon.charts())

    async def tick(self, late_ticks: int = 0) -> None:
        """Harvest the interval and publish it. The kernel's part, which waits, runs in the executor."""
        loop = asyncio.get_running_loop()
        harvest = await loop.run_in_executor(self._executor, self._harvester.harvest)
        self._fanout.publish(self._account(harvest, late_ticks))

    def _account(self, harvest: Harvest, late_ticks: int) -> Snapshot:
        charts: list[ChartValues] = []
        for stem, account in self._accounts.items():
            if stem in harvest.tables:
                charts += account.account(harvest.tables[stem].totals)
        charts += self._self_account.account(self._selfmon.fields(harvest, late_ticks))
        return Snapshot(
            host=self._host,
            time_s=harvest.time_s,
            elapsed_s=harvest.elapsed_s,
            complete=harvest.complete,
            charts=tuple(charts),
            tables=harvest.tables,
        )
