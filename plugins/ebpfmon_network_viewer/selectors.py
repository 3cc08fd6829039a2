"""Parse selectors: lists of ports, addresses and host names.

All three have the same syntax: words separated by spaces. A `!` before a word (spaces may follow it) excludes what the
word stands for. The order does not matter, because an exclusion always wins. A list that only excludes selects the
rest, and an empty list selects everything. A word that cannot be parsed raises ValueError with the word and the reason.
"""

from __future__ import annotations

import fnmatch
import re
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network, summarize_address_range
from itertools import islice
from typing import Self

Address = IPv4Address | IPv6Address
Range = tuple[int, int]
"""The first and the last number of a range."""

DEFAULT_IPS = "!127.0.0.0/8 !::1 10.0.0.0/8 172.16.0.0/12 192.168.0.0/16 fc00::/7"
"""The private networks, without loopback addresses."""
LAST_PORT = 65535
MAX_NETWORKS = 4096
"""The size of the kernel's map, which has one element for each network."""

_PORTS = re.compile(r"([0-9]{1,9})(?:[-:]([0-9]{1,9}))?")
_V4 = (0xFFFF << 32, (0xFFFF << 32) + 0xFFFFFFFF)
"""The IPv4 addresses as IPv6 addresses: ::ffff:0:0/96."""
_LAST_ADDRESS = (1 << 128) - 1


