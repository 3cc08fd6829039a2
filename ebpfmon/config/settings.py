"""TOML to typed settings. Every error is one line: the file, the key path, what was expected."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args

import msgspec
import tomli

from ebpfmon.errors import SettingsError
from ebpfmon.model.everything import Loader, LoadMode, ProbeSettings, SinkSettings, Strategy, tag_of
from ebpfmon.pipeline.selection import Charts
from ebpfmon.plugins.registry import Registry, Wanted

log = logging.getLogger(__name__)

DEFAULT_PATH = Path("/etc/ebpfmon/ebpfmon.toml")
"""Read where no file is named; it need not exist."""


By = Literal["app", "process", "user", "cgroup"]
BY: tuple[str, ...] = get_args(By)
"""What may be grouped by."""


class Core(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[ebpfmon]`."""

    interval: Annotated[int, msgspec.Meta(ge=1, le=3600)] = 1
    """Seconds between harvests."""
    load_mode: LoadMode = LoadMode.ENTRY
    attach: Literal["auto", "trampoline", "kprobe", "tracepoint"] = "auto"
    """How events are seen; anything but auto is an error where an event cannot be seen so."""
    loader: Literal["auto", "core", "bcc"] = "auto"
    """How programs get into the kernel; auto takes core, and bcc on kernels without BTF."""
    user: str = ""
    """Whom the daemon becomes when its programs are attached; by default it stays who it is."""
    plugins_dir: str = ""
    """A folder of plugins that are single files: an absolute path, to which nobody else may write."""
    disabled_plugins: tuple[str, ...] = ()
    """Plugins that are not even imported."""
    strict: bool = False
    """Whether a plugin or a probe that cannot be used stops everything."""

    @property
    def plugins(self) -> Wanted:
        """Which plugins there shall be."""
        return Wanted(self.plugins_dir, self.disabled_plugins)

    @property
    def strategy(self) -> Strategy | None:
        """The strategy that is forced, None for auto."""
        return None if self.attach == "auto" else Strategy(self.attach)

    @property
    def all_or_nothing(self) -> bool:
        """Whether a probe that cannot be loaded stops everything."""
        return self.strict or self.strategy is not None

    @property
    def forced_loader(self) -> Loader | None:
        """The loader that is forced, None for auto."""
        return None if self.loader == "auto" else Loader(self.loader)


