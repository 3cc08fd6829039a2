"""Read the settings file and validate it.

The only sink that this module knows by name is `log`: it is the default, and the option --json adds one.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import tomli

from ebpfmon.config import apps
from ebpfmon.config.checks import check
from ebpfmon.config.convert import join_names, require_known, typed
from ebpfmon.config.settings import NO_OPTIONS, CommandLine, Core, GroupSettings, Settings
from ebpfmon.errors import SettingsError, describe
from ebpfmon.files import read_text
from ebpfmon.grouping.registry import groupings
from ebpfmon.model import Probe, ProbeSettings, SinkSettings, tag_of
from ebpfmon.pipeline.selection import ChartFilter
from ebpfmon.plugins.registry import Registry
from ebpfmon.resources import overlap

log = logging.getLogger(__name__)

_Placed = tuple[str, SinkSettings]
"""A sink, with its key path in the settings."""

DEFAULT_PATH = Path("/etc/ebpfmon/ebpfmon.toml")
"""The settings file that is read by default. It need not exist."""


@dataclass(frozen=True, slots=True)
class Document:
    """A settings file that is parsed but not validated yet, because validation needs the plugins that it names.

    `source` is its path. `exists` says whether there is such a file.
    """

    raw: Mapping[str, Any]
    source: str
    exists: bool = True

    @property
    def upgrade_hints(self) -> tuple[str, ...]:
        """Lines that show how to replace outdated sections, if the file has any. Raises SettingsError."""
        return tuple(apps.upgrade_hints(self.raw, self.source))

    def core(self, command_line: CommandLine = NO_OPTIONS) -> Core:
        """Return the section `[ebpfmon]`, which can be validated without plugins. Raises SettingsError."""
        core = typed(self.raw.get("ebpfmon", {}), dict[str, Any], self.source, "ebpfmon")
        # Check the file's own values first, so that an error in them names the file, not the command line.
        folder = typed(core, Core, self.source, "ebpfmon").plugins_dir
        if folder and not Path(folder).is_absolute():
            raise SettingsError(f"{self.source}: ebpfmon.plugins_dir: '{folder}': expected an absolute path")
        return typed({**core, **command_line.core}, Core, "command line", "ebpfmon")


def read(path: Path | None, registry: Registry, command_line: CommandLine = NO_OPTIONS) -> Settings:
    """Return the settings in a file, or in DEFAULT_PATH if `path` is None, validated and checked.

    Raises SettingsError.
    """
    document = parse(path)
    settings = validate(document.raw, document.source, registry, command_line)
    check(settings, registry, document.source)
    return settings


def parse(path: Path | None) -> Document:
    """Parse a settings file, or DEFAULT_PATH if `path` is None. Raises SettingsError.

    If DEFAULT_PATH does not exist, the document is empty and all settings have their defaults.
    """
    source = path or DEFAULT_PATH
    try:
        text = "" if _is_null_device(source) else read_text(source)
    except FileNotFoundError:
        if path:
            raise SettingsError(f"{path}: no such file") from None
        return Document({}, str(source), exists=False)
    except OSError as error:
        raise SettingsError(f"{source}: cannot be read: {error.strerror}") from None
    try:
        raw = tomli.loads(text)
    except (ValueError, RecursionError) as error:
        raise SettingsError(f"{source}: not valid TOML: {_syntax_error(error)}") from None
    return Document(raw, str(source))


def _syntax_error(error: Exception) -> str:
    """Return the text of an error of tomli, in plain words if something appears twice."""
    text = str(error).replace("Cannot overwrite a value", "a key appears twice")
    return re.sub(r"Cannot declare \((.*?),?\) twice", _section_twice, text)


def _section_twice(keys: re.Match[str]) -> str:
    name = ".".join(re.findall("'([^']*)'", keys[1]))
    return f"the section [{name}] appears twice"


def _is_null_device(path: Path) -> bool:
    """Return whether a path leads to /dev/null, which stands for an empty file. Raises OSError."""
    try:
        return path.samefile(os.devnull)
    except ValueError:  # a NUL character in the path; reading it says so
        return False


def validate(
    raw: Mapping[str, Any], source: str, registry: Registry, command_line: CommandLine = NO_OPTIONS
) -> Settings:
    """Return the settings in parsed TOML. Raises SettingsError, which names `source` (the file).

    `check` finds out whether this machine has what they need.
    """
    # [apps] is still read, but error messages do not suggest it.
    require_known((name for name in raw if name != "apps"), ("ebpfmon", "groups", "plugins", "sinks"), source, "")
    sections = typed(raw.get("plugins", {}), dict[str, Any], source, "plugins")
    sections = {
        n: s for n, s in sections.items() if n in registry.probes or not _warn_if_ignored(n, f"plugins.{n}", registry)
    }
    require_known(sections, registry.probes, source, "plugins.")
    core = Document(raw, source).core(command_line)
    return Settings(
        ebpfmon=core,
        groups=_groups(raw, source),
        plugins={
            name: typed(sections.get(name, {}), probe.settings, source, f"plugins.{name}")
            for name, probe in registry.probes.items()
        },
        sinks=_sinks(raw, source, registry, command_line.json, core.interval),
    )


def probe_settings(
    document: Document, registry: Registry
) -> tuple[list[tuple[Probe, ProbeSettings]], set[str], dict[str, str]]:
    """Return three things: the enabled probes with their settings, the names of the disabled probes, and errors.

    The errors have the message about a probe's settings by the name of the probe.
    """
    enabled, off, wrong = list[tuple[Probe, ProbeSettings]](), set[str](), dict[str, str]()
    sections = document.raw.get("plugins", {})
    for name, probe in registry.probes.items():
        section = sections.get(name, {}) if isinstance(sections, Mapping) else {}
        try:
            settings = typed(section, probe.settings, document.source, f"plugins.{name}")
        except SettingsError as error:
            wrong[name] = str(error)
            continue
        if settings.enabled:
            enabled.append((probe, settings))
        else:
            off.add(name)
    return enabled, off, wrong


def _warn_if_ignored(name: str, section: str, registry: Registry) -> bool:
    """Return whether a section may belong to a plugin that is not in use. If so, warn that the section is ignored."""
    for plugin in (*registry.disabled, *registry.left_out):
        if name == plugin.name:
            log.warning("ignoring %s: plugin '%s' is %s", section, plugin.name, plugin.state)
            return True
    if registry.left_out:  # One of them may know the section; the names of its probes and sinks are unknown.
        names = ", ".join(f"'{p.name}'" for p in registry.left_out)
        log.warning("ignoring %s: no plugin in use knows it; it may belong to %s, which cannot be used", section, names)
    return bool(registry.left_out)


def _groups(raw: Mapping[str, Any], source: str) -> GroupSettings:
    is_outdated = "apps" in raw
    groups = typed(
        apps.translate(raw, source) if is_outdated else raw.get("groups", {}), GroupSettings, source, "groups"
    )
    _check_groupings(groups.by, source)
    if not groups.file:
        return groups
    path = Path(source).parent / groups.file
    try:
        read_text(path, errors="replace")  # only to find errors; the daemon reads the groups
    except OSError as error:
        key = "apps.groups" if is_outdated else "groups.file"
        raise SettingsError(f"{source}: {key}: {path}: {error.strerror}") from None
    return msgspec.structs.replace(groups, file=str(path))


def _check_groupings(names: Iterable[str], source: str) -> None:
    known, seen = groupings(), set[str]()
    for name in names:
        if name not in known:
            raise SettingsError(f"{source}: groups.by: '{name}': expected any of {', '.join(known)}")
        if name in seen:
            raise SettingsError(f"{source}: groups.by: '{name}' is listed twice; remove one")
        seen.add(name)


def _sinks(
    raw: Mapping[str, Any], source: str, registry: Registry, json: bool, interval_s: int
) -> tuple[SinkSettings, ...]:
    default = [] if json else [{"type": "log"}]
    sections = typed(raw.get("sinks", default), list[dict[str, Any]], source, "sinks")
    used = [
        (key_path, _sink(section, source, key_path, registry))
        for key_path, section in ((f"sinks[{n}]", section) for n, section in enumerate(sections))
        if not _warn_if_sink_ignored(section, key_path, registry)
    ]
    if json:  # no other sink may write to stdout
        to_stdout = _sink({"type": "log", "name": "json", "format": "json"}, "--json", "sinks", registry)
        used = [*_beside(to_stdout, used), ("--json", to_stdout)]
    if sections and not used:
        raise SettingsError(f"{source}: sinks: none of the sinks can be used; the warnings above say why")
    names: set[str] = set()
    for key_path, sink in used:
        name = _name(sink)
        if name in names:
            raise SettingsError(
                f"{source}: {key_path}.name: another sink is already called '{name}'; give each sink its own name"
            )
        if not name.isprintable():
            raise SettingsError(f"{source}: {key_path}.name: '{name}': expected printable characters")
        names.add(name)
        if sink.interval % interval_s:
            raise SettingsError(
                f"{source}: {key_path}.interval: {sink.interval}: expected a multiple of ebpfmon.interval, {interval_s}"
            )
        try:
            ChartFilter(sink.charts)
        except ValueError as error:
            raise SettingsError(f"{source}: {key_path}.charts: {error}") from None
    _require_own_resources(used, source)
    return tuple(sink for _, sink in used)


def _beside(to_stdout: SinkSettings, used: Sequence[_Placed]) -> Iterator[_Placed]:
    """Yield the sinks that can write beside one that writes to stdout. Log sinks on stdout write to stderr instead."""
    on_stdout = [sink for _, sink in used if overlap(sink.resources, to_stdout.resources)]
    taken = to_stdout.resources.union(*(sink.resources for _, sink in used if sink not in on_stdout))
    for key_path, sink in used:
        moved = msgspec.structs.replace(sink, path="stderr") if tag_of(sink) == tag_of(to_stdout) else sink
        if sink not in on_stdout:
            yield key_path, sink
        elif overlap(moved.resources, taken):
            log.warning(
                "--json: leaving out %s '%s', because it would mix lines with other sinks", key_path, _name(sink)
            )
        else:
            yield key_path, moved


def _require_own_resources(used: Iterable[_Placed], source: str) -> None:
    """Raise SettingsError if two sinks need what only one may use at a time."""
    earlier: list[tuple[SinkSettings, frozenset[str]]] = []
    for key_path, sink in used:
        try:
            resources = frozenset(sink.resources)
        except BaseException as error:  # a plugin's own code
            raise SettingsError(f"{source}: {key_path}: resources: {describe(error)}") from None
        for other, taken in earlier:
            if common := overlap(resources, taken):
                raise SettingsError(
                    f"{source}: {key_path}: sinks '{_name(other)}' and '{_name(sink)}' cannot both use {common[0]}; "
                    "change or remove one of them"
                )
        earlier.append((sink, resources))


def _name(sink: SinkSettings) -> str:
    return sink.name or tag_of(sink)


def _warn_if_sink_ignored(section: Mapping[str, Any], key_path: str, registry: Registry) -> bool:
    kind = section.get("type")
    if not isinstance(kind, str) or kind in registry.sinks:
        return False
    return _warn_if_ignored(kind, f'{key_path} "{kind}"', registry)


def _sink(raw: dict[str, Any], source: str, key_path: str, registry: Registry) -> SinkSettings:
    kind = raw.get("type")
    if not isinstance(kind, str) or kind not in registry.sinks:
        problem = f"'{kind}'" if kind else "missing"
        raise SettingsError(f"{source}: {key_path}.type: {problem}: expected one of {join_names(registry.sinks)}")
    return typed(raw, registry.sinks[kind], source, key_path)
