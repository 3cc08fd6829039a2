"""Look up the service names of ports."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from ebpfmon import read_text

SERVICES = Path("/etc/services")


class Services:
    """The names of ports: the user's own names first, then those in /etc/services.

    The file is read once, directly, because getservbyname(3) may query the network. A file that is missing or cannot be
    read counts as empty, and lines that cannot be parsed are skipped. `problem` is why the file cannot be read.
    """

    def __init__(self, own: Mapping[int, str] | None = None, path: Path = SERVICES) -> None:
        self._own = dict(own or {})
        self.problem: OSError | None = None
        text = ""
        try:
            text = read_text(path, errors="replace")
        except FileNotFoundError:
            pass
        except OSError as error:
            self.problem = error
        self._names: dict[tuple[int, str], str] = {}
        ports: dict[str, set[int]] = {}
        for port, protocol, names in _parsed(text):
            self._names.setdefault((port, protocol), names[0])  # The first line wins, as in getservbyport(3).
            for name in names:
                ports.setdefault(name, set()).add(port)
        for port, name in self._own.items():
            ports.setdefault(name, set()).add(port)
        self._ports = {name: frozenset(numbers) for name, numbers in ports.items()}

    def name(self, port: int, protocol: str) -> str | None:
        """Return the name of a port of "tcp" or "udp", or None if it has none."""
        return self._own.get(port) or self._names.get((port, protocol))

    def ports(self, name: str) -> frozenset[int]:
        """Return the TCP and UDP ports with this name or alias, or none if there is no such service."""
        return self._ports.get(name, frozenset())


def _parsed(text: str) -> Iterator[tuple[int, str, list[str]]]:
    """Yield the port, the protocol, and the name with its aliases for each valid line (services(5))."""
    for line in text.splitlines():
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
