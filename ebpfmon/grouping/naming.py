"""What a process is called: its application, its program, its user or its cgroup. Facts come in, names go out; no I/O.

A fact is asked for where the kernel did not give it: `wanted()` says of which processes, users or cgroups, `found()`
takes the answers (`ebpfmon.attribution.lookup`). Until they are there a name is provisional.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple, Protocol

import numpy as np

from ebpfmon.grouping import cgroups
from ebpfmon.grouping.groups import Groups
from ebpfmon.grouping.lookup import Found, ProcessFacts, Wanted
from ebpfmon.grouping.recent import Recent

OTHER = "other"
"""What nothing else fits."""
NS_PER_TICK = 10_000_000
"""Of the start of a process in /proc/PID/stat: USER_HZ is 100 on every architecture that matters."""
_KTHREADD = 2
_NOBODY = (0, 1)  # who inherits from the first process, or from none, belongs to no application
_KEPT = 4096  # processes, users or cgroups; some 500 bytes each


class Identity(NamedTuple):
    """What a row says of its process (`struct process_key` and `struct process_identity` of the kit)."""

    start_ns: int
    tgid: int
    exec_id: int
    cgroup_id: int
    parent_tgid: int
    uid: int
    comm: bytes

    @property
    def key(self) -> tuple[int, int, int]:
        """Which process, and which program of it."""
        return self[:3]


class Naming(Protocol):
    """How processes are grouped."""

    def learn(self, execs: np.ndarray) -> None:
        """Take the rows of the table `execs` in: what was started in the interval."""

    def wanted(self, new: Sequence[Identity]) -> Wanted:
        """What must be asked before these, in the order of their start, can be named."""

    def found(self, found: Found) -> None:
        """Take answers in."""

    def name(self, who: Identity) -> tuple[str, bool]:
        """The name of the group, and whether that is final: if not, ask again in the next interval."""

    @property
    def known(self) -> Container[int]:
        """The processes whose ancestors need not be asked for."""


class _Plain:
    """Needs no facts beside the row's."""

    known: Container[int] = ()

    def learn(self, execs: np.ndarray) -> None:
        pass

    def wanted(self, new: Sequence[Identity]) -> Wanted:
        return Wanted()

    def found(self, found: Found) -> None:
        pass


class ByProcess(_Plain):
    """By program: its comm. Of kernel threads the part before the slash, as there are dozens of each."""

    def name(self, who: Identity) -> tuple[str, bool]:
        comm = text(who.comm)
        if who.parent_tgid == _KTHREADD:
            comm = comm.partition("/")[0]
        return comm or OTHER, True


class _Asked(_Plain):
    """Names that are asked for once each, by a number of the row."""

    def __init__(self, number: Callable[[Identity], int]) -> None:
        self._number = number
        self._names: Recent[int, str] = Recent(_KEPT)

    def _missing(self, new: Iterable[Identity]) -> tuple[int, ...]:
        return tuple(dict.fromkeys(n for n in map(self._number, new) if n not in self._names))

    def name(self, who: Identity) -> tuple[str, bool]:
        name = self._names.get(self._number(who))
        return name or OTHER, name is not None


class ByUser(_Asked):
    """By the user's name; the number where there is none."""

    def __init__(self) -> None:
        super().__init__(lambda who: who.uid)

    def wanted(self, new: Sequence[Identity]) -> Wanted:
        return Wanted(users=self._missing(new))

    def found(self, found: Found) -> None:
        for uid, name in found.users.items():
            self._names[uid] = name


class ByCgroup(_Asked):
    """By container, service or session, from the cgroup's path."""

    def __init__(self) -> None:
        super().__init__(lambda who: who.cgroup_id)

    def wanted(self, new: Sequence[Identity]) -> Wanted:
        return Wanted(cgroups=self._missing(new))

    def found(self, found: Found) -> None:
        for cgroup_id, path in found.cgroups.items():
            self._names[cgroup_id] = OTHER if path is None else cgroups.name(path)


@dataclass(slots=True)
class _Process:
    """What is known of a program that runs, or ran. `exec_id` None: from /proc, which does not say. `execs`: how often
    it called execve(2), as far as that was seen. `before`: what the same process ran until its execve(2)."""

    start_ns: int
    exec_id: int | None
    parent_tgid: int
    comm: bytes
    arguments: bytes
    executable: bytes
    inherited: str | None = None
    resolved: bool = False
    execs: int = 0
    before: _Process | None = None


