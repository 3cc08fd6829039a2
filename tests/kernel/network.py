"""Shared by the tests of the network viewer: the traffic program and its expected counts (see traffic.c)."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ebpfmon import LoadMode, Snapshot
from ebpfmon.errors import AttachError
from ebpfmon.kernel import attach, features
from ebpfmon.kernel.attach import LoadOptions
from ebpfmon.kernel.libbpf import Libbpf
from ebpfmon.plugins import registry
from tests.kernel.support import RELEASES_ARE_SEEN, Monitor

# What one use of each key counts: the client's sends and their bytes, the server's receives and their bytes, and the
# errors of both.
EACH: dict[str, tuple[int, int, int, int, int, int]] = {
    "tcp_send": (1, 97, 1, 97, 0, 0), "tcp_sendto": (1, 89, 1, 89, 0, 0), "tcp_sendmsg": (1, 83, 1, 83, 0, 0),
    "tcp_sendmmsg": (2, 158, 2, 158, 0, 0), "tcp_write": (1, 73, 1, 73, 0, 0), "tcp_writev": (1, 71, 1, 71, 0, 0),
    "tcp_sendfile": (1, 67, 1, 67, 0, 0), "tcp_splice": (1, 59, 1, 59, 0, 0),
    "tcp_peek": (1, 53, 2, 53, 0, 0), "tcp_eagain": (0, 0, 1, 0, 0, 1), "tcp_epipe": (1, 0, 0, 0, 1, 0),
    "udp_send": (1, 101, 1, 101, 0, 0), "udp_sendto": (1, 103, 1, 103, 0, 0), "udp_sendmsg": (1, 107, 1, 107, 0, 0),
    "udp_sendmmsg": (3, 327, 3, 327, 0, 0), "udp_recvmmsg": (3, 417, 3, 417, 0, 0), "udp_write": (1, 113, 1, 113, 0, 0),
    "udp_recv_unnamed": (1, 127, 1, 127, 0, 0), "udp_peek": (1, 131, 2, 131, 0, 0), "udp_empty": (1, 0, 1, 0, 0, 0),
    "udp_eagain": (0, 0, 1, 0, 0, 1),
}  # fmt: skip
# Each count is a different prime number, so that no count can be mistaken for another.
PLAN = {
    "tcp_send": 53, "tcp_sendto": 7, "tcp_sendmsg": 11, "tcp_sendmmsg": 13, "tcp_write": 17, "tcp_writev": 19,
    "tcp_sendfile": 23, "tcp_splice": 29, "tcp_peek": 31, "tcp_eagain": 37, "tcp_epipe": 41, "tcp_connect": 43,
    "tcp_refused": 47, "udp_send": 59, "udp_sendto": 61, "udp_sendmsg": 67, "udp_sendmmsg": 71, "udp_recvmmsg": 73,
    "udp_write": 79, "udp_recv_unnamed": 83, "udp_peek": 89, "udp_empty": 97, "udp_eagain": 101,
}  # fmt: skip
# tcp_retransmits is left out, because on a slow machine the kernel may retransmit what is merely late.
COUNTERS = (
    "tcp_send_calls", "tcp_send_errors", "tcp_send_bytes", "tcp_recv_calls", "tcp_recv_errors", "tcp_recv_bytes",
    "tcp_close_calls", "tcp_accepted", "tcp_connects_v4", "tcp_connects_v6", "tcp_connects_failed",
    "udp_send_calls", "udp_send_errors", "udp_send_bytes", "udp_recv_calls", "udp_recv_errors", "udp_recv_bytes",
)  # fmt: skip


ADDRESSES = ("127.0.0.1", "::1", "::ffff:127.0.0.1")
VIEWER = {"plugins": {"network_viewer": {"ips": "*"}}}


@dataclass(frozen=True, slots=True)
class Traffic:
    """The output of a run of the traffic program: the processes that took part, and the server's ports."""

    client: int
    server: int
    ports: dict[str, int]
    child: int = 0


