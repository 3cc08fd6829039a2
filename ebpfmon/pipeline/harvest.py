"""Take one interval out of the kernel: swap, wait for the programs still writing, drain."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Protocol

from ebpfmon.errors import KernelError
from ebpfmon.model import Harvest, TableHarvest
from ebpfmon.pipeline.schedule import Clock

log = logging.getLogger(__name__)


class Interval(Protocol):
    """Which buffer of its tables a probe's programs write to (`ebpfmon.kernel.tables.Interval`)."""

    @property
    def buffer(self) -> int: ...
    def swap(self) -> int: ...


class Table(Protocol):
    """A table of a loaded probe (`ebpfmon.kernel.tables.Table`)."""

    @property
    def stem(self) -> str: ...
    def wait_for_programs(self, buffer: int) -> None: ...
    def drain(self, buffer: int) -> TableHarvest: ...


class Source(Protocol):
    """A loaded probe (`ebpfmon.kernel.attach.LoadedProbe`)."""

    @property
    def interval(self) -> Interval: ...
    @property
    def tables(self) -> Sequence[Table]: ...
    def missed_runs(self) -> int: ...


class Harvester:
    """Harvest all loaded probes at one instant. Blocking: it runs in a worker thread."""

    def __init__(self, sources: Sequence[Source], clock: Clock) -> None:
        self._sources, self._clock = sources, clock
        self._swapped_ns = clock.monotonic_ns()
        self._missed = self._missed_runs()
        self._complete, self._missing = True, False

    def switch_sources(self, sources: Sequence[Source]) -> Harvest:
        """Harvest other sources from now on, which count beside the former ones already. Return the interval up to here
        as the former ones counted it; what the new ones counted of it is in `overlap`.

        If a source shares its interval with a former one, the former ends and the new one begins at the same call.
        """
        before = [source.interval.buffer for source in sources]
        overlap: list[tuple[str, TableHarvest]] = []
        for source, buffer in zip(sources, before, strict=True):  # the buffers were swapped since they began
            overlap += [(table.stem, table.drain(1 - buffer)) for table in source.tables]
        last = self.harvest()
        for source, buffer in zip(sources, before, strict=True):
            if source.interval.buffer == buffer:  # a source of its own
                source.interval.swap()
            for n, table in enumerate(source.tables):
                if not n:
                    table.wait_for_programs(buffer)
                overlap.append((table.stem, table.drain(buffer)))
        self._sources = sources
        self._missed = self._missed_runs()
        return replace(last, overlap=tuple(overlap))

    def dry_run(self) -> None:
        """Do all that a harvest does, to the buffers that no program writes to, so nothing is taken. Raises
        KernelError."""
        for source in self._sources:
            buffer = 1 - source.interval.buffer
            for n, table in enumerate(source.tables):
                if not n:
                    table.wait_for_programs(buffer)
                table.drain(buffer)
        self._missed_runs()

    def harvest(self) -> Harvest:
        """Return the interval since the last call. It is not `complete` if a table could not be read, and so is left
        out, or if the kernel left out runs of programs, so that calls are missing."""
        time_s, start = self._clock.time(), time.perf_counter_ns()
        buffers = [source.interval.swap() for source in self._sources]
        swapped_ns = self._clock.monotonic_ns()
        elapsed_s, self._swapped_ns = (swapped_ns - self._swapped_ns) / 1e9, swapped_ns
        if self._sources:  # one grace period after the last swap is enough for all
            self._sources[-1].tables[0].wait_for_programs(buffers[-1])
        swapped = time.perf_counter_ns()
        tables, complete = self._drain(buffers)
        missed_runs = self._newly_missed()
        return Harvest(
            time_s=time_s,
            elapsed_s=max(elapsed_s, 1e-9),
            tables=tables,
            swap_ns=swapped - start,
            drain_ns=time.perf_counter_ns() - swapped,
            missed_runs=missed_runs,
            complete=complete and not missed_runs,
        )

    def _drain(self, buffers: list[int]) -> tuple[Mapping[str, TableHarvest], bool]:
        tables, complete = {}, True
        for source, buffer in zip(self._sources, buffers, strict=True):
            for table in source.tables:
                try:
                    tables[table.stem] = table.drain(buffer)
                except KernelError as error:
                    if self._complete:  # one line for each change of state
                        log.warning("%s: its counts come with a later interval", error)
                    complete = False
        if complete and not self._complete:
            log.warning("all tables can be read again")
        self._complete = complete
        return tables, complete

    def _newly_missed(self) -> int:
        before, self._missed = self._missed, self._missed_runs()
        newly = self._missed - before
        if bool(newly) is not self._missing:  # one line for each change of state
            self._missing = bool(newly)
            missing = "the kernel leaves out runs of programs, so calls are missing: see ebpfmon.lost"
            log.warning(missing if newly else "no calls are missing any more")
        return newly

    def _missed_runs(self) -> int:
        return sum(source.missed_runs() for source in self._sources)
