"""The HTTP sink: snapshots as JSON and as Prometheus metrics, served to whoever asks, or posted to a receiver."""

from collections.abc import Sequence

from ebpfmon import SinkSettings, hookimpl
from ebpfmon_sinks.http_json.settings import HttpJsonSettings

EBPFMON_API_VERSION = 1


@hookimpl
def ebpfmon_register_sinks() -> Sequence[type[SinkSettings]]:
    return [HttpJsonSettings]
