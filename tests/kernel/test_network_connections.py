"""Connections that succeed, connections that fail, and very many at a time."""

from __future__ import annotations

import errno
import os
import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from ebpfmon import LoadMode
from ebpfmon_network_viewer.destinations import TCP
from tests.kernel import namespaces, network
from tests.kernel.namespaces import DEFAULT, SERVER, SILENT, Actor, Pair
from tests.kernel.network import counted, differences, key_of
from tests.kernel.support import Monitor

RETURN = LoadMode.RETURN

CLOSED, OPEN = 7001, 7002  # ports
# The expected result of a connect to each address. All are tried at once, because the silent address takes long.
ERRNO = (
    {(address, OPEN): errno.ETIMEDOUT for address in SILENT.values()}
    | {(address, CLOSED): errno.ECONNREFUSED for address in SERVER.values()}
    | {(address, OPEN): 0 for address in SERVER.values()}
)
CONNECT = f"""
import select
expected = {ERRNO}
waits, made = select.poll(), {{}}
for at in expected:
    one = socket.socket(socket.AF_INET6 if ":" in at[0] else socket.AF_INET)
    one.setblocking(False)
    one.connect_ex(at)
    waits.register(one, select.POLLOUT)
    made[one.fileno()] = at, one
left = set(made)
while left:
    for fd, _ in waits.poll():
        waits.unregister(fd)
        left.remove(fd)
for at, one in made.values():
    found = one.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    assert found == expected[at], (at, found)
    one.close()
"""
LISTEN = f"""
listeners = [socket.create_server((address, {OPEN}), family=socket.AF_INET6 if ":" in address else socket.AF_INET)
             for address in {list(SERVER.values())}]
"""


def sums(rows: np.ndarray, *names: str) -> list[int]:
    return [int(rows[name].sum()) for name in names]


def test_refused_and_unanswered_attempts_to_connect_are_counted(pair: Pair) -> None:
    for address in SILENT.values():
        namespaces.silence(pair.client, address)
    namespaces.write_sysctl(pair.client, "net.ipv4.tcp_syn_retries", 1)
    before = pair.kernel_counts("TcpRetransSegs")
    with Actor(pair.server) as server, Actor(pair.client) as client:
        server.do(LISTEN)
        with Monitor(DEFAULT) as monitor:
            client.do(CONNECT)
            server.do("for listener in listeners: listener.accept()[0].close(); listener.close()")
            namespaces.until_closed(pair)
    resent = pair.kernel_counts("TcpRetransSegs") - before
    assert resent >= 2
    rows, outbound, inbound = (monitor.rows(table) for table in ("network", "outbound", "inbound"))
    own, at_server = rows[rows["tgid"] == client.tgid], rows[rows["tgid"] == server.tgid]
    assert sums(own, "tcp_connects_v4", "tcp_connects_v6", "tcp_accepted") == [3, 3, 0]
    assert sums(at_server, "tcp_connects_failed", "tcp_retransmits", "tcp_accepted") == [0, 0, 2]
    for counter, happened in (("tcp_connects_failed", 4), ("tcp_close_calls", 6), ("tcp_retransmits", resent)):
        network.assert_seen(int(own[counter].sum()), happened)
    network.assert_seen(int(at_server["tcp_close_calls"].sum()), 4)
    # No data moved, so the only counts of destinations are retransmissions.
    to_server = outbound[outbound["tgid"] == client.tgid]
    assert set(to_server[["address_high", "address_low", "port", "protocol"]].tolist()) <= {
        (*key_of(address), OPEN, 6) for address in SILENT.values()
    }
    assert sums(to_server, "sent_calls", "received_calls", "retransmits") == [0, 0, *sums(own, "tcp_retransmits")]
    assert not np.isin(inbound["tgid"], (client.tgid, server.tgid)).any()


def test_a_retransmission_without_a_route_does_not_count(pair: Pair) -> None:
    """Without a route, the kernel fails to retransmit. Since Linux 6.15, its tracepoint reports these failures too."""
    before = pair.kernel_counts("TcpRetransSegs")
    with Actor(pair.server) as server, Actor(pair.client) as client:
        server.do(f"listener = socket.create_server(('{SERVER[4]}', {OPEN}))")
        with Monitor(DEFAULT) as monitor:
            client.do(f"one = socket.create_connection(('{SERVER[4]}', {OPEN}))")
            server.do("other = listener.accept()[0]")
            namespaces.silence(pair.client, SERVER[4])
            client.do("one.send(bytes(97))")
            namespaces.change_route(pair.client, "delete")
            namespaces.wait(lambda: namespaces.retransmit_attempts(pair.client, OPEN) >= 3, "the kernel to retransmit")
            namespaces.change_route(pair.client, "add")
            namespaces.unsilence(pair.client, SERVER[4])
            server.do("assert other.recv(97, socket.MSG_WAITALL) == bytes(97)")
            client.do("one.close()")
            server.do("other.close()")
            namespaces.until_closed(pair)
    rows = monitor.rows("network")
    own = rows[rows["tgid"] == client.tgid]
    network.assert_seen(int(own["tcp_retransmits"].sum()), pair.kernel_counts("TcpRetransSegs") - before)
    assert sums(own, "tcp_send_bytes") == [97]


