"""The log sink: write text or JSON to a terminal, to a file or to systemd's journal."""

from collections.abc import Sequence

from ebpfmon import SinkSettings, hookimpl
from ebpfmon_sinks.log.settings import LogSettings

EBPFMON_API_VERSION = 2


@hookimpl
def ebpfmon_register_sinks() -> Sequence[type[SinkSettings]]:
    return [LogSettings]
