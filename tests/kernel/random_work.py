"""Make plans of random work, run them (see random_work.c), and compute what ebpfmon must count.

A `World` is a model of what the documentation promises: it follows the steps of a plan with what each call returned,
and keeps the counts of every caller and of every destination. `Draft` uses the same model to make plans that can run.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import re
import shutil
import subprocess
import tempfile
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from socket import MSG_DONTWAIT, MSG_PEEK, MSG_TRUNC, SOCK_DGRAM, SOCK_RAW, SOCK_STREAM
from typing import NamedTuple, Self

from tests.kernel.programs import HERE, program

ACTORS, SLOTS, STEPS = 32, 64, 1024
NAMES = ("random_work", "rw-a", "rw-b", "other", "overflow", "rw fifteen char", "kworker/7:3")
"""What processes call themselves. The first ones, without a slash, are also names of the program."""
PROGRAMS = 6
APPLICATIONS = {"rw-a": "app-a", "rw-b": "app-b"}
"""The groups file. Processes with other names belong to the application of their parent."""
USERS = (54321, 54322, 0)
CGROUPS = ("a", "b")
TCP, UDP = 6, 17
OPERATIONS = (
    *re.findall(r"X\((\w+)\)", (HERE / "random_work.c").read_text().partition("#define OPERATIONS(X)")[2]),
    "exit",
)
MAIN = 0
"""The actor that is the first thread of the first process."""


class Step(NamedTuple):
    """One step of a plan: which actor does what, with the arguments that random_work.c documents."""

    actor: int
    operation: str
    given: tuple[int, ...] = ()

    def __str__(self) -> str:
        return f"{self.actor} {self.operation} {' '.join(map(str, self.given))}"


Plan = tuple[Step, ...]


class _Step(ctypes.Structure):
    _fields_ = (
        ("actor", ctypes.c_int32), ("operation", ctypes.c_int32), ("given", ctypes.c_int32 * 8),
        ("out", ctypes.c_int64 * 8),
    )  # fmt: skip


class _Shared(ctypes.Structure):
    _fields_ = (
        ("turn", ctypes.c_uint32), ("steps", ctypes.c_uint32), ("continued", ctypes.c_uint32),
        ("process_of", ctypes.c_int32 * ACTORS), ("tid_of", ctypes.c_int32 * ACTORS),
        ("fd", ctypes.c_int32 * SLOTS * ACTORS), ("family", ctypes.c_int32 * SLOTS), ("port", ctypes.c_uint16 * SLOTS),
        ("names", ctypes.c_char * 16 * 16), ("directory", ctypes.c_char * 256), ("cgroups", ctypes.c_char * 256 * 4),
        ("step", _Step * STEPS),
    )  # fmt: skip


Out = Sequence[int]
"""What a step returned: the result or the negative errno, then what random_work.c documents."""


# ---- the model ----


class Caller(NamedTuple):
    """Who makes a call: the key of a row of a per-process table. `execs` counts the programs since the first one."""

    tgid: int
    execs: int
    uid: int
    comm: str
    cgroup: str


@dataclass(eq=False)
class Thread:
    """A thread of the plan."""

    actor: int
    process: Process
    uid: int
    comm: str


@dataclass(eq=False)
class Process:
    """A process of the plan. `parent` is None for the first one."""

    number: int
    tgid: int
    parent: Process | None
    cgroup: str
    execs: int
    threads: dict[int, Thread] = field(default_factory=dict)
    files: dict[int, File] = field(default_factory=dict)
    ended: list[Caller] = field(default_factory=list)
    """The callers of its threads when they exited, as long as the process is not reaped."""

    @property
    def comm(self) -> str:
        return self.threads[self.number].comm


@dataclass(eq=False)
class File:
    """An open file or socket, which several descriptors of several processes may have."""

    kind: str
    family: int = -1
    port: int = 0
    peer: tuple[str, int] | None = None
    outbound: bool | None = None
    bound: bool = False
    owner: Caller | None = None
    last: tuple[str, int] = ("::", 0)
    state: str = ""
    arrived: list[File] = field(default_factory=list)
    """The sockets that sent the datagrams that have arrived."""
    to: File | None = None
    """The other end, as far as the plan knows it."""

    @property
    def protocol(self) -> int:
        return {"tcp": TCP, "udp": UDP}.get(self.kind, 0)


class World:
    """The processes, files and sockets of a plan, and what ebpfmon must count.

    `by_process` and `network` have the counters by caller. `outbound` has them by tgid, number of execs, protocol,
    address and port; `inbound` by tgid, number of execs, protocol and port.
    """

    def __init__(self, tgid: int, cgroup: str) -> None:
        self.by_process: dict[Caller, Counter[str]] = defaultdict(Counter)
        self.network: dict[Caller, Counter[str]] = defaultdict(Counter)
        self.outbound: dict[tuple[int, int, int, str, int], Counter[str]] = defaultdict(Counter)
        self.inbound: dict[tuple[int, int, int, int], Counter[str]] = defaultdict(Counter)
        self.closes: list[tuple[Caller, Caller]] = []
        """For each TCP socket that was closed: who closed it, and who was the last to use it."""
        self.tgids = {tgid}
        first = Process(MAIN, tgid, None, cgroup, 0)
        first.threads[MAIN] = Thread(MAIN, first, 0, NAMES[0])
        self.processes = {MAIN: first}
        self.threads = dict(first.threads)
        self.sockets: dict[int, File] = {}
        """The socket that was last made in each slot."""
        self.in_flight: dict[int, list[File]] = defaultdict(list)
        self.servers: dict[int, File] = {}
        """The UDP socket that last received first, by port."""

    def apply(self, step: Step, out: Out) -> None:
        """Follow a step that returned `out`."""
        thread = self.threads[step.actor]
        getattr(self, f"on_{step.operation}")(thread, out, *step.given)

    def caller(self, thread: Thread) -> Caller:
        process = thread.process
        return Caller(process.tgid, process.execs, thread.uid, process.comm, process.cgroup)

    def count(self, thread: Thread, *names: str) -> None:
        self.by_process[self.caller(thread)].update(names)

    def count_file(self, thread: Thread, what: str, result: int) -> None:
        counters = self.by_process[self.caller(thread)]
        counters[f"{what}_calls"] += 1
        if result < 0:
            counters[f"{what}_errors"] += 1
        elif what in ("read", "write"):
            counters[f"{what}_bytes"] += result

    def count_copy(self, thread: Thread, what: str, result: int, errors: str) -> None:
        counters = self.by_process[self.caller(thread)]
        counters[f"{what}_calls"] += 1
        counters[f"{what}_bytes"] += max(result, 0)
        counters[f"{errors}_errors"] += result < 0

    def is_open(self, file: File) -> bool:
        held = any(file in process.files.values() for process in self.processes.values())
        return held or any(file in files for files in self.in_flight.values())

    def released(self, thread: Thread, files: Sequence[File], at: Caller | None = None) -> None:
        """Handle that a process no longer has these files."""
        for file in dict.fromkeys(files):
            if file.kind == "tcp" and not self.is_open(file):
                closer = at or self.caller(thread)
                # "The owner of the socket; of a connection with unread data, the process that was the last to use it."
                self.closes.append((closer, file.owner or closer))

    # -- files --

    def on_open(self, thread: Thread, out: Out, slot: int, how: int, path: int, flags: int) -> None:
        self.count_file(thread, "open", out[0])
        if out[0] >= 0:
            thread.process.files[slot] = File("file" if path >= 0 else "device")

    def on_close(self, thread: Thread, out: Out, slot: int, how: int) -> None:
        self.count_file(thread, "close", out[0])
        file = thread.process.files.pop(slot, None)
        if file:
            self.released(thread, [file])

    def on_read(self, thread: Thread, out: Out, slot: int, how: int, size: int, at: int) -> None:
        self.count_file(thread, "read", out[0])
        file = thread.process.files.get(slot)
        if file and file.protocol and size and out[0] != -errno.ESPIPE:
            self.receives(thread, slot, file, out[0], named=False)

    def on_write(self, thread: Thread, out: Out, slot: int, how: int, size: int, at: int) -> None:
        self.count_file(thread, "write", out[0])
        file = thread.process.files.get(slot)
        vector = how in (2, 3, 4)
        if file and file.protocol and (size or not vector) and out[0] != -errno.ESPIPE:
            self.sends(thread, slot, file, out[0], None)

    def on_unlink(self, thread: Thread, out: Out, how: int, path: int) -> None:
        if how != 2:
            self.count_file(thread, "unlink", out[0])

    def on_seek(self, thread: Thread, out: Out, slot: int, at: int) -> None: ...

    def on_map(self, thread: Thread, out: Out, slot: int) -> None: ...

    def on_pair(self, thread: Thread, out: Out, one: int, two: int, what: int, type_: int) -> None:
        files = [File("pipe-read"), File("pipe-write")] if what == 0 else [File("unix"), File("unix")]
        files[0].to, files[1].to = files[1], files[0]
        thread.process.files |= {one: files[0], two: files[1]}

    def on_memory(self, thread: Thread, out: Out, slot: int) -> None:
        thread.process.files[slot] = File("file")

    def on_dup(self, thread: Thread, out: Out, slot: int, to: int) -> None:
        if out[0] >= 0:
            before = thread.process.files.get(to)
            thread.process.files[to] = thread.process.files[slot]
            if before:
                self.released(thread, [before])

    def on_copy(self, thread: Thread, out: Out, one: int, two: int, how: int, size: int) -> None:
        if how < 3:  # What it cannot see: "tee, vmsplice".
            self.count_copy(thread, ("copy_file_range", "sendfile", "splice")[how], out[0], "copy")
        source, target = thread.process.files.get(one), thread.process.files.get(two)
        reached = out[0] > 0 or -out[0] in _FROM_PROTOCOL
        if how == 2:
            is_empty = source and source.kind == "pipe-read" and not out[1]
            # What it cannot see: "splice from a TCP socket into a full pipe".
            is_full = source and source.kind == "udp" and target and target.kind == "pipe-write" and not out[2]
            has_no_reader = source and source.kind == "udp" and out[0] == -errno.EPIPE
            if is_empty or is_full or has_no_reader or not size:
                return  # The call ended before it reached a protocol.
        if target and target.protocol and how in (1, 2) and reached:
            self.sends(thread, two, target, out[0], None)
        elif source and source.protocol and how == 2 and (not out[0] or reached):
            self.receives(thread, one, source, out[0], named=False)

    def on_pass(self, thread: Thread, out: Out, slot: int, passed: int) -> None:
        if out[0] >= 0:
            self.in_flight[slot].append(thread.process.files[passed])

    def on_take(self, thread: Thread, out: Out, slot: int, to: int) -> None:
        if out[0] >= 0:
            thread.process.files[to] = self.in_flight[slot - 1].pop(0)

    # -- tasks --

    def on_fork(self, thread: Thread, out: Out, actor: int) -> None:
        self.count(thread, "processes_created")
        self._new_process(thread, out[0], actor)

    def on_vfork(self, thread: Thread, out: Out, actor: int, name: int) -> None:
        self.count(thread, "processes_created")
        child = self._new_process(thread, out[0], actor)
        child.process.execs += 1
        child.comm = NAMES[name]

    def _new_process(self, thread: Thread, tgid: int, actor: int) -> Thread:
        parent = thread.process
        self.tgids.add(tgid)
        process = Process(actor, tgid, parent, parent.cgroup, parent.execs, files=dict(parent.files))
        # A new task gets the name of the thread that created it.
        process.threads[actor] = Thread(actor, process, thread.uid, thread.comm)
        self.processes[actor] = process
        self.threads[actor] = process.threads[actor]
        return process.threads[actor]

    def on_chain(self, thread: Thread, out: Out, length: int, zero: int) -> None:
        for n in range(length):
            self.count(thread, "processes_created")
            child = self.caller(thread)._replace(tgid=out[1 + n], comm=thread.comm)
            self.tgids.add(child.tgid)
            self.by_process[child].update(("read_calls", "tasks_exited", "tasks_released"))
            self.by_process[child]["read_bytes"] += n

    def on_thread(self, thread: Thread, out: Out, actor: int) -> None:
        self.count(thread, "threads_created")
        new = Thread(actor, thread.process, thread.uid, thread.comm)
        thread.process.threads[actor] = self.threads[actor] = new

    def on_exit(self, thread: Thread, out: Out, how: int) -> None:
        process = thread.process
        if thread.actor != process.number:
            self.count(thread, "tasks_exited")
            process.ended.append(self.caller(thread))
            del process.threads[thread.actor], self.threads[thread.actor]
            return
        comm = process.comm
        for each in process.threads.values():
            caller = self.caller(each)
            assert caller.comm == comm
            self.by_process[caller]["tasks_exited"] += 1
            process.ended.append(caller)
            del self.threads[each.actor]
        self.last = self.caller(thread)
        files, process.files = list(process.files.values()), {}
        self.released(thread, files, self.last)
        for child in self.processes.values():
            if child.parent is process:
                child.parent = self.processes[MAIN]
        process.threads = {}

    def on_join(self, thread: Thread, out: Out, actor: int) -> None:
        self.by_process[thread.process.ended.pop()]["tasks_released"] += 1

    def on_wait(self, thread: Thread, out: Out, actor: int, reap: int) -> None:
        if reap:
            self.reap(actor)

    def reap(self, number: int) -> None:
        """Handle that a process is waited for."""
        for caller in self.processes.pop(number).ended:
            self.by_process[caller]["tasks_released"] += 1

    def on_bad_clone(self, thread: Thread, out: Out, how: int) -> None:
        self.count(thread, "processes_failed" if how == 1 else "threads_failed")

    def on_name(self, thread: Thread, out: Out, name: int) -> None:
        thread.comm = NAMES[name]

    def on_enter(self, thread: Thread, out: Out, cgroup: int) -> None:
        self.count_file(thread, "open", out[1])
        if out[1] < 0:
            return
        if out[0] >= 0:
            thread.process.cgroup = CGROUPS[cgroup]
        self.count_file(thread, "write", out[0])
        self.count_file(thread, "close", 0)

    def on_user(self, thread: Thread, out: Out, how: int, uid: int) -> None:
        if out[0] >= 0:
            # glibc changes the user of all threads.
            for each in thread.process.threads.values() if how < 2 else (thread,):
                each.uid = uid

    def on_exec(self, thread: Thread, out: Out, name: int) -> None:
        process = thread.process
        for other in [t for t in process.threads.values() if t is not thread]:
            self.count(other, "tasks_exited", "tasks_released")
            del process.threads[other.actor], self.threads[other.actor]
        process.execs += 1
        thread.comm = NAMES[name]

    def on_pause(self, thread: Thread, out: Out, number: int) -> None: ...

    # -- sockets --

    def address(self, one: File, two: File) -> str:
        """Return the address at which a socket reaches another one (name_of() in C), as ebpfmon shows it."""
        if one.family == 4:
            return "127.0.0.1"
        return "::1" if two.family == 6 or (one.family == 6 and not two.family) else "127.0.0.1"

    def on_socket(self, thread: Thread, out: Out, slot: int, family: int, type_: int, protocol: int) -> None:
        if out[0] >= 0:
            # What it cannot see: "raw sockets".
            file = File({int(SOCK_STREAM): "tcp", int(SOCK_DGRAM): "udp"}.get(type_, "raw"), family)
            thread.process.files[slot] = self.sockets[slot] = file

    def on_bind(self, thread: Thread, out: Out, slot: int, like: int) -> None:
        self.sockets[slot].port = out[1]
        # To any address and any port, bind(2) does no more than the first send would do.
        self.sockets[slot].bound |= out[0] >= 0 and (like >= 0 or self.sockets[slot].family != 0)

    def on_listen(self, thread: Thread, out: Out, slot: int) -> None:
        if out[0] >= 0:
            file = self.sockets[slot]
            file.state, file.owner, file.port = "listens", self.caller(thread), out[1]

    def on_connect(self, thread: Thread, out: Out, slot: int, to: int, port: int) -> None:
        file = thread.process.files.get(slot)
        if not file:
            return
        file.port = out[1]
        other = self.sockets.get(to, File("none", file.family))
        peer = self.address(file, other), out[2]
        if file.kind == "udp":
            if out[0] >= 0:
                file.peer, file.to = peer, other
            return
        if out[0] >= 0 or out[0] == -errno.ECONNREFUSED:
            file.owner, file.outbound = self.caller(thread), True
            file.peer = peer
            version = "v6" if ":" in peer[0] else "v4"
            self.network[file.owner][f"tcp_connects_{version}"] += 1
            if out[0] < 0:
                self.network[file.owner]["tcp_connects_failed"] += 1
                file.peer = None
            else:
                file.state, file.to = "connected", other

    def on_accept(self, thread: Thread, out: Out, slot: int, to: int, how: int) -> None:
        if out[0] >= 0:
            file = self.accepts(thread, slot, to)
            file.owner, file.state = self.caller(thread), "connected"
            self.network[file.owner]["tcp_accepted"] += 1

    def accepts(self, thread: Thread, slot: int, to: int) -> File:
        listener = thread.process.files[slot]
        file = File("tcp", listener.family, listener.port, outbound=False)
        thread.process.files[to] = self.sockets[to] = file
        return file

    def on_shutdown(self, thread: Thread, out: Out, slot: int, how: int) -> None:
        file = thread.process.files.get(slot)
        if file and out[0] >= 0:
            file.owner = self.caller(thread)

    def on_send(
        self, thread: Thread, out: Out, slot: int, how: int, size: int, to: int, flags: int, count: int, second: int,
        bad: int,
    ) -> None:  # fmt: skip
        file = thread.process.files.get(slot)
        if not file or not file.protocol:
            return
        file.port = out[1]
        target = self.sockets.get(to)
        if how != 3:
            # Send calls of 32-bit programs go to the socket's peer.
            self.sends(thread, slot, file, out[0], target if how in (0, 1, 2) else None)
            return
        targets = [target, self.sockets.get(second, target)]
        sent = max(out[0], 0)
        for n in range(sent):
            self.sends(thread, slot, file, size + n, targets[n & 1])
        if sent < count:
            self.sends(thread, slot, file, out[0] if out[0] < 0 else -errno.EFAULT, targets[sent & 1])

    def sends(self, thread: Thread, slot: int, file: File, result: int, target: File | None) -> None:
        """Count a send that reached the protocol. `target` is the named receiver."""
        caller = self.caller(thread)
        counters, name = self.network[caller], file.kind
        counters[f"{name}_send_calls"] += 1
        counters[f"{name}_send_errors"] += result < 0
        counters[f"{name}_send_bytes"] += max(result, 0)
        if result < 0:
            return
        if file.kind == "udp":
            receiver = target or file.to
            if receiver and self.is_open(receiver) and (not receiver.peer or receiver.peer[1] == file.port):
                receiver.arrived.append(file)
        named = (self.address(file, target), target.port) if target else None
        self.moves(caller, file, named or ("::", 0), received=False, size=result)
        if named and not file.peer:
            file.last = named

    def on_receive(self, thread: Thread, out: Out, slot: int, how: int, size: int, flags: int, count: int) -> None:
        file = thread.process.files.get(slot)
        if not file or not file.protocol:
            return
        file.port = out[1] or file.port
        named = how in (1, 3, 5)
        if how not in (4, 5):
            self.receives(thread, slot, file, out[0], named=named, peek=bool(flags & MSG_PEEK))
            return
        if out[0] in (-errno.ECONNREFUSED, -errno.ECONNRESET):
            return  # recvmmsg() returns a pending error of the socket itself.
        got = max(out[0], 0)
        for n in range(got):
            self.receives(thread, slot, file, out[4 + n] >> 8, named=named, peek=bool(flags & MSG_PEEK))
        if got < count:
            self.receives(thread, slot, file, min(out[0], -1), named=named)

    def receives(self, thread: Thread, slot: int, file: File, result: int, *, named: bool, peek: bool = False) -> None:
        """Count a receive that reached the protocol. `named` is whether the call asked for the sender."""
        caller = self.caller(thread)
        counters, name = self.network[caller], file.kind
        counters[f"{name}_recv_calls"] += 1
        counters[f"{name}_recv_errors"] += result < 0
        if result == -errno.EFAULT and file.arrived:
            file.arrived.pop(0)
        if peek or result < 0:
            return
        counters[f"{name}_recv_bytes"] += result
        sender = ("::", 0)
        if file.kind == "udp":
            source = file.arrived.pop(0) if file.arrived else None
            # What it cannot see: "the sender of a datagram to an unconnected socket: if the call asks for it; otherwise
            # the peer that the socket last sent to is assumed".
            sender = (self.address(file, source), source.port) if source and named else file.last
        self.moves(caller, file, sender, received=True, size=result)

    def moves(self, caller: Caller, file: File, peer: tuple[str, int], *, received: bool, size: int) -> None:
        """Count a successful call by destination: "calls that moved data; empty datagrams count"."""
        if file.kind == "tcp" and not size:
            return
        if file.outbound is None:
            # "A UDP socket is outbound if it sends first, and inbound if it receives first."
            # "... A connected socket that was never bound is a client's", and a port with a server is a server's.
            server = self.servers.get(file.port)
            answers = server is not None and self.is_open(server)
            file.outbound = not answers and (not received or (file.peer is not None and not file.bound))
            if file.kind == "udp" and not file.outbound and not file.peer:
                self.servers[file.port] = file
        # "The owner of the socket: the process that was the last to connect, accept, use or close it."
        file.owner, file.state = caller, "connected" if file.kind == "tcp" else ""
        if file.outbound:
            address, port = file.peer or peer
            counters = self.outbound[caller.tgid, caller.execs, file.protocol, address, port]
        else:
            counters = self.inbound[caller.tgid, caller.execs, file.protocol, file.port]
        what = "received" if received else "sent"
        counters[f"{what}_calls"] += 1
        counters[f"{what}_bytes"] += size

    def on_arrive(self, thread: Thread, out: Out, slot: int) -> None: ...

    def on_ring(self, thread: Thread, out: Out, slot: int, what: int, size: int, flags: int, to: int) -> None:
        if out[5]:
            return
        self.count_file(thread, "close", 0)
        if what in (_RING_READ, _RING_WRITE):
            self.count_copy(thread, "uring_read" if what == _RING_READ else "uring_write", out[0], "uring")
        file = thread.process.files.get(slot)
        if not file:
            return
        if what in (_RING_SEND, _RING_WRITE) and file.protocol:
            file.port = out[1]
            self.sends(thread, slot, file, out[0], None)
        elif what in (_RING_RECV, _RING_READ) and file.protocol and (size or what == _RING_RECV):
            self.receives(thread, slot, file, out[0], named=False, peek=bool(flags & MSG_PEEK))
        elif what == _RING_ACCEPT and out[0] >= 0:
            self.accepts(thread, slot, to)  # What it cannot see: "accept by io_uring".


_RING_ACCEPT, _RING_READ, _RING_WRITE, _RING_SEND, _RING_RECV = 13, 22, 23, 26, 27
_FROM_PROTOCOL = (
    errno.EPIPE, errno.ENOTCONN, errno.ECONNRESET, errno.EAGAIN, errno.EDESTADDRREQ, errno.ECONNREFUSED, errno.EMSGSIZE,
    errno.EINTR,
)  # fmt: skip


# ---- plans ----

SIZES = (0, 1, 17, 97, 1000, 4096)
Raw = tuple[str, int, int, int, int]
"""A wish that a draft turns into steps: what, and four numbers that choose who does it, with what and how."""


class Draft:
    """A plan in the making. Each `wish_` method adds steps that can be run, or none."""

    def __init__(self) -> None:
        self.world = World(1, "root")
        self.steps: list[Step] = []
        self._actors = self._slots = self._pauses = 0
        self._couriers: set[int] = set()
        self._pairs: list[int] = []
        self._raw_users: set[int] = set()

    @classmethod
    def plan(cls, wishes: Sequence[Raw]) -> Plan:
        """Return the plan that fulfils these wishes as far as possible, and ends all processes."""
        draft = cls()
        for what, a, b, c, d in wishes:
            if len(draft.steps) > STEPS - 200 or draft._slots > SLOTS - 8 or draft._actors > ACTORS - 4:
                break
            threads = list(draft.world.threads.values())
            getattr(draft, f"wish_{what}")(threads[a % len(threads)], b, c, d)
        draft.finish()
        return tuple(draft.steps)

    def add(self, actor: int, operation: str, *given: int, out: Sequence[int] = ()) -> None:
        """Add a step, and follow it as if it had returned `out`."""
        step = Step(actor, operation, given)
        self.steps.append(step)
        self.world.apply(step, [*out, *(0,) * (8 - len(out))])

    def new_slot(self) -> int:
        self._slots += 1
        return self._slots - 1

    def new_actor(self) -> int:
        self._actors += 1
        return self._actors

    def slots(self, thread: Thread, *kinds: str) -> list[int]:
        """Return the slots of a process that hold these kinds of files, or any."""
        files = thread.process.files.items()
        return [slot for slot, f in files if (not kinds or f.kind in kinds) and slot not in self._couriers]

    def holder(self, file: File | None) -> tuple[Thread, int] | None:
        """Return a thread and a slot of a process that has a file open."""
        for process in self.world.processes.values():
            for slot, held in process.files.items():
                if held is file and process.threads:
                    return process.threads[process.number], slot
        return None

    def finish(self) -> None:
        for process in reversed(list(self.world.processes.values())):
            if process.number != MAIN:
                self.end(process, 0, reap=True)
        self.end_threads(self.world.processes[MAIN])
        self.add(MAIN, "exit", 0)

    def end_threads(self, process: Process) -> None:
        for actor in list(process.threads):
            if actor != process.number:
                self.add(actor, "exit", 0)
                self.add(process.number, "join", actor)

    def end(self, process: Process, how: int, *, reap: bool) -> None:
        """End a process if it lives, and let its parent wait for it."""
        assert process.parent
        waits = process.parent.number
        if process.threads:
            if len({thread.uid for thread in process.threads.values()}) > 1 or not how:
                self.end_threads(process)
            self.add(process.number, "exit", how)
            self.add(waits, "wait", process.number, int(reap))
        elif reap:
            self.add(waits, "wait", process.number, 1)

    def wish_nothing(self, thread: Thread, b: int, c: int, d: int) -> None: ...

    # -- files --

    def wish_open(self, thread: Thread, b: int, c: int, d: int) -> None:
        path = (-1, -2, 0, 1, 2)[b % 5]
        flags = (os.O_RDWR, os.O_RDWR | os.O_CREAT, os.O_RDONLY, os.O_WRONLY)[c % 4]
        exists = path < 0 or flags & os.O_CREAT
        how = d % 5
        self.add(thread.actor, "open", self.new_slot(), how, path, flags, out=[100 if exists or how == 3 else -2])

    def wish_close(self, thread: Thread, b: int, c: int, d: int) -> None:
        slots = [-1, *self.slots(thread)]
        slot = slots[b % len(slots)]
        self.add(thread.actor, "close", slot, c % 3)

    def wish_read(self, thread: Thread, b: int, c: int, d: int) -> None:
        slots = [-1, *self.slots(thread)]
        slot = slots[b % len(slots)]
        self.add(thread.actor, "read", slot, d % 7, SIZES[c % 6], d // 7 % 3)

    def wish_write(self, thread: Thread, b: int, c: int, d: int) -> None:
        slots = [-1, *self.slots(thread)]
        slot = slots[b % len(slots)]
        self.add(thread.actor, "write", slot, d % 7, SIZES[c % 6], d // 7 % 3)

    def wish_unlink(self, thread: Thread, b: int, c: int, d: int) -> None:
        self.add(thread.actor, "unlink", b % 4, c % 3)

    def wish_seek(self, thread: Thread, b: int, c: int, d: int) -> None:
        if slots := self.slots(thread, "file"):
            self.add(thread.actor, "seek", slots[b % len(slots)], c)

    def wish_map(self, thread: Thread, b: int, c: int, d: int) -> None:
        if slots := self.slots(thread, "file"):
            self.add(thread.actor, "map", slots[b % len(slots)])

    def wish_pipe(self, thread: Thread, b: int, c: int, d: int) -> None:
        self.add(thread.actor, "pair", self.new_slot(), self.new_slot(), 0, 0)

    def wish_pair(self, thread: Thread, b: int, c: int, d: int) -> None:
        self.add(thread.actor, "pair", self.new_slot(), self.new_slot(), 1, (SOCK_STREAM, SOCK_DGRAM)[b % 2])

    def wish_memory(self, thread: Thread, b: int, c: int, d: int) -> None:
        self.add(thread.actor, "memory", self.new_slot(), out=[100])

    def wish_dup(self, thread: Thread, b: int, c: int, d: int) -> None:
        if slots := self.slots(thread):
            one, two = slots[b % len(slots)], slots[c % len(slots)]
            self.add(thread.actor, "dup", one, two if d % 2 and one != two else self.new_slot(), out=[100])

    def wish_copy(self, thread: Thread, b: int, c: int, d: int) -> None:
        if slots := self.slots(thread):
            one, two = slots[b % len(slots)], slots[c % len(slots)]
            self.add(thread.actor, "copy", one, two, d % 5, SIZES[d // 5 % 6])

    def wish_pass(self, thread: Thread, b: int, c: int, d: int) -> None:
        """Give a file to another process: over a pair of sockets that the first process made before it forked."""
        slots = self.slots(thread)
        takers = [t for t in self.world.threads.values() if t.process is not thread.process]
        if not slots or not takers:
            return
        taker = takers[c % len(takers)]
        pair = next((s for s in self._pairs if s in thread.process.files and s + 1 in taker.process.files), None)
        if pair is not None:
            self.add(thread.actor, "pass", pair, slots[b % len(slots)])
            self.add(taker.actor, "take", pair + 1, self.new_slot())

    def wish_courier(self, thread: Thread, b: int, c: int, d: int) -> None:
        one, two = self.new_slot(), self.new_slot()
        self.add(thread.actor, "pair", one, two, 1, SOCK_DGRAM)
        self._couriers |= {one, two}
        self._pairs.append(one)

    # -- sockets --

    def socket(self, thread: Thread, family: int, type_: int) -> int:
        slot = self.new_slot()
        self.add(thread.actor, "socket", slot, family, type_, 0, out=[100])
        return slot

    def wish_raw(self, thread: Thread, b: int, c: int, d: int) -> None:
        """Receive with a raw socket what TCP or UDP sends in this network."""
        if slots := self.slots(thread, "raw"):
            self.add(thread.actor, "receive", slots[b % len(slots)], c % 6, 4096, MSG_DONTWAIT, 1, out=[1])
        else:
            slot = self.new_slot()
            self.add(thread.actor, "socket", slot, 4, SOCK_RAW, (TCP, UDP)[b % 2], out=[100])

    def bind(self, thread: Thread, slot: int, like: int = -1) -> None:
        port = self.world.sockets[like].port if like >= 0 else 10000 + slot
        self.add(thread.actor, "bind", slot, like, out=[0, port])

    def wish_listener(self, thread: Thread, b: int, c: int, d: int) -> None:
        slot = self.socket(thread, (4, 6, 0)[b % 3], SOCK_STREAM)
        self.bind(thread, slot)
        self.add(thread.actor, "listen", slot, out=[0, 10000 + slot])

    def wish_connection(self, thread: Thread, b: int, c: int, d: int) -> None:
        """Connect to a listener, which may be another process's, and accept unless `d` says otherwise."""
        listeners = [f for f in self.world.sockets.values() if f.state == "listens" and self.holder(f)]
        if not listeners:
            return
        listener = listeners[b % len(listeners)]
        holder = self.holder(listener)
        assert holder
        server, at = holder
        families = (listener.family, 0) if listener.family else (4, 6, 0)
        slot = self.socket(thread, families[c % len(families)], SOCK_STREAM)
        self.add(thread.actor, "connect", slot, at, 0, out=[0, 20000 + slot, listener.port])
        how = d % 8
        to = self.new_slot()
        if how == 7:
            return
        self.add(server.actor, "arrive", at)
        if how == 6:
            self.add(server.actor, "ring", at, _RING_ACCEPT, 0, 0, to, out=[100])
        else:
            self.add(server.actor, "accept", at, to, how % ACCEPTS, out=[100, listener.port])
        self.world.sockets[slot].to, self.world.sockets[to].to = self.world.sockets[to], self.world.sockets[slot]

    def wish_refused(self, thread: Thread, b: int, c: int, d: int) -> None:
        slot = self.socket(thread, (4, 6, 0)[b % 3], SOCK_STREAM)
        self.add(thread.actor, "connect", slot, -1, 1, out=[-errno.ECONNREFUSED, 0, 1])

    def wish_udp(self, thread: Thread, b: int, c: int, d: int) -> None:
        slot = self.socket(thread, (4, 6, 0)[b % 3], SOCK_DGRAM)
        if c % 3:
            self.bind(thread, slot)

    def wish_rebind(self, thread: Thread, b: int, c: int, d: int) -> None:
        """Close a socket, and bind another one to its port."""
        slots = [s for s in self.slots(thread, "udp", "tcp") if self.world.sockets.get(s)]
        if not slots:
            return
        slot = slots[b % len(slots)]
        before = self.world.sockets[slot]
        self.add(thread.actor, "close", slot, c % 3)
        if before.port:
            new = self.socket(thread, before.family, SOCK_DGRAM if before.kind == "udp" else SOCK_STREAM)
            self.bind(thread, new, slot)
            if before.kind == "tcp":
                self.add(thread.actor, "listen", new, out=[0, before.port])

    def receivers(self, file: File) -> list[tuple[File, Thread, int]]:
        """Return the bound UDP sockets that a UDP socket can reach, each with a thread and a slot that have it."""
        found = []
        for other in self.world.sockets.values():
            fits = not file.family or not other.family or file.family == other.family
            if other.kind == "udp" and other.port and other is not file and fits and (holder := self.holder(other)):
                found.append((other, *holder))
        return found

    def slot_of(self, file: File) -> int:
        """Return the slot in which a socket was made, whose address the program knows."""
        return next(slot for slot, made in self.world.sockets.items() if made is file)

    def wish_udp_connect(self, thread: Thread, b: int, c: int, d: int) -> None:
        slots = [s for s in self.slots(thread, "udp") if s in self.world.sockets]
        if slots:
            slot = slots[b % len(slots)]
            if receivers := self.receivers(self.world.sockets[slot]):
                other, _, _ = receivers[c % len(receivers)]
                port = self.world.sockets[slot].port or 20000 + slot
                self.add(thread.actor, "connect", slot, self.slot_of(other), 0, out=[0, port, other.port])

    def wish_datagram(self, thread: Thread, b: int, c: int, d: int) -> None:
        """Send a datagram and receive it."""
        slots = [s for s in self.slots(thread, "udp") if s in self.world.sockets]
        if not slots:
            return
        slot = slots[b % len(slots)]
        file = self.world.sockets[slot]
        if file.peer and file.to and (holder := self.holder(file.to)) and c % 2:
            self.send(thread, slot, -1, c // 2, d)
            self.receive(*holder, d // 2, c)
        elif receivers := self.receivers(file):
            other, taker, at = receivers[c % len(receivers)]
            second = self.slot_of(receivers[d % len(receivers)][0])
            # A call that names no receiver would fail.
            self.send(thread, slot, self.slot_of(other), (0, 1, 2, 3)[d % 4] if not file.peer else d, c, d, second)
            self.receive(taker, at, c // 2, d)

    def wish_talk(self, thread: Thread, b: int, c: int, d: int) -> None:
        """Send over a connection, and receive at the other end."""
        slots = [s for s in self.slots(thread, "tcp") if thread.process.files[s].to]
        if slots:
            slot = slots[b % len(slots)]
            self.send(thread, slot, -1, c, d)
            if holder := self.holder(thread.process.files[slot].to):
                self.receive(*holder, d, c)

    def wish_send(self, thread: Thread, b: int, c: int, d: int) -> None:
        if slots := self.slots(thread, "tcp", "udp"):
            self.send(thread, slots[b % len(slots)], -1, c, d)

    def wish_receive(self, thread: Thread, b: int, c: int, d: int) -> None:
        if slots := self.slots(thread, "tcp", "udp"):
            self.receive(thread, slots[b % len(slots)], c, d, arrives=False)

    def wish_shutdown(self, thread: Thread, b: int, c: int, d: int) -> None:
        if slots := self.slots(thread, "tcp"):
            self.add(thread.actor, "shutdown", slots[b % len(slots)], c % 3)

    def send(self, thread: Thread, slot: int, to: int, how: int, size: int, more: int = 0, second: int = -1) -> None:
        """Add a send in one of many ways."""
        file, how, size = thread.process.files[slot], how % 12, SIZES[size % 6]
        port = file.port or 20000 + slot

        def copied(kind: str, way: int) -> None:
            source = self.slots(thread, kind)
            if source:
                self.add(thread.actor, "copy", source[0], slot, way, size, out=[size])

        if how < 5:
            count, bad = (more % 3 + 1, (-1, -1, -1, 0, 1)[more % 5]) if how == 3 else (1, -1)
            self.add(
                thread.actor, "send", slot, how, size, to, MSG_DONTWAIT if how < 4 else 0, count, second, bad,
                out=[count if how == 3 else size, port],
            )  # fmt: skip
        elif how < 8:
            self.add(thread.actor, "write", slot, (0, 2, 5)[how - 5], size, 0, out=[size])
        elif how == 8:
            copied("file", 1)
        elif how == 9:
            copied("pipe-read", 2)
        else:
            what = _RING_SEND if how == 10 else _RING_WRITE
            self.add(thread.actor, "ring", slot, what, size, MSG_DONTWAIT if how == 10 else 0, 0, out=[size, port])

    def receive(self, thread: Thread, slot: int, how: int, size: int, *, arrives: bool = True) -> None:
        """Add a receive in one of many ways."""
        how, size = how % 13, SIZES[size % 6]
        if arrives:
            self.add(thread.actor, "arrive", slot)
        if how < 7:
            flags = 0 if how == 6 else MSG_DONTWAIT | (MSG_PEEK if size == 17 else MSG_TRUNC if size == 97 else 0)
            self.add(thread.actor, "receive", slot, how, size, flags, size % 3 + 1, out=[1, 0, 0, 1])
        elif how < 10:
            self.add(thread.actor, "read", slot, (0, 2, 5)[how - 7], size, 0, out=[size])
        elif how == 10 and (pipes := self.slots(thread, "pipe-write")):
            self.add(thread.actor, "copy", slot, pipes[0], 2, size, out=[size])
        elif how == 11:
            self.add(thread.actor, "ring", slot, _RING_RECV, size, MSG_DONTWAIT, 0, out=[size])
        elif how == 12:
            self.add(thread.actor, "ring", slot, _RING_READ, size, 0, 0, out=[size])

    def wish_ring(self, thread: Thread, b: int, c: int, d: int) -> None:
        """Read or write a pipe by io_uring."""
        if slots := self.slots(thread, "pipe-read", "pipe-write"):
            slot = slots[b % len(slots)]
            what = _RING_READ if thread.process.files[slot].kind == "pipe-read" else _RING_WRITE
            self.add(thread.actor, "ring", slot, what, SIZES[c % 6], 0, 0, out=[0])

    # -- tasks --

    def wish_fork(self, thread: Thread, b: int, c: int, d: int) -> None:
        actor = self.new_actor()
        self.add(thread.actor, "fork", actor, out=[1000 + actor])

    def wish_vfork(self, thread: Thread, b: int, c: int, d: int) -> None:
        actor = self.new_actor()
        self.add(thread.actor, "vfork", actor, b % PROGRAMS, out=[1000 + actor])

    def wish_chain(self, thread: Thread, b: int, c: int, d: int) -> None:
        zero = next((s for s in self.slots(thread, "zero")), None)
        if zero is None:
            zero = self.new_slot()
            self.add(thread.actor, "open", zero, 0, -1, os.O_RDONLY, out=[100])
            thread.process.files[zero].kind = "zero"
        self.add(thread.actor, "chain", b % 8, zero, out=[b % 8, *range(2000, 2007)])

    def wish_thread(self, thread: Thread, b: int, c: int, d: int) -> None:
        actor = self.new_actor()
        self.add(thread.actor, "thread", actor, out=[1000 + actor])

    def wish_end_thread(self, thread: Thread, b: int, c: int, d: int) -> None:
        if thread.actor != thread.process.number:
            self.add(thread.actor, "exit", 0)
            self.add(thread.process.number, "join", thread.actor)

    def wish_exit(self, thread: Thread, b: int, c: int, d: int) -> None:
        if thread.process.number != MAIN:
            self.end(thread.process, b % 3, reap=bool(c % 2))

    def wish_bad_clone(self, thread: Thread, b: int, c: int, d: int) -> None:
        self.add(thread.actor, "bad_clone", b % 3)

    def wish_name(self, thread: Thread, b: int, c: int, d: int) -> None:
        self.add(thread.actor, "name", b % len(NAMES))

    def wish_enter(self, thread: Thread, b: int, c: int, d: int) -> None:
        self.add(thread.actor, "enter", b % len(CGROUPS), out=[1, 100])

    def wish_user(self, thread: Thread, b: int, c: int, d: int) -> None:
        how = b % 4
        if how >= 2:
            self._raw_users.add(thread.process.number)
        elif thread.process.number in self._raw_users:
            return  # glibc ends the program if a change succeeds in one thread and fails in another.
        self.add(thread.actor, "user", how, USERS[c % 3])

    def wish_exec(self, thread: Thread, b: int, c: int, d: int) -> None:
        if thread.actor == thread.process.number:
            self._raw_users.discard(thread.process.number)
            self.add(thread.actor, "exec", b % PROGRAMS)

    def wish_pause(self, thread: Thread, b: int, c: int, d: int) -> None:
        if self._pauses < 2:
            self.add(thread.actor, "pause", self._pauses)
            self._pauses += 1


ACCEPTS = 3
"""The ways to accept: accept(2), accept4(2), and accept4(2) as 32-bit programs call it."""
SOCKET_WISHES = (
    "listener", "connection", "connection", "connection", "refused", "udp", "udp", "udp_connect", "rebind", "datagram",
    "datagram", "datagram", "talk", "talk", "talk", "send", "receive", "shutdown", "close", "memory", "pipe", "write",
    "raw", "ring",
)  # fmt: skip
FILE_WISHES = (
    "open", "open", "close", "read", "read", "write", "write", "unlink", "seek", "map", "pipe", "pair", "memory", "dup",
    "copy",
)  # fmt: skip
TASK_WISHES = (
    "courier", "pass", "fork", "fork", "vfork", "chain", "thread", "end_thread", "exit", "bad_clone", "name", "name",
    "enter", "user", "exec", "pause",
)  # fmt: skip


# ---- running ----


class Place:
    """A directory with the program under all of its names, and cgroups to move to. A context manager."""

    def __init__(self) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="ebpfmon-random-"))
        self.directory.chmod(0o777)
        shutil.copy(program("random_work"), self.directory / NAMES[0])
        for name in NAMES[1:PROGRAMS]:
            (self.directory / name).symlink_to(NAMES[0])
        lines = [f"{application}: {name}\n" for name, application in APPLICATIONS.items()]
        (self.directory / "groups").write_text("".join(lines))
        root = cgroup_root()
        self.cgroups: dict[str, Path] = {"root": root}
        for name in CGROUPS:
            path = self.cgroups[name] = root / f"ebpfmon-random-{os.getpid()}-{name}"
            path.mkdir()
            (path / "cgroup.procs").chmod(0o666)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self.directory)
        for name in CGROUPS:
            self.cgroups[name].rmdir()


