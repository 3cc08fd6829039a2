"""The whole daemon in a thread, for root."""

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

_START_S = 300  # BCC compiles for a while, in an emulated machine
_STOP_S = 30


class RunningDaemon:
    """The daemon with all plugins that are installed, from its first snapshot on; `snapshots` has what it published.

    `settings` are TOML's, as a dict; without `sinks` there is none but the one that records. A context manager: leaving
    it harvests the last interval, and raises what the daemon raised.
    """

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self.snapshots: list[Snapshot] = []
        self._registry = registry.discover()
        self.settings = self.checked(settings)
        self._asked = asyncio.Event()
        self._error: BaseException | None = None
        self._loop = asyncio.new_event_loop()
        self._stop = asyncio.Event()
        self._thread = threading.Thread(target=self._run, name="daemon")

    def checked(self, settings: Mapping[str, Any]) -> config.Settings:
        """Return the settings with the recording sink. Raise SettingsError."""
        checked = config.check({"sinks": [], **settings}, "the test", self._registry)
        return msgspec.structs.replace(checked, sinks=(RecordingSettings(into=self.snapshots), *checked.sinks))

    def reload(self, settings: Mapping[str, Any] | None = None) -> None:
        """Make the daemon read its settings again, as on SIGHUP. If `settings` are given, it reads those."""
        if settings is not None:
            self.settings = self.checked(settings)
        self._loop.call_soon_threadsafe(self._asked.set)

    def _run(self) -> None:
        reload = daemon.Reload(self._asked, lambda: self.settings)
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
        assert not self._thread.is_alive()
        if self._error and not error:
            raise self._error

    def until(self, condition: Callable[[], bool], seconds: float = 30) -> None:
        """Wait until something holds of what was recorded. Raises AssertionError if it does not come."""
        end = time.monotonic() + seconds
        while not condition():
            if self._error:
                raise self._error
            assert time.monotonic() < end, "what was waited for did not come"
            time.sleep(0.05)

    def rows(self, table: str) -> Rows:
        """Return all rows of a table so far, of all intervals."""
        return np.concatenate([s.tables[table].harvest.rows for s in self.snapshots])

    def total(self, chart: str, dimension: str, **labels: str) -> int | float:
        """Return what a dimension's intervals come to so far: of the series with these label values, or of all."""
        found = [s for snapshot in self.snapshots for data in [snapshot.chart(chart)] if data for s in data.series()]
        chosen = [s for s in found if labels.items() <= s.label_map.items()]
        return sum(s.deltas[[c.id for c in s.chart.columns].index(dimension)] for s in chosen)
