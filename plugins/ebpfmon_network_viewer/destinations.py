"""Label the rows of the tables `outbound` and `inbound`, and select outbound destinations by host name."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from ipaddress import IPv6Address

import numpy as np
from numpy.typing import NDArray

from ebpfmon import LabelSource, Rows
from ebpfmon_network_viewer.charts import LABELS
from ebpfmon_network_viewer.resolver import Resolver
from ebpfmon_network_viewer.selectors import Hostnames
from ebpfmon_network_viewer.services import Services

TCP, UDP = 6, 17
PROTOCOLS = {TCP: "TCP", UDP: "UDP"}


class Inbound(LabelSource):
    """Label inbound rows with the local port and protocol: `443`, `TCP`, shown as `https`, `TCP`."""

    fields = ("port", "protocol")
    labels = LABELS["inbound"]
    other = ("other", "ALL")

    def __init__(self, maximum: int, services: Services | None) -> None:
        """Show at most `maximum` destinations. Without `services`, ports are shown as numbers."""
        self.maximum, self._services = maximum, services

    def values(self, rows: Rows) -> Sequence[tuple[str, ...]]:
        """Return the port and the protocol of each row."""
        return [(str(port), PROTOCOLS[protocol]) for port, protocol in rows[list(self.fields)].tolist()]

    def names(self, rows: Rows) -> Sequence[tuple[str, ...]]:
        """Return the names of the service and the protocol of each row."""
        return [_port(port, protocol, self._services) for port, protocol in rows[list(self.fields)].tolist()]


class Outbound(LabelSource):
    """Label outbound rows: `443`, `TCP`, `192.0.2.1`, shown as `https`, `TCP`, `example.org`."""

    fields = ("address_high", "address_low", "port", "protocol")
    labels = LABELS["outbound"]
    other = ("other", "ALL", "other")

    def __init__(
        self, maximum: int, services: Services | None, resolver: Resolver | None, hostnames: Hostnames
    ) -> None:
        """Show at most `maximum` destinations. Without `resolver`, hosts have no names and `hostnames` is ignored."""
        self.maximum, self._services = maximum, services
        self._resolver, self._hostnames = resolver, hostnames

    def included(self, rows: Rows) -> NDArray[np.bool_] | None:
        """Select rows whose host name `hostnames` includes, and rows whose host has no name (yet)."""
        if self._resolver is None or self._hostnames.all:
            return None
        addresses, inverse = np.unique(rows[["address_high", "address_low"]], return_inverse=True)
        names = [self._resolver.name(address_text(*address)) for address in addresses.tolist()]
        return np.array([name is None or name in self._hostnames for name in names], bool)[inverse]

    def values(self, rows: Rows) -> Sequence[tuple[str, ...]]:
        """Return the port, protocol and address of each row."""
        keys = rows[list(self.fields)].tolist()
        return [(str(port), PROTOCOLS[protocol], address_text(high, low)) for high, low, port, protocol in keys]

    def names(self, rows: Rows) -> Sequence[tuple[str, ...]]:
        """Return the names of the service, protocol and host of each row, as far as they are known."""
        return [
            (*_port(port, protocol, self._services), self._host(address_text(high, low)))
            for high, low, port, protocol in rows[list(self.fields)].tolist()
        ]

    def _host(self, address: str) -> str:
        return (self._resolver.name(address) if self._resolver else None) or address


@lru_cache(4096)
def address_text(high: int, low: int) -> str:
    """Return an address as text, given its two halves in network order."""
    address = IPv6Address(high.to_bytes(8, "little") + low.to_bytes(8, "little"))
    return str(address.ipv4_mapped or address)


def _port(port: int, protocol: int, services: Services | None) -> tuple[str, str]:
    protocol_name = PROTOCOLS[protocol]
    name = services.name(port, protocol_name.lower()) if services else None
    return name or str(port), protocol_name
