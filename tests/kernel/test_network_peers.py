"""Traffic between two network namespaces, counted with the default settings."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ebpfmon import LoadMode
from tests.kernel import namespaces, network
from tests.kernel.namespaces import DEFAULT, SERVER, Pair
from tests.kernel.network import PLAN, Traffic, assert_balanced, assert_destinations, counted, differences, key_of
from tests.kernel.support import Monitor


def run(traffic: Path, pair: Pair, version: int, plan: dict[str, int]) -> Traffic:
    """Run a plan between the two namespaces."""
    return network.run(traffic, SERVER[version], plan, client_ns=pair.client, server_ns=pair.server)


def test_every_byte_is_counted_at_both_ends_with_its_peer(traffic: Path, pair: Pair) -> None:
    before = pair.kernel_counts("TcpRetransSegs")
    with Monitor(DEFAULT) as monitor:  # The defaults select private networks, not loopback.
        found = [run(traffic, pair, version, PLAN) for version in SERVER]
        expected = [network.expected_counts(PLAN, address, LoadMode.RETURN) for address in SERVER.values()]
        namespaces.until_closed(pair)
    rows = monitor.rows("network")
    for address, one, ends in zip(SERVER.values(), found, expected, strict=True):
        for tgid, end in zip((one.client, one.server), ends, strict=True):
            missed = differences(counted(rows, tgid), end)
            network.assert_seen(*missed.pop("tcp_close_calls", (0, 0)))
            assert not missed, address
        assert_destinations(monitor, one, address)
    # Usually there are none, but on a busy machine an ACK may be late, and the kernel retransmits.
    own = np.isin(rows["tgid"], [tgid for one in found for tgid in (one.client, one.server)])
    network.assert_seen(int(rows["tcp_retransmits"][own].sum()), pair.kernel_counts("TcpRetransSegs") - before)
    assert_balanced(monitor.snapshots)


def test_charts_have_a_series_for_each_destination(traffic: Path, pair: Pair) -> None:
    plan = {"tcp_send": 53, "udp_send": 59}
    with Monitor(DEFAULT) as monitor:
        found = [run(traffic, pair, version, plan) for version in SERVER]
        namespaces.until_closed(pair)
    for one, address in zip(found, SERVER.values(), strict=True):
        for name, size in (("tcp", 53 * 97), ("udp", 59 * 101)):
            at = {"port": str(one.ports[f"{name}_port"]), "protocol": name.upper()}
            assert monitor.total("ebpf.outbound_bytes", "sent", **at, address=address) == size
            assert monitor.total("ebpf.inbound_bytes", "recv", **at) == size


def test_loopback_is_not_a_destination_by_default(traffic: Path, pair: Pair) -> None:
    plan = {"tcp_send": 53, "udp_sendto": 61, "udp_send": 59}
    with Monitor(DEFAULT) as monitor:
        inside = {"client_ns": pair.client, "server_ns": pair.client}
        found = [network.run(traffic, address, plan, **inside) for address in ("127.0.0.1", "::1")]
        namespaces.until_closed(pair)
    own = [tgid for one in found for tgid in (one.client, one.server)]
    for stem in ("outbound", "inbound"):
        assert not np.isin(monitor.rows(stem)["tgid"], own).any()
    for one in found:
        client, server = (counted(monitor.rows("network"), tgid) for tgid in (one.client, one.server))
        assert client["tcp_send_bytes"] == server["tcp_recv_bytes"] == 53 * 97
        assert client["udp_send_bytes"] == server["udp_recv_bytes"] == 61 * 103 + 59 * 101
    totals = [table.totals for table in monitor.harvests("network")]
    assert sum(t["tcp_send_bytes"] for t in totals) >= 2 * 53 * 97
    assert_balanced(monitor.snapshots)


def test_what_a_child_sends_on_a_shared_socket_counts_for_the_child(traffic: Path, pair: Pair) -> None:
    plan = {"tcp_send": 53, "shared": 101}
    with Monitor(DEFAULT) as monitor:
        one = run(traffic, pair, 4, plan)
        namespaces.until_closed(pair)
    rows, outbound = monitor.rows("network"), monitor.rows("outbound")
    client, child, server = (counted(rows, tgid) for tgid in (one.client, one.child, one.server))
    assert (client["tcp_send_calls"], client["tcp_send_bytes"]) == (53, 53 * 97)
    assert (child["tcp_send_calls"], child["tcp_send_bytes"]) == (101, 101 * 47)
    assert server["tcp_recv_bytes"] == 53 * 97 + 101 * 47
    # The connection is opened and closed once.
    assert [end["tcp_connects_v4"] for end in (client, child)] == [1, 0]
    network.assert_seen(client["tcp_close_calls"], 1)
    assert child["tcp_close_calls"] == 0
    high, low = key_of(SERVER[4])
    for tgid, expected in ((one.client, (53, 53 * 97)), (one.child, (101, 101 * 47))):
        own = outbound[outbound["tgid"] == tgid]
        assert set(own[["address_high", "address_low", "port", "protocol"]].tolist()) == {
            (high, low, one.ports["tcp_port"], 6)
        }
        assert (int(own["sent_calls"].sum()), int(own["sent_bytes"].sum())) == expected
    inbound = monitor.rows("inbound")
    assert not np.isin(inbound["tgid"], (one.client, one.child)).any()
