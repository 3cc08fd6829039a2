"""Two connected network namespaces, processes that run in them, and the kernel's own counters of them."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

CLIENT = {4: "10.66.0.1", 6: "fd00:66::1"}
SERVER = {4: "10.66.0.2", 6: "fd00:66::2"}
"""The addresses of the two namespaces, by IP version. They are private, so the default settings select them."""

DEFAULT: Mapping[str, Any] = {"plugins": {"network_viewer": {}}}
"""The network viewer's defaults, which select private networks and not loopback."""

SILENT = {4: "10.66.0.66", 6: "fd00:66::66"}
"""Unused addresses, for silence()."""

_LIMIT_S = 20


@dataclass(frozen=True, slots=True)
class Pair:
    """Two namespaces, each named by its file in /proc. Each has the devices `cable` and `lo`, both up."""

    client: str
    server: str

    def kernel_counts(self, name: str) -> int:
        """Return one of the kernel's own counters, summed over both namespaces."""
        return kernel_counts(self.client)[name] + kernel_counts(self.server)[name]


@contextmanager
def pair() -> Iterator[Pair]:
    """Make two namespaces, and remove them at the end. All processes in them must have ended by then."""
    if not shutil.which("ip"):
        pytest.skip("iproute2 is not installed")
    with ExitStack() as stack:
        names = [stack.enter_context(_namespace()) for _ in range(2)]
        _ip(names[0], "link", "add", "cable", "type", "veth", "peer", "name", "cable", "netns", names[1])
        for name, addresses in zip(names, (CLIENT, SERVER), strict=True):
            for device in ("lo", "cable"):
                _ip(name, "link", "set", device, "up")
            _ip(name, "address", "add", f"{addresses[4]}/24", "dev", "cable")
            _ip(name, "address", "add", f"{addresses[6]}/64", "dev", "cable", "nodad")
        wait(lambda: all(_is_up(name) for name in names), "the cable to come up")
        yield Pair(*names)


@contextmanager
def _namespace() -> Iterator[str]:
    """Make a namespace that lasts as long as its `cat`. It has no name: in a chroot, ip(8) cannot enter one by name."""
    with subprocess.Popen(
        ("unshare", "--net", "cat"), stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
    ) as holder:
        assert holder.stdin
        assert holder.stdout
        holder.stdin.write(b"\n")
        assert holder.stdout.readline() == b"\n"  # Now the namespace exists.
        yield f"/proc/{holder.pid}/ns/net"


def inside(namespace: str, *command: str | Path) -> list[str]:
    """Return the command line that runs a command in a namespace, without a process in between."""
    return ["nsenter", f"--net={namespace}", *map(str, command)]


def write_sysctl(namespace: str, name: str, value: int) -> None:
    """Set a sysctl of this namespace, such as net.ipv4.tcp_syn_retries."""
    path = f"/proc/sys/{name.replace('.', '/')}"
    subprocess.run(inside(namespace, "sh", "-c", f"echo {value} > {path}"), check=True, timeout=_LIMIT_S)


def lose_packets(pair: Pair, sender: str) -> None:
    """Lose 2 % of the packets that this namespace sends."""
    # The queue must never be full: TcpRetransSegs also counts packets that do not get into it.
    netem = inside(sender, "tc", "qdisc", "add", "dev", "cable", "root", "netem", "loss", "2%", "limit", "100000")
    if not subprocess.run(netem, capture_output=True, timeout=_LIMIT_S).returncode:
        return
    if not shutil.which("nft"):
        pytest.skip("losing packets needs netem or nft")
    receiver = pair.server if sender == pair.client else pair.client
    chain = "add table inet test; add chain inet test in { type filter hook input priority 0; }; "
    rule = "add rule inet test in numgen random mod 50 == 0 drop"
    subprocess.run(inside(receiver, "nft", chain + rule), check=True, timeout=_LIMIT_S)


def silence(namespace: str, address: str) -> None:
    """Make an address silent: packets to it go to an unused MAC address."""
    _ip(namespace, "neighbour", "replace", address, "dev", "cable", "lladdr", "02:00:00:00:00:66")


def unsilence(namespace: str, address: str) -> None:
    """Undo silence() for an address."""
    _ip(namespace, "neighbour", "delete", address, "dev", "cable")


def change_route(namespace: str, action: str) -> None:
    """Delete or add (`action`) this namespace's route to the other one."""
    _ip(namespace, "route", action, "10.66.0.0/24", "dev", "cable", "src", CLIENT[4])


