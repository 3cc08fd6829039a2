"""The ports that somebody listens on, as /proc has them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

TCP, UDP = 6, 17
MOST = 16384
"""How many there may be; what is beyond is not told."""

Listener = tuple[int, int, int]
"""The inode of the network namespace, the protocol (TCP or UDP), the local port."""

_PROC = Path("/proc")
_DEFAULT_EPHEMERAL = range(32768, 61000)
_TCP_SYN_RECV, _TCP_LISTEN = "03", "0A"
_TABLES = (("tcp", TCP), ("tcp6", TCP), ("udp", UDP), ("udp6", UDP))


def ephemeral_ports(proc: Path = _PROC) -> range:
    """Return the ports that the kernel gives to sockets that ask for none, in this process's network namespace."""
    try:
        first, last = (proc / "sys/net/ipv4/ip_local_port_range").read_text().split()
        return range(int(first), int(last) + 1)
    except (OSError, ValueError):
        return _DEFAULT_EPHEMERAL


def listening(proc: Path = _PROC, *, ephemeral: range) -> set[Listener]:
    """Return the sockets that listen now in all network namespaces that have a process, at most MOST of them.

    UDP knows no listening: there it is a socket that is connected to nobody, on a port not of `ephemeral`.
    Looks at every process, which takes its time where there are many: not for the event loop.
    """
    found: set[Listener] = set()
    seen: set[int] = set()
    for process in proc.iterdir():
        if not process.name.isdigit():
            continue
        with suppress(OSError):  # it has gone, or it is not ours to look at: another may be in the same namespace
            namespace = _namespace(process)
            if namespace in seen:
                continue
            for protocol, port in _ports(process / "net", ephemeral):
                if len(found) == MOST:
                    return found
                found.add((namespace, protocol, port))
            seen.add(namespace)
    return found


def _namespace(process: Path) -> int:
    inode = re.fullmatch(r"net:\[(\d+)\]", str((process / "ns/net").readlink()))
    if not inode:
        raise OSError(f"{process}: its network namespace is not told")
    return int(inode[1])


def _ports(net: Path, ephemeral: range) -> Iterator[tuple[int, int]]:
    """Yield the protocol and the port of each socket that listens. Raise OSError."""
    for name, protocol in _TABLES:
        try:
            table = (net / name).open(encoding="ascii", errors="replace")
        except FileNotFoundError:
            if name == "tcp":  # which is always there; others are not where IPv6 is turned off
                raise
            continue
        with table:
            next(table, None)  # the headings
            for line in table:
                _, local, remote, state, _ = line.split(maxsplit=4)
                port = int(local.rpartition(":")[2], 16)
                if protocol == UDP:
                    listens = not remote.strip("0:") and port not in ephemeral
                elif state in (_TCP_LISTEN, _TCP_SYN_RECV):  # the latter stands by its listener before Linux 4.4
                    listens = state == _TCP_LISTEN
                else:
                    break  # the kernel lists who listens first (tcp_get_idx), and then there may be a million others
                if listens:
                    yield protocol, port
