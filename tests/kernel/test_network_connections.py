"""Connections that succeed, connections that fail, and very many at a time."""

from __future__ import annotations

import errno
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from ebpfmon import LoadMode
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
