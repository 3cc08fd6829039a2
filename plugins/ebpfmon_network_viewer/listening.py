"""List the ports that have a listener, from /proc."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

TCP, UDP = 6, 17
MAX_LISTENERS = 16384
"""The size of the kernel's map. Further listeners are ignored."""

Listener = tuple[int, int, int]
"""The inode of the network namespace, the protocol (TCP or UDP), the local port."""

_PROC = Path("/proc")
_DEFAULT_EPHEMERAL = range(32768, 61000)
_TCP_SYN_RECV, _TCP_LISTEN = "03", "0A"
_TABLES = (("tcp", TCP), ("tcp6", TCP), ("udp", UDP), ("udp6", UDP))


def ephemeral_ports(proc: Path = _PROC) -> range:
    """Return the ports that the kernel assigns to sockets without one, in this process's network namespace."""
    try:
        first, last = (proc / "sys/net/ipv4/ip_local_port_range").read_text().split()
        return range(int(first), int(last) + 1)
    except (OSError, ValueError):
        return _DEFAULT_EPHEMERAL


def listening(proc: Path = _PROC, *, ephemeral: range) -> set[Listener]:
    """Return the listeners in every network namespace that has a process, at most MAX_LISTENERS.

    UDP sockets do not listen. An unconnected UDP socket on a port outside `ephemeral` counts as a listener. This looks
    at every process and may take long, so do not call it on the event loop.
    """
    listeners: set[Listener] = set()
    seen: set[int] = set()
    for process in proc.iterdir():
        if not process.name.isdigit():
            continue
        with suppress(OSError):  # The process is gone or not accessible. Another may be in the same namespace.
            namespace = _namespace(process)
            if namespace in seen:
                continue
            for protocol, port in _ports(process / "net", ephemeral):
                if len(listeners) == MAX_LISTENERS:
                    return listeners
                listeners.add((namespace, protocol, port))
            seen.add(namespace)
    return listeners


def _namespace(process: Path) -> int:
    inode = re.fullmatch(r"net:\[(\d+)\]", str((process / "ns/net").readlink()))
    if not inode:
        raise OSError(f"{process}: unknown network namespace")
    return int(inode[1])


def _ports(net: Path, ephemeral: range) -> Iterator[tuple[int, int]]:
    """Yield the protocol and port of each listener. Raises OSError if the tables cannot be read."""
    for name, protocol in _TABLES:
        try:
            table = (net / name).open(encoding="ascii", errors="replace")
        except FileNotFoundError:
            if name == "tcp":  # Others may be missing, such as tcp6 and udp6 without IPv6.
                raise
            continue
        with table:
            next(table, None)  # Skip the headings.
            for line in table:
                _, local, remote, state, _ = line.split(maxsplit=4)
                port = int(local.rpartition(":")[2], 16)
                if protocol == UDP:
                    listens = not remote.strip("0:") and port not in ephemeral
                elif state in (_TCP_LISTEN, _TCP_SYN_RECV):  # Before Linux 4.4, SYN_RECV is listed beside its listener.
                    listens = state == _TCP_LISTEN
                else:
                    break  # The kernel lists listeners first (tcp_get_idx); a million others may follow.
                if listens:
                    yield protocol, port
