"""The settings of the network viewer, and the set-up that follows from them."""

from __future__ import annotations

import logging
import struct
from collections.abc import Mapping
from typing import Annotated

import msgspec

from ebpfmon import ProbeSettings, SettingsError, Setup
from ebpfmon_network_viewer.destinations import TCP, Inbound, Outbound
from ebpfmon_network_viewer.listening import SHORTAGES, Listening, ephemeral_ports, listening
from ebpfmon_network_viewer.resolver import Resolver
from ebpfmon_network_viewer.selectors import DEFAULT_IPS, Addresses, Hostnames, Ports
from ebpfmon_network_viewer.services import SERVICES, Services

_EVERY_ADDRESS = [(bytes(16), 0)]
_NO_SOCKET = bytes(16)  # a struct listening, which is zero for TCP
_log = logging.getLogger(__name__)


class NetworkViewerSettings(ProbeSettings, frozen=True, kw_only=True):
    """Settings in `[plugins.network_viewer]`. Selectors apply to destinations only; other charts count everything."""

    maximum_dimensions: Annotated[int, msgspec.Meta(ge=2, le=10_000)] = 500
    """Dimensions that one chart of destinations may have: two for each destination, and two for `other`."""
    resolve_hostname_ips: bool = False
    """Whether to show host names instead of addresses. Needs the package aiodns."""
    resolve_service_names: bool = True
    """Whether to show service names instead of ports, from `service_name` and /etc/services."""
    ports: str = "*"
    """Selects remote ports (outbound) and local ports (inbound): numbers, ranges, services, `!` to exclude."""
    hostnames: str = "*"
    """Selects remote hosts whose names are known: words with `*`, `!` to exclude."""
    ips: str = DEFAULT_IPS
    """Selects remote addresses: addresses, ranges, networks, `!` to exclude. By default private networks."""
    service_name: dict[str, str] = msgspec.field(default_factory=lambda: {"19999": "Netdata"})
    """Names of ports, which come before those in /etc/services."""

    def __post_init__(self) -> None:
        """Raise ValueError with the key of the first selector that cannot be parsed."""
        services = self.services()
        for key, parse in (
            ("ports", lambda text: Ports.parse(text, services.ports)),
            ("hostnames", Hostnames.parse),
            ("ips", Addresses.parse),
        ):
            try:
                parse(getattr(self, key))
            except ValueError as error:
                raise ValueError(f"{key}: {error}") from None

    @property
    def without_effect(self) -> tuple[str, ...]:
        """Say that host names select nothing if they are not looked up."""
        if self.resolve_hostname_ips or Hostnames.parse(self.hostnames).all:
            return ()
        return ("hostnames: it has no effect while resolve_hostname_ips is false",)

    def services(self) -> Services:
        """Return the names of ports. Raises ValueError if a key of `service_name` is not a port."""
        for port in self.service_name:
            if not (port.isascii() and port.isdigit() and 0 < int(port[:6]) < 65536):
                raise ValueError(f"service_name: {port!r}: a port must be between 1 and 65535")
        return Services({int(port): name for port, name in self.service_name.items()})


def setup(settings: NetworkViewerSettings) -> Setup:
    """Return the kernel's selectors, the listeners that exist already, and the label sources of destinations.

    Raises SettingsError if descriptors or memory are too short to find them.
    """
    services = settings.services()
    if services.problem:
        _tolerate(services.problem, f"cannot read '{SERVICES}'", "the ports in it have no names")
    ports, networks = Ports.parse(settings.ports, services.ports).bitmap(), Addresses.parse(settings.ips).networks()
    any_port, any_address = ports == b"\xff" * len(ports), networks == _EVERY_ADDRESS
    maximum, names = settings.maximum_dimensions // 2 - 1, services if settings.resolve_service_names else None
    listeners, resolver = _listeners(), _resolver(settings)
    return Setup(
        rodata={"cfg_any_port": any_port, "cfg_any_address": any_address},
        maps={
            "network_ports": {} if any_port else _ports(ports),
            "network_networks": {} if any_address else {struct.pack("=I", n) + a: b"\1" for a, n in networks},
            "network_listeners": {
                struct.pack("=IHH", namespace, port, TCP): _NO_SOCKET for namespace, port in listeners.tcp
            },
            "network_servers": {struct.pack("=Q", inode): b"\1" for inode in listeners.udp},
        },
        labels={
            "outbound": Outbound(maximum, names, resolver, Hostnames.parse(settings.hostnames)),
            "inbound": Inbound(maximum, names),
        },
        close=resolver.close if resolver else lambda: None,
    )


def _listeners() -> Listening:
    try:
        return listening(ephemeral=ephemeral_ports())
    except OSError as error:
        _tolerate(error, "cannot list the sockets that listen already", "connections to them count as outbound")
        return Listening()


def _tolerate(error: OSError, problem: str, effect: str) -> None:
    """Log a warning. Raises SettingsError if descriptors or memory are short, because a later attempt may succeed."""
    if error.errno in SHORTAGES:
        raise SettingsError(f"plugins.network_viewer: {problem}: {error.strerror}") from None
    _log.warning("plugins.network_viewer: %s: %s; %s", problem, error.strerror, effect)


def _ports(bitmap: bytes) -> Mapping[bytes, bytes]:
    """Return the elements of the bitmap, an array of u64, that are not 0."""
    words = {struct.pack("=I", n): bitmap[8 * n : 8 * n + 8] for n in range(len(bitmap) // 8)}
    return {index: word for index, word in words.items() if any(word)}


def _resolver(settings: NetworkViewerSettings) -> Resolver | None:
    if not settings.resolve_hostname_ips:
        return None
    try:
        return Resolver()
    except ValueError as error:
        raise SettingsError(f"plugins.network_viewer.resolve_hostname_ips: {error}") from None
