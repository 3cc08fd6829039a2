"""Find the probes that the settings enable, and load them: at start, and at reloads that need it."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Any, Self

from ebpfmon import errors
from ebpfmon.config.settings import Core, Settings
from ebpfmon.daemon import memory
from ebpfmon.errors import EbpfmonError, KernelError, ObjectError, PluginError, SettingsError
from ebpfmon.grouping import execs
from ebpfmon.grouping.registry import groupings
from ebpfmon.kernel import attach, features
from ebpfmon.kernel.attach import LoadedProbe, LoadOptions
from ebpfmon.kernel.features import Features
from ebpfmon.kernel.libbpf import Libbpf
from ebpfmon.model import Chart, Column, Loader, LoadMode, Probe, ProbeSettings
from ebpfmon.pipeline.pipeline import TableSpecs
from ebpfmon.plugins import fit
from ebpfmon.plugins.guard import set_up
from ebpfmon.plugins.registry import Registry
from ebpfmon.plugins.validate import violation

log = logging.getLogger(__name__)

EnabledProbe = tuple[Probe, LoadOptions]


def enabled_probes(settings: Settings, registry: Registry, failed: dict[str, str] | None = None) -> list[EnabledProbe]:
    """Return each enabled probe with its load options.

    If a grouping uses the core's own probe `execs`, it comes last. It is then also swapped last, so every program that
    appears in another table has already been seen starting.

    A probe whose set-up fails is logged and left out, and the reason is added to `failed`. Raises SettingsError if a
    probe refuses its settings, and PluginError if the set-up of every probe fails, or with `strict` if that of one
    fails.
    """
    core, by = settings.ebpfmon, settings.groups.by
    options = load_options(core, rows=bool(by))
    enabled = {name: probe_settings for name, probe_settings in settings.plugins.items() if probe_settings.enabled}
    failed = {} if failed is None else failed
    found: list[EnabledProbe] = []
    for name, probe_settings in enabled.items():
        probe = registry.probes[name]
        try:
            setup = set_up(probe, probe_settings)
        except PluginError as error:
            failed[name] = reason_of(probe, error)
            if core.strict or len(failed) == len(enabled):
                _close_set_ups(found)
                raise
            log.warning("probe '%s' is left out: %s", name, failed[name])
        except SettingsError:
            _close_set_ups(found)
            raise
        else:
            found.append((probe, replace(options, table_size=probe_settings.table_size, setup=setup)))
    known = groupings()
    if enabled and any(known[name].uses_execs for name in by):
        found.append((execs.PROBE, replace(options, table_size=execs.SIZE)))
    return found


def _close_set_ups(enabled: Iterable[EnabledProbe]) -> None:
    for _, options in enabled:
        options.setup.close()


def load_options(core: Core, **more: Any) -> LoadOptions:
    """Return the load options of the section `[ebpfmon]`. `more` are further fields of LoadOptions."""
    return LoadOptions(mode=core.load_mode, attach_method=core.attach_method, loader=core.forced_loader, **more)


def reason_of(probe: Probe, error: EbpfmonError) -> str:
    """Return why a probe cannot be used, for a message that begins with its name."""
    return str(error).removeprefix(f"probe '{probe.name}': ")


def _require_new_tables(probe: Probe, tables: Iterable[str], taken: dict[str, str]) -> None:
    """Record in `taken` that these tables belong to the probe. Raises ObjectError if another probe has one of them.

    `taken` has the name of the probe by the name of the table. The pipeline identifies a table by its name alone.
    """
    for name in tables:
        if name in taken:
            raise ObjectError(f"probe '{probe.name}': probe '{taken[name]}' already has a table '{name}'")
    taken.update(dict.fromkeys(tables, probe.name))


def problems(enabled: Iterable[tuple[Probe, ProbeSettings]], core: Core) -> dict[str, str]:
    """Return why probes cannot be used, by name. Those that can be used are not in it.

    The probes are loaded for a moment. If that is not permitted, or if BCC would have to compile them, which takes
    long, they are only compared with their compiled objects.
    """
    found, taken, kernel, libbpf = dict[str, str](), dict[str, str](), features.detect(), Libbpf()
    may_load = _may_load(kernel, core)
    with ExitStack() as stack:
        facts = stack.enter_context(attach.KernelFacts(libbpf, kernel))
        for probe, settings in enabled:
            try:
                setup = set_up(probe, settings)
                if may_load:
                    options = load_options(core, table_size=settings.table_size, setup=setup)
                    loaded = stack.enter_context(load_one(probe, libbpf, kernel, options, facts=facts))
                    tables: Iterable[str] = [table.name for table in loaded.tables]
                else:
                    stack.callback(setup.close)
                    tables = fit.fitting_tables(probe, setup)
                _require_new_tables(probe, tables, taken)
            except EbpfmonError as error:
                found[probe.name] = reason_of(probe, error)
            except BaseException as error:  # A plugin's objects may raise anything.
                found[probe.name] = errors.describe(error)
    return found


def _may_load(kernel: Features, core: Core) -> bool:
    try:
        features.require_permission(kernel)
    except KernelError:
        return False
    return kernel.btf and core.forced_loader is not Loader.BCC


def load_one(
    probe: Probe,
    libbpf: Libbpf,
    kernel: Features,
    options: LoadOptions,
    share_with: LoadedProbe | None = None,
    facts: attach.KernelFacts | None = None,
) -> LoadedProbe:
    """Load a probe like `attach.load`, and check that its charts fit its object. Raises only KernelErrors."""
    loaded = None
    try:
        loaded = attach.load(probe, libbpf, kernel, options, share_with, facts)
        require_fit(loaded)
    except BaseException as error:  # a plugin's set-up may contain wrong types
        if loaded:
            loaded.close()
        if isinstance(error, KernelError):
            raise
        raise ObjectError(f"cannot load probe '{probe.name}': {errors.describe(error)}") from error
    return loaded


class Probes:
    """The loaded probes. Must be closed."""

    def __init__(self, kernel: Features) -> None:
        """Load nothing yet. `kernel` says what this kernel allows."""
        self._kernel = kernel
        self._stack = ExitStack()
        self._enabled: list[EnabledProbe] = []
        self.loaded: list[LoadedProbe] = []

    def close(self) -> None:
        """Detach and free all probes, in reverse order. Closing twice is harmless."""
        self._stack.close()

    def load(
        self, enabled: Iterable[EnabledProbe], *, all_or_nothing: bool, running: Sequence[LoadedProbe] = ()
    ) -> Self:
        """Load probes. Blocking.

        A probe that cannot be loaded is logged and left out, or with `all_or_nothing` is an error. If a probe is among
        those that are `running`, its old and new programs swap their buffers together from now on.

        Raises KernelError if no probe can be loaded, if one cannot be loaded and `all_or_nothing` is set, or if
        capabilities are missing.
        """
        features.require_permission(self._kernel)
        libbpf, failed = Libbpf(), list[tuple[Probe, KernelError]]()
        self._enabled = list(enabled)
        taken: dict[str, str] = {}
        with attach.KernelFacts(libbpf, self._kernel) as facts:
            for n, (probe, options) in enumerate(self._enabled):
                old = next((p for p in running if p.probe.name == probe.name), None)
                try:
                    loaded = load_one(probe, libbpf, self._kernel, options, share_with=old, facts=facts)
                    try:
                        _require_new_tables(probe, [t.name for t in loaded.tables], taken)
                    except ObjectError:
                        loaded.close()
                        raise
                except KernelError as error:
                    if all_or_nothing and probe is not execs.PROBE:
                        self.close()
                        _close_set_ups(self._enabled[n + 1 :])
                        raise
                    failed.append((probe, error))
                    continue
                self.loaded.append(self._stack.enter_context(loaded))
        if failed and all(p.probe is execs.PROBE for p in self.loaded):
            self.close()
            raise failed[0][1]
        for loaded in self.loaded:
            log.info("probe '%s': %s", loaded.probe.name, describe(loaded))
        for probe, reason in failed:
            log.warning("probe '%s' is left out: %s", probe.name, reason_of(probe, reason))
        memory.trim()
        return self

    def can_keep(self, enabled: list[EnabledProbe]) -> bool:
        """Return whether the loaded probes can be kept for these load options."""
        return [_load_key(e) for e in enabled] == [_load_key(e) for e in self._enabled]

    def apply_settings(self, enabled: list[EnabledProbe]) -> None:
        """Apply new set-ups to the loaded probes, if `can_keep` is true for them. Blocking. Raises KernelError."""
        for probe, options in enabled:
            loaded = next((loaded for loaded in self.loaded if loaded.probe is probe), None)
            if loaded:
                loaded.replace_setup(options.setup)
            else:  # The probe was left out when it was loaded.
                options.setup.close()
        self._enabled = enabled


def _load_key(enabled: EnabledProbe) -> tuple[str, LoadOptions, dict[str, int]]:
    """Return the part of the load options that cannot change without a new load."""
    probe, options = enabled
    return probe.name, replace(options, setup=attach.NO_SETUP), dict(options.setup.rodata)


def describe(probe: LoadedProbe) -> str:
    """Return one line that says how a probe's events are attached."""
    methods = Counter(choice.chosen.method.name for choice in probe.choices if choice.chosen)
    missing = [c.event for c in probe.choices if not c.chosen]
    seen = ", ".join(f"{count} event{'s' * (count != 1)} by {method}" for method, count in methods.items())
    return seen + (f"; not attached: {', '.join(missing)}" if missing else "")


