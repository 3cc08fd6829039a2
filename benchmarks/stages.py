"""The stages of a tick between the kernel and the sinks, one by one."""

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


class Took(NamedTuple):
    """CPU milliseconds of this thread."""

    drain: float
    attribution: float
    accounting: float

    @property
    def all(self) -> float:
        """All three."""
        return sum(self)


class Stages:
    """Drain, attribution (of processes that are known) and accounting of one table by process, grouped by process."""

    def __init__(self, probe: LoadedProbe, groups: int = 200) -> None:
        """`groups`: how many have a series of their own, at most."""
        self._specs = table_specs([probe], LoadMode.RETURN)
        (self._stem,) = self._specs.by_process
        system = [c for c in self._specs.charts[self._stem] if not c.grouped]
        self._system = SystemAccount(system, self._stem, self._specs.counters[self._stem])
        grouping = groupings()["process"]
        namings = {grouping.name: grouping.make(Context(groups=Groups(), execs_since_ns=math.inf))}
        nobody_asks = ThreadPoolExecutor(1)
        self._groups = GroupStage([grouping], namings, self._specs, groups, Lookup(), nobody_asks)
        self.rows = 0

    def tick(self, table: Table, side: int) -> Took:
        """Run the stages once; then a side is empty."""
        start = time.thread_time_ns()
        harvest = table.drain(side)
        drained = time.thread_time_ns()
        attributed = self._attribute(harvest)
        attributed_ns = time.thread_time_ns()
        self._account(harvest, attributed)
        accounted = time.thread_time_ns()
        self.rows = len(harvest.rows)
        return Took((drained - start) / 1e6, (attributed_ns - drained) / 1e6, (accounted - attributed_ns) / 1e6)

    def snapshot(self, harvest: TableHarvest) -> Snapshot:
        """Return what sinks get of one interval."""
        attributed = self._attribute(harvest)
        columns, groups = self._specs.columns[self._stem], attributed.of_rows(self._stem)
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
