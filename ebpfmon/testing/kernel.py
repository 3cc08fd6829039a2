"""Load a probe into the running kernel without the daemon. This needs root."""

from __future__ import annotations

from contextlib import ExitStack
from types import TracebackType
from typing import Self

import numpy as np

from ebpfmon.daemon.probes import load_one
from ebpfmon.errors import KernelError
from ebpfmon.kernel import features
from ebpfmon.kernel.attach import LoadedProbe, LoadOptions
from ebpfmon.kernel.libbpf import Libbpf
from ebpfmon.model import LoadMode, Probe, ProbeSettings, Rows, TableHarvest
from ebpfmon.pipeline.harvest import Harvester
from ebpfmon.pipeline.schedule import SystemClock


def skip_reason() -> str:
    """Return why no probe can be loaded here; an empty string if one can."""
    try:
        Libbpf()
        features.require_permission(features.detect())
    except KernelError as error:
        return str(error)
    return ""


class RunningProbe:
    """A probe that counts in the running kernel until it is closed. A context manager."""

    def __init__(self, loaded: LoadedProbe) -> None:
        self._closing = ExitStack()
        self._closing.enter_context(loaded)
        self._loaded = loaded
        self._harvester = Harvester([loaded], SystemClock())
        self._harvests: dict[str, list[TableHarvest]] = {}

    @property
    def events(self) -> dict[str, str | None]:
        """The attach method of each event, None for an event that cannot be attached here."""
        return {c.event: c.chosen.method.name if c.chosen else None for c in self._loaded.choices}

    def harvest(self) -> dict[str, TableHarvest]:
        """End the interval and return what each table counted in it."""
        tables = dict(self._harvester.harvest().tables)
        for name, table in tables.items():
            self._harvests.setdefault(name, []).append(table)
        return tables

    def rows(self, table: str = "") -> Rows:
        """End the interval and return the rows of a table of all intervals so far.

        `table` may be omitted if the probe has only one. Raises ValueError if the probe has no such table, or if it has
        several and `table` is omitted.
        """
        self.harvest()
        return np.concatenate([harvest.rows for harvest in self._of(table, "rows")])

    def totals(self, table: str = "") -> dict[str, int]:
        """End the interval and return the sum of each counter of a table over all intervals so far.

        The sums are of the whole machine and include the overflow. Raises ValueError like `rows`.
        """
        self.harvest()
        harvests = self._of(table, "totals")
        return {name: sum(h.totals[name] for h in harvests) for name in harvests[0].totals}

    def _of(self, table: str, method: str) -> list[TableHarvest]:
        if not table and len(self._harvests) == 1:
            (table,) = self._harvests
        if table not in self._harvests:
            tables = f"no table '{table}'" if table else f"{len(self._harvests)} tables"
            calls = " or ".join(f'{method}("{name}")' for name in self._harvests)
            raise ValueError(f"the probe has {tables}; call {calls}")
        return self._harvests[table]

    def close(self) -> None:
        """Detach and free the probe. Closing twice is harmless."""
        self._closing.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def load_probe(
    probe: Probe,
    settings: ProbeSettings | None = None,
    *,
    mode: LoadMode = LoadMode.RETURN,
    attach_method: str | None = None,
) -> RunningProbe:
    """Load and attach a probe like the daemon does. `settings` are by default the probe's defaults.

    Raises KernelError with the daemon's messages, and whatever the probe's `setup` raises.
    """
    settings = settings or probe.settings()
    kernel = features.detect()
    features.require_permission(kernel)
    options = LoadOptions(
        mode=mode, attach_method=attach_method, table_size=settings.table_size, setup=probe.setup(settings)
    )
    return RunningProbe(load_one(probe, Libbpf(), kernel, options))
