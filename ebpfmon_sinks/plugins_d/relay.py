"""`ebpfmon.plugin`: what Netdata runs. It copies what the daemon says for Netdata from the daemon's socket to stdout.

It holds no data and needs no rights; it imports nothing that it does not use, to be small. It goes on where the daemon
does not: it waits for it, and says so on stderr, which is Netdata's error log. It ends with Netdata alone: on QUIT, on
SIGTERM, when nobody reads stdout any more. Its exit status is then 0, as Netdata never starts a plugin again that
failed before it had data.
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
_FIRST_DELAY_S, _LAST_DELAY_S = 0.2, 2.0
_SILENCE_S = 50.0
"""After so long without a line, an empty one is written: Netdata stops a plugin that says nothing for 120 s."""
_READ_BYTES = 1 << 16


def main(arguments: Sequence[str], environment: Mapping[str, str]) -> int:
    """Run the relay and return the exit status. `arguments`: as Netdata gives them, the seconds between updates."""
    seconds = max(_seconds(arguments[0] if arguments else ""), _seconds(environment.get("NETDATA_UPDATE_EVERY", "")))
    try:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, _stop)
        Relay(environment.get("EBPFMON_SOCKET") or DEFAULT_SOCKET, seconds).run()
    except _Stopped:
        pass
    return 0


def _seconds(said: str) -> int:
    return min(max(int(said), 1), 86400) if said.isascii() and said.isdigit() else 1


class _Stopped(Exception):
    """Netdata wants it to end, or has ended itself."""


def _stop(*_: object) -> None:
    raise _Stopped


class Relay:
    """From the daemon's socket to stdout, whichever daemon is there."""

    def __init__(self, path: str, seconds: int) -> None:
        self._path, self._hello = path, b"every %d\n" % seconds
        self._poll = select.poll()
        self._poll.register(_STDIN, select.POLLIN)
        self._poll.register(_STDOUT, 0)  # its errors, that is: nobody reads
        self._written_s = time.monotonic()
        self._delay_s = _FIRST_DELAY_S
        self._connected: bool | None = None

    def run(self) -> None:
        """Relay until `_Stopped` is raised."""
        while True:
            why = "it has closed the connection"
            try:
                with socket.socket(socket.AF_UNIX) as daemon:
                    daemon.connect(self._path)
                    daemon.sendall(self._hello)
                    self._copy(daemon)
            except OSError as error:
                why = error.strerror or str(error)
            self._is_connected(False, f"waits for ebpfmon at '{self._path}': {why}")
            again_s = time.monotonic() + self._delay_s * (0.5 + os.urandom(1)[0] / 255)
            self._delay_s = min(self._delay_s * 2, _LAST_DELAY_S)
            while (left_s := again_s - time.monotonic()) > 0:
                self._ready(left_s)

    def _copy(self, daemon: socket.socket) -> None:
        """Copy whole lines until the daemon closes the connection. Half a line would spoil the next daemon's first one,
        and Netdata gives up a plugin that sends a wrong line."""
        self._poll.register(daemon, select.POLLIN)
        try:
            part = b""
            while True:
                if daemon.fileno() not in self._ready(_SILENCE_S):
                    continue
                data = daemon.recv(_READ_BYTES)
                if not data:
                    return
                lines, end, part = (part + data).rpartition(b"\n")
                self._delay_s = _FIRST_DELAY_S
                self._is_connected(True, f"has data from ebpfmon at '{self._path}'")
                self._write(lines + end)
        finally:
            self._poll.unregister(daemon)

    def _ready(self, seconds: float) -> dict[int, int]:
        """Wait at most so long. What is ready, by descriptor; what Netdata has to say is dealt with."""
        silent_s = self._written_s + _SILENCE_S - time.monotonic()
        found = dict(self._poll.poll(max(min(seconds, silent_s), 0) * 1000))
        if _STDOUT in found:
            raise _Stopped
        if _STDIN in found:
            said = os.read(_STDIN, 4096) if found[_STDIN] & select.POLLIN else b""
            if b"QUIT" in said.split():
                raise _Stopped
            if not said:  # its end alone says nothing: an old Netdata gives no stdin
                self._poll.unregister(_STDIN)
        if time.monotonic() >= self._written_s + _SILENCE_S:
            self._write(b"\n")
        return found

    def _write(self, data: bytes) -> None:
        try:
            while data:
                data = data[os.write(_STDOUT, data) :]
                self._written_s = time.monotonic()
        except OSError:
            raise _Stopped from None

    def _is_connected(self, connected: bool, what: str) -> None:
        if connected is not self._connected:  # one line for each change of state
            self._connected = connected
            with suppress(OSError):
                os.write(_STDERR, f"{time.strftime('%Y-%m-%d %H:%M:%S')}: ebpfmon.plugin: {what}\n".encode())
