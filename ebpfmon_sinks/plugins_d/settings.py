"""The settings of the Netdata sink: `[[sinks]] type = "plugins_d"`."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from typing import ClassVar

from ebpfmon import Sink, SinkSettings, file_resources, hookimpl, stream_resources
from ebpfmon_sinks.plugins_d.relay import DEFAULT_SOCKET
from ebpfmon_sinks.unix_socket import check_path

EBPFMON_API_VERSION = 2
_STANDARD = "-"  # stands for stdin and stdout, as on command lines
_STDOUT = 1


class PluginsDSettings(SinkSettings, tag="plugins_d", frozen=True):
    """`[[sinks]] type = "plugins_d"`."""

    socket: str = DEFAULT_SOCKET
    """The path of the Unix socket that relays connect to. `-`: use stdin and stdout, if Netdata runs the daemon."""
    group: str = "netdata"
    """The group that may connect besides root, if it exists. Empty: only root."""

    requires: ClassVar[tuple[str, ...]] = ("ebpfmon_sinks.plugins_d.sink",)

    def __post_init__(self) -> None:
        if self.socket != _STANDARD:
            check_path(self.socket)

    @property
    def capabilities(self) -> frozenset[str]:
        return frozenset({"chown"} if self.group and self.socket != _STANDARD else ())

    @property
    def resources(self) -> frozenset[str]:
        return stream_resources(_STDOUT) if self.socket == _STANDARD else file_resources(self.socket)

    def open(self) -> AbstractAsyncContextManager[Sink]:
        from ebpfmon_sinks.plugins_d.sink import open_socket, open_stdio

        if self.socket == _STANDARD:
            return open_stdio()
        return open_socket(self.socket, self.group, self.name or "plugins_d")


@hookimpl
def ebpfmon_register_sinks() -> Sequence[type[SinkSettings]]:
    return [PluginsDSettings]
