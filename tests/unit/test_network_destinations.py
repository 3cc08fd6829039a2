"""The labels of destinations, and their selection by host name."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ebpfmon_network_viewer.destinations import Inbound, Outbound, address_text
from ebpfmon_network_viewer.resolver import Resolver
from ebpfmon_network_viewer.selectors import Hostnames
from ebpfmon_network_viewer.services import Services

TCP, UDP = 6, 17
OUTBOUND = np.dtype(
    [("start_ns", "u8"), ("tgid", "u4"), ("exec_id", "u4"), ("address_high", "u8"), ("address_low", "u8"),
     ("port", "u4"), ("protocol", "u4"), ("sent_calls", "u8")]
)  # fmt: skip
INBOUND = np.dtype([("tgid", "u4"), ("port", "u4"), ("protocol", "u4"), ("sent_calls", "u8")])
Destination = tuple[str, int, int]


class FakeResolver:
    """A resolver that knows the given names and records requests."""

    def __init__(self, **names: str) -> None:
        self._names = {address.replace("_", "."): name for address, name in names.items()}
        self.requested: list[str] = []

    def name(self, address: str) -> str | None:
        self.requested.append(address)
        return self._names.get(address)


def halves(address: str) -> tuple[int, int]:
    """Return an address as in a row: 16 bytes in network order (IPv4 mapped to IPv6), read as two native u64."""
    packed = socket.inet_pton(socket.AF_INET6, address if ":" in address else f"::ffff:{address}")
    high, low = np.frombuffer(packed, np.uint64).tolist()
    return high, low


def rows(*destinations: Destination) -> np.ndarray:
    return np.array(
        [(9, n, 0, *halves(a), port, proto, 1) for n, (a, port, proto) in enumerate(destinations)], OUTBOUND
    )


def outbound(names: FakeResolver | None = None, hostnames: str = "*", services: Services | None = None) -> Outbound:
    return Outbound(5, services, cast(Resolver, names), Hostnames.parse(hostnames))


@pytest.fixture
def services(tmp_path: Path) -> Services:
    (tmp_path / "services").write_text("https 443/tcp\ndomain 53/udp\n")
    return Services({8080: "my: own"}, tmp_path / "services")


def included(source: Outbound, table: np.ndarray) -> Sequence[bool]:
    mask = source.included(table)
    assert mask is not None
    assert mask.dtype == bool
    values: list[bool] = mask.tolist()
    return values


def test_outbound_rows_are_labelled_with_port_protocol_and_address(services: Services) -> None:
    table = rows(("192.0.2.1", 443, TCP), ("192.0.2.1", 443, UDP), ("2001:db8::1", 53, UDP), ("10.0.0.1", 8080, TCP))
    source = outbound(services=services)
    assert source.labels == ("port", "protocol", "address")
    assert source.values(table) == [
        ("443", "TCP", "192.0.2.1"), ("443", "UDP", "192.0.2.1"), ("53", "UDP", "2001:db8::1"),
        ("8080", "TCP", "10.0.0.1"),
    ]  # fmt: skip
    assert source.names(table) == [
        ("https", "TCP", "192.0.2.1"), ("443", "UDP", "192.0.2.1"), ("domain", "UDP", "2001:db8::1"),
        ("my: own", "TCP", "10.0.0.1"),
    ]  # fmt: skip


def test_without_services_ports_are_shown_as_numbers() -> None:
    table = rows(("192.0.2.1", 443, TCP))
    assert outbound().values(table) == outbound().names(table) == [("443", "TCP", "192.0.2.1")]


@pytest.mark.parametrize(
    ("address", "shown"),
    [("192.0.2.1", "192.0.2.1"), ("::ffff:192.0.2.1", "192.0.2.1"), ("0.0.0.0", "0.0.0.0"), ("::1", "::1"),
     ("::", "::"), ("::192.0.2.1", "::c000:201"), ("fe80::ffff:1:2", "fe80::ffff:1:2"),
     ("64:ff9b::192.0.2.1", "64:ff9b::c000:201")],
)  # fmt: skip
def test_mapped_ipv4_is_shown_as_ipv4_and_ipv6_in_its_shortest_form(address: str, shown: str) -> None:
    assert outbound().values(rows((address, 1, TCP))) == [("1", "TCP", shown)]


@given(st.ip_addresses())
def test_an_address_is_read_in_network_order(address: object) -> None:
    text = str(address)
    shown = address_text(*halves(text))
    assert shown in {text, text.removeprefix("::ffff:")} or shown.count(".") == 3
    assert halves(shown) == halves(text)


def test_labels_stay_addresses_when_names_become_known() -> None:
    table = rows(("192.0.2.1", 443, TCP), ("192.0.2.2", 443, TCP), ("192.0.2.3", 443, TCP))
    before = outbound(FakeResolver())
    after = outbound(FakeResolver(**{"192_0_2_1": "h.example", "192_0_2_2": "h.example"}))
    assert [name for _, _, name in after.names(table)] == ["h.example", "h.example", "192.0.2.3"]
    assert after.values(table) == before.values(table) == before.names(table)


def test_if_every_name_is_selected_nothing_is_resolved() -> None:
    names = FakeResolver()
    assert outbound(names).included(rows(("192.0.2.1", 443, TCP))) is None
    assert outbound(None, "!*").included(rows(("192.0.2.1", 443, TCP))) is None, "without names, no row can be excluded"
    assert names.requested == []


def test_rows_with_a_selected_name_or_without_a_name_are_included() -> None:
    names = FakeResolver(**{"192_0_2_1": "a.example", "192_0_2_2": "b.example"})
    table = rows(
        ("192.0.2.2", 443, TCP), ("192.0.2.1", 443, TCP), ("2001:db8::1", 53, UDP), ("192.0.2.2", 53, UDP),
        ("192.0.2.1", 80, TCP),
    )  # fmt: skip
    assert included(outbound(names, "!b.*"), table) == [False, True, True, False, True]
    assert included(outbound(names, "b.*"), table) == [True, False, True, True, False]
    assert sorted(names.requested) == sorted(2 * ["192.0.2.1", "192.0.2.2", "2001:db8::1"]), (
        "each address is requested once per call"
    )
    assert included(outbound(names, "b.*"), table[:0]) == []


def test_a_full_table_can_be_selected_by_name() -> None:
    made = np.zeros(16384, OUTBOUND)
    made["address_low"] = np.random.default_rng(1).permutation(16384)
    names = FakeResolver()
    assert all(included(outbound(names, "x"), made))
    assert len(names.requested) == 16384


def test_inbound_rows_are_labelled_with_the_local_port_and_protocol(services: Services) -> None:
    table = np.array([(1, 443, TCP, 1), (2, 53, UDP, 1), (3, 60000, TCP, 1)], INBOUND)
    source = Inbound(5, services)
    assert source.labels == ("port", "protocol")
    assert source.values(table) == [("443", "TCP"), ("53", "UDP"), ("60000", "TCP")]
    assert source.names(table) == [("https", "TCP"), ("domain", "UDP"), ("60000", "TCP")]
    assert Inbound(5, None).names(table[:1]) == [("443", "TCP")]
    assert Inbound(5, None).values(table[:0]) == []


def test_series_are_by_destination_and_not_by_process() -> None:
    assert (*outbound().fields, *Inbound(5, None).fields) == (
        "address_high", "address_low", "port", "protocol", "port", "protocol",
    )  # fmt: skip
    assert (outbound().other, Inbound(5, None).other) == (("other", "ALL", "other"), ("other", "ALL"))
    assert (outbound().maximum, Inbound(7, None).maximum) == (5, 7)
