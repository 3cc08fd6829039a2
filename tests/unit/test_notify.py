"""Messages to systemd, on a socket like its own."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ebpfmon.daemon.notify import Notifier

Receive = Callable[[], str | None]


def listen(address: str) -> socket.socket:
    server = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    server.bind(address)
    return server


@pytest.fixture(params=["path", "abstract"])
def systemd(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[str, Receive]]:
    """Yield $NOTIFY_SOCKET, and a function that returns the next datagram, or None if there is none."""
    name = f"ebpfmon-test-{os.getpid()}"
    address, real = (f"@{name}", f"\0{name}") if request.param == "abstract" else (str(tmp_path / "s"),) * 2
    with listen(real) as server:

        def receive() -> str | None:
            try:
                return server.recv(4096).decode()
            except BlockingIOError:
                return None

        yield address, receive


def test_each_message_is_a_datagram_in_the_format_of_sd_notify(systemd: tuple[str, Receive]) -> None:
    address, receive = systemd
    notifier = Notifier(address, None)
    notifier.ready("2 probes")
    assert receive() == "READY=1\nSTATUS=2 probes"
    notifier.ready()
    assert receive() == "READY=1"
    notifier.status("löst\nREADY=1")
    assert receive() == "STATUS=löst READY=1"
    before = time.monotonic_ns() // 1000
    notifier.reloading()
    state, _, stamp = (receive() or "").partition("\nMONOTONIC_USEC=")
    assert state == "RELOADING=1"
    assert before <= int(stamp) <= time.monotonic_ns() // 1000
    notifier.stopping()
    assert (receive(), receive()) == ("STOPPING=1", None)


def test_the_watchdog_is_notified_at_most_twice_per_timeout(
    systemd: tuple[str, Receive], monkeypatch: pytest.MonkeyPatch
) -> None:
    address, receive = systemd
    now_s = 1000.0
    monkeypatch.setattr("ebpfmon.daemon.notify.time.monotonic", lambda: now_s)
    notifier = Notifier(address, 30.0)
    assert notifier.has_watchdog
    sent = []
    for now_s in (1000, 1001, 1014, 1015, 1016, 1029, 1031):  # noqa: B007  # the lambda reads it
        notifier.alive()
        sent.append(receive())
    assert sent == ["WATCHDOG=1", None, None, "WATCHDOG=1", None, None, "WATCHDOG=1"]


def test_a_watchdog_message_that_was_not_accepted_is_repeated_at_once(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    notifier = Notifier(path, 3600)
    notifier.alive()
    with listen(path) as server:
        notifier.alive()
        assert server.recv(99) == b"WATCHDOG=1"


def test_nothing_is_sent_without_a_watchdog_or_with_an_empty_status(systemd: tuple[str, Receive]) -> None:
    address, receive = systemd
    for watchdog_s in (None, 0.0):
        notifier = Notifier(address, watchdog_s)
        assert not notifier.has_watchdog
        notifier.alive()
    Notifier(address, None).status("")
    assert receive() is None


@pytest.mark.parametrize("address", [None, "", "@", "/nowhere/at/all", "/" + "x" * 200, "/a\0b", "relative"])
def test_a_missing_or_invalid_address_is_no_failure(address: str | None) -> None:
    notifier = Notifier(address, 1.0)
    notifier.ready("x")
    notifier.status("\udc80")
    notifier.reloading()
    notifier.stopping()
    notifier.alive()


def test_a_service_manager_that_does_not_read_blocks_nothing(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    with listen(path):
        notifier, start = Notifier(path, None), time.monotonic()
        for _ in range(5000):  # more than its queue holds
            notifier.status("x" * 100)
        assert time.monotonic() - start < 10
