"""Two network namespaces with a cable between them, what runs in them, and what the kernel counted there."""

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
"""The addresses at either end of the cable, by version: private ones, which the default settings select."""

DEFAULT: Mapping[str, Any] = {"plugins": {"network_viewer": {}}}
"""The network viewer as it is: private networks are selected, loopback is not."""

SILENT = {4: "10.66.0.66", 6: "fd00:66::66"}
"""Nobody's addresses, for silence()."""

_LIMIT_S = 20


@dataclass(frozen=True, slots=True)
class Pair:
    """The two namespaces, each by its file in /proc; each has a device `cable` and `lo`, both up."""

    client: str
    server: str

    def kernel_counts(self, name: str) -> int:
        """One of the kernel's own counters, of both namespaces."""
        return kernel_counts(self.client)[name] + kernel_counts(self.server)[name]


@contextmanager
def pair() -> Iterator[Pair]:
    """Two namespaces of nobody else, which are gone afterwards. Whoever runs in them must have ended by then."""
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
        wait(lambda: all(_is_up(name) for name in names), "the cable to be up")
        yield Pair(*names)


@contextmanager
def _namespace() -> Iterator[str]:
    """It lasts as long as its `cat`, and has no name: where / is no mount, in a chroot, ip(8) cannot enter by name."""
    with subprocess.Popen(
        ("unshare", "--net", "cat"), stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
    ) as holder:
        assert holder.stdin
        assert holder.stdout
        holder.stdin.write(b"\n")
        assert holder.stdout.readline() == b"\n"  # by now it is there
        yield f"/proc/{holder.pid}/ns/net"


def inside(namespace: str, *command: str | Path) -> list[str]:
    """A command as it runs in a namespace; the process that is started is the command's own."""
    return ["nsenter", f"--net={namespace}", *map(str, command)]


def write_sysctl(namespace: str, name: str, value: int) -> None:
    """Set what holds in this namespace alone, e.g. net.ipv4.tcp_syn_retries."""
    path = f"/proc/sys/{name.replace('.', '/')}"
    subprocess.run(inside(namespace, "sh", "-c", f"echo {value} > {path}"), check=True, timeout=_LIMIT_S)


def lose(pair: Pair, sender: str) -> None:
    """From now on 2 % of what this namespace sends are lost."""
    # the queue is long enough for all: what does not get into it was not sent, whatever TcpRetransSegs says
    netem = inside(sender, "tc", "qdisc", "add", "dev", "cable", "root", "netem", "loss", "2%", "limit", "100000")
    if not subprocess.run(netem, capture_output=True, timeout=_LIMIT_S).returncode:
        return
    if not shutil.which("nft"):
        pytest.skip("neither netem nor nft is there to lose packets")
    receiver = pair.server if sender == pair.client else pair.client
    chain = "add table inet test; add chain inet test in { type filter hook input priority 0; }; "
    rule = "add rule inet test in numgen random mod 50 == 0 drop"
    subprocess.run(inside(receiver, "nft", chain + rule), check=True, timeout=_LIMIT_S)


def silence(namespace: str, address: str) -> None:
    """Who has this address never answers from now on: what is sent there is for nobody."""
    _ip(namespace, "neighbour", "replace", address, "dev", "cable", "lladdr", "02:00:00:00:00:66")


def hear(namespace: str, address: str) -> None:
    """Whoever was silenced may answer."""
    _ip(namespace, "neighbour", "delete", address, "dev", "cable")


def route(namespace: str, action: str) -> None:
    """`delete` the route between the namespaces as of this one, or `add` it again."""
    _ip(namespace, "route", action, "10.66.0.0/24", "dev", "cable", "src", CLIENT[4])


def attempts(namespace: str, port: int) -> int:
    """How often what was sent last over IPv4 to a port has been sent again for want of an answer, or tried to."""
    lines = [line.split() for line in _read(namespace, "tcp")]
    return sum(int(words[6], 16) for words in lines if words[2].endswith(f":{port:04X}"))


