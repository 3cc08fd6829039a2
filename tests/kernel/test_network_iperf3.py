"""ebpfmon counts the same bytes, datagrams and retransmissions as iperf3 and the kernel."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from tests.kernel import namespaces, network
from tests.kernel.namespaces import DEFAULT, SERVER, Pair, kernel_counts
from tests.kernel.network import key_of
from tests.kernel.support import Monitor

pytestmark = pytest.mark.skipif(not shutil.which("iperf3"), reason="iperf3 is not installed")

PORT = 5201
CONTROL_BYTES = 10_000
"""An upper bound for iperf3's control connection, which carries parameters, states and results."""


@dataclass(frozen=True, slots=True)
class Run:
    """The processes of both ends, the size of a datagram, iperf3's results, and what the kernel counted meanwhile."""

    client: int
    server: int
    datagram_bytes: int
    results: dict[str, Any]
    kernel: tuple[Counter[str], Counter[str]]


def run(pair: Pair, version: int, *options: str) -> Run:
    """Run iperf3 with a server for one client, and that client.

    When a time is up, iperf3 3.16 and later stop threads that may have sent something without having counted it.
    Over TCP, setting an amount to send avoids that.
    """
    ends = pair.client, pair.server
    before = [kernel_counts(end) for end in ends]
    with namespaces.started(pair.server, "iperf3", "-s", "-1", "-p", str(PORT)) as server:
        namespaces.wait_for_listener(server.pid, PORT)
        command = ("iperf3", "-J", "-c", SERVER[version], "-p", str(PORT), *options)
        with namespaces.started(pair.client, *command) as client:
            text, _ = client.communicate(timeout=20)
            assert client.returncode == 0, text
        text_of_server, _ = server.communicate(timeout=20)
        assert server.returncode == 0, text_of_server
    namespaces.until_closed(pair)
    after = [kernel_counts(end) for end in ends]
    for now, then in zip(after, before, strict=True):
        now.subtract(then)
    report = json.loads(text)
    size = report["start"]["test_start"]["blksize"]
    return Run(client.pid, server.pid, size, report["end"], (after[0], after[1]))


def sums(monitor: Monitor, tgid: int, table: str = "network") -> dict[str, int]:
    """Return all counters of a process, summed over its rows."""
    rows = monitor.rows(table)
    own = rows[rows["tgid"] == tgid]
    return {name: int(own[name].sum()) for name in monitor.harvests(table)[0].totals}


@pytest.mark.parametrize("direction", ["to server", "to client"])
@pytest.mark.parametrize("version", SERVER)
def test_tcp_bytes_match_iperf3s(pair: Pair, version: int, direction: str) -> None:
    with Monitor(DEFAULT) as monitor:
        one = run(pair, version, "-n", "256M", *(["-R"] if direction == "to client" else []))
    ends = sums(monitor, one.client), sums(monitor, one.server)
    sender, receiver = ends if direction == "to server" else ends[::-1]
    sent, received = one.results["sum_sent"]["bytes"], one.results["sum_received"]["bytes"]
    control = sender["tcp_send_bytes"] - sent
    assert 0 < control < CONTROL_BYTES
    # iperf3's receiver stops counting when the sender has ended, and may still receive what is in flight.
    assert received <= receiver["tcp_recv_bytes"] - control <= sent
    assert 0 < receiver["tcp_send_bytes"] == sender["tcp_recv_bytes"] < CONTROL_BYTES
    client, server = ends
    assert client[f"tcp_connects_v{version}"] == server["tcp_accepted"] == 2
    network.assert_seen(client["tcp_close_calls"], 2)
    network.assert_seen(server["tcp_close_calls"], 3)  # Including the listening socket.
    for end, kernel in zip(ends, one.kernel, strict=True):
        assert end["tcp_connects_v4"] + end["tcp_connects_v6"] == kernel["TcpActiveOpens"]
        assert end["tcp_accepted"] == kernel["TcpPassiveOpens"]
        network.assert_seen(end["tcp_retransmits"], kernel["TcpRetransSegs"])
    assert_destinations(monitor, one, version)


