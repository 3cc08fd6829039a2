"""Sockets that are used in unusual ways are counted exactly, with each attach method (see sockets.c)."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from unittest.mock import ANY

import numpy as np
import pytest

from ebpfmon.kernel import attach_methods
from tests.kernel import network
from tests.kernel.network import COUNTERS, VIEWER
from tests.kernel.support import Monitor

TCP, UDP = "TCP", "UDP"
PROTOCOLS = {TCP: 6, UDP: 17}
DIRECTIONS = ("sent_calls", "sent_bytes", "received_calls", "received_bytes")

Destinations = dict[tuple[str, str], tuple[int, int, int, int]]
"""By the name of a server and its protocol: calls and bytes sent, calls and bytes received."""


@dataclass(frozen=True, slots=True)
class Truth:
    """What a case does, all of it at 127.0.0.1."""

    outbound: Destinations
    inbound: Destinations
    counters: dict[str, int] = field(default_factory=dict)
    """The counters by process that are not sums of the destinations."""


CASES = {
    "splice_udp": Truth({("server", UDP): (1, 1000, 0, 0)}, {("server", UDP): (0, 0, 1, 1000)}),
    # The raw sockets see 20,380 bytes of packets, and send 100. Those are neither TCP nor UDP calls.
    "raw": Truth({("server", TCP): (1, 10000, 0, 0)}, {("server", TCP): (0, 0, 1, 10000)}),
    "reuse": Truth(
        {("called", UDP): (20, 2000, 0, 0), ("fixed", UDP): (20, 2000, 0, 0)}, {("fixed", UDP): (0, 0, 20, 2000)}
    ),
    # 10 calls with one message and 10 with three, then 5 that fail at the second message.
    "sendmmsg": Truth(
        {("one", UDP): (25, 2500, 0, 0), ("two", UDP): (10, 2000, 0, 0), ("three", UDP): (10, 3000, 0, 0)},
        {},
        {"udp_send_calls": 50, "udp_send_errors": 5},
    ),
    "recvmmsg": Truth(
        {("one", UDP): (1, 11, 14, 1400), ("two", UDP): (1, 11, 14, 2800), ("three", UDP): (1, 11, 14, 4200)},
        {("one", UDP): (14, 1400, 1, 11), ("two", UDP): (14, 2800, 1, 11), ("three", UDP): (14, 4200, 1, 11)},
    ),
    # The client has sent to server three last.
    "efault": Truth(
        {("one", UDP): (1, 11, 0, 0), ("two", UDP): (1, 11, 0, 0), ("three", UDP): (1, 11, 21, 7 * 311)},
        {("one", UDP): (0, 0, 1, 11), ("two", UDP): (0, 0, 1, 11), ("three", UDP): (21, 7 * 311, 1, 11)},
    ),
    "efault_inbound": Truth({("server", UDP): (7, 707, 0, 0)}, {("server", UDP): (0, 0, 7, 707)}),
    # A completion may interrupt the recvfrom(2), which the kernel then restarts.
    "uring": Truth(
        {("one", UDP): (5, 55, 5, 500), ("two", UDP): (5, 65, 5, 700)},
        {("one", UDP): (5, 500, 5, 55), ("two", UDP): (5, 700, 5, 65)},
        {"udp_recv_calls": ANY, "udp_recv_errors": ANY},
    ),
    "client_socket": Truth(
        {("server", UDP): (9, 101 + 7 * 103 + 109, 8, 7 * 107 + 113)},
        {("server", UDP): (8, 7 * 107 + 113, 9, 101 + 7 * 103 + 109)},
    ),
    "cork": Truth({("one", UDP): (2, 204, 0, 0), ("two", UDP): (1, 11, 0, 0)}, {("one", UDP): (0, 0, 1, 204)}),
    "udplite": Truth({("server", UDP): (7, 721, 0, 0)}, {("server", UDP): (0, 0, 7, 721)}),
    # Of a truncated datagram, what the call returns counts.
    "truncated": Truth({("server", UDP): (21, 14 * 1009, 0, 0)}, {("server", UDP): (0, 0, 21, 7 * 11 + 7 * 1009)}),
    "reconnect": Truth({("one", UDP): (2, 204, 0, 0), ("two", UDP): (2, 204, 0, 0)}, {}),
    # After it has disconnected, the client does not ask who sends: most probably server two, its last peer.
    "disconnect": Truth(
        {("one", UDP): (1, 11, 0, 0), ("two", UDP): (1, 101, 7, 721)}, {("two", UDP): (7, 721, 1, 101)}
    ),
    # Seven sends of nothing and eleven receives at the end of the connection move no data, but empty datagrams arrive.
    "no_data": Truth(
        {("server", TCP): (1, 101, 0, 0), ("datagrams", UDP): (13, 0, 0, 0)},
        {("server", TCP): (0, 0, 1, 101), ("datagrams", UDP): (0, 0, 13, 0)},
        {"tcp_send_calls": 8, "tcp_recv_calls": 12},
    ),
    # Seven connections of MPTCP, and three of TCP that an MPTCP socket accepts.
    "mptcp": Truth(
        {("server", TCP): (3, 303, 0, 0)},
        {("server", TCP): (0, 0, 3, 303)},
        {"tcp_connects_v4": 3, "tcp_accepted": 3, "tcp_close_calls": 6},
    ),
    "accept32": Truth({}, {}, {"tcp_connects_v4": 30, "tcp_accepted": 30}),
    "datagrams32": Truth(
        {
            ("one", UDP): (26, 11 + 10 * 101 + 15 * 100, 20, 10 * 107 + 10 * 50),
            ("two", UDP): (21, 11 + 10 * 200 + 10 * 200, 20, 10 * 109 + 10 * 100),
            ("three", UDP): (11, 11 + 10 * 300, 10, 10 * 150),
        },
        {
            ("one", UDP): (20, 10 * 107 + 10 * 50, 1, 11),
            ("two", UDP): (20, 10 * 109 + 10 * 100, 1, 11),
            ("three", UDP): (10, 10 * 150, 1, 11),
        },
    ),
    "splice32": Truth({("server", TCP): (7, 707, 0, 0)}, {("server", TCP): (0, 0, 7, 707)}),
}
OLDER = {
    "older_client": Truth({("server", UDP): (0, 0, 7, 721)}, {("server", UDP): (7, 721, 0, 0)}),
    "older_server": Truth(
        {("called", UDP): (8, 11 + 721, 0, 0), ("fixed", UDP): (0, 0, 1, 101)},
        {("called", UDP): (0, 0, 1, 11), ("fixed", UDP): (1, 101, 0, 0)},
    ),
}
"""Sockets that are made before ebpfmon starts."""


OWNERS = {
    "inetd": {
        "sockets": {"tcp_connects_v4": 2, "tcp_accepted": 2, "tcp_send_bytes": 101, "tcp_recv_bytes": 103},
        "child": {"tcp_send_bytes": 103, "tcp_recv_bytes": 101},
    },
    "rename": {
        "before": {"tcp_connects_v4": 2, "tcp_accepted": 2},
        "after": {"tcp_send_bytes": 50000, "tcp_recv_bytes": 50000},
    },
}
"""What is counted for each process, or for a process under each of its names, apart from calls."""
CLOSED = {"inetd": {"sockets": 3, "child": 2}, "rename": {"before": 2, "after": 3}}
"""The sockets that each of them closes."""


@dataclass(frozen=True, slots=True)
class Counted:
    """The rows of a run of all cases, and what each case printed."""

    tables: dict[str, np.ndarray]
    printed: dict[str, dict[str, int]]


def parse(line: str) -> dict[str, int]:
    words = line.replace("ready", "").split()
    return {name: int(value) for name, value in zip(words[::2], words[1::2], strict=True)}


def start(program: Path, case: str) -> subprocess.Popen[str]:
    return subprocess.Popen([program, case], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def read_ready(process: subprocess.Popen[str]) -> dict[str, int]:
    """Wait until the sockets of a case exist."""
    assert process.stdout
    line = process.stdout.readline()
    assert line.endswith("ready\n")
    return parse(line)


def finish(process: subprocess.Popen[str]) -> dict[str, int]:
    """Let a case go on, and wait for its end."""
    printed, _ = process.communicate(timeout=100)
    assert process.returncode == 0, process.args
    return parse(printed)


@pytest.fixture(scope="module", params=["auto", *attach_methods.NAMES])
def counted(sockets: Path, request: pytest.FixtureRequest) -> Iterator[Counted | str]:
    """Run all cases with an attach method, and return the counts, or the reason why this kernel refuses the method."""
    if reason := network.refused(request.param):
        yield reason
        return
    with ExitStack() as stack:
        older = {case: stack.enter_context(start(sockets, case)) for case in OLDER}
        first = {case: read_ready(process) for case, process in older.items()}
        monitor = stack.enter_context(Monitor({"ebpfmon": {"attach": request.param, "load_mode": "return"}, **VIEWER}))
        printed = {case: finish(start(sockets, case)) for case in (*CASES, *OWNERS)}
        printed |= {case: first[case] | finish(process) for case, process in older.items()}
        closed = sum(truth.counters.get("tcp_close_calls", 0) for truth in CASES.values())
        closed += sum(sum(of_case.values()) for of_case in CLOSED.values())
        processes = [network.Traffic(own["pid"], own.get("child", 0), {}) for own in printed.values()]
        network.until_closed(monitor, processes, closed)
    yield Counted({table: monitor.rows(table) for table in ("network", "outbound", "inbound")}, printed)


@pytest.mark.parametrize("case", [*CASES, *OLDER])
def test_every_call_and_every_byte_counts_for_its_peer(
    counted: Counted | str, case: str, record_property: Callable[[str, object], None]
) -> None:
    if isinstance(counted, str):
        assert network.is_refused(counted, record_property)
        return
    own, truth = counted.printed[case], (CASES | OLDER)[case]
    if "skipped" in own:
        pytest.skip(f"this kernel does not have it: {case}")
    rows = {name: table[table["tgid"] == own["pid"]] for name, table in counted.tables.items()}
    for direction, expected in (("outbound", truth.outbound), ("inbound", truth.inbound)):
        at = {(own[name], PROTOCOLS[protocol]): numbers for (name, protocol), numbers in expected.items()}
        assert destinations(rows[direction]) == at, (direction, own)
    counters = dict.fromkeys((name for name in COUNTERS if name.startswith(("tcp_send", "tcp_recv", "udp"))), 0)
    for (_, protocol), numbers in (*truth.outbound.items(), *truth.inbound.items()):
        for column, number in zip(("send_calls", "send_bytes", "recv_calls", "recv_bytes"), numbers, strict=True):
            counters[f"{protocol.lower()}_{column}"] += number
    missed = network.differences(network.counted(rows["network"], own["pid"]), counters | truth.counters)
    network.assert_seen(*missed.pop("tcp_close_calls", (0, 0)))
    assert not missed


@pytest.mark.parametrize("case", OWNERS)
def test_a_socket_belongs_to_the_caller_that_used_it_last(
    counted: Counted | str, case: str, record_property: Callable[[str, object], None]
) -> None:
    if isinstance(counted, str):
        assert network.is_refused(counted, record_property)
        return
    own, rows = counted.printed[case], counted.tables["network"]
    for name, truth in OWNERS[case].items():
        of_name = rows[rows["tgid"] == own.get(name, own["pid"])]
        if case == "rename":
            of_name = of_name[of_name["comm"] == name.encode()]
        network.assert_seen(int(of_name["tcp_close_calls"].sum()), CLOSED[case][name])
        compared = {name for of_other in OWNERS[case].values() for name in of_other}
        assert {key: int(of_name[key].sum()) for key in compared} == dict.fromkeys(compared, 0) | truth, name


def destinations(rows: np.ndarray) -> dict[tuple[int, int], tuple[int, ...]]:
    """Return the sums of DIRECTIONS by port and protocol."""
    keys = set(rows[["port", "protocol"]].tolist())
    return {
        (port, protocol): tuple(
            int(rows[name][(rows["port"] == port) & (rows["protocol"] == protocol)].sum()) for name in DIRECTIONS
        )
        for port, protocol in keys
    }
