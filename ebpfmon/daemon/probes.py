"""Which probes are wanted, and loading them: at start, and again where changed settings need it."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Self

from ebpfmon.config.settings import Settings
from ebpfmon.daemon import memory
from ebpfmon.errors import KernelError, ObjectError, PluginError, SettingsError
from ebpfmon.grouping import execs
from ebpfmon.grouping.registry import groupings
from ebpfmon.kernel import attach, features
from ebpfmon.kernel.attach import LoadedProbe, LoadOptions
from ebpfmon.kernel.features import Features
from ebpfmon.kernel.libbpf import Libbpf
from ebpfmon.model import Chart, Column, LoadMode, Probe, ProbeSettings, Setup
from ebpfmon.pipeline.pipeline import TableSpecs
from ebpfmon.plugins.guard import guarded
from ebpfmon.plugins.registry import Registry
from ebpfmon.plugins.validate import violation

log = logging.getLogger(__name__)

Wanted = tuple[Probe, LoadOptions]


def wanted_probes(settings: Settings, registry: Registry) -> Iterator[Wanted]:
    """Yield the probes that are enabled, and how each is to be loaded; last the core's own `execs`, if a grouping needs
    it.

    `execs` is swapped last, so every program that appears in another table has already been seen starting. A probe
    whose set-up fails is named and left out. Raises SettingsError; PluginError if no probe is left, or if the settings
    are strict.
    """
    core, by = settings.ebpfmon, settings.groups.by
    options = LoadOptions(
        mode=core.load_mode, attach_method=core.attach_method, loader=core.forced_loader, rows=bool(by)
    )
    enabled = [(name, of_probe) for name, of_probe in settings.plugins.items() if of_probe.enabled]
    failed: dict[str, str] = {}
    for name, of_probe in enabled:
        probe = registry.probes[name]
        try:
            setup = _set_up(probe, of_probe)
        except PluginError as error:
            if core.strict or len(failed) + 1 == len(enabled):
                raise
            failed[name] = str(error)
            log.warning("probe '%s' is left out: %s", name, error)
            continue
        yield probe, replace(options, table_size=of_probe.table_size, setup=setup)
    there_are = groupings()
    if enabled and any(there_are[name].needs_execs for name in by):
        yield execs.PROBE, replace(options, table_size=execs.SIZE)


def _set_up(probe: Probe, settings: ProbeSettings) -> Setup:
    """Return what a probe makes of its settings. Raise SettingsError, and PluginError for anything else."""
    try:
        made: object = probe.setup(settings)
    except SettingsError:
        raise
    except Exception as error:  # a plugin's code may raise anything
        raise PluginError(f"set up probe '{probe.name}': {type(error).__name__}: {error}") from error
    if not isinstance(made, Setup):
        raise PluginError(f"set up probe '{probe.name}': it returned {made!r}, not a Setup")
    try:
        return guarded(made, probe.name)
    except PluginError:
        made.close()
        raise


def load_one(
    probe: Probe,
    libbpf: Libbpf,
    found: Features,
    options: LoadOptions,
    share_with: LoadedProbe | None = None,
    facts: attach.KernelFacts | None = None,
) -> LoadedProbe:
    """Load a probe, as `attach.load`, whose charts fit its object. Whatever goes wrong is a KernelError."""
    try:
        loaded = attach.load(probe, libbpf, found, options, share_with, facts)
    except KernelError:
        raise
    except Exception as error:  # values from a plugin's set-up may be anything
        raise ObjectError(f"load probe '{probe.name}': {type(error).__name__}: {error}") from error
    try:
        require_fit(loaded)
    except BaseException:
        loaded.close()
        raise
    return loaded


class Probes:
    """The probes that are loaded, to be closed at the end."""

    def __init__(self, found: Features) -> None:
        """`found`: what this kernel allows."""
        self._found = found
        self._stack = ExitStack()
        self._wanted: list[Wanted] = []
        self.loaded: list[LoadedProbe] = []

    def close(self) -> None:
        """Detach and free all, in reverse order. Closing twice is harmless."""
        self._stack.close()

    def load(self, wanted: Iterable[Wanted], *, forced: bool, beside: Sequence[LoadedProbe] = ()) -> Self:
        """Load these; one that cannot load is named, and the others go on. If programs of the same probe run already,
        `beside`, both swap their buffers together from now on. Blocking.

        Raises KernelError where none can, where an attach method is `forced`, or without the capabilities.
        """
        features.require_permission(self._found)
        libbpf, failed = Libbpf(), dict[str, KernelError]()
        self._wanted = list(wanted)
        with attach.KernelFacts(libbpf, self._found) as facts:
            for probe, options in self._wanted:
                other = next((p for p in beside if p.probe.name == probe.name), None)
                try:
                    loaded = load_one(probe, libbpf, self._found, options, share_with=other, facts=facts)
                    self._require_tables(loaded)
                except KernelError as error:
                    if forced and probe is not execs.PROBE:
                        self.close()
                        raise
                    failed[probe.name] = error
                    continue
                self.loaded.append(self._stack.enter_context(loaded))
                log.info("probe '%s': %s", probe.name, describe(loaded))
        if failed and all(p.probe is execs.PROBE for p in self.loaded):
            self.close()
            raise next(iter(failed.values()))
        for name, why in failed.items():
            log.warning("probe '%s' is left out: %s", name, why)
        memory.return_freed()
        return self

    def _require_tables(self, loaded: LoadedProbe) -> None:
        """Close the probe and raise ObjectError if another probe has a table of the same name: tables are known by
        their names alone."""
        for other in self.loaded:
            for stem in {t.stem for t in other.tables} & {t.stem for t in loaded.tables}:
                loaded.close()
                raise ObjectError(
                    f"probe '{loaded.probe.name}': probe '{other.probe.name}' already has a table '{stem}'"
                )

    def fit(self, wanted: list[Wanted]) -> bool:
        """Return whether the loaded probes will do for what is `wanted` now."""
        return [_of_load(w) for w in wanted] == [_of_load(w) for w in self._wanted]

    def adopt(self, wanted: list[Wanted]) -> None:
        """Take on what fits, without loading anything: what stands in maps, what keys mean. Blocking. Raises
        KernelError."""
        for probe, options in wanted:
            for loaded in self.loaded:
                if loaded.probe is probe:
                    loaded.adopt(options.setup)
        self._wanted = wanted


def _of_load(wanted: Wanted) -> tuple[str, LoadOptions, dict[str, int]]:
    """Return the part of the settings that needs a new load when it changes."""
    probe, options = wanted
    return probe.name, replace(options, setup=attach.NO_SETUP), dict(options.setup.rodata)


def describe(probe: LoadedProbe) -> str:
    """Return one line that says how a probe's events are seen."""
    methods = Counter(choice.chosen.method.name for choice in probe.choices if choice.chosen)
    missing = [c.event for c in probe.choices if not c.chosen]
    seen = ", ".join(f"{count} events by {way}" for way, count in methods.items())
    return seen + (f"; not seen: {', '.join(missing)}" if missing else "")


