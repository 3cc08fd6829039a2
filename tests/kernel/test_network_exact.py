"""Every TCP and UDP call and byte is counted, by process and by destination, with each attach method."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from socket import AF_INET, AF_INET6, SOCK_DGRAM, AddressFamily, socket

import numpy as np
import pytest

from ebpfmon import LoadMode
from ebpfmon.kernel import attach_methods
from tests.kernel.network import ADDRESSES, VIEWER, assert_counted_exactly, is_refused, of_ports, refused
from tests.kernel.support import Monitor


@pytest.mark.parametrize("mode", LoadMode)
@pytest.mark.parametrize("attach", ["auto", *attach_methods.NAMES])
def test_every_call_and_every_byte_is_counted(
    traffic: Path, attach: str, mode: LoadMode, record_property: Callable[[str, object], None]
) -> None:
    if is_refused(refused(attach), record_property):
        return
    addresses: Sequence[str] = ADDRESSES
    if "EBPFMON_CONFIGURATION" in os.environ:
        # Each address takes long there. IPv6 has its own programs, and the modes differ in errors only.
        addresses = ADDRESSES[: 1 if mode is LoadMode.ENTRY else 3 if attach == "auto" else 2]
    assert_counted_exactly(traffic, {"ebpfmon": {"load_mode": mode, "attach": attach}}, mode, addresses=addresses)


@pytest.mark.parametrize("attach", ["auto", *attach_methods.NAMES])
def test_a_datagram_counts_for_its_own_peer_and_not_for_the_last_receiver(
    attach: str, record_property: Callable[[str, object], None]
) -> None:
    if is_refused(refused(attach), record_property):
        return
    ports: list[int] = []
    with Monitor({"ebpfmon": {"attach": attach}, **VIEWER}) as monitor:
        for address, family in (("127.0.0.1", AF_INET), ("::1", AF_INET6)):
            ports += talk(address, family)
        monitor.until(lambda: of_ports(own_rows(monitor), 17, "received").keys() == set(ports))
    rows = own_rows(monitor)
    assert of_ports(rows, 17, "sent") == {port: (11, 11 * (101, 103)[n % 2]) for n, port in enumerate(ports)}
    assert of_ports(rows, 17, "received") == {port: (11, 11 * (107, 109)[n % 2]) for n, port in enumerate(ports)}


def talk(address: str, family: AddressFamily) -> list[int]:
    """Exchange datagrams of different sizes between a client and two servers, and return the servers' ports."""
    with ExitStack() as stack:
        client, one, two = (stack.enter_context(socket(family, SOCK_DGRAM)) for _ in range(3))
        for server in (one, two):
            server.bind((address, 0))
            server.settimeout(10)
        ports = [server.getsockname()[1] for server in (one, two)]
        for _ in range(11):
            client.sendto(b"1" * 101, (address, ports[0]))
            client.sendmsg([b"2" * 50, b"2" * 53], [], 0, (address, ports[1]))
            own = one.recvfrom(200)[1]
            two.recvmsg(200)
            one.sendto(b"3" * 107, own)  # The client sent to the other server last.
            assert client.recvfrom(200)[0] == b"3" * 107
            two.sendto(b"4" * 109, own)
            assert client.recvmsg(200)[0] == b"4" * 109
    return ports


def own_rows(monitor: Monitor) -> np.ndarray:
    rows = monitor.rows("outbound")
    own: np.ndarray = rows[rows["tgid"] == os.getpid()]
    return own
