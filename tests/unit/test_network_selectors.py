"""Selectors of ports, addresses and host names."""

from __future__ import annotations

import struct
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address, ip_network
from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ebpfmon_network_viewer.selectors import DEFAULT_IPS, MAX_NETWORKS, Address, Addresses, Hostnames, Ports

SERVICES = {n: frozenset(p) for n, p in {"http": [80], "domain": [53], "two": [1, 65535], "ftp-data": [20]}.items()}
EVERY_PORT = frozenset(range(65536))
V4, V6 = IPv4Address, IPv6Address
LAST = (1 << 128) - 1
MAPPED = int(V6("::ffff:0:0"))


def ports(text: str) -> frozenset[int]:
    selected = Ports.parse(text, lambda name: SERVICES.get(name, frozenset()))
    numbers = struct.unpack("<1024Q", selected.bitmap())
    by_bitmap = frozenset(p for p in range(65536) if numbers[p // 64] >> (p % 64) & 1)
    assert by_bitmap == {p for p in range(65536) if p in selected}
    return by_bitmap


# ---- ports


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", EVERY_PORT),
        ("  ", EVERY_PORT),
        ("*", EVERY_PORT),
        ("80", {80}),
        ("1 65535", {1, 65535}),
        ("1-65535", EVERY_PORT - {0}),
        ("20-22\t1000:1001", {20, 21, 22, 1000, 1001}),
        ("0080", {80}),
        ("7-7", {7}),
        ("http domain", {80, 53}),
        ("two", {1, 65535}),
        ("ftp-data", {20}),
        ("!80", EVERY_PORT - {80}),
        ("! 80", EVERY_PORT - {80}),
        ("!http !two", EVERY_PORT - {80, 1, 65535}),
        ("!80 80", frozenset()),
        ("80 !80", frozenset()),
        ("!22 20-30 !25-40", {20, 21, 23, 24}),
        ("* !22", EVERY_PORT - {22}),
        ("!22 *", EVERY_PORT - {22}),
        ("!*", frozenset()),
    ],
)
def test_the_words_select_these_ports(text: str, expected: frozenset[int]) -> None:
    assert ports(text) == expected


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("80 0", "'0': a port must be between 1 and 65535"),
        ("0-80", "'0-80': a port must be between 1 and 65535"),
        ("65536", "'65536': a port must be between 1 and 65535"),
        ("0-70000", "'0-70000': a port must be between 1 and 65535"),
        ("!1:65536", "'1:65536': a port must be between 1 and 65535"),
        ("90-80", "'90-80': the range ends before it begins"),
        ("80-", "'80-': not a port, a range of ports (a-b), a known service, or *"),
        ("80 -5", "'-5': not a port, a range of ports (a-b), a known service, or *"),
        ("80-!90", "'80-!90': not a port, a range of ports (a-b), a known service, or *"),
        ("80,81", "'80,81': not a port, a range of ports (a-b), a known service, or *"),
        ("\u0668\u0660", "'\u0668\u0660': not a port, a range of ports (a-b), a known service, or *"),
        ("!gopher", "'gopher': not a port, a range of ports (a-b), a known service, or *"),
        ("80 !", "'!': a ! must stand once, before the word that it excludes"),
        ("!!80", "'!!80': a ! must stand once, before the word that it excludes"),
        ("! !80", "'!!80': a ! must stand once, before the word that it excludes"),
    ],
)
def test_a_port_that_cannot_be_parsed_is_an_error_with_the_word_and_the_reason(text: str, error: str) -> None:
    with pytest.raises(ValueError) as raised:  # noqa: PT011  # the whole text is compared
        ports(text)
    assert str(raised.value) == error


def test_a_number_of_any_length_is_refused_without_converting_it() -> None:
    with pytest.raises(ValueError, match=r"^'9{5000}': not a port"):
        ports("9" * 5000)


def test_no_number_beyond_the_last_port_is_selected() -> None:
    everything = Ports.parse("", lambda _: frozenset())
    assert 65535 in everything
    assert not [p for p in (-1, -65536, 65536, 1 << 40) if p in everything]