def retransmit_attempts(namespace: str, port: int) -> int:
    """Return how often the kernel has retransmitted, or tried to, on IPv4 connections to a port."""
    lines = [line.split() for line in _read(namespace, "tcp")]
    return sum(int(words[6], 16) for words in lines if words[2].endswith(f":{port:04X}"))


def kernel_counts(namespace: str) -> Counter[str]:
    """Return all counters that nstat(8) shows, such as `TcpRetransSegs`, `UdpOutDatagrams` and `Udp6OutDatagrams`."""
    counts: Counter[str] = Counter()
    lines = _read(namespace, "snmp", "netstat", "snmp6")
    tables = [line.split() for line in lines if ":" in line]
    for heads, values in zip(tables[::2], tables[1::2], strict=True):
        counts.update({heads[0][:-1] + head: int(value) for head, value in zip(heads[1:], values[1:], strict=True)})
    counts.update({words[0]: int(words[1]) for words in map(str.split, lines) if len(words) == 2})
    return counts


class Actor:
    """A Python process in a namespace that executes one piece of code after the other."""

    _LOOP = "import json, socket, sys\nfor line in sys.stdin: exec(json.loads(line)); print('done', flush=True)"

    def __init__(self, namespace: str) -> None:
        self._process = subprocess.Popen(
            inside(namespace, sys.executable, "-I", "-c", self._LOOP),
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1,
        )  # fmt: skip

    def __enter__(self) -> Actor:
        return self

    def __exit__(self, *_: object) -> None:
        """Close its input, which makes it exit, and wait for it."""
        with self._process as process:
            assert process.stdin
            process.stdin.close()
            try:
                process.wait(_LIMIT_S)
            finally:
                process.kill()

    @property
    def tgid(self) -> int:
        """The process ID of the actor."""
        return self._process.pid

    def do(self, code: str) -> None:
        """Execute code, and return when it is done. An exception ends the actor and is shown on stderr."""
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(json.dumps(code) + "\n")
        assert self._process.stdout.readline() == "done\n", code


@contextmanager
def started(namespace: str, *command: str | Path) -> Iterator[subprocess.Popen[str]]:
    """Start a process in a namespace, and kill it at the end if it still runs."""
    with subprocess.Popen(
        inside(namespace, *command), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()


def wait_for_listener(tgid: int, port: int) -> None:
    """Wait until a TCP port in the namespace of this process has a listener."""

    def listens() -> bool:
        tables = "".join(Path(f"/proc/{tgid}/net", name).read_text() for name in ("tcp", "tcp6"))
        return any(
            words[3] == "0A" and words[1].endswith(f":{port:04X}") for words in map(str.split, tables.splitlines())
        )

    wait(listens, f"a listener on port {port}")


def wait(condition: Callable[[], bool], what: str) -> None:
    """Wait until a condition holds. `what` names it in the error after the time limit."""
    end = time.monotonic() + _LIMIT_S
    while not condition():
        assert time.monotonic() < end, f"timed out waiting for {what}"
        time.sleep(0.02)


def until_closed(pair: Pair) -> None:
    """Wait until no TCP connection in either namespace can send any more, so that the kernel's counters are final."""

    def closed() -> bool:
        lines = [line.split() for name in (pair.client, pair.server) for line in _read(name, "tcp", "tcp6")]
        return not {words[3] for words in lines} - {"st", "06", "0A"}  # the heading, TIME_WAIT and LISTEN

    wait(closed, "connections to be closed")


def _read(namespace: str, *names: str) -> list[str]:
    """Return the lines of some files in /proc/net."""
    command = inside(namespace, "cat", *(f"/proc/net/{name}" for name in names))
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=_LIMIT_S)
    return done.stdout.splitlines()


def _is_up(namespace: str) -> bool:
    """Return whether the device is up, for IPv6 too, which then adds its routes."""
    routes = json.loads(_ip(namespace, "-j", "-6", "route", "show", "table", "all"))
    links = json.loads(_ip(namespace, "-j", "link", "show", "cable"))
    local = {route["dst"] for route in routes if route.get("dev") == "cable" and "linkdown" not in route["flags"]}
    return "fd00:66::/64" in local and links[0]["operstate"] == "UP"


def _ip(namespace: str, *words: str) -> str:
    done = subprocess.run(inside(namespace, "ip", *words), capture_output=True, text=True, timeout=_LIMIT_S)
    assert done.returncode == 0, (words, done.stderr)
    return done.stdout
