"""The StatsD sink: send counters and gauges over UDP or TCP, with or without tags."""

from collections.abc import Sequence

from ebpfmon import SinkSettings, hookimpl
from ebpfmon_sinks.statsd.settings import StatsdSettings

EBPFMON_API_VERSION = 2


@hookimpl
def ebpfmon_register_sinks() -> Sequence[type[SinkSettings]]:
    return [StatsdSettings]
