"""Run the stages of a tick between the kernel and the sinks, and time each of them."""

from __future__ import annotations

import math
import time
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from ebpfmon import ChartData, LoadMode, Snapshot, TableHarvest, TableView
from ebpfmon.daemon.probes import table_specs
from ebpfmon.grouping.groups import Groups
from ebpfmon.grouping.lookup import Lookup, LookupResult
from ebpfmon.grouping.registry import Context, groupings
from ebpfmon.kernel.attach import LoadedProbe
from ebpfmon.kernel.tables import Table
from ebpfmon.pipeline.account import SystemAccount
from ebpfmon.pipeline.attribute import Attributed
from ebpfmon.pipeline.pipeline import GroupStage
from ebpfmon.pipeline.schedule import TimeInterval

_INTERVAL = TimeInterval(1e9, 1.0)


class StageTimes(NamedTuple):
    """The CPU time of each stage in this thread, in milliseconds."""

    drain: float
    attribution: float
    accounting: float

    @property
    def total(self) -> float:
        """The sum of all stages."""
        return sum(self)


class Stages:
    """Drain, attribution and accounting of a probe's per-process table, with the grouping `process`.

    All processes are already known to attribution, so it never reads /proc.
    """

    def __init__(self, probe: LoadedProbe, groups: int = 200) -> None:
        """Prepare the stages. At most `groups` groups have a series of their own."""
        self._specs = table_specs([probe], LoadMode.RETURN)
        (self._stem,) = self._specs.by_process
        system = [c for c in self._specs.charts[self._stem] if not c.grouped]
        self._system = SystemAccount(system, self._stem, self._specs.counters[self._stem])
        grouping = groupings()["process"]
        namings = {grouping.name: grouping.make(Context(groups=Groups(), execs_since_ns=math.inf))}
        unused_executor = ThreadPoolExecutor(1)
        self._groups = GroupStage([grouping], namings, self._specs, groups, Lookup(), unused_executor)
        self.rows = 0

    def tick(self, table: Table, buffer: int) -> StageTimes:
        """Run the stages once, which empties the buffer, and return their times."""
        start = time.thread_time_ns()
        harvest = table.drain(buffer)
        drained_at = time.thread_time_ns()
        attributed = self._attribute(harvest)
        attributed_at = time.thread_time_ns()
        self._account(harvest, attributed)
        accounted_at = time.thread_time_ns()
        self.rows = len(harvest.rows)
        return StageTimes(
            drain=(drained_at - start) / 1e6,
            attribution=(attributed_at - drained_at) / 1e6,
            accounting=(accounted_at - attributed_at) / 1e6,
        )

    def snapshot(self, harvest: TableHarvest) -> Snapshot:
        """Return the snapshot of one interval, as sinks receive it."""
        attributed = self._attribute(harvest)
        columns, groups = self._specs.columns[self._stem], attributed.row_groups(self._stem)
        return Snapshot(
            host="host",
            time_s=_INTERVAL.time_s,
            elapsed_s=_INTERVAL.elapsed_s,
            complete=True,
            charts=tuple(self._account(harvest, attributed)),
            tables={self._stem: TableView(harvest=harvest, columns=columns, groups=groups)},
        )

    def _attribute(self, harvest: TableHarvest) -> Attributed:
        attribution = self._groups.attribution
        return attribution.assign(attribution.prepare({self._stem: harvest}), LookupResult())

    def _account(self, harvest: TableHarvest, attributed: Attributed) -> list[ChartData]:
        system = self._system.account(harvest, _INTERVAL)
        return system + self._groups.account({self._stem: harvest}, attributed, _INTERVAL)
