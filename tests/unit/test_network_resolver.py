"""Names of addresses: asked for in the background, kept for a while, never waited for."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from ebpfmon_network_viewer import resolver as module
from ebpfmon_network_viewer.resolver import AT_A_TIME, FAILURE_S, NAME_S, WAITING, Resolver

DNSMASQ = Path("/usr/sbin/dnsmasq")
HOSTS = Path("/etc/hosts")


class Lookups:
    """Stands in for DNS, and for time: every lookup waits until the test answers it."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.under_way: dict[str, asyncio.Future[str]] = {}
        self.now_s = 1000.0

    async def __call__(self, address: str) -> str:
        self.asked.append(address)
        self.under_way[address] = asyncio.get_running_loop().create_future()
        try:
            return await self.under_way[address]
        finally:
            del self.under_way[address]

    def clock(self) -> float:
        return self.now_s

    async def answer(self, address: str, answer: str | Exception) -> None:
        """Answer a lookup and let everything happen that follows from it."""
        future = self.under_way[address]
        if isinstance(answer, str):
            future.set_result(answer)
        else:
            future.set_exception(answer)
        await settled()

    def resolver(self, kept: int = 4096, limit_s: float = 60.0) -> Resolver:
        return Resolver(lookup=self, clock=self.clock, kept=kept, limit_s=limit_s)


async def settled() -> None:
    """All tasks have done what they can without the test."""
    for _ in range(10):
        await asyncio.sleep(0)


async def until(condition: Callable[[], bool]) -> None:
    """It has come to that; what comes from other threads and from time itself tells nobody."""
    while not condition():  # noqa: ASYNC110
        await asyncio.sleep(0.001)


def on_loop(test: Callable[[Lookups], Coroutine[None, None, None]]) -> Callable[[], None]:
    """The test on an event loop, which must not be left with anything."""

    def run() -> None:
        async def main() -> None:
            async with asyncio.timeout(30):
                await test(Lookups())
            await settled()
            assert asyncio.all_tasks() == {asyncio.current_task()}

        asyncio.run(main(), debug=True)

    run.__name__, run.__doc__ = test.__name__, test.__doc__
    return run


@on_loop
async def test_a_name_is_known_after_its_lookup_and_asked_for_once(dns: Lookups) -> None:
    resolver = dns.resolver()
    assert [resolver.name("10.0.0.1") for _ in range(3)] == [None] * 3
    await settled()
    assert resolver.name("10.0.0.1") is None
    await dns.answer("10.0.0.1", "web.example")
    assert [resolver.name("10.0.0.1") for _ in range(3)] == ["web.example"] * 3
    await settled()
    assert dns.asked == ["10.0.0.1"]


@on_loop
async def test_an_old_name_stays_until_there_is_a_new_answer(dns: Lookups) -> None:
    resolver = dns.resolver()
    resolver.name("a")
    await settled()
    dns.now_s += 7
    await dns.answer("a", "old")  # from now on it counts
    dns.now_s += NAME_S - 0.5
    assert resolver.name("a") == "old"
    await settled()
    assert dns.asked == ["a"]
    dns.now_s += 0.5
    assert resolver.name("a") == "old"
    await settled()
    assert dns.asked == ["a", "a"]
    assert resolver.name("a") == "old"
    await dns.answer("a", "new")
    assert resolver.name("a") == "new"
    dns.now_s += NAME_S
    resolver.name("a")
    await settled()
    await dns.answer("a", OSError("no such name any more"))
    assert resolver.name("a") is None


@pytest.mark.parametrize("answer", [OSError("no such name"), ValueError("?"), "not a name", TimeoutError()])
def test_after_a_failure_it_is_not_asked_again_for_a_shorter_while(answer: str | Exception) -> None:
    async def test(dns: Lookups) -> None:
        resolver = dns.resolver()
        resolver.name("a")
        await settled()
        await dns.answer("a", answer)
        dns.now_s += FAILURE_S - 0.5
        assert resolver.name("a") is None
        await settled()
        assert dns.asked == ["a"]
        dns.now_s += 0.5
        assert resolver.name("a") is None
        await settled()
        await dns.answer("a", "now.there")
        assert resolver.name("a") == "now.there"

    on_loop(test)()


