"""The types of the settings. Their fields are the keys of the settings file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec

from ebpfmon.grouping.registry import DEFAULT_GROUPING
from ebpfmon.kernel import attach_methods
from ebpfmon.model import Loader, LoadMode, ProbeSettings, SinkSettings
from ebpfmon.plugins.registry import PluginOptions

if TYPE_CHECKING:
    Attach = str
else:  # every attach method that is registered
    Attach = Literal[("auto", *attach_methods.NAMES)]


class Core(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The section `[ebpfmon]`."""

    interval: Annotated[int, msgspec.Meta(ge=1, le=3600)] = 1
    """Seconds between harvests."""
    load_mode: LoadMode = LoadMode.ENTRY
    attach: Attach = "auto"
    """The attach method. If it is not auto, an event that cannot be attached by this method is an error."""
    loader: Literal["auto", "core", "bcc"] = "auto"
    """How programs are loaded. auto uses core, or bcc on kernels without BTF."""
    user: str = ""
    """The user that the daemon switches to after it has attached its programs. Empty: the user does not change."""
    plugins_dir: str = ""
    """The absolute path of a directory with single-file plugins. Only root may have write access to it."""
    disabled_plugins: tuple[str, ...] = ()
    """Plugins that are not imported."""
    strict: bool = False
    """Whether ebpfmon stops if a plugin or a probe cannot be used."""

    @property
    def plugins(self) -> PluginOptions:
        """The plugins to look for."""
        return PluginOptions(self.plugins_dir, self.disabled_plugins)

    @property
    def attach_method(self) -> str | None:
        """The attach method to force, or None for auto."""
        return None if self.attach == "auto" else self.attach

    @property
    def all_or_nothing(self) -> bool:
        """Whether ebpfmon stops if a probe cannot be loaded."""
        return self.strict or self.attach_method is not None

    @property
    def forced_loader(self) -> Loader | None:
        """The loader to force, or None for auto."""
        return None if self.loader == "auto" else Loader(self.loader)


class GroupSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The section `[groups]`."""

    by: tuple[str, ...] = (DEFAULT_GROUPING,)
    """The groupings. Each has its own charts. Without any, the kernel keeps totals only, and no rows by process."""
    file: str = ""
    """A file in the format of Netdata's apps_groups.conf, relative to the settings file. Empty: ebpfmon's own."""
    maximum: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 200
    """How many of the most active groups of each grouping have series of their own. `other` has the rest."""


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """All settings, validated. `plugins` has an entry for each installed probe."""

    ebpfmon: Core
    groups: GroupSettings
    plugins: dict[str, ProbeSettings]
    sinks: tuple[SinkSettings, ...]


@dataclass(frozen=True, slots=True)
class CommandLine:
    """The settings that the command line overrides: keys of `[ebpfmon]`, and whether to write JSON to stdout."""

    core: Mapping[str, Any] = field(default_factory=dict)
    json: bool = False


NO_OPTIONS = CommandLine()
"""A command line that overrides nothing."""