PORT = st.one_of(st.integers(1, 65535), st.sampled_from([1, 2, 63, 64, 65, 65534, 65535]))
PORT_WORD = st.one_of(
    PORT.map(lambda p: (str(p), frozenset({p}))),
    st.tuples(PORT, PORT, st.sampled_from("-:")).map(
        lambda r: (f"{min(r[:2])}{r[2]}{max(r[:2])}", frozenset(range(min(r[:2]), max(r[:2]) + 1)))
    ),
    st.sampled_from(sorted(SERVICES)).map(lambda name: (name, SERVICES[name])),
    st.just(("*", EVERY_PORT)),
)


@given(st.lists(st.tuples(st.sampled_from(["", "", "!", "! "]), PORT_WORD), max_size=6))
def test_included_ports_minus_excluded_ports_are_selected_in_any_order(
    words: list[tuple[str, tuple[str, frozenset[int]]]],
) -> None:
    included = [ports for sign, (_, ports) in words if not sign]
    excluded = [ports for sign, (_, ports) in words if sign]
    expected = (frozenset[int]().union(*included) if included else EVERY_PORT) - frozenset[int]().union(*excluded)
    selected = Ports.parse(" ".join(sign + word for sign, (word, _) in words), lambda n: SERVICES.get(n, frozenset()))
    assert selected.bitmap() == sum(1 << p for p in expected).to_bytes(8192, "little")


# ---- addresses


def networks(text: str) -> list[str]:
    return [f"{V6(address)}/{length}" for address, length in Addresses.parse(text).networks()]


def mapped(text: str) -> str:
    """Return an IPv4 network mapped to IPv6."""
    network = ip_network(text)
    return str(IPv6Network((MAPPED + int(network.network_address), 96 + network.prefixlen)))


def test_the_default_is_the_private_networks() -> None:
    private = ["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16"]
    assert networks(DEFAULT_IPS) == [*map(mapped, private), "fc00::/7"]
    selected = Addresses.parse(DEFAULT_IPS)
    assert all(ip_address(a) in selected for a in ("10.1.2.3", "172.31.255.255", "192.168.0.0", "fdff::1"))
    assert not any(ip_address(a) in selected for a in ("127.0.0.1", "::1", "172.32.0.0", "8.8.8.8", "fe80::1", "::"))


@pytest.mark.parametrize(
    "text", ["", " ", "*", "* 10.0.0.1", "* ::/0", "::/0 0.0.0.0/0", "::-ffff:: ffff::/16 0.0.0.0/0"]
)
def test_all_addresses_of_both_families_are_one_network(text: str) -> None:
    selected = Addresses.parse(text)
    assert selected.networks() == [(bytes(16), 0)]
    assert all(ip_address(a) in selected for a in ("0.0.0.0", "255.255.255.255", "::", "f" * 4 + ":" * 2))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("10.1.2.3", [mapped("10.1.2.3/32")]),
        ("10.1.2.3/8", [mapped("10.0.0.0/8")]),  # host bits
        ("10.0.0.0/255.255.0.0", [mapped("10.0.0.0/16")]),
        ("2001:DB8::1/64", ["2001:db8::/64"]),
        ("10.0.0.1-10.0.0.2", [mapped("10.0.0.1/32"), mapped("10.0.0.2/32")]),
        ("10.0.0.0/9 10.128.0.0/9", [mapped("10.0.0.0/8")]),  # adjacent networks are merged
        ("10.0.0.0/8 10.1.0.0/16", [mapped("10.0.0.0/8")]),
        ("10.0.0.0/30 ! 10.0.0.1", [mapped("10.0.0.0/32"), mapped("10.0.0.2/31")]),
        ("!10.0.0.0/8 10.1.0.0/16", []),
        ("!*", []),
        ("0.0.0.0/0", ["::ffff:0:0/96"]),
        (str(V6(LAST)), [f"{V6(LAST)}/128"]),
        ("!::/0", ["::ffff:0:0/96"]),  # IPv4 remains
        ("::/0 !8000::/1 !4000::/2 !2000::/3 !1000::/4 !::/5", ["800::/5"]),
        ("::ffff:10.0.0.1", [mapped("10.0.0.1/32")]),
        ("::ffff:10.0.0.0/104", [mapped("10.0.0.0/8")]),
        ("0.0.0.0/0 !::ffff:0:0/97", [mapped("128.0.0.0/1")]),
        ("::fffe:ffff:fffe-::ffff:0:5", ["::fffe:ffff:fffe/127"]),  # no IPv4 address
    ],
)
def test_the_words_select_these_networks(text: str, expected: list[str]) -> None:
    assert networks(text) == [str(IPv6Network(e)) for e in expected]