def kernel_counts(namespace: str) -> Counter[str]:
    """All of nstat(8)'s: `TcpRetransSegs`, `TcpExtTCPSynRetrans`, `UdpOutDatagrams`, `Udp6OutDatagrams`, ..."""
    found: Counter[str] = Counter()
    lines = _read(namespace, "snmp", "netstat", "snmp6")
    tables = [line.split() for line in lines if ":" in line]
    for heads, values in zip(tables[::2], tables[1::2], strict=True):
        found.update({heads[0][:-1] + head: int(value) for head, value in zip(heads[1:], values[1:], strict=True)})
    found.update({words[0]: int(words[1]) for words in map(str.split, lines) if len(words) == 2})
    return found


class Actor:
    """A Python process in a namespace that does what it is told, one piece of code after the other."""

    _LOOP = "import json, socket, sys\nfor line in sys.stdin: exec(json.loads(line)); print('done', flush=True)"

    def __init__(self, namespace: str) -> None:
        self._process = subprocess.Popen(
            inside(namespace, sys.executable, "-I", "-c", self._LOOP),
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1,
        )  # fmt: skip

    def __enter__(self) -> Actor:
        return self

    def __exit__(self, *_: object) -> None:
        """It ends by itself, as nobody will tell it anything any more."""
        with self._process as process:
            assert process.stdin
            process.stdin.close()
            try:
                process.wait(_LIMIT_S)
            finally:
                process.kill()

    @property
    def tgid(self) -> int:
        """Its process."""
        return self._process.pid

    def do(self, code: str) -> None:
        """Do this; returns when it is done. What it raises is on stderr, and ends the actor."""
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(json.dumps(code) + "\n")
        assert self._process.stdout.readline() == "done\n", code


@contextmanager
def started(namespace: str, *command: str | Path) -> Iterator[subprocess.Popen[str]]:
    """A process in a namespace, which is not there any more afterwards."""
    with subprocess.Popen(
        inside(namespace, *command), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()


def until_listened(tgid: int, port: int) -> None:
    """Wait until somebody listens on a TCP port in the namespace of this process."""

    def listens() -> bool:
        tables = "".join(Path(f"/proc/{tgid}/net", name).read_text() for name in ("tcp", "tcp6"))
        return any(
            words[3] == "0A" and words[1].endswith(f":{port:04X}") for words in map(str.split, tables.splitlines())
        )

    wait(listens, f"port {port} to be listened on")


def wait(condition: Callable[[], bool], what: str) -> None:
    """Wait until something holds, for a while."""
    end = time.monotonic() + _LIMIT_S
    while not condition():
        assert time.monotonic() < end, f"waited for {what}"
        time.sleep(0.02)


def until_closed(pair: Pair) -> None:
    """Wait until no TCP connection is left in either namespace that may still send: the kernel's counters stand."""

    def closed() -> bool:
        lines = [line.split() for name in (pair.client, pair.server) for line in _read(name, "tcp", "tcp6")]
        return not {words[3] for words in lines} - {"st", "06", "0A"}  # the heading, TIME_WAIT, LISTEN

    wait(closed, "connections to be closed")


def _read(namespace: str, *names: str) -> list[str]:
    """The lines of some of /proc/net."""
    command = inside(namespace, "cat", *(f"/proc/net/{name}" for name in names))
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=_LIMIT_S)
    return done.stdout.splitlines()


def _is_up(namespace: str) -> bool:
    """Whether IPv6 has seen that the device is up too: it adds the routes then."""
    routes = json.loads(_ip(namespace, "-j", "-6", "route", "show", "table", "all"))
    links = json.loads(_ip(namespace, "-j", "link", "show", "cable"))
    local = {route["dst"] for route in routes if route.get("dev") == "cable" and "linkdown" not in route["flags"]}
    return "fd00:66::/64" in local and links[0]["operstate"] == "UP"


def _ip(namespace: str, *words: str) -> str:
    done = subprocess.run(inside(namespace, "ip", *words), capture_output=True, text=True, timeout=_LIMIT_S)
    assert done.returncode == 0, (words, done.stderr)
    return done.stdout
