"""The selection of destinations in the kernel, and the direction of sockets that are older than ebpfmon."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.kernel import namespaces
from tests.kernel.namespaces import CLIENT, DEFAULT, SERVER, SILENT, Actor, Pair
from tests.kernel.network import key_of
from tests.kernel.support import Monitor

TCP, UDP = 6, 17
# The servers' ports, by IP version and protocol. They are below the ephemeral ports, so that the UDP sockets count as
# listeners.
PORTS = {(4, TCP): 7001, (4, UDP): 7002, (6, TCP): 8001, (6, UDP): 8002}
SENT = {TCP: (53, 97), UDP: (59, 101)}  # Calls of the client, and the bytes of each.
ANSWERED = {TCP: (31, 89), UDP: (37, 103)}  # Calls of the server, and the bytes of each.

OPEN_SERVER = f"""
pairs = {{}}
for (version, protocol), port in {PORTS}.items():
    one = socket.socket(socket.AF_INET if version == 4 else socket.AF_INET6,
                        socket.SOCK_STREAM if protocol == {TCP} else socket.SOCK_DGRAM)
    one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    one.bind(({SERVER}[version], port))
    if protocol == {TCP}:
        one.listen()
    pairs[version, protocol] = one
"""
OPEN_CLIENT = f"""
pairs = {{}}
for (version, protocol), port in {PORTS}.items():
    one = socket.socket(socket.AF_INET if version == 4 else socket.AF_INET6,
                        socket.SOCK_STREAM if protocol == {TCP} else socket.SOCK_DGRAM)
    if protocol == {TCP}:
        one.connect(({SERVER}[version], port))
        one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    else:
        one.bind(({CLIENT}[version], 0))
    pairs[version, protocol] = one
"""
ACCEPT = f"""
listeners = list(pairs.values())
for key, one in pairs.items():
    if key[1] == {TCP}:
        pairs[key] = one.accept()[0]
        pairs[key].setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
"""
# One side sends, and then the other one receives. The socket's buffer holds all of it.
SEND = f"""
for (version, protocol), one in pairs.items():
    calls, size = {SENT}[protocol]
    for _ in range(calls):
        if protocol == {TCP}:
            one.sendall(bytes(size))
        else:
            one.sendto(bytes(size), ({SERVER}[version], {PORTS}[version, protocol]))
"""
RECEIVE = f"""
for (version, protocol), one in pairs.items():
    calls, size = {SENT}[protocol]
    for _ in range(calls):
        data, caller = one.recvfrom(size, socket.MSG_WAITALL)
        assert len(data) == size
    calls, size = {ANSWERED}[protocol]
    for _ in range(calls):
        if protocol == {TCP}:
            one.sendall(bytes(size))
        else:
            one.sendto(bytes(size), caller)
"""
TAKE = f"""
for (version, protocol), one in pairs.items():
    calls, size = {ANSWERED}[protocol]
    for _ in range(calls):
        assert len(one.recvfrom(size, socket.MSG_WAITALL)[0]) == size