def test_a_word_of_one_family_does_not_affect_the_other() -> None:
    six, no_six, no_four = Addresses.parse("::/0"), Addresses.parse("!::/0"), Addresses.parse("!0.0.0.0/0")
    assert V6("::1") in six
    assert V4("10.0.0.1") not in six
    assert V4("10.0.0.1") in no_six
    assert V6("::1") not in no_six
    assert no_four.ranges == six.ranges


def test_a_list_that_only_excludes_selects_the_rest_of_both_families() -> None:
    selected = Addresses.parse("!10.0.0.0/8")
    around = ("9.255.255.255", "10.0.0.0", "10.255.255.255", "11.0.0.0", "::")
    assert [a for a in around if ip_address(a) in selected] == ["9.255.255.255", "11.0.0.0", "::"]
    assert len(selected.networks()) == 104


def test_an_ipv4_address_may_be_given_as_a_mapped_ipv6_address() -> None:
    selected = Addresses.parse("10.0.0.0/8")
    assert V6("::ffff:10.0.0.1") in selected
    assert V6("::10.0.0.1") not in selected


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("10.0.0.300", "'10.0.0.300': not an address, a range (a-b), a network (a/n), or *"),
        ("010.0.0.1", "'010.0.0.1': not an address, a range (a-b), a network (a/n), or *"),
        ("!10.0.0.0/33", "'10.0.0.0/33': not an address, a range (a-b), a network (a/n), or *"),
        ("10.0.0.1-", "'10.0.0.1-': not an address, a range (a-b), a network (a/n), or *"),
        ("-10.0.0.1", "'-10.0.0.1': not an address, a range (a-b), a network (a/n), or *"),
        ("10.0.0.1-2-3", "'10.0.0.1-2-3': not an address, a range (a-b), a network (a/n), or *"),
        ("10.0.0.0/8-11.0.0.0/8", "'10.0.0.0/8-11.0.0.0/8': not an address, a range (a-b), a network (a/n), or *"),
        ("example.com", "'example.com': not an address, a range (a-b), a network (a/n), or *"),
        ("10.0.0.9-10.0.0.1", "'10.0.0.9-10.0.0.1': the range ends before it begins"),
        ("10.0.0.0-::1", "'10.0.0.0-::1': the range begins in IPv4 and ends in IPv6"),
        ("fe80::1%eth0", "'fe80::1%eth0': an address must not have a zone (%...)"),
        ("10.0.0.1 !", "'!': a ! must stand once, before the word that it excludes"),
        ("!!::1", "'!!::1': a ! must stand once, before the word that it excludes"),
    ],
)  # fmt: skip
def test_an_address_that_cannot_be_parsed_is_an_error_with_the_word_and_the_reason(text: str, error: str) -> None:
    with pytest.raises(ValueError) as raised:  # noqa: PT011  # the whole text is compared
        Addresses.parse(text)
    assert str(raised.value) == error


def test_a_set_has_at_most_4096_networks() -> None:
    every_second = [f"10.0.{n >> 7}.{(n & 127) * 2}" for n in range(MAX_NETWORKS + 1)]
    assert len(Addresses.parse(" ".join(every_second[:-1])).networks()) == MAX_NETWORKS
    with pytest.raises(ValueError, match=r"^more than 4096 networks: select fewer or larger ones$"):
        Addresses.parse(" ".join(every_second))