def cgroup_root() -> Path:
    """Return the mount point of cgroup2."""
    for line in Path("/proc/self/mounts").read_text().splitlines():
        if line.split()[2] == "cgroup2":
            return Path(line.split()[1])
    raise FileNotFoundError("no cgroup2 is mounted")


class Run:
    """A plan that runs. `pid` is its first process."""

    def __init__(self, plan: Plan, place: Place, number: int = 0) -> None:
        self.plan = plan
        directory = place.directory / f"files{number}"
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir()
        directory.chmod(0o777)
        for name in NAMES[:PROGRAMS]:
            (directory / name).symlink_to(place.directory / NAMES[0])
        fd = os.memfd_create("random_work")
        os.ftruncate(fd, ctypes.sizeof(_Shared))
        self.shared = shared = _Shared.from_buffer(mmap.mmap(fd, ctypes.sizeof(_Shared)))
        ctypes.memset(shared.fd, 0xFF, ctypes.sizeof(shared.fd))
        shared.directory = bytes(directory)
        for n, name in enumerate(NAMES):
            shared.names[n].value = name.encode()
        for n, name in enumerate(CGROUPS):
            shared.cgroups[n].value = bytes(place.cgroups[name] / "cgroup.procs")
        for n, step in enumerate(plan):
            to = shared.step[n]
            to.actor, to.operation = step.actor, OPERATIONS.index(step.operation)
            for k, number in enumerate(step.given):
                to.given[k] = number
        shared.steps = len(plan)
        self._process = subprocess.Popen(
            [directory / NAMES[0], "0", str(fd)], pass_fds=(fd,), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL
        )
        os.close(fd)
        self.pid = self._process.pid

    def at(self) -> Step | None:
        """Return the step that runs now."""
        turn = self.shared.turn
        return self.plan[turn] if turn < len(self.plan) else None

    def go_on(self) -> None:
        """End a pause."""
        self.shared.continued += 1
        at = ctypes.c_void_p(ctypes.addressof(self.shared) + _Shared.continued.offset)
        libc.syscall(_FUTEX, at, 1, 1, None, None, 0)

    def wait(self) -> World:
        """Wait for the end, and return what must be counted."""
        try:
            status = self._process.wait(60)
        except subprocess.TimeoutExpired:
            self._process.kill()
            raise AssertionError(f"step {self.shared.turn} does not end: {self.at()}") from None
        assert (status, self.at()) == (0, None), f"step {self.shared.turn} ended with {status}: {self.at()}"
        world = World(self.pid, "root")
        for n, step in enumerate(self.plan):
            world.apply(step, list(self.shared.step[n].out))
        world.reap(MAIN)
        return world

    def __str__(self) -> str:
        return f"process {self.pid}:\n" + "\n".join(
            f"{n:4} {step}  -> {' '.join(map(str, self.shared.step[n].out))}" for n, step in enumerate(self.plan)
        )


libc = ctypes.CDLL(None)
_FUTEX = 202 if os.uname().machine == "x86_64" else 98
