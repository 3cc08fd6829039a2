"""The settings of the Netdata sink: `[[sinks]] type = "plugins_d"`."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager

from ebpfmon import Sink, SinkSettings, hookimpl
from ebpfmon_sinks.plugins_d.relay import DEFAULT_SOCKET

EBPFMON_API_VERSION = 2
_STANDARD = "-"  # stdin and stdout, as command lines call it
_LONGEST_PATH = 107  # bytes: sockaddr_un.sun_path


class PluginsDSettings(SinkSettings, tag="plugins_d", frozen=True):
    """`[[sinks]] type = "plugins_d"`."""

    socket: str = DEFAULT_SOCKET
    """Where relays connect; `-`: stdin and stdout, of a daemon that Netdata runs as its plugin."""
    group: str = "netdata"
    """Who may connect beside root, if there is such a group; empty: nobody."""

    def __post_init__(self) -> None:
        if self.socket != _STANDARD and not (self.socket.startswith("/") and "\0" not in self.socket):
            raise ValueError(f"socket: '{self.socket}': expected an absolute path, or '-' for stdin and stdout")
        if len(self.socket.encode()) > _LONGEST_PATH:
            raise ValueError(f"socket: longer than {_LONGEST_PATH} bytes, which is all that a Unix socket can have")

    @property
    def capabilities(self) -> frozenset[str]:
        return frozenset({"chown"} if self.group and self.socket != _STANDARD else ())

    def open(self) -> AbstractAsyncContextManager[Sink]:
        from ebpfmon_sinks.plugins_d.sink import on_standard_streams, serving

        if self.socket == _STANDARD:
            return on_standard_streams()
        return serving(self.socket, self.group, self.name or "plugins_d")


@hookimpl
def ebpfmon_register_sinks() -> Sequence[type[SinkSettings]]:
    return [PluginsDSettings]
