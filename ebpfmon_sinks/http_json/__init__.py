"""Serve snapshots over HTTP, as JSON and as Prometheus metrics."""

from collections.abc import Sequence

from ebpfmon import SinkSettings, hookimpl
from ebpfmon_sinks.http_json.settings import HttpJsonSettings

EBPFMON_API_VERSION = 2


@hookimpl
def ebpfmon_register_sinks() -> Sequence[type[SinkSettings]]:
    return [HttpJsonSettings]
