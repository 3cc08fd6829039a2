"""The names of ports."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

SERVICES = Path("/etc/services")


class Services:
    """What ports are called: by the user's own names, and where there is none by the system's.

    The file is read once, here and not by getservbyname(3), which may ask the network. It need not be there, and what
    cannot be understood in it is skipped.
    """

    def __init__(self, own: Mapping[int, str] | None = None, path: Path = SERVICES) -> None:
        self._own = dict(own or {})
        self._names: dict[tuple[int, str], str] = {}
        ports: dict[str, set[int]] = {}
        for port, protocol, names in _read(path):
            self._names.setdefault((port, protocol), names[0])  # the first line counts, as in getservbyport(3)
            for name in names:
                ports.setdefault(name, set()).add(port)
        for port, name in self._own.items():
            ports.setdefault(name, set()).add(port)
        self._ports = {name: frozenset(found) for name, found in ports.items()}

    def name(self, port: int, protocol: str) -> str | None:
        """Return the name of a port of "tcp" or "udp"; None if it has none."""
        return self._own.get(port) or self._names.get((port, protocol))

    def ports(self, name: str) -> frozenset[int]:
        """Return the ports of that name or alias, of TCP and UDP; none if there is no such service."""
        return self._ports.get(name, frozenset())


def _read(path: Path) -> Iterator[tuple[int, str, list[str]]]:
    """Yield port, protocol, and the name with its aliases, of each line that has them (services(5))."""
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return
    for line in lines:
        words = line.partition("#")[0].split()
        if len(words) < 2:
            continue
        name, number, *aliases = words
        port, _, protocol = number.partition("/")
        if (
            protocol in ("tcp", "udp")
            and port.isascii()
            and port.isdigit()
            and len(port) <= 5
            and 0 < int(port) < 65536
        ):
            yield int(port), protocol, [name, *aliases]
