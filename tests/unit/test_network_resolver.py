"""The resolver: lookups run in the background, and answers are cached for a while."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace

import pytest

from ebpfmon_network_viewer import resolver as module
from ebpfmon_network_viewer.resolver import FAILURE_TTL_S, MAX_LOOKUPS, MAX_QUEUED, NAME_TTL_S, Resolver

DNSMASQ = Path("/usr/sbin/dnsmasq")
HOSTS = Path("/etc/hosts")


class Lookups:
    """Replaces DNS and the clock. Every lookup waits until the test answers it."""

    def __init__(self) -> None:
        self.requested: list[str] = []
        self.pending: dict[str, asyncio.Future[str]] = {}
        self.now_s = 1000.0

    async def __call__(self, address: str) -> str:
        self.requested.append(address)
        self.pending[address] = asyncio.get_running_loop().create_future()
        try:
            return await self.pending[address]
        finally:
            del self.pending[address]

    def clock(self) -> float:
        return self.now_s

    async def answer(self, address: str, answer: str | Exception) -> None:
        """Answer a lookup, and let all tasks react to the answer."""
        future = self.pending[address]
        if isinstance(answer, str):
            future.set_result(answer)
        else:
            future.set_exception(answer)
        await run_tasks()

    def resolver(self, cache_size: int = 4096, timeout_s: float = 60.0) -> Resolver:
        return Resolver(lookup=self, clock=self.clock, cache_size=cache_size, timeout_s=timeout_s)


async def run_tasks() -> None:
    """Let all tasks run until they wait for the test."""
    for _ in range(10):
        await asyncio.sleep(0)


async def until(condition: Callable[[], bool]) -> None:
    """Wait for a condition. It polls, because other threads and the clock send no notification."""
    while not condition():  # noqa: ASYNC110
        await asyncio.sleep(0.001)


def on_loop(test: Callable[[Lookups], Coroutine[None, None, None]]) -> Callable[[], None]:
    """Run a test on an event loop, and check that it leaves no task behind."""

    def run() -> None:
        async def main() -> None:
            async with asyncio.timeout(30):
                await test(Lookups())
            await run_tasks()
            assert asyncio.all_tasks() == {asyncio.current_task()}

        asyncio.run(main(), debug=True)

    run.__name__, run.__doc__ = test.__name__, test.__doc__
    return run


@on_loop
async def test_a_name_is_known_after_one_lookup(dns: Lookups) -> None:
    resolver = dns.resolver()
    assert [resolver.name("10.0.0.1") for _ in range(3)] == [None] * 3
    await run_tasks()
    assert resolver.name("10.0.0.1") is None
    await dns.answer("10.0.0.1", "web.example")
    assert [resolver.name("10.0.0.1") for _ in range(3)] == ["web.example"] * 3
    await run_tasks()
    assert dns.requested == ["10.0.0.1"]


@on_loop
async def test_an_expired_name_is_returned_until_there_is_a_new_answer(dns: Lookups) -> None:
    resolver = dns.resolver()
    resolver.name("a")
    await run_tasks()
    dns.now_s += 7
    await dns.answer("a", "old")  # its time to live starts now
    dns.now_s += NAME_TTL_S - 0.5
    assert resolver.name("a") == "old"
    await run_tasks()
    assert dns.requested == ["a"]
    dns.now_s += 0.5
    assert resolver.name("a") == "old"
    await run_tasks()
    assert dns.requested == ["a", "a"]
    assert resolver.name("a") == "old"
    await dns.answer("a", "new")
    assert resolver.name("a") == "new"
    dns.now_s += NAME_TTL_S
    resolver.name("a")
    await run_tasks()
    await dns.answer("a", OSError("no such name any more"))
    assert resolver.name("a") is None


@pytest.mark.parametrize("answer", [OSError("no such name"), ValueError("?"), "not a name", TimeoutError()])
def test_a_failure_is_cached_for_a_shorter_time(answer: str | Exception) -> None:
    async def test(dns: Lookups) -> None:
        resolver = dns.resolver()
        resolver.name("a")
        await run_tasks()
        await dns.answer("a", answer)
        dns.now_s += FAILURE_TTL_S - 0.5
        assert resolver.name("a") is None
        await run_tasks()
        assert dns.requested == ["a"]
        dns.now_s += 0.5
        assert resolver.name("a") is None
        await run_tasks()
        await dns.answer("a", "now.there")
        assert resolver.name("a") == "now.there"

    on_loop(test)()


@on_loop
async def test_the_least_recently_used_answer_is_dropped_first(dns: Lookups) -> None:
    resolver = dns.resolver(cache_size=2)
    for address in "ab":
        resolver.name(address)
        await run_tasks()
        await dns.answer(address, "name." + address)
    assert resolver.name("a") == "name.a"
    resolver.name("c")
    await run_tasks()
    await dns.answer("c", OSError("failures share the cache"))
    assert resolver.name("a") == "name.a"
    assert resolver.name("b") is None
    await run_tasks()
    assert dns.requested == ["a", "b", "c", "b"]
    await dns.answer("b", "name.b")
    assert resolver.name("a") == "name.a"


@on_loop
async def test_lookups_at_a_time_are_limited_and_the_queue_keeps_its_order(dns: Lookups) -> None:
    resolver = dns.resolver()
    addresses = [str(n) for n in range(MAX_LOOKUPS + MAX_QUEUED + 5)]
    for _ in range(2):  # an address is queued once
        for address in addresses:
            resolver.name(address)
    await run_tasks()
    assert dns.requested == addresses[:MAX_LOOKUPS]
    most = 0
    while dns.pending:
        most = max(most, len(dns.pending))
        await dns.answer(next(iter(dns.pending)), "some.name")
    assert most == MAX_LOOKUPS
    assert dns.requested == addresses[: MAX_LOOKUPS + MAX_QUEUED]
    resolver.name(addresses[-1])  # an address that found the queue full can be requested again
    await run_tasks()
    await dns.answer(addresses[-1], "last.name")
    assert resolver.name(addresses[-1]) == "last.name"


@on_loop
async def test_a_lookup_that_takes_too_long_fails_and_makes_room_for_the_next(dns: Lookups) -> None:
    resolver = dns.resolver(timeout_s=0.01)
    for n in range(MAX_LOOKUPS + 1):
        resolver.name(str(n))
    await until(lambda: len(dns.requested) > MAX_LOOKUPS and not dns.pending)
    assert resolver.name("0") is None
    await run_tasks()
    assert len(dns.requested) == MAX_LOOKUPS + 1


@on_loop
async def test_closing_cancels_lookups_and_starts_no_more(dns: Lookups) -> None:
    resolver = dns.resolver()
    resolver.name("known")
    await run_tasks()
    await dns.answer("known", "its.name")
    for n in range(MAX_LOOKUPS + 5):
        resolver.name(str(n))
    await run_tasks()
    resolver.name("new")
    assert len(dns.pending) == MAX_LOOKUPS
    await asyncio.to_thread(resolver.close)  # as at a reload
    resolver.close()
    await run_tasks()
    assert dns.pending == {}
    dns.now_s += NAME_TTL_S
    assert (resolver.name("known"), resolver.name("0"), resolver.name("more")) == ("its.name", None, None)
    await run_tasks()
    assert len(dns.requested) == 1 + MAX_LOOKUPS


def test_lookups_are_cancelled_when_the_loop_ends() -> None:
    dns = Lookups()
    resolver = dns.resolver()

    async def main() -> None:
        for n in range(MAX_LOOKUPS + 5):
            resolver.name(str(n))
        await run_tasks()

    asyncio.run(main(), debug=True)
    assert dns.pending == {}
    assert len(dns.requested) == MAX_LOOKUPS


@pytest.mark.parametrize(
    ("answer", "name"),
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
        ("\u212a", None),  # the kelvin sign, whose lower case is k
        ("\u0661", None),
    ],
)
def test_only_valid_host_names_are_names(answer: str, name: str | None) -> None:
    async def test(dns: Lookups) -> None:
        resolver = dns.resolver()
        resolver.name("a")
        await run_tasks()
        await dns.answer("a", answer)
        assert resolver.name("a") == name

    on_loop(test)()


def test_without_aiodns_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "aiodns", None)
    with pytest.raises(ValueError, match=r"^host names need the package aiodns \(.*\): pip install 'ebpfmon\[dns\]'$"):
        Resolver()
    Resolver(lookup=Lookups())


class StuckDns:
    """Replaces aiodns. Its resolvers are made, and look up names, only after `answers` is set."""

    def __init__(self) -> None:
        self.answers, self.calls = threading.Event(), 0

    def DNSResolver(self, *_: object, **__: object) -> StuckDns:
        self.calls += 1
        assert self.answers.wait(30)
        return self

    async def gethostbyaddr(self, address: str) -> SimpleNamespace:
        return SimpleNamespace(name=f"host-{address}")

    def cancel(self) -> None: ...


def test_a_file_that_does_not_answer_holds_up_neither_the_loop_nor_the_end(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    stuck = StuckDns()
    monkeypatch.setitem(sys.modules, "aiodns", stuck)

    async def main() -> None:
        now_s = [1000.0]
        resolver = Resolver(timeout_s=0.05, clock=lambda: now_s[0])
        assert resolver.name("10.0.0.1") is None
        await until(lambda: stuck.calls == 1)
        while "cannot look up host names" not in caplog.text:
            now_s[0] += FAILURE_TTL_S
            assert resolver.name("10.0.0.1") is None
            await asyncio.sleep(0.01)
        for n in range(2, 250):
            assert resolver.name(f"10.0.0.{n}") is None
        await until(lambda: not resolver._lookups)
        assert caplog.text.count("cannot look up host names") == 1
        assert stuck.calls == 1
        stuck.answers.set()
        name = None
        while name is None:
            now_s[0] += FAILURE_TTL_S
            name = resolver.name("10.0.0.1")
            await asyncio.sleep(0.01)
        assert name == "host-10.0.0.1"
        resolver.close()

    asyncio.run(asyncio.wait_for(main(), 30))


@pytest.mark.parametrize("where", ["asyncio.new_event_loop", "threading.Thread.start"])
def test_without_a_descriptor_or_thread_for_lookups_addresses_are_shown(
    monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    def fails(*_: object) -> None:
        raise RuntimeError("can't start new thread") if "Thread" in where else OSError("too many open files")

    dns = StuckDns()
    dns.answers.set()
    monkeypatch.setitem(sys.modules, "aiodns", dns)

    async def main() -> None:
        now_s = [1000.0]
        resolver = Resolver(clock=lambda: now_s[0])
        with monkeypatch.context() as patched:
            patched.setattr(where, fails)
            assert resolver.name("10.0.0.1") is None
            await until(lambda: not resolver._lookups)
        now_s[0] += FAILURE_TTL_S
        assert resolver.name("10.0.0.1") is None
        await until(lambda: resolver.name("10.0.0.1") == "host-10.0.0.1")
        resolver.close()

    asyncio.run(asyncio.wait_for(main(), 30))


# ---- with aiodns


def test_a_name_server_must_be_an_address() -> None:
    pytest.importorskip("aiodns")
    with pytest.raises(ValueError, match=r"^'ns\.example': a name server must be an IP address$"):
        Resolver(nameservers=["127.0.0.1", "ns.example"])
    assert module._server("::1", 53) == "[::1]:53"


@pytest.fixture(scope="module")
def name_server() -> Iterator[int]:
    """The port of a DNS server on 127.0.0.1 that knows a few names and asks no other server."""
    pytest.importorskip("aiodns")
    if not DNSMASQ.exists():
        pytest.skip(f"{DNSMASQ} is not installed")
    output: list[str] = []
    for _ in range(20):  # another process may take the port first
        with run_dnsmasq(free_port(), output) as port:
            if port:
                yield port
                return
    pytest.fail("dnsmasq: " + "".join(output))


def free_port() -> int:
    """Return a port that is free for TCP and UDP."""
    for _ in range(1000):
        with socket.socket() as tcp, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp, suppress(OSError):
            udp.bind(("127.0.0.1", 0))
            tcp.bind(udp.getsockname())
            return int(tcp.getsockname()[1])
    pytest.fail("no port is free")


@contextmanager
def run_dnsmasq(port: int, output: list[str]) -> Iterator[int]:
    """Run dnsmasq. Yield its port, or 0 if it exits because it cannot bind that."""
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
                output.append(line)
                if "started" in line:  # By then, its sockets are bound.
                    yield port
                    return
            yield 0
        finally:
            process.kill()


async def wait_for_name(resolver: Resolver, address: str) -> str | None:
    """Return the name when there is an answer."""
    resolver.name(address)
    async with asyncio.timeout(10):
        await until(lambda: address in resolver._cache)
    return resolver.name(address)


def resolve(port: int, *addresses: str) -> list[str | None]:
    """Return the names that a Resolver gets from the server on that port."""

    async def main() -> list[str | None]:
        resolver = Resolver(nameservers=["127.0.0.1"], port=port)
        try:
            return [await wait_for_name(resolver, address) for address in addresses]
        finally:
            resolver.close()
            resolver.close()
            await run_tasks()
            assert asyncio.all_tasks() == {asyncio.current_task()}

    return asyncio.run(main(), debug=True)


def test_a_real_server_resolves_addresses_of_both_families(name_server: int) -> None:
    assert resolve(name_server, "192.0.2.1", "2001:db8::1", "192.0.2.2") == [
        "web.example",
        "web.example",
        "mail.example",
    ]


def test_refusals_and_invalid_names_of_a_real_server_are_failures(name_server: int) -> None:
    assert resolve(name_server, "192.0.2.3", "192.0.2.99", "no address") == [None, None, None]


def test_names_in_the_hosts_file_are_found(name_server: int) -> None:
    lines = [line.partition("#")[0].split() for line in HOSTS.read_text().splitlines()] if HOSTS.exists() else []
    names = {name.lower() for line in lines if line[:1] == ["127.0.0.1"] for name in line[1:]}
    if not names:
        pytest.skip(f"{HOSTS} has no name of 127.0.0.1")
    assert resolve(name_server, "127.0.0.1")[0] in names


def test_a_lookup_fails_if_the_server_never_answers() -> None:
    pytest.importorskip("aiodns")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        silent.bind(("127.0.0.1", 0))

        async def main() -> None:
            resolver = Resolver(nameservers=["127.0.0.1"], port=silent.getsockname()[1], timeout_s=0.2)
            assert await wait_for_name(resolver, "192.0.2.1") is None
            resolver.name("192.0.2.2")
            await asyncio.to_thread(silent.recv, 512)  # the lookup has been sent
            resolver.close()
            await run_tasks()
            assert asyncio.all_tasks() == {asyncio.current_task()}

        asyncio.run(main(), debug=True)