class ByApp:
    """By the groups of apps_groups.conf: a process's own by its comm or command line, else its parent's, else (it was
    started by nobody who has one) that of its file's name."""

    def __init__(self, groups: Groups, began_ns: float) -> None:
        """`began_ns`: since when (on the boot clock) every execve(2) is seen; infinity if none is."""
        self._began_ns = began_ns
        self._processes: Recent[tuple[int, int, int], _Process] = Recent(_KEPT)
        self._latest: Recent[int, _Process] = Recent(_KEPT)
        self._facts: dict[int, ProcessFacts | None] = {}

        @lru_cache(_KEPT)
        def match(comm: bytes, arguments: bytes) -> str | None:
            return groups.match(text(comm), text(arguments).replace("\0", " "))

        self._match = match

    @property
    def known(self) -> Container[int]:
        """The processes that something was learnt of."""
        return self._latest

    def learn(self, execs: np.ndarray) -> None:
        if not len(execs):
            return
        columns = ["start_ns", "tgid", "exec_id", "parent_tgid", "comm", "arguments", "executable"]
        started = sorted(execs[columns].tolist())  # of two programs of a process the later one counts from now on
        for start_ns, tgid, exec_id, parent, comm, arguments, executable in started:
            process = _Process(start_ns, exec_id, parent, comm, arguments, executable, execs=1)
            self._remember((start_ns, tgid, exec_id), process)

    def wanted(self, new: Sequence[Identity]) -> Wanted:
        tgids: dict[int, None] = {}
        coming = {who.tgid for who in new}
        for who in new:
            process = self._processes.get(who.key)
            parent = process.parent_tgid if process else who.parent_tgid
            parent_comes = parent in coming and parent not in self._latest
            if process is None and self._must_ask(who) and (who.start_ns < self._began_ns or not parent_comes):
                tgids[who.tgid] = None
            if parent not in _NOBODY and parent not in self._latest and parent not in coming:
                tgids[parent] = None
        return Wanted(processes=tuple(tgids))

    def _must_ask(self, who: Identity) -> bool:
        """Whether /proc alone can tell: it ran before execs were seen, its exec found no room in the table, or it was
        forgotten."""
        if who.tgid in _NOBODY:
            return False
        if who.start_ns < self._began_ns:
            # by now it runs what it started since: /proc no longer knows what this was
            latest = self._latest.get(who.tgid)
            return not (latest and latest.exec_id is not None and latest.exec_id > who.exec_id)
        parent = self._latest.get(who.parent_tgid) or self._of_facts(who.parent_tgid)
        return parent is None or (parent.exec_id is not None and parent.exec_id != who.exec_id)

    def found(self, found: Found) -> None:
        self._facts = dict(found.processes)

    def name(self, who: Identity) -> tuple[str, bool]:
        process = self._processes.get(who.key)
        final = True
        if process is None:
            process, final = self._meet(who)
        process.comm = who.comm
        if not process.resolved:
            process.inherited, known = self._group_of_parent(process, 0)
            process.resolved, final = known, final and known
        if final:
            self._remember(who.key, process)
        return self._group(process, who.comm) or OTHER, final

    def _remember(self, key: tuple[int, int, int], process: _Process) -> None:
        _, tgid, exec_id = key
        self._processes[key] = process
        latest = self._latest.get(tgid)
        if latest is None or latest.start_ns < process.start_ns:  # none, or another one, which had this tgid before
            self._latest[tgid] = process
        elif latest is not process and (latest.exec_id is None or latest.exec_id < exec_id):
            process.before, latest.before = latest, None  # one is enough: a process may go on calling execve(2)
            process.execs += latest.execs
            self._latest[tgid] = process
        elif latest.exec_id is not None and latest.exec_id > exec_id:
            latest.before = latest.before or process

    def _meet(self, who: Identity) -> tuple[_Process, bool]:
        """A process of which no execve(2) was seen, and whether that is all that there is to know of it."""
        process = _Process(who.start_ns, who.exec_id, who.parent_tgid, who.comm, b"", b"")
        if self._must_ask(who):
            facts = self._facts.get(who.tgid)
            if facts is None:
                return process, who.tgid in self._facts
            if facts.start_ticks == who.start_ns // NS_PER_TICK:
                process.arguments, process.executable = facts.command_line.encode(), facts.executable.encode()
            return process, True
        # forked from its parent, whose command line it has until it calls execve(2)
        parent = self._parent(process)
        if parent:
            process.arguments, process.executable = parent.arguments, parent.executable
        return process, True

    def _parent(self, process: _Process) -> _Process | None:
        """What the parent ran when it made this process, which then was the same program."""
        parent = self._latest.get(process.parent_tgid) or self._of_facts(process.parent_tgid)
        if parent and parent.start_ns > process.start_ns:  # it has the tgid of the parent, which is gone
            return None
        if parent and parent.before and process.exec_id is not None and parent.exec_id is not None:
            forked = process.exec_id - process.execs
            if parent.exec_id > forked:
                return parent.before
        return parent

    def _group_of_parent(self, process: _Process, depth: int) -> tuple[str | None, bool]:
        """The group that a process inherits, and whether that is final."""
        tgid = process.parent_tgid
        if tgid in _NOBODY or depth > 64:  # a chain that long is a circle, of tgids that were used again
            return None, True
        parent = self._parent(process)
        if parent is None:
            return None, tgid in self._facts or tgid in self._latest
        if not parent.resolved:
            parent.inherited, parent.resolved = self._group_of_parent(parent, depth + 1)
        return self._group(parent, parent.comm), parent.resolved

    def _of_facts(self, tgid: int) -> _Process | None:
        facts = self._facts.get(tgid)
        if facts is None:
            return None
        process = _Process(
            facts.start_ticks * NS_PER_TICK,
            None,
            facts.parent_tgid,
            facts.comm.encode(),
            facts.command_line.encode(),
            facts.executable.encode(),
        )
        self._latest[tgid] = process
        return process

    def _group(self, process: _Process, comm: bytes) -> str | None:
        own = self._match(comm, process.arguments) or process.inherited
        return own or (self._match(process.executable, b"") if process.executable else None)


def text(raw: bytes) -> str:
    """A name or a command line as the kernel has it: any bytes, NULs between arguments."""
    return raw.decode("utf-8", "replace").rstrip("\0")
