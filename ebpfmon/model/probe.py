"""Describe probes: what is to be seen in the kernel, as data."""

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
    """The ways to get a probe's programs into the kernel."""

    CORE = "core"
    """Compiled objects, by libbpf; the kernel must have BTF."""
    BCC = "bcc"
    """The source, compiled by BCC with this machine's kernel headers."""


class ProbeSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[plugins.NAME]`: the settings of every probe. A probe with settings of its own derives from it."""

    enabled: bool = True
    table_size: Annotated[int, msgspec.Meta(ge=1, le=1 << 20)] = 16384
    """How many rows one interval can hold. Events that find no room are counted as overflow."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """What a probe makes of its settings.

    `rodata` are values of its rodata settings in C, by name. `maps` are elements that stand in its maps before anything
    is counted, keys and values as the kernel has them. `labels` say what the rows of its tables with keys of their own
    are called, by table. `close` is called when the probe has ended.
    """

    rodata: Mapping[str, int] = field(default_factory=dict)
    maps: Mapping[str, Mapping[bytes, bytes]] = field(default_factory=dict)
    labels: Mapping[str, LabelSource] = field(default_factory=dict)
    close: Callable[[], None] = lambda: None


def _no_setup(settings: ProbeSettings) -> Setup:
    return Setup()


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """What is to be seen in the kernel, and how it is shown.

    `package` is the importable package that holds `objects/MACHINE/OBJECT.bpf.o`, MACHINE as in uname(2). The object
    has tables by process or by keys of their own, whose counters the charts and columns name. `events` lists for each
    event the ways to attach to it. `setup` is called once, at start, with the probe's settings; it raises
    SettingsError.
    """

    name: str
    package: str
    object: str
    charts: tuple[Chart, ...]
    events: tuple[Event, ...] = ()
    columns: tuple[Column, ...] = ()
    settings: type[ProbeSettings] = ProbeSettings
    setup: Callable[[Any], Setup] = _no_setup