def require_fit(loaded: LoadedProbe) -> None:
    """Raise ObjectError if a probe's charts or labels do not fit the tables of its object."""
    probe, counters = loaded.probe, {t.stem: t.counters for t in loaded.tables}
    if execs.TABLE in counters and probe is not execs.PROBE:
        raise ObjectError(f"probe '{probe.name}': a table of the name '{execs.TABLE}' is ebpfmon's own")
    for stem in loaded.setup.labels:
        if stem not in counters:
            raise ObjectError(f"probe '{probe.name}': Setup.labels: its object has no table '{stem}'")
    labels = {stem: of_table.labels for stem, of_table in loaded.setup.labels.items()}
    by_process = {t.stem for t in loaded.tables if t.is_by_process}
    if wrong := violation(probe, counters, labels, by_process):
        raise ObjectError(f"probe '{probe.name}': {wrong}")


def table_specs(probes: Sequence[LoadedProbe], mode: LoadMode) -> TableSpecs:
    """Return what is published of these probes in a load mode."""
    tables = [(probe, table) for probe in probes for table in probe.tables]
    charts: dict[str, list[Chart]] = {table.stem: [] for _, table in tables}
    columns: dict[str, list[Column]] = {table.stem: [] for _, table in tables}
    for loaded in probes:
        first = loaded.tables[0].stem
        for chart in loaded.probe.charts:
            if mode is LoadMode.RETURN or not chart.return_only:
                charts[chart.table or first].append(replace(chart, table=chart.table or first))
        for column in loaded.probe.columns:
            if mode is LoadMode.RETURN or not column.return_only:
                columns[column.table or first].append(column)
    return TableSpecs(
        charts={stem: tuple(of_table) for stem, of_table in charts.items()},
        counters={table.stem: table.counters for _, table in tables},
        labels={stem: labels for probe in probes for stem, labels in probe.setup.labels.items()},
        columns={stem: tuple(of_table) for stem, of_table in columns.items()},
        by_process=frozenset(
            table.stem for probe, table in tables if table.is_by_process and probe.probe is not execs.PROBE
        ),
    )
