"""What the unit tests share: a clock that a test turns by hand, small snapshots, a plugin as an entry point."""

from __future__ import annotations

import asyncio
import importlib.metadata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np

from ebpfmon import API_VERSION, Chart, ChartValues, Dimension, Kind, Snapshot, TableHarvest, Value, hookimpl

IDENTITY = [
    ("start_ns", "u8"), ("tgid", "u4"), ("exec_id", "u4"), ("cgroup_id", "u8"), ("parent_tgid", "u4"), ("uid", "u4"),
    ("comm", "S16"),
]  # fmt: skip
"""How the rows of a table by process begin."""
ROW = np.dtype([*IDENTITY, ("read_calls", "u8"), ("read_bytes", "u8")])


class FakeClock:
    """Both clocks, which move only when told to; `wait` wakes `early_s` before its time and no real time passes."""

    def __init__(self, start_s: float = 1000.0, early_s: float = 0.0) -> None:
        self.now_s, self.up_s, self.early_s = start_s, 50.0, early_s
        self.waits: list[float] = []

    def advance(self, seconds: float) -> None:
        """Time passes."""
        self.now_s, self.up_s = self.now_s + seconds, self.up_s + seconds

    def time(self) -> float:
        return self.now_s

    def monotonic_ns(self) -> int:
        return round(self.up_s * 1e9)

    async def wait(self, seconds: float, stop: asyncio.Event) -> None:
        assert seconds > 0, "a wait that is none spins"
        assert len(self.waits) < 100_000, "the scheduler spins"
        self.waits.append(seconds)
        early = self.early_s if seconds > 2 * self.early_s else 0.0
        # a timer ends a little after its time at best
        self.advance(seconds - early if early else seconds + 1e-6)
        await asyncio.sleep(0)


def chart(*dimensions: Dimension, kind: Kind = Kind.COUNTER, units: str = "calls/s", family: str = "VFS") -> Chart:
    """A chart of no importance."""
    return Chart(id="x.io", title="Calls", units=units, family=family, priority=1, dimensions=dimensions, kind=kind)


def values(of: Chart, *deltas: int | float) -> ChartValues:
    """A chart with these values, and totals of 1000 where it counts."""
    total = 1000 if of.kind is Kind.COUNTER else 0
    return ChartValues(of, tuple(Value(d, delta, total) for d, delta in zip(of.dimensions, deltas, strict=True)))


def snapshot(
    host: str = "h", charts: Sequence[ChartValues] = (), tables: Mapping[str, TableHarvest] | None = None
) -> Snapshot:
    """One interval of half a second."""
    return Snapshot(host=host, time_s=1.7e9, elapsed_s=0.5, complete=True, charts=tuple(charts), tables=tables or {})


def table(rows: Sequence[tuple[int, bytes, int, int]], *, overflow_calls: int = 0, capacity: int = 64) -> TableHarvest:
    """Rows of (tgid, comm, read_calls, read_bytes), their sums, and so many calls of nobody."""
    array = np.zeros(len(rows), ROW)
    for n, row in enumerate(rows):
        array[["tgid", "comm", "read_calls", "read_bytes"]][n] = row
    overflow = {"read_calls": overflow_calls, "read_bytes": 0}
    totals = {n: int(array[n].sum()) + overflow[n] for n in overflow}
    return TableHarvest(array, totals, overflow, overflow_calls, capacity)


@dataclass(frozen=True)
class FakeEntryPoint:
    """An entry point that loads this object, or raises it."""

    name: str
    plugin: object
    dist: importlib.metadata.Distribution | None = None

    def load(self) -> object:
        if isinstance(self.plugin, BaseException):
            raise self.plugin
        return self.plugin


def plugin(version: object = API_VERSION, **hooks: Any) -> SimpleNamespace:
    """A plugin whose hooks return these values, or raise them: `probes=[...]`, `sinks=[...]`."""

    def hook(name: str, answer: Any) -> Any:
        def implementation() -> Any:
            if isinstance(answer, BaseException):
                raise answer
            return answer

        implementation.__name__ = f"ebpfmon_register_{name}"
        return hookimpl(implementation)

    named = {f"ebpfmon_register_{name}": hook(name, answer) for name, answer in hooks.items()}
    return SimpleNamespace(EBPFMON_API_VERSION=version, **named)
