"""Tell systemd, or another service manager that speaks sd_notify(3), how the daemon is doing."""

from __future__ import annotations

import socket
import time
from contextlib import suppress


class Notifier:
    """Send datagrams to $NOTIFY_SOCKET: a path, or an abstract name that begins with `@`. None: nobody is told.

    `watchdog_s` is $WATCHDOG_USEC in seconds: a daemon that is not heard of for so long is killed; None: there is no
    watchdog. No method blocks or raises: what cannot be sent now is not sent.
    """

    def __init__(self, address: str | None, watchdog_s: float | None) -> None:
        self._address = address.replace("@", "\0", 1) if address and address[0] == "@" else address
        self._every_s = watchdog_s / 2 if watchdog_s else None
        self._next_s = 0.0

    @property
    def watched(self) -> bool:
        """Whether there is a watchdog."""
        return self._every_s is not None

    def ready(self, status: str = "") -> None:
        """Say that everything is started, or that a reload is over."""
        self._say("READY=1", *_status(status))

    def status(self, text: str) -> None:
        """Send a line for `systemctl status`."""
        self._say(*_status(text))

    def reloading(self) -> None:
        """Say that the settings are being read again; `ready` says that it is over."""
        self._say("RELOADING=1", f"MONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")

    def stopping(self) -> None:
        """Say that the daemon is about to end."""
        self._say("STOPPING=1")

    def alive(self) -> None:
        """Tell the watchdog that the daemon is alive, at most once in half of the watchdog's time."""
        now_s = time.monotonic()
        if self._every_s is not None and now_s >= self._next_s and self._say("WATCHDOG=1"):
            self._next_s = now_s + self._every_s

    def _say(self, *lines: str) -> bool:
        """Send a message and return whether that worked. Each has its own socket, so nothing is open in between."""
        if not self._address or not lines:
            return False
        # OSError: nobody is there, or its queue is full; ValueError: no path can be like that
        with suppress(OSError, ValueError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as said:
            said.setblocking(False)
            said.sendto("\n".join(lines).encode(errors="replace"), self._address)
            return True
        return False


def _status(text: str) -> tuple[str, ...]:
    return (f"STATUS={' '.join(text.split())}",) if text else ()
