"""The settings of the StatsD sink: `[[sinks]] type = "statsd"`."""

from __future__ import annotations

import re
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

import msgspec

from ebpfmon import SinkSettings

if TYPE_CHECKING:
    from ebpfmon_sinks.statsd.sink import StatsdSink

Tags = Literal["none", "datadog", "influx", "graphite"]
# With a prefix of this length, a gauge still fits into the smallest datagram (see lines.py).
_PREFIX, _MAX_PREFIX = re.compile(r"([A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*)?"), 40
_MIN_DATAGRAM, _MAX_DATAGRAM = 512, 65507


class StatsdSettings(SinkSettings, tag="statsd", frozen=True):
    """`[[sinks]] type = "statsd"`."""

    host: Annotated[str, msgspec.Meta(min_length=1)] = "127.0.0.1"
    """A host name, an IPv4 address or an IPv6 address."""
    port: Annotated[int, msgspec.Meta(ge=1, le=65535)] = 8125
    protocol: Literal["udp", "tcp"] = "udp"
    prefix: Annotated[str, msgspec.Meta(max_length=_MAX_PREFIX)] = "ebpfmon"
    """The beginning of all metric names. If hosts share a server, give each its own, or their counters are summed."""
    tags: Tags = "none"
    """The syntax of tags. none: label values and dimensions are part of the metric name."""
    maximum_datagram: Annotated[int, msgspec.Meta(ge=_MIN_DATAGRAM, le=_MAX_DATAGRAM)] = 1432
    """The greatest UDP payload in bytes. 1432 fit into an Ethernet frame, even with the header of a tunnel."""
    packets_per_second: Annotated[int, msgspec.Meta(ge=10, le=1_000_000)] = 2000
    """How fast a snapshot's datagrams are sent. If that would take more than five seconds, they are sent faster."""

    requires: ClassVar[tuple[str, ...]] = ("ebpfmon_sinks.statsd.sink",)

    def __post_init__(self) -> None:
        """Raise ValueError, which names the setting, if a setting is invalid."""
        if not _PREFIX.fullmatch(self.prefix):
            raise ValueError(f"prefix: '{self.prefix}': expected letters, digits, _ and -, in parts joined by dots")

    def open(self) -> AbstractAsyncContextManager[StatsdSink]:
        from ebpfmon_sinks.statsd.sink import connected

        return connected(self)