@pytest.mark.parametrize("direction", ["to server", "to client"])
@pytest.mark.parametrize("version", SERVER)
def test_udp_calls_match_the_kernels_datagrams(pair: Pair, version: int, direction: str) -> None:
    with Monitor(DEFAULT) as monitor:
        one = run(pair, version, "-t", "1", "-u", "-b", "200M", *(["-R"] if direction == "to client" else []))
    ends = sums(monitor, one.client), sums(monitor, one.server)
    family = "Udp" if version == 4 else "Udp6"
    for end, kernel in zip(ends, one.kernel, strict=True):
        assert end["udp_send_calls"] - end["udp_send_errors"] == kernel[f"{family}OutDatagrams"]
        assert end["udp_recv_calls"] - end["udp_recv_errors"] == kernel[f"{family}InDatagrams"]
    sender, receiver = ends if direction == "to server" else ends[::-1]
    # iperf3 sends 4 bytes in each direction to introduce the client.
    datagrams = sender["udp_send_calls"] - 1
    assert sender["udp_send_bytes"] == datagrams * one.datagram_bytes + 4
    assert datagrams - one.results["sum_sent"]["packets"] in (0, 1)  # The last one may not have been counted.
    assert one.results["sum_received"]["bytes"] + 4 <= receiver["udp_recv_bytes"] <= sender["udp_send_bytes"]
    assert (receiver["udp_send_bytes"], sender["udp_recv_bytes"]) == (4, 4)
    assert_destinations(monitor, one, version)


@pytest.mark.parametrize("direction", ["to server", "to client"])
@pytest.mark.parametrize("version", SERVER)
def test_retransmissions_match_the_kernels_if_packets_are_lost(pair: Pair, version: int, direction: str) -> None:
    namespaces.lose_packets(pair, pair.client if direction == "to server" else pair.server)
    with Monitor(DEFAULT) as monitor:
        one = run(pair, version, "-n", "64M", *(["-R"] if direction == "to client" else []))
    ends = sums(monitor, one.client), sums(monitor, one.server)
    found = [end["tcp_retransmits"] for end in ends]
    for resent, kernel in zip(found, one.kernel, strict=True):
        network.assert_seen(resent, kernel["TcpRetransSegs"])
    assert found[direction == "to client"] > 20
    # A retransmitted SYN-ACK does not belong to a connection yet.
    again = one.kernel[1]["TcpExtTCPSynRetrans"]
    assert sums(monitor, one.client, "outbound")["retransmits"] == found[0]
    assert found[1] - again <= sums(monitor, one.server, "inbound")["retransmits"] <= found[1]
    assert_destinations(monitor, one, version)


def assert_destinations(monitor: Monitor, one: Run, version: int) -> None:
    """Assert that all traffic is in the client's outbound and the server's inbound rows of the server's port."""
    outbound, inbound = monitor.rows("outbound"), monitor.rows("inbound")
    to_server, at_server = outbound[outbound["tgid"] == one.client], inbound[inbound["tgid"] == one.server]
    assert set(to_server[["address_high", "address_low", "port"]].tolist()) == {(*key_of(SERVER[version]), PORT)}
    assert set(at_server["port"].tolist()) == {PORT}
    assert not np.isin(outbound["tgid"], one.server).any()
    assert not np.isin(inbound["tgid"], one.client).any()
    for rows, tgid in ((to_server, one.client), (at_server, one.server)):
        totals = sums(monitor, tgid)
        assert int(rows["sent_bytes"].sum()) == totals["tcp_send_bytes"] + totals["udp_send_bytes"]
        assert int(rows["received_bytes"].sum()) == totals["tcp_recv_bytes"] + totals["udp_recv_bytes"]