@on_loop
async def test_the_name_used_last_is_kept_longest(dns: Lookups) -> None:
    resolver = dns.resolver(kept=2)
    for address in "ab":
        resolver.name(address)
        await settled()
        await dns.answer(address, "name." + address)
    assert resolver.name("a") == "name.a"
    resolver.name("c")
    await settled()
    await dns.answer("c", OSError("failures are kept in the same room"))
    assert resolver.name("a") == "name.a"
    assert resolver.name("b") is None
    await settled()
    assert dns.asked == ["a", "b", "c", "b"]
    await dns.answer("b", "name.b")
    assert resolver.name("a") == "name.a"


@on_loop
async def test_so_many_are_asked_at_a_time_and_so_many_wait_in_their_order(dns: Lookups) -> None:
    resolver = dns.resolver()
    addresses = [str(n) for n in range(AT_A_TIME + WAITING + 5)]
    for _ in range(2):  # who waits does not wait twice
        for address in addresses:
            resolver.name(address)
    await settled()
    assert dns.asked == addresses[:AT_A_TIME]
    most = 0
    while dns.under_way:
        most = max(most, len(dns.under_way))
        await dns.answer(next(iter(dns.under_way)), "some.name")
    assert most == AT_A_TIME
    assert dns.asked == addresses[: AT_A_TIME + WAITING]
    resolver.name(addresses[-1])  # what had no place can be asked for again
    await settled()
    await dns.answer(addresses[-1], "last.name")
    assert resolver.name(addresses[-1]) == "last.name"


@on_loop
async def test_a_lookup_that_takes_too_long_has_failed_and_makes_place(dns: Lookups) -> None:
    resolver = dns.resolver(limit_s=0.01)
    for n in range(AT_A_TIME + 1):
        resolver.name(str(n))
    await until(lambda: len(dns.asked) > AT_A_TIME and not dns.under_way)
    assert resolver.name("0") is None
    await settled()
    assert len(dns.asked) == AT_A_TIME + 1


@on_loop
async def test_closing_ends_what_is_under_way_and_starts_nothing_more(dns: Lookups) -> None:
    resolver = dns.resolver()
    resolver.name("known")
    await settled()
    await dns.answer("known", "its.name")
    for n in range(AT_A_TIME + 5):
        resolver.name(str(n))
    await settled()
    resolver.name("new")
    assert len(dns.under_way) == AT_A_TIME
    resolver.close()
    resolver.close()
    await settled()
    assert dns.under_way == {}
    dns.now_s += NAME_S
    assert (resolver.name("known"), resolver.name("0"), resolver.name("more")) == ("its.name", None, None)
    await settled()
    assert len(dns.asked) == 1 + AT_A_TIME


def test_a_loop_that_ends_takes_the_lookups_with_it() -> None:
    dns = Lookups()
    resolver = dns.resolver()

    async def main() -> None:
        for n in range(AT_A_TIME + 5):
            resolver.name(str(n))
        await settled()

    asyncio.run(main(), debug=True)
    assert dns.under_way == {}
    assert len(dns.asked) == AT_A_TIME


@pytest.mark.parametrize(
    ("said", "name"),
    [
        ("web.example.", "web.example"),
        ("WEB.Example", "web.example"),
        ("a_b-c.0", "a_b-c.0"),
        ("a" * 253, "a" * 253),
        ("a" * 253 + ".", "a" * 253),
        ("a" * 254, None),
        ("", None),
        (".", None),
        ("a b", None),
        ("a\n", None),
        ("a\x1b[31m", None),
        ("<script>", None),
        ("caf\xe9", None),
        ("\u212a", None),  # the sign of the kelvin, which becomes a k in lower case
        ("\u0661", None),
    ],
)
def test_what_no_host_is_called_is_no_name(said: str, name: str | None) -> None:
    async def test(dns: Lookups) -> None:
        resolver = dns.resolver()
        resolver.name("a")
        await settled()
        await dns.answer("a", said)
        assert resolver.name("a") == name

    on_loop(test)()


def test_without_aiodns_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "aiodns", None)
    with pytest.raises(ValueError, match=r"^names of hosts need aiodns \(.*\): pip install 'ebpfmon\[dns\]'$"):
        Resolver()
    Resolver(lookup=Lookups())


# ---- with aiodns


