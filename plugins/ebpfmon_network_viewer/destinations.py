"""What destinations are called, and which of them are wanted: the keys of the tables `outbound` and `inbound`."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from ipaddress import IPv6Address

import numpy as np

from ebpfmon_network_viewer.resolver import Resolver
from ebpfmon_network_viewer.selectors import Hostnames
from ebpfmon_network_viewer.services import Services

PROTOCOLS = {6: "TCP", 17: "UDP"}


class Inbound:
    """This machine's ports that others talk to: `https:TCP`."""

    fields = ("port", "protocol")
    other = "other:ALL"

    def __init__(self, maximum: int, services: Services | None) -> None:
        """`services` None: ports keep their numbers."""
        self.maximum, self._services = maximum, services

    def wanted(self, rows: np.ndarray) -> None:
        """All of them: the filters act in the kernel."""

    def labels(self, rows: np.ndarray) -> Sequence[tuple[str, str]]:
        """`443:TCP` and `https:TCP`."""
        return [_port(port, protocol, self._services) for port, protocol in rows[list(self.fields)].tolist()]


class Outbound:
    """Other machines' ports: `https:TCP:192.0.2.1`, `domain:UDP:[2001:db8::1]`."""

    fields = ("address_high", "address_low", "port", "protocol")
    other = "other:ALL:other"

    def __init__(
        self, maximum: int, services: Services | None, resolver: Resolver | None, hostnames: Hostnames
    ) -> None:
        """`resolver` None: addresses have no names, and `hostnames` no meaning."""
        self.maximum, self._services = maximum, services
        self._resolver, self._hostnames = resolver, hostnames

    def wanted(self, rows: np.ndarray) -> np.ndarray | None:
        """Those whose names are, or are not known (yet)."""
        if self._resolver is None or self._hostnames.all:
            return None
        addresses, of_rows = np.unique(rows[["address_high", "address_low"]], return_inverse=True)
        names = [self._resolver.name(address_text(*address)) for address in addresses.tolist()]
        return np.array([name is None or name in self._hostnames for name in names], bool)[of_rows]

    def labels(self, rows: np.ndarray) -> Sequence[tuple[str, str]]:
        """`443:TCP:192.0.2.1` and `https:TCP:example.org`."""
        labels = []
        for high, low, port, protocol in rows[list(self.fields)].tolist():
            address = address_text(high, low)
            name = self._resolver.name(address) if self._resolver else None
            shown = f"[{address}]" if ":" in address else address
            id_, label = _port(port, protocol, self._services)
            labels.append((f"{id_}:{shown}", f"{label}:{name or shown}"))
        return labels


@lru_cache(4096)
def address_text(high: int, low: int) -> str:
    """An address out of its halves, whose bytes are as in a packet."""
    address = IPv6Address(high.to_bytes(8, "little") + low.to_bytes(8, "little"))
    return str(address.ipv4_mapped or address)


def _port(port: int, protocol: int, services: Services | None) -> tuple[str, str]:
    what = PROTOCOLS[protocol]
    name = services.name(port, what.lower()) if services else None
    return f"{port}:{what}", f"{name or port}:{what}"