def run(program: Path, address: str, plan: Mapping[str, int], **more: str) -> Traffic:
    """Run a plan with client and server, and return when it is done."""
    arguments = [f"{key}={value}" for key, value in {**plan, **more}.items()]
    done = subprocess.run([program, address, *arguments], capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    words = done.stdout.split()
    output = {name: int(value) for name, value in zip(words[::2], words[1::2], strict=True)}
    ports = {name: value for name, value in output.items() if name.endswith(("_port", "_port2", "_port3"))}
    return Traffic(output["client"], output["server"], ports, output.get("child", 0))


def expected_counts(plan: Mapping[str, int], address: str, mode: LoadMode) -> tuple[dict[str, int], dict[str, int]]:
    """Return the counters that the client's and the server's rows must have."""
    client, server = dict.fromkeys(COUNTERS, 0), dict.fromkeys(COUNTERS, 0)
    for key, times in plan.items():
        numbers = [number * times for number in EACH.get(key, (0,) * 6)]
        protocol = key.partition("_")[0]
        for counters, fields in (
            (client, {"send_calls": 0, "send_bytes": 1, "send_errors": 4}),
            (server, {"recv_calls": 2, "recv_bytes": 3, "recv_errors": 5}),
        ):
            for field, n in fields.items():
                if protocol in ("tcp", "udp"):
                    counters[f"{protocol}_{field}"] += numbers[n]
    connections = 1 + plan.get("tcp_connect", 0) + plan.get("hold", 0)
    refused = plan.get("tcp_refused", 0)
    family = "v6" if ip_address(address).version == 6 and not is_mapped(address) else "v4"
    client[f"tcp_connects_{family}"] = connections + refused
    client["tcp_connects_failed"] = refused
    client["tcp_close_calls"] = connections + refused
    # The server also closes its listening socket, and the socket that reserves the port for refused connections.
    server["tcp_close_calls"] = connections + 2
    server["tcp_accepted"] = connections
    if mode is LoadMode.ENTRY:
        for of in (client, server):
            of.update({name: 0 for name in of if name.endswith("_errors")})
    return client, server


def differences(actual: Mapping[str, int], expected: Mapping[str, int]) -> dict[str, tuple[int, int]]:
    """Return the counters that differ from the expected ones, as (actual, expected) by name."""
    return {name: (actual[name], expected[name]) for name in expected if actual[name] != expected[name]}


def is_mapped(address: str) -> bool:
    """Return whether an address is an IPv4-mapped IPv6 address."""
    parsed = ip_address(address)
    return isinstance(parsed, IPv6Address) and parsed.ipv4_mapped is not None


def calls_and_bytes(plan: Mapping[str, int], protocol: str, skip: tuple[str, ...] = ()) -> tuple[int, int]:
    """Return the calls of a plan that move data or an empty datagram, and their bytes, as destinations count them."""
    calls = total = 0
    for key, times in plan.items():
        if key.startswith(protocol) and key not in skip:
            sends, sent, _, _, errors, _ = EACH.get(key, (0,) * 6)
            calls += times * (sends - errors)
            total += times * sent
    return calls, total


def counted(rows: np.ndarray, tgid: int) -> dict[str, int]:
    """Return the counters of a process, summed over its rows."""
    own = rows[rows["tgid"] == tgid]
    return {name: int(own[name].sum()) for name in COUNTERS}


def key_of(address: str) -> tuple[int, int]:
    """Return an address as the two address fields of a row."""
    parsed = ip_address(address)
    packed = parsed.packed if parsed.version == 6 else bytes(10) + b"\xff\xff" + parsed.packed
    return int.from_bytes(packed[:8], "little"), int.from_bytes(packed[8:], "little")


def assert_balanced(snapshots: list[Snapshot]) -> None:
    """Assert that in every interval, the series of each chart of destinations add up to the totals."""
    for snapshot in snapshots:
        for data in snapshot.charts:
            if data.chart.table in ("outbound", "inbound"):
                totals = snapshot.tables[data.chart.table].harvest.totals
                expected = {d.id: sum(totals[field] for field in d.plus) for d in data.chart.dimensions}
                assert data.sums() == expected, data.chart.id


def assert_counted_exactly(
    program: Path,
    settings: Mapping[str, Any],
    mode: LoadMode,
    *,
    addresses: Sequence[str] = ADDRESSES,
    peers_are_known: bool = True,
) -> None:
    """Run the plan at each address, and assert exact counts by process and, if `peers_are_known`, by destination.

    In rare cases, the kernel skips a program that would interrupt itself, and reports it. The plan then runs again.
    """
    for _ in range(3):
        with Monitor({**settings, **VIEWER}) as monitor:
            found = [run(program, address, PLAN) for address in addresses]
            expected = [expected_counts(PLAN, address, mode) for address in addresses]
            until_closed(monitor, found, sum(one["tcp_close_calls"] for both in expected for one in both))
        assert_balanced(monitor.snapshots)
        if all(s.complete for s in monitor.snapshots):
            break
    else:
        raise AssertionError("no run was complete")
    rows = monitor.rows("network")
    for address, one, both in zip(addresses, found, expected, strict=True):
        for tgid, of_one in zip((one.client, one.server), both, strict=True):
            missed = differences(counted(rows, tgid), of_one)
            for name in ("tcp_close_calls", "tcp_connects_failed"):
                assert_seen(*missed.pop(name, (0, 0)))
            assert not missed, address
        if peers_are_known:
            assert_destinations(monitor, one, address)


def refused(attach_by: str) -> str:
    """Return why this kernel cannot count sends and receives by an attach method, or an empty text if it can."""
    if attach_by == "auto":
        return ""
    probe, options = registry.discover().probes["network_viewer"], LoadOptions(attach_method=attach_by)
    try:
        attach.load(probe, Libbpf(), features.detect(), options).close()
    except AttachError as error:
        return str(error)
    return ""


def is_refused(reason: str, record_property: Callable[[str, object], None]) -> bool:
    """Return whether this kernel rightly refuses an attach method, and record that for the table of kernels.

    `reason` is from refused(). Skip the test if the probe has no programs for the method.
    """
    if "the probe has no program for it" in reason:
        pytest.skip(reason)
    if reason:
        assert "no kprobes" in reason or "refuses trampoline" in reason or "no such tracepoint" in reason
        record_property("refused_by_kernel", reason)
    return bool(reason)


def until_closed(monitor: Monitor, found: list[Traffic], closes: int) -> None:
    """Wait until `closes` closed sockets of these processes were counted, or for three intervals if some cannot be."""
    tgids = [tgid for one in found for tgid in (one.client, one.server)]
    end = len(monitor.snapshots) + 3

    def closed() -> bool:
        rows = monitor.rows("network")
        seen = int(rows["tcp_close_calls"][np.isin(rows["tgid"], tgids)].sum()) >= closes
        return seen or (not RELEASES_ARE_SEEN and len(monitor.snapshots) >= end)

    monitor.until(closed)


def assert_seen(actual: int, happened: int) -> None:
    """Assert that all events that happen in interrupts (closes, retransmissions) were counted.

    In some sandboxes, the kernel runs no BPF program in interrupts of PID 1. There, some events may be missing.
    """
    least = happened if RELEASES_ARE_SEEN else happened * 3 // 4 - 1
    assert least <= actual <= happened


def assert_destinations(monitor: Monitor, one: Traffic, address: str) -> None:
    """Assert that the client's outbound rows and the server's inbound rows are exactly those of the plan."""
    outbound, inbound = monitor.rows("outbound"), monitor.rows("inbound")
    to_server, at_server = outbound[outbound["tgid"] == one.client], inbound[inbound["tgid"] == one.server]
    assert set(to_server[["address_high", "address_low"]].tolist()) == {key_of(address)}
    many = PLAN["udp_sendmmsg"]
    calls, size = calls_and_bytes(PLAN, "udp")
    expected = {
        6: {one.ports["tcp_port"]: calls_and_bytes(PLAN, "tcp")},
        17: {
            one.ports["udp_port"]: (calls - 2 * many, size - 2 * 109 * many),
            one.ports["udp_port2"]: (many, 109 * many),
            one.ports["udp_port3"]: (many, 109 * many),
        },
    }
    for protocol, ports in expected.items():
        assert of_ports(to_server, protocol, "sent") == ports
        assert of_ports(at_server, protocol, "received") == ports
    assert not to_server["received_calls"].any()
    assert not at_server["sent_calls"].any()
    assert not np.isin(outbound["tgid"], one.server).any()
    assert not np.isin(inbound["tgid"], one.client).any()


def of_ports(rows: np.ndarray, protocol: int, direction: str) -> dict[int, tuple[int, int]]:
    """Return calls and bytes of one protocol by port."""
    rows = rows[rows["protocol"] == protocol]
    return {
        port: tuple(int(rows[f"{direction}_{what}"][rows["port"] == port].sum()) for what in ("calls", "bytes"))  # type: ignore[misc]
        for port in np.unique(rows["port"]).tolist()
    }
