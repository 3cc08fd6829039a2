"""ebpfmon's own cost and losses, as charts like any other (family `ebpfmon`)."""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Iterable

from ebpfmon.model.everything import Chart, Dimension, Harvest, Kind
from ebpfmon.pipeline.publish import SinkTask

_FAMILY = "ebpfmon"
_FIRST_PRIORITY = 145000  # after everything else
_STATM = "/proc/self/statm"
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


def _same(*ids: str) -> tuple[Dimension, ...]:
    return tuple(Dimension(i, i.replace("_", " "), (i,)) for i in ids)


class SelfMonitor:
    """Collects the fields of `charts`, once a tick."""

    def __init__(self, tables: Iterable[str], sinks: Iterable[SinkTask]) -> None:
        self._tables, self._sinks = tuple(tables), tuple(sinks)
        self._cpu_ms = self._cpu()
        self._sent_before = {s.name: (0, 0, 0) for s in self._sinks}

    def charts(self) -> tuple[Chart, ...]:
        """What is published."""

        def each(names: Iterable[str], suffix: str) -> tuple[Dimension, ...]:
            return tuple(Dimension(n, n, (f"{n}.{suffix}",)) for n in names)

        level, counter, sinks = Kind.LEVEL, Kind.COUNTER, [s.name for s in self._sinks]
        charts = (
            (level, "harvest_time", "Time of a harvest", "milliseconds", _same("swap", "drain")),
            (level, "rows", "Rows in a table", "rows", each(self._tables, "rows")),
            (level, "table_occupancy", "Part of a table in use", "%", each(self._tables, "occupancy")),
            (counter, "overflow", "Calls without a row", "calls/s", each(self._tables, "overflow")),
            (counter, "lost", "Ticks and program runs left out", "events", _same("late_ticks", "missed_runs")),
            (counter, "attribution", "New processes", "processes/s", _same("looked_up", "waiting", "forgotten")),
            (counter, "cpu", "CPU time of ebpfmon", "milliseconds/s", _same("user", "system")),
            (level, "memory", "Resident memory of ebpfmon", "MB", _same("rss")),
            (counter, "sinks_sent", "Snapshots sent", "snapshots", each(sinks, "sent")),
            (counter, "sinks_dropped", "Snapshots lost by a full mailbox", "snapshots", each(sinks, "dropped")),
            (counter, "sinks_errors", "Errors of sinks", "errors", each(sinks, "errors")),
            (level, "sinks_queue", "Snapshots waiting", "snapshots", each(sinks, "queue")),
            (level, "sinks_age", "Time since a sink last took a snapshot", "seconds", each(sinks, "age")),
        )
        return tuple(
            Chart(
                id=f"ebpfmon.{id_}", title=title, units=units, family=_FAMILY, kind=kind, dimensions=dimensions,
                priority=_FIRST_PRIORITY + order,
            )
            for order, (kind, id_, title, units, dimensions) in enumerate(charts)
        )  # fmt: skip

    def fields(self, harvest: Harvest, late_ticks: int) -> dict[str, int | float]:
        """The values of this tick."""
        fields: dict[str, int | float] = {
            "swap": round(harvest.swap_ns / 1e6, 3),
            "drain": round(harvest.drain_ns / 1e6, 3),
            "late_ticks": late_ticks,
            "missed_runs": harvest.missed_runs,
            "rss": round(_resident_bytes() / 1e6, 1),
        }
        for stem, table in harvest.tables.items():
            fields[f"{stem}.rows"] = len(table.rows)
            fields[f"{stem}.occupancy"] = round(100 * len(table.rows) / table.capacity, 1)
            fields[f"{stem}.overflow"] = table.overflow_calls
        before, self._cpu_ms = self._cpu_ms, self._cpu()
        fields["user"], fields["system"] = self._cpu_ms[0] - before[0], self._cpu_ms[1] - before[1]
        for sink in self._sinks:
            now = (sink.statistics.sent, sink.statistics.dropped, sink.statistics.errors)
            for what, new, old in zip(("sent", "dropped", "errors"), now, self._sent_before[sink.name], strict=True):
                fields[f"{sink.name}.{what}"] = new - old
            self._sent_before[sink.name] = now
            fields[f"{sink.name}.queue"] = sink.statistics.queue_length
            fields[f"{sink.name}.age"] = round(time.monotonic() - sink.statistics.succeeded_s, 1)
        return fields

    @staticmethod
    def _cpu() -> tuple[int, int]:
        usage = resource.getrusage(resource.RUSAGE_SELF)
        return int(usage.ru_utime * 1000), int(usage.ru_stime * 1000)


def _resident_bytes() -> int:
    fd = os.open(_STATM, os.O_RDONLY | os.O_CLOEXEC)  # a file object would make nine system calls of these three
    try:
        return int(os.read(fd, 128).split()[1]) * _PAGE_BYTES
    finally:
        os.close(fd)
