"""Name what only one sink may use at a time: a stream, a file, a port.

A resource is a text for people, such as `file '/var/log/ebpfmon'`. The same resource has the same text, however the
settings spell it. A file may have several paths, so it has one text for its path, one for its inode, and one for its
name and the inode of its folder. A resource that ends with `*` stands for all resources with the same beginning.
"""

from __future__ import annotations

import os
import re
import socket
import stat
from collections.abc import Iterable
from contextlib import suppress

from ebpfmon.threads import submit_once

STREAMS = {1: "stdout", 2: "stderr"}
_MEMORY = 1  # the major number of /dev/null, /dev/zero and /dev/full, to which any number of programs may write
_CONTROLLING_TERMINAL = os.makedev(5, 0)  # /dev/tty
_MAX_LINKS = 40  # as in Linux
_ANSWER_S = 1.0
"""How long looking up a file may take. After that, only its path is used."""


def standard_stream(path: str) -> int | None:
    """Return 1 if a path is that of stdout (`/dev/stdout`, `/proc/self/fd/1`), 2 if it is that of stderr, or None."""
    with suppress(OSError, ValueError):
        own = re.compile(rf"/proc/{os.readlink('/proc/self')}(?:/task/\d+)?/fd/([12])")
        for _ in range(_MAX_LINKS):
            directory, name = os.path.split(path)
            path = os.path.join(os.path.realpath(directory), name)
            if found := own.fullmatch(path):
                return int(found[1])
            path = os.path.join(os.path.dirname(path), os.readlink(path))
    return None


def file_resources(path: str) -> frozenset[str]:
    """Return the resources of a file, a named pipe, a terminal or a Unix socket. It need not exist.

    If the path is that of stdout or stderr, returns the resources of the stream.
    """
    try:
        # A file server that is down must not keep the daemon from reading its settings again.
        return submit_once("look up files", _look_up, path).result(_ANSWER_S)
    except (OSError, ValueError, RuntimeError):
        return frozenset({f"file '{path}'"})


def _look_up(path: str) -> frozenset[str]:
    stream = standard_stream(path)
    if stream is not None:
        return stream_resources(stream)
    path = os.path.realpath(path)
    resources = {f"file '{path}'"}
    with suppress(OSError):  # there is no such file
        inode = inode_resource(os.stat(path))
        if not inode:
            return frozenset()
        resources.add(inode)
    folder, name = os.path.split(path)
    with suppress(OSError):  # there is no such folder
        # A bind mount gives a folder several paths, and files that do not exist yet have no inode.
        resources.add(f"file '{name}' of {inode_resource(os.stat(folder))}")
    return frozenset(resources)


def stream_resources(fd: int) -> frozenset[str]:
    """Return the resources of stdout (1) or stderr (2)."""
    inode = ""
    with suppress(OSError):  # the stream is closed
        inode = inode_resource(os.fstat(fd))
    return frozenset({STREAMS[fd], *([inode] if inode else [])})


def port_resources(host: str, port: int) -> frozenset[str]:
    """Return the resource of a TCP port to listen on, or none for port 0, which stands for any free port.

    `0.0.0.0` and `::` stand for all addresses. A host name is not resolved, except `localhost`.
    """
    if not port:
        return frozenset()
    if host.lower() == "localhost":
        return port_resources("127.0.0.1", port) | port_resources("::1", port)
    try:
        ((family, *_, address),) = socket.getaddrinfo(
            host.strip("[]"), None, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST
        )
    except (OSError, ValueError):  # a host name
        return frozenset({f"TCP port {port} of {host.lower()}"})
    kind = "IPv6" if family == socket.AF_INET6 else "IPv4"
    every = address[0] in ("0.0.0.0", "::")  # noqa: S104  # nothing is bound here
    return frozenset({f"TCP port {port} ({kind}) of {'*' if every else address[0]}"})


def overlap(some: Iterable[str], others: Iterable[str]) -> list[str]:
    """Return the resources of `some` that are among `others`. Inodes come last, because they say least to people."""
    others = list(others)
    found = [resource for resource in some if any(_is_same(resource, other) for other in others)]
    return sorted(found, key=lambda resource: ("inode" in resource, resource))


def _is_same(one: str, other: str) -> bool:
    return (
        one == other
        or (one.endswith("*") and other.startswith(one[:-1]))
        or (other.endswith("*") and one.startswith(other[:-1]))
    )


def inode_resource(status: os.stat_result) -> str:
    """Return the resource of an inode, or an empty text if any number of sinks may use it."""
    device = status.st_dev
    if stat.S_ISCHR(status.st_mode):
        device = _terminal() if status.st_rdev == _CONTROLLING_TERMINAL else status.st_rdev
        return "" if os.major(device) == _MEMORY else f"device {os.major(device)}:{os.minor(device)}"
    return f"inode {status.st_ino} of device {os.major(device)}:{os.minor(device)}"


def _terminal() -> int:
    """Return the device number of the controlling terminal, or that of /dev/tty if there is none."""
    with suppress(OSError, ValueError), open("/proc/self/stat", encoding="utf-8", errors="replace") as file:
        return int(file.read().rpartition(")")[2].split()[4]) or _CONTROLLING_TERMINAL
    return _CONTROLLING_TERMINAL
