"""Read the settings file and check it."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import tomli

from ebpfmon.config import apps
from ebpfmon.config.convert import listed, require_known, typed
from ebpfmon.config.settings import NO_OPTIONS, CommandLine, Core, GroupSettings, Settings
from ebpfmon.errors import SettingsError
from ebpfmon.grouping.registry import groupings
from ebpfmon.model import SinkSettings, tag_of
from ebpfmon.pipeline.selection import ChartFilter
from ebpfmon.plugins.registry import Registry

log = logging.getLogger(__name__)

DEFAULT_PATH = Path("/etc/ebpfmon/ebpfmon.toml")
"""The file that is read if none is named. It need not exist."""


@dataclass(frozen=True, slots=True)
class Document:
    """A settings file that is parsed but not checked: it names the plugins that are needed for that.

    `source` is its path, and `exists` whether there is such a file.
    """

    raw: Mapping[str, Any]
    source: str
    exists: bool = True

    @property
    def upgrade_hints(self) -> tuple[str, ...]:
        """The lines that say how to write outdated sections today; none if there are none. Raises SettingsError."""
        return tuple(apps.upgrade_hints(self.raw, self.source))

    def core(self, given: CommandLine = NO_OPTIONS) -> Core:
        """Return the section `[ebpfmon]`, which needs no plugin. Raises SettingsError."""
        core = typed(self.raw.get("ebpfmon", {}), dict[str, Any], self.source, "ebpfmon")
        # check the file's own values first, so that an error names the file and not the command line
        folder = typed(core, Core, self.source, "ebpfmon").plugins_dir
        if folder and not Path(folder).is_absolute():
            raise SettingsError(f"{self.source}: ebpfmon.plugins_dir: '{folder}': expected an absolute path")
        return typed({**core, **given.core}, Core, "command line", "ebpfmon")


def read(path: Path | None, registry: Registry, given: CommandLine = NO_OPTIONS) -> Settings:
    """Return the settings of a file, or of DEFAULT_PATH if `path` is None. Raises SettingsError."""
    document = parse(path)
    return check(document.raw, document.source, registry, given)


def parse(path: Path | None) -> Document:
    """Parse a settings file, or DEFAULT_PATH if `path` is None. Raises SettingsError.

    DEFAULT_PATH need not exist: then the document is empty, and the defaults hold.
    """
    source = path or DEFAULT_PATH
    try:
        raw = tomli.loads(source.read_text(encoding="utf-8"))
    except FileNotFoundError:
        if path:
            raise SettingsError(f"{path}: no such file") from None
        return Document({}, str(source), exists=False)
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{source}: cannot be read: {error}") from None
    except (ValueError, RecursionError) as error:
        raise SettingsError(f"{source}: not TOML: {error}") from None
    return Document(raw, str(source))


def check(raw: Mapping[str, Any], source: str, registry: Registry, given: CommandLine = NO_OPTIONS) -> Settings:
    """Return the settings that parsed TOML stands for. Raises SettingsError, which names `source`."""
    sections_now = [name for name in raw if name != "apps"]  # which is still read, but no longer offered
    require_known(sections_now, ("ebpfmon", "groups", "plugins", "sinks"), source, "")
    sections = typed(raw.get("plugins", {}), dict[str, Any], source, "plugins")
    sections = {n: s for n, s in sections.items() if n in registry.probes or not _unused(n, f"plugins.{n}", registry)}
    require_known(sections, registry.probes, source, "plugins.")
    wanted = Document(raw, source).core(given)
    return Settings(
        ebpfmon=wanted,
        groups=_groups(raw, source),
        plugins={
            name: typed(sections.get(name, {}), probe.settings, source, f"plugins.{name}")
            for name, probe in registry.probes.items()
        },
        sinks=_sinks(raw, source, registry, given.json, wanted.interval),
    )


def _unused(name: str, where: str, registry: Registry) -> bool:
    """Say whether a section may belong to a plugin that is not in use, and log that the section is not used."""
    for plugin in (*registry.disabled, *registry.left_out):
        if name == plugin.name:
            log.warning("%s is not used: plugin '%s' is %s", where, plugin.name, plugin.state)
            return True
    if registry.left_out:  # nobody knows which names it would have added
        names = ", ".join(f"'{p.name}'" for p in registry.left_out)
        log.warning("%s is not used: nothing has that name, but plugin %s is left out", where, names)
    return bool(registry.left_out)


def _groups(raw: Mapping[str, Any], source: str) -> GroupSettings:
    old = "apps" in raw
    groups = typed(apps.translate(raw, source) if old else raw.get("groups", {}), GroupSettings, source, "groups")
    _check_groupings(groups.by, source)
    if not groups.file:
        return groups
    path = Path(source).parent / groups.file
    if not path.is_file():
        wrong = "not a regular file" if path.exists() else "no such file"
        raise SettingsError(f"{source}: {'apps.groups' if old else 'groups.file'}: {path}: {wrong}")
    return msgspec.structs.replace(groups, file=str(path))


def _check_groupings(names: Iterable[str], source: str) -> None:
    there_are, seen = groupings(), set[str]()
    for name in names:
        if name not in there_are:
            raise SettingsError(f"{source}: groups.by: '{name}': expected any of {', '.join(there_are)}")
        if name in seen:
            raise SettingsError(f"{source}: groups.by: '{name}' is there twice: expected any of {', '.join(there_are)}")
        seen.add(name)


def _sinks(
    raw: Mapping[str, Any], source: str, registry: Registry, json: bool, interval_s: int
) -> tuple[SinkSettings, ...]:
    default = [] if json else [{"type": "log"}]
    sections = typed(raw.get("sinks", default), list[dict[str, Any]], source, "sinks")
    used = [
        (where, _sink(section, source, where, registry))
        for where, section in ((f"sinks[{n}]", section) for n, section in enumerate(sections))
        if not _sink_unused(section, where, registry)
    ]
    if json:  # nothing else may write to stdout
        used = [(w, msgspec.structs.replace(s, path="stderr") if _is_on_stdout(s) else s) for w, s in used]
        used.append(("--json", _sink({"type": "log", "name": "json", "format": "json"}, "--json", "sinks", registry)))
    if sections and not used:
        raise SettingsError(f"{source}: sinks: no sink is left that could be used")
    names: set[str] = set()
    for where, sink in used:
        name = sink.name or tag_of(sink)
        if name in names:
            raise SettingsError(f"{source}: {where}.name: '{name}' is taken: give each sink a name of its own")
        names.add(name)
        if sink.interval % interval_s:
            raise SettingsError(
                f"{source}: {where}.interval: {sink.interval}: expected a multiple of ebpfmon.interval, {interval_s}"
            )
        try:
            ChartFilter(sink.charts)
        except ValueError as error:
            raise SettingsError(f"{source}: {where}.charts: {error}") from None
    return tuple(sink for _, sink in used)


def _is_on_stdout(sink: SinkSettings) -> bool:
    return getattr(sink, "path", "") == "stdout"


def _sink_unused(section: Mapping[str, Any], where: str, registry: Registry) -> bool:
    kind = section.get("type")
    return isinstance(kind, str) and kind not in registry.sinks and _unused(kind, f'{where} "{kind}"', registry)


def _sink(raw: dict[str, Any], source: str, where: str, registry: Registry) -> SinkSettings:
    kind = raw.get("type")
    if not isinstance(kind, str) or kind not in registry.sinks:
        given = f"'{kind}'" if kind else "none given"
        raise SettingsError(f"{source}: {where}.type: {given}: expected one of {listed(registry.sinks)}")
    return typed(raw, registry.sinks[kind], source, where)
