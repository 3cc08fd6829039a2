"""The StatsD sink: counters and gauges over UDP or TCP, without tags or with tags in one of three syntaxes."""

from collections.abc import Sequence

from ebpfmon import SinkSettings, hookimpl
from ebpfmon_sinks.statsd.settings import StatsdSettings

EBPFMON_API_VERSION = 2


@hookimpl
def ebpfmon_register_sinks() -> Sequence[type[SinkSettings]]:
    return [StatsdSettings]
