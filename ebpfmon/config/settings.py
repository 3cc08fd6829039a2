"""The types of the settings. Their fields are the keys of the settings file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec

from ebpfmon.grouping.registry import DEFAULT
from ebpfmon.kernel import attach_methods
from ebpfmon.model import Loader, LoadMode, ProbeSettings, SinkSettings
from ebpfmon.plugins.registry import PluginOptions

if TYPE_CHECKING:
    Attach = str
else:  # whatever is registered
    Attach = Literal[("auto", *attach_methods.NAMES)]


class Core(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The section `[ebpfmon]`."""

    interval: Annotated[int, msgspec.Meta(ge=1, le=3600)] = 1
    """Seconds between harvests."""
    load_mode: LoadMode = LoadMode.ENTRY
    attach: Attach = "auto"
    """The attach method. If it is not auto, an event that cannot be attached that way is an error."""
    loader: Literal["auto", "core", "bcc"] = "auto"
    """What loads programs into the kernel. auto takes core, or bcc on kernels without BTF."""
    user: str = ""
    """The user that the daemon becomes once its programs are attached; empty to stay the same user."""
    plugins_dir: str = ""
    """The absolute path of a folder with single-file plugins, which nobody else may write to."""
    disabled_plugins: tuple[str, ...] = ()
    """The plugins that are not even imported."""
    strict: bool = False
    """Whether a plugin or a probe that cannot be used stops everything."""

    @property
    def plugins(self) -> PluginOptions:
        """The plugins to look for."""
        return PluginOptions(self.plugins_dir, self.disabled_plugins)

    @property
    def attach_method(self) -> str | None:
        """The attach method that is forced, or None for auto."""
        return None if self.attach == "auto" else self.attach

    @property
    def all_or_nothing(self) -> bool:
        """Whether a probe that cannot be loaded stops everything."""
        return self.strict or self.attach_method is not None

    @property
    def forced_loader(self) -> Loader | None:
        """The loader that is forced, or None for auto."""
        return None if self.loader == "auto" else Loader(self.loader)


class GroupSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The section `[groups]`."""

    by: tuple[str, ...] = (DEFAULT,)
    """The groupings, each with charts of its own. Without any the kernel keeps totals only, and no rows by process."""
    file: str = ""
    """A file in the format of Netdata's apps_groups.conf, relative to the settings file; empty for ebpfmon's own."""
    maximum: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 200
    """How many groups of a grouping are shown, the most active ones. `other` has the rest."""


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """All settings, checked. `plugins` has an entry for each probe that is installed."""

    ebpfmon: Core
    groups: GroupSettings
    plugins: dict[str, ProbeSettings]
    sinks: tuple[SinkSettings, ...]


@dataclass(frozen=True, slots=True)
class CommandLine:
    """What the command line sets: keys of `[ebpfmon]`, and whether JSON goes to stdout."""

    core: Mapping[str, Any] = field(default_factory=dict)
    json: bool = False


NO_OPTIONS = CommandLine()
"""A command line that sets nothing."""
