"""Declarations of probes and their settings. Data only."""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

import msgspec

from ebpfmon.model.chart import Chart
from ebpfmon.model.event import Event
from ebpfmon.model.table import Column, LabelSource


class Loader(enum.StrEnum):
    """How a probe's programs get into the kernel."""

    CORE = "core"
    """libbpf loads compiled objects. The kernel must have BTF."""
    BCC = "bcc"
    """BCC compiles the source on this machine, with the headers of its kernel."""


class ProbeSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The settings that every `[plugins.NAME]` section has. A probe with more settings derives from this class."""

    enabled: bool = True
    table_size: Annotated[int, msgspec.Meta(ge=1, le=1 << 20)] = 16384
    """How many processes, or other keys, can be active in one interval. Events of others are counted as overflow."""

    @property
    def without_effect(self) -> tuple[str, ...]:
        """Lines that each begin with a setting and say why it has no effect. ebpfmon logs them as warnings."""
        return ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """What a probe derives from its settings.

    `rodata` has the values of rodata settings in C, by name. `maps` has the elements to put into the probe's maps,
    by map, before it counts anything; keys and values are in the kernel's binary form. `labels` has the label sources
    of keyed tables, by table. `close` is called after the probe has been unloaded.
    """

    rodata: Mapping[str, int] = field(default_factory=dict)
    maps: Mapping[str, Mapping[bytes, bytes]] = field(default_factory=dict)
    labels: Mapping[str, LabelSource] = field(default_factory=dict)
    close: Callable[[], None] = lambda: None


def _no_setup(settings: ProbeSettings) -> Setup:
    return Setup()


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """A probe: what to count in the kernel, and how to publish it.

    `package` is the importable package that holds `objects/MACHINE/OBJECT.bpf.o`, where MACHINE is the machine name of
    uname(2). The object has per-process tables, keyed tables, or both. The charts and columns refer to the counters
    of these tables by name. `events` lists the candidates for each event. `setup` is called with the probe's settings
    before the probe is loaded; it raises SettingsError if they cannot work.
    """

    name: str
    package: str
    object: str
    charts: tuple[Chart, ...]
    events: tuple[Event, ...] = ()
    columns: tuple[Column, ...] = ()
    settings: type[ProbeSettings] = ProbeSettings
    setup: Callable[[Any], Setup] = _no_setup
