"""The stages of a tick between the kernel and the sinks, one by one."""

from __future__ import annotations

import time
from typing import NamedTuple

from ebpfmon import Probe, Scope
from ebpfmon.grouping.lookup import Found
from ebpfmon.grouping.naming import ByProcess
from ebpfmon.kernel.tables import Table
from ebpfmon.pipeline.accounting import Accounting
from ebpfmon.pipeline.applications import Applications
from ebpfmon.pipeline.attribute import Attribution


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
    """Drain, attribution (of processes that are known) and accounting of one probe's rows by process."""

    def __init__(self, probe: Probe, applications: int = 200) -> None:
        """`applications`: how many have a dimension of their own, at most."""
        self._accounting = Accounting(c for c in probe.charts if c.scope is Scope.SYSTEM)
        self._attribution = Attribution({"process": ByProcess()}, "process")
        self._applications = Applications({"process": probe.charts}, applications)
        self.rows = 0

    def tick(self, table: Table, side: int) -> Took:
        """Once; then a side is empty."""
        start = time.thread_time_ns()
        harvest = {"process": table.drain(side)}
        drained = time.thread_time_ns()
        owners = self._attribution.own(self._attribution.look(harvest), Found())
        owned = time.thread_time_ns()
        self._accounting.account(harvest["process"].totals)
        self._applications.account(harvest, owners, 1.0)
        accounted = time.thread_time_ns()
        self.rows = len(harvest["process"].rows)
        return Took((drained - start) / 1e6, (owned - drained) / 1e6, (accounted - owned) / 1e6)
