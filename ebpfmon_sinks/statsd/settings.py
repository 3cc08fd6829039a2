"""The settings of the StatsD sink: `[[sinks]] type = "statsd"`."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Annotated, Literal

import msgspec

from ebpfmon import SinkSettings

if TYPE_CHECKING:
    from ebpfmon_sinks.statsd.sink import StatsdSink

Tags = Literal["none", "datadog", "influx", "graphite"]
# the lines of a gauge fit the smallest datagram if the prefix is no longer (see lines.py)
_PREFIX, _PREFIX_MOST = r"^([A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*)?\Z", 40
_DATAGRAM_LEAST, _DATAGRAM_MOST = 512, 65507


class StatsdSettings(SinkSettings, tag="statsd", frozen=True):
    """`[[sinks]] type = "statsd"`."""

    host: Annotated[str, msgspec.Meta(min_length=1)] = "127.0.0.1"
    """A name, or an address of either family."""
    port: Annotated[int, msgspec.Meta(ge=1, le=65535)] = 8125
    protocol: Literal["udp", "tcp"] = "udp"
    prefix: Annotated[str, msgspec.Meta(pattern=_PREFIX, max_length=_PREFIX_MOST)] = "ebpfmon"
    """What all names begin with. Hosts that share a server need one each, or their counters are summed."""
    tags: Tags = "none"
    """The syntax of tags. Without it, label values and dimensions are part of the name."""
    maximum_datagram: Annotated[int, msgspec.Meta(ge=_DATAGRAM_LEAST, le=_DATAGRAM_MOST)] = 1432
    """Bytes of UDP's payload: 1432 pass through any Ethernet in one piece, with room for a tunnel's header."""
    packets_per_second: Annotated[int, msgspec.Meta(ge=10, le=1_000_000)] = 2000
    """How fast the datagrams of one snapshot follow each other. A snapshot never takes more than five seconds."""

    def open(self) -> AbstractAsyncContextManager[StatsdSink]:
        from ebpfmon_sinks.statsd.sink import connected

        return connected(self)
