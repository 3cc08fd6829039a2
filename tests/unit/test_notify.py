"""What systemd hears, on a socket like its own."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ebpfmon.daemon.notify import Notifier

Hear = Callable[[], str | None]


def listen(address: str) -> socket.socket:
    heard = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    heard.bind(address)
    return heard


@pytest.fixture(params=["path", "abstract"])
def systemd(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[str, Hear]]:
    """$NOTIFY_SOCKET, and a function that returns the next datagram, None if there is none."""
    name = f"ebpfmon-test-{os.getpid()}"
    told, real = (f"@{name}", f"\0{name}") if request.param == "abstract" else (str(tmp_path / "s"),) * 2
    with listen(real) as heard:

        def hear() -> str | None:
            try:
                return heard.recv(4096).decode()
            except BlockingIOError:
                return None

        yield told, hear


def test_each_word_is_a_datagram_as_sd_notify_has_it(systemd: tuple[str, Hear]) -> None:
    address, hear = systemd
    notifier = Notifier(address, None)
    notifier.ready("2 probes")
    assert hear() == "READY=1\nSTATUS=2 probes"
    notifier.ready()
    assert hear() == "READY=1"
    notifier.status("löst\nREADY=1")
    assert hear() == "STATUS=löst READY=1"
    before = time.monotonic_ns() // 1000
    notifier.reloading()
    word, _, stamp = (hear() or "").partition("\nMONOTONIC_USEC=")
    assert word == "RELOADING=1"
    assert before <= int(stamp) <= time.monotonic_ns() // 1000
    notifier.stopping()
    assert (hear(), hear()) == ("STOPPING=1", None)


def test_it_is_alive_at_most_every_half_of_the_watchdogs_time(
    systemd: tuple[str, Hear], monkeypatch: pytest.MonkeyPatch
) -> None:
    address, hear = systemd
    now_s = 1000.0
    monkeypatch.setattr("ebpfmon.daemon.notify.time.monotonic", lambda: now_s)
    notifier = Notifier(address, 30.0)
    assert notifier.watched
    said = []
    for now_s in (1000, 1001, 1014, 1015, 1016, 1029, 1031):  # noqa: B007  # the lambda reads it
        notifier.alive()
        said.append(hear())
    assert said == ["WATCHDOG=1", None, None, "WATCHDOG=1", None, None, "WATCHDOG=1"]


def test_a_sign_of_life_that_was_not_taken_is_given_again_at_once(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    notifier = Notifier(path, 3600)
    notifier.alive()
    with listen(path) as heard:
        notifier.alive()
        assert heard.recv(99) == b"WATCHDOG=1"


def test_without_a_watchdog_or_with_an_empty_status_nothing_is_said(systemd: tuple[str, Hear]) -> None:
    address, hear = systemd
    for watchdog_s in (None, 0.0):
        notifier = Notifier(address, watchdog_s)
        assert not notifier.watched
        notifier.alive()
    Notifier(address, None).status("")
    assert hear() is None


@pytest.mark.parametrize("address", [None, "", "@", "/nowhere/at/all", "/" + "x" * 200, "/a\0b", "relative"])
def test_nobody_to_speak_to_is_no_failure(address: str | None) -> None:
    notifier = Notifier(address, 1.0)
    notifier.ready("x")
    notifier.status("\udc80")
    notifier.reloading()
    notifier.stopping()
    notifier.alive()


def test_one_who_does_not_listen_holds_up_nothing(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    with listen(path):
        notifier, start = Notifier(path, None), time.monotonic()
        for _ in range(5000):  # more than its queue takes
            notifier.status("x" * 100)
        assert time.monotonic() - start < 10