EDGES = [0, 1, MAPPED - 1, MAPPED, MAPPED + 1, MAPPED + (10 << 24), MAPPED + (1 << 32) - 1, MAPPED + (1 << 32), LAST]
NUMBER_6 = st.one_of(st.sampled_from(EDGES), st.integers(0, LAST), st.integers(MAPPED - 5, MAPPED + 5))
NUMBER_4 = st.one_of(st.integers(0, (1 << 32) - 1), st.integers(0, 20), st.sampled_from([(1 << 32) - 1]))
ADDRESS: st.SearchStrategy[Address] = st.one_of(NUMBER_4.map(V4), NUMBER_6.map(V6))


def as_number(address: Address) -> int:
    return int(address) + (MAPPED if address.version == 4 else 0)


@st.composite
def address_words(draw: st.DrawFn) -> tuple[str, Address, Address]:
    """Draw a word, with the first and the last address that it stands for."""
    first = draw(ADDRESS)
    match draw(st.sampled_from(["address", "range", "network"])):
        case "address":
            return str(first), first, first
        case "network":
            network = ip_network(f"{first}/{draw(st.integers(0, first.max_prefixlen))}", strict=False)
            return f"{first}/{network.prefixlen}", network[0], network[-1]
        case _:
            last = draw(NUMBER_4.map(V4) if first.version == 4 else NUMBER_6.map(V6))
            low, high = sorted((int(first), int(last)))
            make = type(first)
            return f"{make(low)}-{make(high)}", make(low), make(high)


def word_includes(address: Address, word: tuple[str, Address, Address]) -> bool:
    """The naive check. A word whose addresses are all mapped IPv6 addresses is an IPv4 word."""
    _, first, last = word
    low, high, number = as_number(first), as_number(last), as_number(address)
    word_is_ipv4 = low >= MAPPED and high < MAPPED + (1 << 32)
    address_is_ipv4 = MAPPED <= number < MAPPED + (1 << 32)
    return word_is_ipv4 == address_is_ipv4 and low <= number <= high


SIGNED = st.lists(st.tuples(st.sampled_from(["", "", "!", "! "]), address_words()), max_size=6)


@given(SIGNED, st.lists(ADDRESS, max_size=5))
@example([("", ("::/0", V6(0), V6(LAST)))], [])
def test_an_address_is_selected_if_a_word_includes_it_and_none_excludes_it(
    words: list[tuple[str, tuple[str, Address, Address]]], others: list[Address]
) -> None:
    selected = Addresses.parse(" ".join(sign + word[0] for sign, word in words))
    included, excluded = [w for sign, w in words if not sign], [w for sign, w in words if sign]
    near = {
        V6(n + d)
        for _, word in words for n in (as_number(word[1]), as_number(word[2])) for d in (-1, 0, 1) if 0 <= n + d <= LAST
    }  # fmt: skip
    for address in [*near, *others, *map(V6, EDGES)]:
        expected = not included or any(word_includes(address, w) for w in included)
        expected = expected and not any(word_includes(address, w) for w in excluded)
        assert (address in selected) == expected, address


@given(SIGNED)
def test_the_networks_are_disjoint_ascending_and_as_few_as_possible(
    words: list[tuple[str, tuple[str, Address, Address]]],
) -> None:
    selected = Addresses.parse(" ".join(sign + word[0] for sign, word in words))
    networks = [IPv6Network(n) for n in selected.networks()]  # raises if there are host bits
    joined: list[tuple[int, int]] = []
    for network in networks:
        first, last = int(network[0]), int(network[-1])
        if joined and joined[-1][1] + 1 == first:
            joined[-1] = (joined[-1][0], last)
        else:
            assert not joined or joined[-1][1] < first
            joined.append((first, last))
    assert tuple(joined) == selected.ranges
    for one, two in pairwise(networks):
        assert one.prefixlen != two.prefixlen or one.supernet() != two.supernet(), "two halves of one network"


# ---- names of hosts