def require_fit(loaded: LoadedProbe) -> None:
    """Raise ObjectError if a probe's charts, columns or labels do not fit the tables of its object."""
    probe, counters = loaded.probe, {t.name: t.counters for t in loaded.tables}
    if execs.TABLE in counters and probe is not execs.PROBE:
        raise ObjectError(f"probe '{probe.name}': the table name '{execs.TABLE}' is reserved for ebpfmon")
    for name in loaded.setup.labels:
        if name not in counters:
            raise ObjectError(f"probe '{probe.name}': Setup.labels: its object has no table '{name}'")
    labels = {name: source.labels for name, source in loaded.setup.labels.items()}
    by_process = {t.name for t in loaded.tables if t.is_by_process}
    if problem := violation(probe, counters, labels, by_process):
        raise ObjectError(f"probe '{probe.name}': {problem}")


def table_specs(probes: Sequence[LoadedProbe], mode: LoadMode) -> TableSpecs:
    """Return the charts, counters, labels and columns that these probes publish in a load mode, by table."""
    tables = [(probe, table) for probe in probes for table in probe.tables]
    charts: dict[str, list[Chart]] = {table.name: [] for _, table in tables}
    columns: dict[str, list[Column]] = {table.name: [] for _, table in tables}
    for loaded in probes:
        first = loaded.tables[0].name
        for chart in loaded.probe.charts:
            if mode is LoadMode.RETURN or not chart.return_only:
                charts[chart.table or first].append(replace(chart, table=chart.table or first))
        for column in loaded.probe.columns:
            if mode is LoadMode.RETURN or not column.return_only:
                columns[column.table or first].append(column)
    return TableSpecs(
        charts={name: tuple(of_table) for name, of_table in charts.items()},
        counters={table.name: table.counters for _, table in tables},
        labels={name: labels for probe in probes for name, labels in probe.setup.labels.items()},
        columns={name: tuple(of_table) for name, of_table in columns.items()},
        by_process=frozenset(
            table.name for probe, table in tables if table.is_by_process and probe.probe is not execs.PROBE
        ),
    )
