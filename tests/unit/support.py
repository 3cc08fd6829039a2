"""Helpers that unit tests share, including those of `ebpfmon.testing`."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np

from ebpfmon import API_VERSION, TableHarvest, hookimpl
from ebpfmon.testing import PROCESS_IDENTITY as IDENTITY
from ebpfmon.testing import FakeClock, chart, data, process_table, snapshot

__all__ = ["IDENTITY", "ROW", "FakeClock", "FakeEntryPoint", "chart", "data", "plugin", "snapshot", "table"]

COUNTERS = ("read_calls", "read_bytes")
ROW = np.dtype([*IDENTITY, *((name, "u8") for name in COUNTERS)])


def table(rows: Sequence[tuple[int, bytes, int, int]], *, overflow_calls: int = 0, capacity: int = 64) -> TableHarvest:
    """Return a table with rows of (tgid, comm, read_calls, read_bytes), and this many calls as overflow."""
    named = [dict(zip(("tgid", "comm", *COUNTERS), row, strict=True)) for row in rows]
    return process_table(COUNTERS, named, overflow_calls=overflow_calls, capacity=capacity)


@dataclass(frozen=True)
class FakeEntryPoint:
    """An entry point that returns this object when loaded, or raises it if it is an exception."""

    name: str
    plugin: object
    dist: importlib.metadata.Distribution | None = None

    def load(self) -> object:
        if isinstance(self.plugin, BaseException):
            raise self.plugin
        return self.plugin


def plugin(version: object = API_VERSION, **hooks: Any) -> SimpleNamespace:
    """Return a plugin whose hooks return these values, or raise them: `probes=[...]`, `sinks=[...]`."""

    def hook(name: str, answer: Any) -> Any:
        def implementation() -> Any:
            if isinstance(answer, BaseException):
                raise answer
            return answer

        implementation.__name__ = f"ebpfmon_register_{name}"
        return hookimpl(implementation)

    named = {f"ebpfmon_register_{name}": hook(name, answer) for name, answer in hooks.items()}
    return SimpleNamespace(EBPFMON_API_VERSION=version, **named)