@pytest.mark.parametrize(
    ("text", "selected", "rejected"),
    [
        ("", ["a", ""], []),
        ("*", ["a", "a.b.c"], []),
        ("example.com", ["example.com", "EXAMPLE.com", "example.com."], ["www.example.com", "example.com.org", ""]),
        ("Example.COM.", ["example.com"], ["example.org"]),
        ("*.example.com", ["a.example.com", ".example.com"], ["example.com", "a.example.com.org", "axexample.com"]),
        ("web*", ["web", "web1.lan"], ["1web"]),
        ("db*.lan *mail*", ["db.lan", "db1.x.lan", "amailb"], ["db.lan.org", "xdb.lan"]),
        ("a*b*c", ["abc", "a1b2c", "abbcc"], ["ab", "acb", "abcd"]),
        ("!*.lan", ["a.com"], ["a.lan"]),
        ("! *.lan", ["a.com"], ["a.lan"]),
        ("*.lan !secret.*", ["a.lan"], ["secret.lan", "a.com"]),
        ("!secret.* *.lan", ["a.lan"], ["secret.lan"]),
        ("!*", [], ["a", ""]),
        (r"a\*", ["a*"], ["a", "ab"]),
        (r"\!a", ["!a"], ["a", "b"]),
        (r"a\\b", ["a\\b"], ["ab", "a\\\\b"]),
        ("a\\", ["a\\"], ["a"]),
        (r"\a\.b", ["a.b"], ["axb"]),
        ("a?c", ["a?c"], ["abc"]),
        ("[ab]", ["[ab]"], ["a", "b"]),
        (r"\[ab] [!x] \?", ["[ab]", "[!x]", "?"], ["a", "y", "z"]),
        ("a!b", ["a!b"], ["a"]),
    ],
)
def test_the_words_select_these_names(text: str, selected: list[str], rejected: list[str]) -> None:
    hosts = Hostnames.parse(text)
    assert [n for n in selected if n not in hosts] == []
    assert [n for n in rejected if n in hosts] == []


@pytest.mark.parametrize(
    ("text", "everything"),
    [
        ("", True),
        ("*", True),
        ("a *", True),
        ("**", True),
        ("a", False),
        ("!a", False),
        ("* !a", False),
        (r"\*", False),
    ],
)
def test_all_says_whether_every_name_is_selected(text: str, everything: bool) -> None:
    assert Hostnames.parse(text).all is everything


@pytest.mark.parametrize("text", ["!", "a !", "!!a"])
def test_a_name_that_cannot_be_parsed_is_an_error_with_the_word_and_the_reason(text: str) -> None:
    word = text.split()[-1]
    with pytest.raises(ValueError) as raised:  # noqa: PT011  # the whole text is compared
        Hostnames.parse(text)
    assert str(raised.value) == f"'{word}': a ! must stand once, before the word that it excludes"


@pytest.mark.timeout(30)  # A search that tries every way to match would not end in years.
def test_no_host_name_makes_a_pattern_slow() -> None:
    assert "a" * 253 not in Hostnames.parse("*a" * 30 + "b")


def matches(pattern: str, name: str) -> bool:
    """The naive check. Both arguments must be in lower case."""
    if not pattern:
        return not name
    if pattern[0] == "*":
        return any(matches(pattern[1:], name[n:]) for n in range(len(name) + 1))
    if pattern[0] == "\\" and len(pattern) > 1:
        pattern = pattern[1:]
    return bool(name) and name[0] == pattern[0] and matches(pattern[1:], name[1:])


TEXT = st.text("ab.A?[]!^\\-", max_size=6)
WORD = st.text("ab.A*?[]!^\\-", min_size=1, max_size=6).filter(lambda w: w[0] != "!" and w[-1] != ".")


@given(st.lists(st.tuples(st.booleans(), WORD), max_size=3), TEXT.filter(lambda n: n[-1:] != "."))
def test_a_name_is_selected_if_a_word_includes_it_and_none_excludes_it(
    words: list[tuple[bool, str]], name: str
) -> None:
    hosts = Hostnames.parse(" ".join("!" * excludes + word for excludes, word in words))
    included = [matches(w.lower(), name.lower()) for excludes, w in words if not excludes]
    excluded = [matches(w.lower(), name.lower()) for excludes, w in words if excludes]
    assert (name in hosts) == ((not included or any(included)) and not any(excluded))
    assert (name + "." in hosts) == (name in hosts)
