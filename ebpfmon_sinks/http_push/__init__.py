"""Post snapshots as JSON to an HTTP receiver."""

from collections.abc import Sequence

from ebpfmon import SinkSettings, hookimpl
from ebpfmon_sinks.http_push.settings import HttpPushSettings

EBPFMON_API_VERSION = 2


@hookimpl
def ebpfmon_register_sinks() -> Sequence[type[SinkSettings]]:
    return [HttpPushSettings]
