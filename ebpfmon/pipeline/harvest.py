"""Harvest one interval from the kernel: swap the buffers, wait for running programs, and drain the tables."""

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


class ActiveBuffer(Protocol):
    """Which buffer a probe's programs write to (`ebpfmon.kernel.tables.ActiveBuffer`)."""

    @property
    def index(self) -> int: ...
    def swap(self) -> int: ...


class Table(Protocol):
    """A table of a loaded probe (`ebpfmon.kernel.tables.Table`)."""

    @property
    def name(self) -> str: ...
    def wait_for_programs(self, buffer: int) -> None: ...
    def drain(self, buffer: int) -> TableHarvest: ...


class Source(Protocol):
    """A loaded probe (`ebpfmon.kernel.attach.LoadedProbe`)."""

    @property
    def active_buffer(self) -> ActiveBuffer: ...
    @property
    def tables(self) -> Sequence[Table]: ...
    def missed_runs(self) -> int: ...


class Harvester:
    """Harvests all loaded probes at the same time. Its methods block, so they run in a worker thread."""

    def __init__(self, sources: Sequence[Source], clock: Clock) -> None:
        self._sources, self._clock = sources, clock
        self._swapped_ns = clock.monotonic_ns()
        self._missed_before = self._missed_runs()
        self._was_complete, self._was_missing_runs = True, False

    def switch_sources(self, sources: Sequence[Source]) -> Harvest:
        """Harvest other sources from now on. Return the last interval of the former sources.

        The new sources must be counting already. What they have counted so far is in `overlap`. If a new source shares
        its active buffer with a former one, one swap ends the counts of the former and begins those of the new, so no
        call is lost.
        """
        buffers = [source.active_buffer.index for source in sources]
        overlap: list[tuple[str, TableHarvest]] = []
        for source, buffer in zip(sources, buffers, strict=True):
            # Earlier harvests may have swapped a shared active buffer, so the other buffer has counts, too.
            overlap += [(table.name, table.drain(1 - buffer)) for table in source.tables]
        last = self.harvest()
        for source, buffer in zip(sources, buffers, strict=True):
            if source.active_buffer.index == buffer:  # `harvest` did not swap it, because no former source shares it.
                source.active_buffer.swap()
            for n, table in enumerate(source.tables):
                if not n:
                    table.wait_for_programs(buffer)
                overlap.append((table.name, table.drain(buffer)))
        self._sources = sources
        self._missed_before = self._missed_runs()
        return replace(last, overlap=tuple(overlap))

    def dry_run(self) -> None:
        """Do everything that a harvest does, but on the buffers that no program writes to.

        Raises KernelError if any of it fails. No counts are lost.
        """
        for source in self._sources:
            buffer = 1 - source.active_buffer.index
            for n, table in enumerate(source.tables):
                if not n:
                    table.wait_for_programs(buffer)
                table.drain(buffer)
        self._missed_runs()

    def harvest(self) -> Harvest:
        """Return the interval since the last call.

        The interval is not `complete` if counts are missing: if a table could not be read, which is then left out, or
        if the kernel skipped runs of programs.
        """
        time_s, start = self._clock.time(), time.perf_counter_ns()
        buffers = [source.active_buffer.swap() for source in self._sources]
        swapped_ns = self._clock.monotonic_ns()
        elapsed_s, self._swapped_ns = (swapped_ns - self._swapped_ns) / 1e9, swapped_ns
        if self._sources:  # A single grace period after the last swap covers all sources.
            self._sources[-1].tables[0].wait_for_programs(buffers[-1])
        swapped = time.perf_counter_ns()
        missed_runs = self._newly_missed()  # This may fail, so it comes before rows are taken out of the kernel.
        tables, complete = self._drain(buffers)
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
                    tables[table.name] = table.drain(buffer)
                except KernelError as error:
                    if self._was_complete:  # Log changes of state only.
                        log.warning("%s: its counts will be part of a later interval", error)
                    complete = False
        if complete and not self._was_complete:
            log.warning("all tables can be read again")
        self._was_complete = complete
        return tables, complete

    def _newly_missed(self) -> int:
        before, self._missed_before = self._missed_before, self._missed_runs()
        missed = self._missed_before - before
        if bool(missed) is not self._was_missing_runs:  # Log changes of state only.
            self._was_missing_runs = bool(missed)
            if missed:
                log.warning("the kernel skips runs of BPF programs, so counts are missing: see the chart ebpfmon.lost")
            else:
                log.warning("the kernel runs all BPF programs again, so counts are complete")
        return missed

    def _missed_runs(self) -> int:
        return sum(source.missed_runs() for source in self._sources)
