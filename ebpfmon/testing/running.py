"""Run the whole daemon in a thread. This needs root."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, Self

import msgspec
import numpy as np

from ebpfmon import config
from ebpfmon.daemon import run as daemon
from ebpfmon.model import Rows, Snapshot
from ebpfmon.plugins import registry
from ebpfmon.testing.sinks import RecordingSettings

_START_S = 300  # In an emulated machine, BCC needs minutes to compile.
_STOP_S = 30


class RunningDaemon:
    """The daemon with all installed plugins. `snapshots` has the snapshots that it has published so far.

    `settings` is a settings file as a dict. A sink that records snapshots is added to its sinks. A context manager:
    entering it waits for the first snapshot; leaving it harvests the last interval and raises what the daemon raised.
    """

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self.snapshots: list[Snapshot] = []
        self._registry = registry.discover()
        self.settings = self.checked(settings)
        self._reload_requested = asyncio.Event()
        self._error: BaseException | None = None
        self._loop = asyncio.new_event_loop()
        self._stop = asyncio.Event()
        self._thread = threading.Thread(target=self._run, name="daemon")

    def checked(self, settings: Mapping[str, Any]) -> config.Settings:
        """Validate settings and return them with the recording sink. Raises SettingsError."""
        checked = config.validate({"sinks": [], **settings}, "the test", self._registry)
        return msgspec.structs.replace(checked, sinks=(RecordingSettings(into=self.snapshots), *checked.sinks))

    def reload(self, settings: Mapping[str, Any] | None = None) -> None:
        """Make the daemon reload its settings, as on SIGHUP, with new ones if they are given."""
        if settings is not None:
            self.settings = self.checked(settings)
        self._loop.call_soon_threadsafe(self._reload_requested.set)

    def _run(self) -> None:
        reload = daemon.Reload(self._reload_requested, lambda: self.settings)
        try:
            self._loop.run_until_complete(daemon.run(self.settings, self._registry, self._stop, reload=reload))
        except BaseException as error:
            self._error = error
        finally:
            self._loop.close()

    def __enter__(self) -> Self:
        self._thread.start()
        self.until(lambda: bool(self.snapshots), _START_S)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(_STOP_S)
        assert not self._thread.is_alive(), f"the daemon did not stop within {_STOP_S} s"
        if self._error and not error:
            raise self._error

    def until(self, condition: Callable[[], bool], seconds: float = 30) -> None:
        """Wait until a condition is true. Raises AssertionError after `seconds`, and what the daemon raises."""
        end = time.monotonic() + seconds
        while not condition():
            if self._error:
                raise self._error
            assert time.monotonic() < end, f"the condition was not true within {seconds} s"
            time.sleep(0.05)

    def rows(self, table: str) -> Rows:
        """Return the rows of a table of all intervals so far."""
        return np.concatenate([s.tables[table].harvest.rows for s in self.snapshots])

    def total(self, chart: str, dimension: str, **labels: str) -> int | float:
        """Return the sum of a dimension over all intervals so far, and over all series that have these labels."""
        series = [s for snapshot in self.snapshots for data in [snapshot.chart(chart)] if data for s in data.series()]
        selected = [s for s in series if labels.items() <= s.label_map.items()]
        return sum(s.deltas[[c.id for c in s.chart.columns].index(dimension)] for s in selected)
