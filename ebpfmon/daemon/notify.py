"""Report the daemon's state to systemd, or to another service manager that supports sd_notify(3)."""

from __future__ import annotations

import socket
import time
from contextlib import suppress


class Notifier:
    """Sends the daemon's state to the service manager.

    `address` is $NOTIFY_SOCKET: a path, or an abstract name that begins with `@`. If it is None or empty, nothing is
    sent. `watchdog_s` is $WATCHDOG_USEC in seconds, or None if there is no watchdog. The service manager restarts a
    daemon that stays silent for longer than that.

    No method blocks or raises. A message that cannot be sent at once is dropped.
    """

    def __init__(self, address: str | None, watchdog_s: float | None) -> None:
        self._address = address.replace("@", "\0", 1) if address and address[0] == "@" else address
        self._watchdog_interval_s = watchdog_s / 2 if watchdog_s else None
        self._next_watchdog_s = 0.0

    @property
    def has_watchdog(self) -> bool:
        """Whether there is a watchdog."""
        return self._watchdog_interval_s is not None

    def ready(self, status: str = "") -> None:
        """Report that the daemon has started, or that it has finished a reload."""
        self._send("READY=1", *_status(status))

    def status(self, text: str) -> None:
        """Send the line that `systemctl status` shows."""
        self._send(*_status(text))

    def reloading(self) -> None:
        """Report that a reload begins. `ready` ends it."""
        self._send("RELOADING=1", f"MONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")

    def stopping(self) -> None:
        """Report that the daemon is about to stop."""
        self._send("STOPPING=1")

    def alive(self) -> None:
        """Tell the watchdog that the daemon is alive, at most twice in the watchdog's time."""
        now_s = time.monotonic()
        if self._watchdog_interval_s is not None and now_s >= self._next_watchdog_s and self._send("WATCHDOG=1"):
            self._next_watchdog_s = now_s + self._watchdog_interval_s

    def _send(self, *lines: str) -> bool:
        """Send a message and return whether that worked."""
        if not self._address or not lines:
            return False
        # OSError: nobody listens, or the queue is full. ValueError: the address is not a valid path.
        with suppress(OSError, ValueError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as client:
            client.setblocking(False)
            client.sendto("\n".join(lines).encode(errors="replace"), self._address)
            return True
        return False


def _status(text: str) -> tuple[str, ...]:
    return (f"STATUS={' '.join(text.split())}",) if text else ()