class Apps(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[apps]`."""

    enabled: bool = True
    """Whether there are charts by application. If not, the kernel keeps totals alone, and no rows."""
    by: By = "app"
    """What the groups are: those of the groups file, programs, users, or containers and services."""
    groups: str = ""
    """A file in the format of Netdata's apps_groups.conf, relative to the settings' own; by default ebpfmon's."""
    maximum: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 200
    """Groups that are shown, the most active ones; the rest is in `other`."""


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """All settings, checked. `plugins` has one entry for each probe there is."""

    ebpfmon: Core
    apps: Apps
    plugins: dict[str, ProbeSettings]
    sinks: tuple[SinkSettings, ...]


@dataclass(frozen=True, slots=True)
class CommandLine:
    """What the command line says of the settings: `[ebpfmon]` keys, and whether JSON goes to stdout."""

    core: Mapping[str, Any] = field(default_factory=dict)
    json: bool = False


@dataclass(frozen=True, slots=True)
class Document:
    """A settings file as it was read: what it says can be checked when the plugins are known, which it names."""

    raw: Mapping[str, Any]
    source: str

    def core(self, given: CommandLine = CommandLine()) -> Core:
        """`[ebpfmon]`, which needs no plugin. Raises SettingsError."""
        core = _typed(self.raw.get("ebpfmon", {}), dict[str, Any], self.source, "ebpfmon")
        # the file's alone first, so that an error names where it is
        folder = _typed(core, Core, self.source, "ebpfmon").plugins_dir
        if folder and not Path(folder).is_absolute():
            raise SettingsError(f"{self.source}: ebpfmon.plugins_dir: '{folder}': expected an absolute path")
        return _typed({**core, **given.core}, Core, "command line", "ebpfmon")


def read(path: Path | None, registry: Registry, given: CommandLine = CommandLine()) -> Settings:
    """The settings of a file; of DEFAULT_PATH if none is named; the defaults if that is not there.

    Raises SettingsError.
    """
    document = parse(path)
    return check(document.raw, document.source, registry, given)


def parse(path: Path | None) -> Document:
    """A settings file, as `read` finds it. Raises SettingsError."""
    source = path or DEFAULT_PATH
    try:
        raw = tomli.loads(source.read_text(encoding="utf-8"))
    except FileNotFoundError:
        if path:
            raise SettingsError(f"{path}: no such file") from None
        raw = {}
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{source}: cannot be read: {error}") from None
    except (ValueError, RecursionError) as error:
        raise SettingsError(f"{source}: not TOML: {error}") from None
    return Document(raw, str(source))


def check(raw: Mapping[str, Any], source: str, registry: Registry, given: CommandLine = CommandLine()) -> Settings:
    """Parsed TOML to settings. Raises SettingsError, naming `source`."""
    _known(raw, ("ebpfmon", "apps", "plugins", "sinks"), source, "")
    sections = _typed(raw.get("plugins", {}), dict[str, Any], source, "plugins")
    sections = {n: s for n, s in sections.items() if n in registry.probes or not _unused(n, f"plugins.{n}", registry)}
    _known(sections, tuple(registry.probes), source, "plugins.")
    wanted = Document(raw, source).core(given)
    return Settings(
        ebpfmon=wanted,
        apps=_apps(raw, source),
        plugins={
            name: _typed(sections.get(name, {}), probe.settings, source, f"plugins.{name}")
            for name, probe in registry.probes.items()
        },
        sinks=_sinks(raw, source, registry, given.json, wanted.interval),
    )


def _unused(name: str, where: str, registry: Registry) -> bool:
    """Whether a section is for what a plugin would have brought, as far as can be known of one that is not in use."""
    for plugin in (*registry.disabled, *registry.left_out):
        if name == plugin.name:
            log.warning("%s is not used: plugin '%s' is %s", where, plugin.name, plugin.state)
            return True
    if registry.left_out:  # what it would have brought, nobody knows
        names = ", ".join(f"'{p.name}'" for p in registry.left_out)
        log.warning("%s is not used: nothing has that name, but plugin %s is left out", where, names)
    return bool(registry.left_out)


def _apps(raw: Mapping[str, Any], source: str) -> Apps:
    apps = _typed(raw.get("apps", {}), Apps, source, "apps")
    if not apps.groups:
        return apps
    path = Path(source).parent / apps.groups
    if not path.is_file():
        raise SettingsError(f"{source}: apps.groups: {path}: no such file")
    return msgspec.structs.replace(apps, groups=str(path))


def _sinks(
    raw: Mapping[str, Any], source: str, registry: Registry, json: bool, interval_s: int
) -> tuple[SinkSettings, ...]:
    default = [] if json else [{"type": "log"}]
    sections = _typed(raw.get("sinks", default), list[dict[str, Any]], source, "sinks")
    used = [
        (where, _sink(section, source, where, registry))
        for where, section in ((f"sinks[{n}]", section) for n, section in enumerate(sections))
        if not _sink_unused(section, where, registry)
    ]
    if json:  # stdout is JSON's alone
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
            Charts(sink.charts)
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
        raise SettingsError(f"{source}: {where}.type: {given}: expected one of {_listed(registry.sinks)}")
    return _typed(raw, registry.sinks[kind], source, where)


_T = TypeVar("_T")


def _typed(raw: object, kind: type[_T], source: str, where: str) -> _T:
    try:
        return msgspec.convert(raw, kind)
    except msgspec.ValidationError as error:
        raise SettingsError(f"{source}: {_explain(str(error), kind, where)}") from None
    except Exception as error:  # from a check of a plugin's own
        raise SettingsError(f"{source}: {where}: {type(error).__name__}: {error}") from None


def _explain(message: str, kind: object, where: str) -> str:
    """msgspec's words ("Expected `int`, got `str` - at `$.interval`") as ours, with the key path in front."""
    said, _, at = message.partition(" - at `$")
    key = where + at.rstrip("`").replace("[...]", "")
    unknown = re.search(r"unknown field `([^`]+)`", said)
    if unknown:
        fields = [f.encode_name for f in msgspec.structs.fields(kind)] if isinstance(kind, type) else []
        return _unknown(f"{key}.", unknown[1], fields)
    wrong = re.search(r"Invalid enum value (.+)", said)
    if wrong:
        options = _options(kind, at.strip(".`"))
        return f"{key}: {wrong[1]}: expected one of {_listed(options)}"
    own, _, reason = said.partition(": ")
    if isinstance(kind, type) and own in (f.encode_name for f in msgspec.structs.fields(kind)):  # a check of its own
        return f"{key}.{own}: {reason}"
    said = said.replace("`", "").replace("object", "table")
    return f"{key}: {said[0].lower()}{said[1:]}"


def _options(kind: object, field: str) -> list[str]:
    """The values that a field of enumerated strings takes."""
    for found in msgspec.structs.fields(kind) if isinstance(kind, type) else ():
        if found.encode_name == field:
            schema = msgspec.json.schema(found.type)
            for place in (schema, *schema.get("$defs", {}).values()):
                if "enum" in place:
                    return [str(v) for v in place["enum"]]
    return []


def _known(raw: Mapping[str, Any], names: tuple[str, ...], source: str, prefix: str) -> None:
    for name in raw:
        if name not in names:
            raise SettingsError(f"{source}: {_unknown(prefix, name, list(names))}")


def _unknown(prefix: str, name: str, names: list[str]) -> str:
    import difflib  # on the way out only

    near = difflib.get_close_matches(name, names, 1)
    hint = f"did you mean '{near[0]}'?" if near else f"expected one of {_listed(names)}"
    return f"{prefix}{name}: no such setting: {hint}"


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(names))


def to_toml(settings: Settings) -> Iterator[str]:
    """The settings as lines of TOML, defaults included: what `ebpfmon config show` prints."""
    plain: dict[str, Any] = msgspec.to_builtins(settings)
    yield from _section("[ebpfmon]", plain["ebpfmon"])
    yield from _section("[apps]", plain["apps"])
    for name, section in plain["plugins"].items():
        yield from _section(f"[plugins.{name}]", section)
    for section in plain["sinks"]:
        yield from _section("[[sinks]]", section)


def _section(title: str, values: Mapping[str, Any]) -> Iterator[str]:
    yield title
    tables = {key: value for key, value in values.items() if isinstance(value, dict)}
    for key, value in values.items():
        if key not in tables:
            yield f"{_key(key)} = {_toml(value)}"
    yield ""
    for key, value in tables.items():
        yield from _section(f"[{title.strip('[]')}.{_key(key)}]", value)


def _key(key: str) -> str:
    return key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else _toml(key)


def _toml(value: object) -> str:
    """JSON's numbers, booleans, strings and lists of them are TOML's too."""
    return msgspec.json.encode(value).decode().replace("\x7f", "\\u007f")
