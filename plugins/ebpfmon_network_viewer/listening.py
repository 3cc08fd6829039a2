"""List the TCP ports that have a listener and the UDP sockets of servers, from /proc."""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

MAX_LISTENERS = MAX_SERVERS = 16384
"""The sizes of the kernel's maps. Further listeners and servers are ignored."""

SHORTAGES = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)
"""Errors that say that descriptors or memory are short, and nothing about the file."""
_PROC = Path("/proc")
_DEFAULT_EPHEMERAL = range(32768, 61000)
_TCP_SYN_RECV, _TCP_LISTEN = "03", "0A"


@dataclass(frozen=True, slots=True)
class Listening:
    """What accepts connections and datagrams."""

    tcp: set[tuple[int, int]] = field(default_factory=set)
    """The ports with a TCP listener: the inode of the network namespace, and the local port."""
    udp: set[int] = field(default_factory=set)
    """The inodes of the UDP sockets of servers."""


def ephemeral_ports(proc: Path = _PROC) -> range:
    """Return the ports that the kernel assigns to sockets without one, in this process's network namespace.

    Raises OSError if descriptors or memory are short.
    """
    try:
        first, last = (proc / "sys/net/ipv4/ip_local_port_range").read_text().split()
        return range(int(first), int(last) + 1)
    except ValueError:
        return _DEFAULT_EPHEMERAL
    except OSError as error:
        if error.errno in SHORTAGES:
            raise
        return _DEFAULT_EPHEMERAL


def listening(proc: Path = _PROC, *, ephemeral: range) -> Listening:
    """Return what listens in every network namespace that has a process.

    UDP sockets do not listen. An unconnected UDP socket on a port outside `ephemeral` counts as a server's. A connected
    one on the same port does, too, because some servers have a socket for each client. This looks at every process and
    may take long, so do not call it on the event loop. Raises OSError if /proc cannot be read, or if descriptors or
    memory are short.
    """
    found = Listening()
    seen: set[int] = set()
    for process in proc.iterdir():
        if not process.name.isdigit():
            continue
        try:
            _add(found, process, seen, ephemeral)
        except OSError as error:
            if error.errno in SHORTAGES:
                raise
            # The process is gone or not accessible. Another may be in the same namespace.
    return found


def _add(found: Listening, process: Path, seen: set[int], ephemeral: range) -> None:
    """Add what listens in the network namespace of a process, unless that was `seen`. Raises OSError."""
    namespace = _namespace(process)
    if namespace in seen:
        return
    for port in _tcp_listeners(process / "net"):
        if len(found.tcp) < MAX_LISTENERS:
            found.tcp.add((namespace, port))
    for inode in _udp_servers(process / "net", ephemeral):
        if len(found.udp) < MAX_SERVERS:
            found.udp.add(inode)
    seen.add(namespace)


def _namespace(process: Path) -> int:
    inode = re.fullmatch(r"net:\[(\d+)\]", str((process / "ns/net").readlink()))
    if not inode:
        raise OSError(f"{process}: unknown network namespace")
    return int(inode[1])


def _tcp_listeners(net: Path) -> Iterator[int]:
    """Yield the port of each TCP listener. Raises OSError if the table cannot be read."""
    for name in ("tcp", "tcp6"):
        for _, local, _, state, _ in _sockets(net / name):
            if state == _TCP_LISTEN:
                yield _port(local)
            elif state != _TCP_SYN_RECV:  # Before Linux 4.4, SYN_RECV is listed beside its listener.
                break  # The kernel lists listeners first (tcp_get_idx); a million others may follow.


def _udp_servers(net: Path, ephemeral: range) -> list[int]:
    """Return the inode of each UDP socket of a server."""
    sockets = [
        (_port(local), _is_unspecified(remote), int(rest.split()[5]))
        for name in ("udp", "udp6")
        for _, local, remote, _, rest in _sockets(net / name)
    ]
    ports = {port for port, unconnected, _ in sockets if unconnected and port not in ephemeral}
    return [inode for port, _, inode in sockets if port in ports]


def _sockets(path: Path) -> Iterator[list[str]]:
    """Yield the first four words of each line of a table, and the rest of the line."""
    try:
        table = path.open(encoding="ascii", errors="replace")
    except FileNotFoundError:
        if path.name == "tcp":  # Others may be missing, such as tcp6 and udp6 without IPv6.
            raise
        return
    with table:
        next(table, None)  # Skip the headings.
        for line in table:
            yield line.split(maxsplit=4)


def _is_unspecified(address: str) -> bool:
    return not address.strip("0:")


def _port(address: str) -> int:
    return int(address.rpartition(":")[2], 16)