"""
Key = tuple[int, int]


@contextmanager
def actors(pair: Pair) -> Iterator[tuple[Actor, Actor]]:
    with Actor(pair.client) as client, Actor(pair.server) as server:
        yield client, server


def connect(client: Actor, server: Actor) -> None:
    server.do(OPEN_SERVER)
    client.do(OPEN_CLIENT)
    server.do(ACCEPT)


def talk(client: Actor, server: Actor) -> None:
    client.do(SEND)
    server.do(RECEIVE)
    client.do(TAKE)


def destinations(monitor: Monitor, client: Actor, server: Actor) -> tuple[dict[Key, Any], dict[Key, Any]]:
    """Return the client's outbound and the server's inbound counts. Assert that there are no other rows of them."""
    keys = {
        (*key_of(SERVER[version]), port, protocol): (version, protocol) for (version, protocol), port in PORTS.items()
    }
    ports = {(port, protocol): (version, protocol) for (version, protocol), port in PORTS.items()}
    found: list[dict[Key, Any]] = []
    for table, own, other in (("outbound", client, server), ("inbound", server, client)):
        rows = monitor.rows(table)
        assert not (rows["tgid"] == other.tgid).any()
        sums: dict[Key, Any] = {}
        for row in rows[rows["tgid"] == own.tgid]:
            port, protocol = int(row["port"]), int(row["protocol"])
            if table == "outbound":
                key = keys[int(row["address_high"]), int(row["address_low"]), port, protocol]
            else:
                key = ports[port, protocol]
            counts = [int(row[name]) for name in ("sent_calls", "sent_bytes", "received_calls", "received_bytes")]
            sums[key] = [a + b for a, b in zip(sums.get(key, [0] * 4), counts, strict=True)]
        found.append(sums)
    return found[0], found[1]


def expected_destinations(keys: list[Key], server: bool) -> dict[Key, list[int]]:
    """Return the counts of the client, or of the server, for each of these destinations."""
    both = {key: [SENT[key[1]], ANSWERED[key[1]]] for key in keys}
    return {
        key: [number for calls, size in (way[::-1] if server else way) for number in (calls, calls * size)]
        for key, way in both.items()
    }


def test_sockets_that_are_older_than_ebpfmon_have_the_right_direction(pair: Pair) -> None:
    with actors(pair) as (client, server):
        connect(client, server)
        with Monitor(DEFAULT) as monitor:
            talk(client, server)
    at_client, at_server = destinations(monitor, client, server)
    assert at_client == expected_destinations(list(PORTS), server=False)
    assert at_server == expected_destinations(list(PORTS), server=True)
    assert_totals(monitor, client, server)


V4, V6 = [(4, TCP), (4, UDP)], [(6, TCP), (6, UDP)]


@pytest.mark.parametrize(
    ("settings", "of_client", "of_server"),
    [
        ({}, V4 + V6, V4 + V6),
        ({"ports": "7001"}, [(4, TCP)], [(4, TCP)]),
        ({"ports": "!7001"}, [(4, UDP), *V6], [(4, UDP), *V6]),
        ({"ports": "8000-9000 !8002"}, [(6, TCP)], [(6, TCP)]),
        ({"ips": f"{SERVER[4]}/32"}, V4, []),
        ({"ips": f"!{SERVER[6]}"}, V4, V4 + V6),
        ({"ips": f"{CLIENT[4]} {CLIENT[6]}"}, [], V4 + V6),
        ({"ips": "10.66.0.0/24", "ports": "7002 8001"}, [(4, UDP)], [(4, UDP)]),
        ({"ips": "fd00:66::1-fd00:66::1"}, [], V6),
        ({"ips": "127.0.0.0/8"}, [], []),
    ],
    ids=str,
)
def test_only_selected_destinations_have_rows(
    pair: Pair, settings: dict[str, str], of_client: list[Key], of_server: list[Key]
) -> None:
    with actors(pair) as (client, server), Monitor({"plugins": {"network_viewer": settings}}) as monitor:
        connect(client, server)
        talk(client, server)
    at_client, at_server = destinations(monitor, client, server)
    assert at_client == expected_destinations(of_client, server=False)
    assert at_server == expected_destinations(of_server, server=True)
    assert_totals(monitor, client, server)


def assert_totals(monitor: Monitor, client: Actor, server: Actor) -> None:
    """Assert that the counts by process do not depend on the selection."""
    rows = monitor.rows("network")
    for end, sends, receives in ((client, SENT, ANSWERED), (server, ANSWERED, SENT)):
        own = rows[rows["tgid"] == end.tgid]
        for name, protocol in (("tcp", TCP), ("udp", UDP)):
            for way, (calls, size) in (("send", sends[protocol]), ("recv", receives[protocol])):
                found = [int(own[f"{name}_{way}_{what}"].sum()) for what in ("calls", "bytes", "errors")]
                assert found == [2 * calls, 2 * calls * size, 0], (name, way)


def test_a_reconnected_udp_socket_is_selected_by_its_new_peer(pair: Pair) -> None:
    namespaces.silence(pair.client, SILENT[4])
    selected, excluded = (SERVER[4], PORTS[4, UDP]), (SILENT[4], PORTS[4, UDP])
    with actors(pair) as (client, server):
        server.do(OPEN_SERVER)  # Otherwise the client gets an ICMP error.
        client.do("ends = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(2)]")
        with Monitor({"plugins": {"network_viewer": {"ips": f"{SERVER[4]}/32"}}}) as monitor:
            for end, order in enumerate(((selected, excluded), (excluded, selected))):
                for at in order:
                    size = 61 if at == selected else 67
                    client.do(f"ends[{end}].connect({at}); ends[{end}].send(bytes({size}))")
    outbound, rows = monitor.rows("outbound"), monitor.rows("network")
    own = outbound[outbound["tgid"] == client.tgid]
    assert set(own[["address_high", "address_low", "port"]].tolist()) == {(*key_of(SERVER[4]), selected[1])}
    assert (own["sent_calls"].sum(), own["sent_bytes"].sum()) == (2, 2 * 61)
    assert rows["udp_send_bytes"][rows["tgid"] == client.tgid].sum() == 2 * (61 + 67)