def test_a_name_server_is_an_address() -> None:
    pytest.importorskip("aiodns")
    with pytest.raises(ValueError, match=r"^'ns\.example': a name server is told by its address$"):
        Resolver(nameservers=["127.0.0.1", "ns.example"])
    assert module._server("::1", 53) == "[::1]:53"


@pytest.fixture(scope="module")
def name_server() -> Iterator[int]:
    """The port of a DNS server on 127.0.0.1 that knows a few names and nobody to ask."""
    pytest.importorskip("aiodns")
    if not DNSMASQ.exists():
        pytest.skip(f"{DNSMASQ} is not installed")
    said: list[str] = []
    for _ in range(20):  # somebody else may be faster to take a port
        with started(free_port(), said) as port:
            if port:
                yield port
                return
    pytest.fail("dnsmasq: " + "".join(said))


def free_port() -> int:
    """A port that is free for both protocols."""
    for _ in range(1000):
        with socket.socket() as tcp, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp, suppress(OSError):
            udp.bind(("127.0.0.1", 0))
            tcp.bind(udp.getsockname())
            return int(tcp.getsockname()[1])
    pytest.fail("no port is free")


@contextmanager
def started(port: int, said: list[str]) -> Iterator[int]:
    """The port again, if dnsmasq has it; 0 if it ended instead."""
    command = [
        str(DNSMASQ), "--no-daemon", "--conf-file=/dev/null", "--pid-file=", "--no-resolv", "--no-hosts",
        "--bind-interfaces", "--listen-address=127.0.0.1", f"--port={port}",
        "--host-record=web.example,192.0.2.1,2001:db8::1",
        "--ptr-record=2.2.0.192.in-addr.arpa,Mail.Example", "--ptr-record=3.2.0.192.in-addr.arpa,not/a/name",
    ]  # fmt: skip
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr
            for line in process.stderr:
                said.append(line)
                if "started" in line:  # its sockets are bound before it says so
                    yield port
                    return
            yield 0
        finally:
            process.kill()


async def answered(resolver: Resolver, address: str) -> str | None:
    """The name, when there is an answer."""
    resolver.name(address)
    async with asyncio.timeout(10):
        await until(lambda: address in resolver._answers)
    return resolver.name(address)


def resolve(port: int, *addresses: str) -> list[str | None]:
    """The names as a Resolver has them that asks the server on that port."""

    async def main() -> list[str | None]:
        resolver = Resolver(nameservers=["127.0.0.1"], port=port)
        try:
            return [await answered(resolver, address) for address in addresses]
        finally:
            resolver.close()
            resolver.close()
            await settled()
            assert asyncio.all_tasks() == {asyncio.current_task()}

    return asyncio.run(main(), debug=True)


def test_a_real_server_is_asked_for_addresses_of_both_families(name_server: int) -> None:
    assert resolve(name_server, "192.0.2.1", "2001:db8::1", "192.0.2.2") == [
        "web.example",
        "web.example",
        "mail.example",
    ]


def test_a_real_servers_refusals_and_odd_names_are_failures(name_server: int) -> None:
    assert resolve(name_server, "192.0.2.3", "192.0.2.99", "no address") == [None, None, None]


def test_what_the_hosts_file_says_needs_no_server(name_server: int) -> None:
    lines = [line.partition("#")[0].split() for line in HOSTS.read_text().splitlines()] if HOSTS.exists() else []
    names = {name.lower() for line in lines if line[:1] == ["127.0.0.1"] for name in line[1:]}
    if not names:
        pytest.skip(f"{HOSTS} has no name of 127.0.0.1")
    assert resolve(name_server, "127.0.0.1")[0] in names


def test_a_server_that_never_answers_is_given_up() -> None:
    pytest.importorskip("aiodns")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        silent.bind(("127.0.0.1", 0))

        async def main() -> None:
            resolver = Resolver(nameservers=["127.0.0.1"], port=silent.getsockname()[1], limit_s=0.2)
            assert await answered(resolver, "192.0.2.1") is None
            resolver.name("192.0.2.2")
            await asyncio.to_thread(silent.recv, 512)  # it is under way
            resolver.close()
            await settled()
            assert asyncio.all_tasks() == {asyncio.current_task()}

        asyncio.run(main(), debug=True)