def test_twenty_thousand_connections_at_a_time_are_all_counted(traffic: Path, pair: Pair) -> None:
    plan = {"hold": 10_000, "tcp_send": 53, "tcp_refused": 7}
    ends = {"client_ns": pair.client, "server_ns": pair.server}
    with Monitor(DEFAULT) as monitor:
        with ThreadPoolExecutor() as both:
            found = list(both.map(lambda address: network.run(traffic, address, plan, **ends), SERVER.values()))
        namespaces.until_closed(pair)
    rows = monitor.rows("network")
    for one, address in zip(found, SERVER.values(), strict=True):
        for tgid, expected in zip(
            (one.client, one.server), network.expected_counts(plan, address, RETURN), strict=True
        ):
            missed = differences(counted(rows, tgid), expected)
            network.assert_seen(*missed.pop("tcp_close_calls", (0, 0)))
            assert not missed, address
    assert sum(int(rows["tcp_accepted"][rows["tgid"] == one.server].sum()) for one in found) == 20_002


def test_calls_are_counted_when_there_are_too_many_sockets_to_remember(traffic: Path, pair: Pair) -> None:
    """With 72,000 sockets at a time, the kernel's map forgets some. Their closes count for PID 0."""
    plan = {"hold": 9_000, "tcp_send": 53, "tcp_refused": 7}
    ends = {"client_ns": pair.client, "server_ns": pair.server}
    addresses = [*SERVER.values()] * 2
    with Monitor(DEFAULT) as monitor:
        with ThreadPoolExecutor() as all_at_once:
            found = list(all_at_once.map(lambda address: network.run(traffic, address, plan, **ends), addresses))
        namespaces.until_closed(pair)
    rows = monitor.rows("network")
    closes = expected_closes = 0
    for one, address in zip(found, addresses, strict=True):
        for tgid, expected in zip(
            (one.client, one.server), network.expected_counts(plan, address, RETURN), strict=True
        ):
            own = counted(rows, tgid)
            assert differences(own, expected).keys() <= {"tcp_close_calls"}, address
            assert own["tcp_close_calls"] <= expected["tcp_close_calls"]
            closes += own["tcp_close_calls"]
            expected_closes += expected["tcp_close_calls"]
    forgotten = expected_closes - closes
    of_pid_0 = int(rows["tcp_close_calls"][rows["tgid"] == 0].sum())
    network.assert_seen(closes + min(forgotten, of_pid_0), expected_closes)


def test_what_moves_after_the_other_end_has_closed_counts_at_the_local_port() -> None:
    with Monitor(network.VIEWER) as monitor, socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        for closes_first in (True, False):
            client = socket.create_connection(server.getsockname())
            accepted = server.accept()[0]
            if closes_first:
                client.close()
                assert accepted.send(b"x" * 1009) == 1009  # The reset comes during this call.
            else:
                client.sendall(b"y" * 997)
                accepted.shutdown(socket.SHUT_WR)
                client.close()  # Both ends are closed now.
                assert accepted.recv(2048) == b"y" * 997
            accepted.close()
        monitor.until(lambda: inbound(monitor, port)["received_bytes"].sum() == 997)
    assert sums(inbound(monitor, port), "sent_calls", "sent_bytes", "received_bytes") == [1, 1009, 997]
    assert not len(inbound(monitor, 0))


def inbound(monitor: Monitor, port: int) -> np.ndarray:
    rows = monitor.rows("inbound")
    own: np.ndarray = rows[(rows["tgid"] == os.getpid()) & (rows["port"] == port) & (rows["protocol"] == TCP)]
    return own


def test_a_splice_that_does_not_reach_the_socket_is_no_receive() -> None:
    read_end, write_end = os.pipe()
    with Monitor(network.VIEWER) as monitor, socket.create_server(("127.0.0.1", 0)) as server:
        with socket.create_connection(server.getsockname()) as client, server.accept()[0] as accepted:
            client.sendall(b"x" * 101)
            for _ in range(11):
                assert os.splice(accepted.fileno(), write_end, 0) == 0
                with pytest.raises(OSError, match="Invalid argument"):  # Neither end is a pipe.
                    os.splice(accepted.fileno(), client.fileno(), 101)
            assert os.splice(accepted.fileno(), write_end, 101) == 101
        own = monitor.rows
        monitor.until(lambda: own("network")["tcp_recv_bytes"][own("network")["tgid"] == os.getpid()].sum() == 101)
    os.close(read_end)
    os.close(write_end)
    found = counted(monitor.rows("network"), os.getpid())
    assert [found[name] for name in ("tcp_recv_calls", "tcp_recv_errors", "tcp_recv_bytes")] == [1, 0, 101]
