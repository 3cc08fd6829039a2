"""What destinations are called, and which of them count."""

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


class Names:
    """A resolver that knows these names, and who was asked for."""

    def __init__(self, **names: str) -> None:
        self._names = {address.replace("_", "."): name for address, name in names.items()}
        self.asked: list[str] = []

    def name(self, address: str) -> str | None:
        self.asked.append(address)
        return self._names.get(address)


def halves(address: str) -> tuple[int, int]:
    """As the kernel has it: 16 bytes as in a packet, IPv4 in the clothes of IPv6, read as two u64 of this machine."""
    packed = socket.inet_pton(socket.AF_INET6, address if ":" in address else f"::ffff:{address}")
    high, low = np.frombuffer(packed, np.uint64).tolist()
    return high, low


def rows(*destinations: Destination) -> np.ndarray:
    return np.array(
        [(9, n, 0, *halves(a), port, proto, 1) for n, (a, port, proto) in enumerate(destinations)], OUTBOUND
    )


def outbound(names: Names | None = None, hostnames: str = "*", services: Services | None = None) -> Outbound:
    return Outbound(5, services, cast(Resolver, names), Hostnames.parse(hostnames))


@pytest.fixture
def services(tmp_path: Path) -> Services:
    (tmp_path / "services").write_text("https 443/tcp\ndomain 53/udp\n")
    return Services({8080: "my: own"}, tmp_path / "services")


def kept(of: Outbound, given: np.ndarray) -> Sequence[bool]:
    included = of.included(given)
    assert included is not None
    assert included.dtype == bool
    found: list[bool] = included.tolist()
    return found


def test_a_destination_is_a_port_a_protocol_and_an_address_and_its_port_may_have_a_name(services: Services) -> None:
    given_rows = rows(
        ("192.0.2.1", 443, TCP), ("192.0.2.1", 443, UDP), ("2001:db8::1", 53, UDP), ("10.0.0.1", 8080, TCP)
    )
    source = outbound(services=services)
    assert source.labels == ("port", "protocol", "address")
    assert source.values(given_rows) == [
        ("443", "TCP", "192.0.2.1"), ("443", "UDP", "192.0.2.1"), ("53", "UDP", "2001:db8::1"),
        ("8080", "TCP", "10.0.0.1"),
    ]  # fmt: skip
    assert source.names(given_rows) == [
        ("https", "TCP", "192.0.2.1"), ("443", "UDP", "192.0.2.1"), ("domain", "UDP", "2001:db8::1"),
        ("my: own", "TCP", "10.0.0.1"),
    ]  # fmt: skip


def test_without_services_ports_keep_their_numbers() -> None:
    given_rows = rows(("192.0.2.1", 443, TCP))
    assert outbound().values(given_rows) == outbound().names(given_rows) == [("443", "TCP", "192.0.2.1")]


@pytest.mark.parametrize(
    ("address", "shown"),
    [("192.0.2.1", "192.0.2.1"), ("::ffff:192.0.2.1", "192.0.2.1"), ("0.0.0.0", "0.0.0.0"), ("::1", "::1"),
     ("::", "::"), ("::192.0.2.1", "::c000:201"), ("fe80::ffff:1:2", "fe80::ffff:1:2"),
     ("64:ff9b::192.0.2.1", "64:ff9b::c000:201")],
)  # fmt: skip
def test_ipv4_is_shown_as_such_and_ipv6_in_its_shortest_form(address: str, shown: str) -> None:
    assert outbound().values(rows((address, 1, TCP))) == [("1", "TCP", shown)]


@given(st.ip_addresses())
def test_an_address_is_read_as_it_stands_in_a_packet(address: object) -> None:
    text = str(address)
    found = address_text(*halves(text))
    assert found in {text, text.removeprefix("::ffff:")} or found.count(".") == 3
    assert halves(found) == halves(text)


def test_two_addresses_of_one_name_are_two_destinations_and_labels_never_change() -> None:
    given_rows = rows(("192.0.2.1", 443, TCP), ("192.0.2.2", 443, TCP), ("192.0.2.3", 443, TCP))
    before = outbound(Names())
    after = outbound(Names(**{"192_0_2_1": "h.example", "192_0_2_2": "h.example"}))
    assert [name for _, _, name in after.names(given_rows)] == ["h.example", "h.example", "192.0.2.3"]
    assert after.values(given_rows) == before.values(given_rows) == before.names(given_rows)


def test_all_are_wanted_where_every_name_is_and_no_name_is_asked_for() -> None:
    names = Names()
    assert outbound(names).included(rows(("192.0.2.1", 443, TCP))) is None
    assert outbound(None, "!*").included(rows(("192.0.2.1", 443, TCP))) is None, "without names none can be left out"
    assert names.asked == []


def test_those_are_wanted_whose_name_is_and_those_that_have_none_yet() -> None:
    names = Names(**{"192_0_2_1": "a.example", "192_0_2_2": "b.example"})
    given_rows = rows(
        ("192.0.2.2", 443, TCP), ("192.0.2.1", 443, TCP), ("2001:db8::1", 53, UDP), ("192.0.2.2", 53, UDP),
        ("192.0.2.1", 80, TCP),
    )  # fmt: skip
    assert kept(outbound(names, "!b.*"), given_rows) == [False, True, True, False, True]
    assert kept(outbound(names, "b.*"), given_rows) == [True, False, True, True, False]
    assert sorted(names.asked) == sorted(2 * ["192.0.2.1", "192.0.2.2", "2001:db8::1"]), "each address once"
    assert kept(outbound(names, "b.*"), given_rows[:0]) == []


def test_as_many_destinations_as_a_table_holds_are_sorted_out() -> None:
    made = np.zeros(16384, OUTBOUND)
    made["address_low"] = np.random.default_rng(1).permutation(16384)
    names = Names()
    assert all(kept(outbound(names, "x"), made))
    assert len(names.asked) == 16384


def test_inbound_are_the_ports_of_this_machine(services: Services) -> None:
    given_rows = np.array([(1, 443, TCP, 1), (2, 53, UDP, 1), (3, 60000, TCP, 1)], INBOUND)
    source = Inbound(5, services)
    assert source.labels == ("port", "protocol")
    assert source.values(given_rows) == [("443", "TCP"), ("53", "UDP"), ("60000", "TCP")]
    assert source.names(given_rows) == [("https", "TCP"), ("domain", "UDP"), ("60000", "TCP")]
    assert Inbound(5, None).names(given_rows[:1]) == [("443", "TCP")]
    assert Inbound(5, None).values(given_rows[:0]) == []


def test_rows_are_told_apart_by_destination_and_not_by_process() -> None:
    assert (*outbound().fields, *Inbound(5, None).fields) == (
        "address_high", "address_low", "port", "protocol", "port", "protocol",
    )  # fmt: skip
    assert (outbound().other, Inbound(5, None).other) == (("other", "ALL", "other"), ("other", "ALL"))
    assert (outbound().maximum, Inbound(7, None).maximum) == (5, 7)