@dataclass(frozen=True, slots=True)
class Ports:
    """A set of ports. Port p is bit p % 8 of byte p // 8."""

    bits: bytes

    @classmethod
    def parse(cls, text: str, services: Callable[[str], frozenset[int]]) -> Self:
        """Return the ports that `text` selects: numbers, ranges (`a-b`, `a:b`), names of services, or `*`.

        `services` returns the ports of a service, or none if there is no such service. No word names port 0, so it is
        selected only by `*` or by a list that only excludes.
        """
        included, excluded = _words(text)
        every = (1 << LAST_PORT + 1) - 1
        bits = [0, 0]
        for n, words in enumerate((included, excluded)):
            for word in words:
                bits[n] |= every if word == "*" else _port_bits(word, services)
        selected = (bits[0] if included else every) & ~bits[1]
        return cls(selected.to_bytes((LAST_PORT + 1) // 8, "little"))

    def bitmap(self) -> bytes:
        """Return 8192 bytes, in which port p is bit p % 64 of the little-endian u64 at index p // 64."""
        return self.bits

    def __contains__(self, port: int) -> bool:
        return 0 <= port <= LAST_PORT and bool(self.bits[port >> 3] >> (port & 7) & 1)


def _port_bits(word: str, services: Callable[[str], frozenset[int]]) -> int:
    if numbers := _PORTS.fullmatch(word):
        first, last = int(numbers[1]), int(numbers[2] or numbers[1])
        if not (1 <= first <= LAST_PORT and 1 <= last <= LAST_PORT):
            raise ValueError(f"'{word}': a port must be between 1 and {LAST_PORT}")
        if first > last:
            raise ValueError(f"'{word}': the range ends before it begins")
        return (1 << last + 1) - (1 << first)
    ports = services(word)
    if not ports:
        raise ValueError(f"'{word}': not a port, a range of ports (a-b), a known service, or *")
    return sum(1 << port for port in ports)


@dataclass(frozen=True, slots=True)
class Addresses:
    """A set of addresses: ascending ranges of IPv6 addresses that do not touch. IPv4 addresses are mapped to IPv6."""

    ranges: tuple[Range, ...]

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the addresses that `text` selects: addresses, ranges (`a-b`), networks (`a/n`), or `*`.

        In a network, bits after the first n are ignored. `::/0` selects all IPv6 addresses and no IPv4 address. An IPv6
        word selects IPv4 addresses only if all its addresses are mapped ones (`::ffff:10.0.0.0/104`). Also raises
        ValueError if the set needs more than MAX_NETWORKS networks.
        """
        included, excluded = (_union(r for word in words for r in _address_ranges(word)) for words in _words(text))
        not_included = _complement(included) if included else []
        selected = cls(tuple(_complement(_union(not_included + excluded))))
        selected.networks()  # Raises ValueError if there are too many.
        return selected

    def networks(self) -> list[tuple[bytes, int]]:
        """Return the smallest list of networks that make up the set, in ascending order.

        Each is an address of 16 bytes (IPv4 as ::ffff:a.b.c.d) and the length of its prefix (in IPv4, 96 more).
        """
        parts = (n for a, b in self.ranges for n in summarize_address_range(IPv6Address(a), IPv6Address(b)))
        networks = [(n.network_address.packed, n.prefixlen) for n in islice(parts, MAX_NETWORKS + 1)]
        if len(networks) > MAX_NETWORKS:
            raise ValueError(f"more than {MAX_NETWORKS} networks: select fewer or larger ones")
        return networks

    def __contains__(self, address: Address) -> bool:
        number = _number(address)
        index = bisect_right(self.ranges, (number, _LAST_ADDRESS)) - 1
        return index >= 0 and number <= self.ranges[index][1]


def _number(address: Address) -> int:
    return int(address) + (_V4[0] if address.version == 4 else 0)


def _address_ranges(word: str) -> list[Range]:
    """Return the ranges that a word stands for. A range of IPv6 addresses leaves out the mapped IPv4 addresses."""
    if word == "*":
        return [(0, _LAST_ADDRESS)]
    first, last = _ends(word)
    if first.version != last.version:
        raise ValueError(f"'{word}': the range begins in IPv{first.version} and ends in IPv{last.version}")
    if int(first) > int(last):
        raise ValueError(f"'{word}': the range ends before it begins")
    low, high = _number(first), _number(last)
    if low >= _V4[0] and high <= _V4[1]:
        return [(low, high)]
    parts = (low, min(high, _V4[0] - 1)), (max(low, _V4[1] + 1), high)
    return [part for part in parts if part[0] <= part[1]]


def _ends(word: str) -> tuple[Address, Address]:
    """Return the first and the last address that a word stands for."""
    if "%" in word:
        raise ValueError(f"'{word}': an address must not have a zone (%...)")
    try:
        if "/" in word:
            network = ip_network(word, strict=False)
            return network[0], network[-1]
        first, _, last = word.partition("-")
        return ip_address(first), ip_address(last if "-" in word else first)
    except ValueError:
        raise ValueError(f"'{word}': not an address, a range (a-b), a network (a/n), or *") from None


def _union(ranges: Iterable[Range]) -> list[Range]:
    """Return the same addresses as ascending ranges that neither overlap nor touch."""
    union: list[Range] = []
    for first, last in sorted(ranges):
        if union and first <= union[-1][1] + 1:
            union[-1] = (union[-1][0], max(last, union[-1][1]))
        else:
            union.append((first, last))
    return union


def _complement(ranges: Iterable[Range]) -> list[Range]:
    """Return all other addresses. `ranges` must come from `_union()`."""
    gaps, start = list[Range](), 0
    for first, last in ranges:
        if start < first:
            gaps.append((start, first - 1))
        start = last + 1
    return [*gaps, (start, _LAST_ADDRESS)] if start <= _LAST_ADDRESS else gaps


@dataclass(frozen=True, slots=True)
class Hostnames:
    """A set of host names. Case and a trailing dot are ignored."""

    included: tuple[re.Pattern[str], ...]
    excluded: tuple[re.Pattern[str], ...]
    all: bool
    """Whether the set has every name, so that no address needs to be resolved to apply it."""

    @classmethod
    def parse(cls, text: str) -> Self:
        r"""Return the names that `text` selects. `*` stands for any characters, and `\` escapes the next one."""
        included, excluded = _words(text)
        everything = not included or any(not word.strip("*") for word in included)
        return cls(tuple(map(_pattern, included)), tuple(map(_pattern, excluded)), everything and not excluded)

    def __contains__(self, name: str) -> bool:
        name = _plain(name)
        if any(p.match(name) for p in self.excluded):
            return False
        return not self.included or any(p.match(name) for p in self.included)


def _plain(name: str) -> str:
    return name.lower().removesuffix(".")


def _pattern(word: str) -> re.Pattern[str]:
    """Return the pattern that fnmatch makes. It never backtracks, so no host name can make it slow."""

    def literal(match: re.Match[str]) -> str:
        char: str = match[1] or match[0]
        return f"[{char}]" if char in "*?[" else char  # Here, only `*` is special.

    return re.compile(fnmatch.translate(re.sub(r"\\(.)|[?[]", literal, _plain(word))))


def _words(text: str) -> tuple[list[str], list[str]]:
    """Return the words that include and the words that exclude."""
    both: tuple[list[str], list[str]] = ([], [])
    for word in _joined(text.split()):
        excludes, rest = word.startswith("!"), word.removeprefix("!")
        if not rest or rest.startswith("!"):
            raise ValueError(f"'{word}': a ! must stand once, before the word that it excludes")
        both[excludes].append(rest)
    return both


def _joined(words: Iterable[str]) -> Iterator[str]:
    """Yield the words, with a lone `!` joined to the word after it."""
    alone = ""
    for word in words:
        if word == "!":
            alone += word
            continue
        yield alone + word
        alone = ""
    if alone:
        yield alone
