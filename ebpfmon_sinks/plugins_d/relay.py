"""`ebpfmon.plugin`, which Netdata runs. It copies the daemon's lines for Netdata from the daemon's socket to stdout.

The relay keeps no data, needs no privileges, and imports little, so that it stays small. While the daemon does not run,
the relay waits for it and says so on stderr, which is Netdata's error log. It only ends when Netdata wants it to: on
QUIT, on SIGTERM, or when nobody reads stdout any more. The exit status is always 0, because Netdata never restarts a
plugin that failed before it had sent data.
"""

import os
import select
import signal
import socket
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress

DEFAULT_SOCKET = "/run/ebpfmon/plugins.d.sock"
_STDIN, _STDOUT, _STDERR = 0, 1, 2
_MIN_RETRY_S, _MAX_RETRY_S = 0.2, 2.0
_KEEPALIVE_S = 50.0
"""An empty line is written after this time without a line, because Netdata stops a plugin that is silent for 120 s."""
_READ_BYTES = 1 << 16


def main(arguments: Sequence[str], environment: Mapping[str, str]) -> int:
    """Run the relay and return the exit status. Netdata passes the seconds between updates as the first argument."""
    seconds = max(_seconds(arguments[0] if arguments else ""), _seconds(environment.get("NETDATA_UPDATE_EVERY", "")))
    try:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, _stop)
        Relay(environment.get("EBPFMON_SOCKET") or DEFAULT_SOCKET, seconds).run()
    except _Stopped:
        pass
    return 0


def _seconds(text: str) -> int:
    return min(max(int(text), 1), 86400) if text.isascii() and text.isdigit() else 1


class _Stopped(Exception):
    """Netdata wants the relay to end, or has ended itself."""


def _stop(*_: object) -> None:
    raise _Stopped


class Relay:
    """Copies lines from the daemon's socket to stdout, and reconnects whenever the daemon has ended."""

    def __init__(self, path: str, seconds: int) -> None:
        self._path, self._hello = path, b"every %d\n" % seconds
        self._poll = select.poll()
        self._poll.register(_STDIN, select.POLLIN)
        self._poll.register(_STDOUT, 0)  # reports only that nobody reads any more
        self._written_s = time.monotonic()
        self._retry_delay_s = _MIN_RETRY_S
        self._connected: bool | None = None

    def run(self) -> None:
        """Relay until `_Stopped` is raised."""
        while True:
            reason = "the daemon has closed the connection"
            try:
                with socket.socket(socket.AF_UNIX) as daemon:
                    daemon.connect(self._path)
                    daemon.sendall(self._hello)
                    self._copy(daemon)
            except OSError as error:
                reason = error.strerror or str(error)
            self._log_state(False, f"waiting for ebpfmon at {self._path!r}: {reason}")
            retry_s = time.monotonic() + self._retry_delay_s * (0.5 + os.urandom(1)[0] / 255)
            self._retry_delay_s = min(self._retry_delay_s * 2, _MAX_RETRY_S)
            while (left_s := retry_s - time.monotonic()) > 0:
                self._wait(left_s)

    def _copy(self, daemon: socket.socket) -> None:
        """Copy whole lines until the daemon closes the connection.

        Half a line would be joined to the first line of the next daemon, and Netdata gives up on a plugin that
        sends an invalid line.
        """
        self._poll.register(daemon, select.POLLIN)
        try:
            part = b""
            while True:
                if daemon.fileno() not in self._wait(_KEEPALIVE_S):
                    continue
                data = daemon.recv(_READ_BYTES)
                if not data:
                    return
                lines, end, part = (part + data).rpartition(b"\n")
                self._retry_delay_s = _MIN_RETRY_S
                self._log_state(True, f"receiving data from ebpfmon at {self._path!r}")
                self._write(lines + end)
        finally:
            self._poll.unregister(daemon)

    def _wait(self, seconds: float) -> dict[int, int]:
        """Wait until a descriptor is ready, for at most `seconds`, and return the events by descriptor.

        Handles what Netdata sends on stdin, and writes the empty line that keeps Netdata from stopping the relay.
        """
        until_keepalive_s = self._written_s + _KEEPALIVE_S - time.monotonic()
        events = dict(self._poll.poll(max(min(seconds, until_keepalive_s), 0) * 1000))
        if _STDOUT in events:
            raise _Stopped
        if _STDIN in events:
            data = os.read(_STDIN, 4096) if events[_STDIN] & select.POLLIN else b""
            if b"QUIT" in data.split():
                raise _Stopped
            if not data:  # end of file is no reason to stop: an old Netdata gives its plugins no stdin
                self._poll.unregister(_STDIN)
        if time.monotonic() >= self._written_s + _KEEPALIVE_S:
            self._write(b"\n")
        return events

    def _write(self, data: bytes) -> None:
        try:
            while data:
                data = data[os.write(_STDOUT, data) :]
                self._written_s = time.monotonic()
        except OSError:
            raise _Stopped from None

    def _log_state(self, connected: bool, message: str) -> None:
        """Write a line to stderr if the state of the connection has changed."""
        if connected is not self._connected:
            self._connected = connected
            with suppress(OSError):
                os.write(_STDERR, f"{time.strftime('%Y-%m-%d %H:%M:%S')}: ebpfmon.plugin: {message}\n".encode())
