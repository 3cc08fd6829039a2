"""Group processes by application, as the groups file defines them."""

from __future__ import annotations

from collections.abc import Container, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from ebpfmon.grouping.groups import Groups
from ebpfmon.grouping.lookup import LookupRequest, LookupResult, ProcessFacts
from ebpfmon.grouping.naming import REMEMBERED, Identity, text
from ebpfmon.grouping.recent import Recent
from ebpfmon.grouping.registry import Context, Grouping

NS_PER_TICK = 10_000_000
"""The unit of a process's start in /proc/PID/stat: USER_HZ is 100 on every architecture that matters."""
NO_GROUP = "other"
"""A group of the file with this name means: belongs to no group."""
_NO_PARENT = (0, 1)  # a child of the first process, or of none, inherits no group
_DEEPEST = 64


@dataclass(slots=True)
class _Program:
    """What is known about a program that a process runs or ran.

    `exec_id` is None if all comes from /proc, which does not have it. `execs` is how many calls of execve(2) by this
    process were seen. `before` is what the process ran until the last of them.
    """

    start_ns: int
    exec_id: int | None
    parent_tgid: int
    comm: bytes
    arguments: bytes
    executable: bytes
    inherited: str | None = None
    resolved: bool = False
    execs: int = 0
    before: _Program | None = None


class ByApplication:
    """Name a process by the first of these that has a group: its comm or command line, its parent, its file's name."""

    def __init__(self, groups: Groups, execs_since_ns: float) -> None:
        """`execs_since_ns`: see `registry.Context`."""
        self._execs_since_ns = execs_since_ns
        self._programs: Recent[tuple[int, int, int], _Program] = Recent(REMEMBERED)
        self._latest: Recent[int, _Program] = Recent(REMEMBERED)
        self._facts: dict[int, ProcessFacts | None] = {}

        @lru_cache(REMEMBERED)
        def match(comm: bytes, arguments: bytes) -> str | None:
            return groups.match(text(comm), text(arguments).replace("\0", " "))

        self._match = match

    @property
    def known(self) -> Container[int]:
        return self._latest

    def learn(self, execs: NDArray[np.void]) -> None:
        if not len(execs):
            return
        columns = ["start_ns", "tgid", "exec_id", "parent_tgid", "comm", "arguments", "executable"]
        started = sorted(execs[columns].tolist())  # if a process started two programs, the later one comes last
        for start_ns, tgid, exec_id, parent, comm, arguments, executable in started:
            program = _Program(start_ns, exec_id, parent, comm, arguments, executable, execs=1)
            self._remember((start_ns, tgid, exec_id), program)

    def request(self, new: Sequence[Identity]) -> LookupRequest:
        tgids: dict[int, None] = {}
        coming = {who.tgid for who in new}
        for who in new:
            program = self._programs.get(who.key)
            parent = program.parent_tgid if program else who.parent_tgid
            parent_comes = parent in coming and parent not in self._latest
            if program is None and self._must_ask(who) and (who.start_ns < self._execs_since_ns or not parent_comes):
                tgids[who.tgid] = None
            if parent not in _NO_PARENT and parent not in self._latest and parent not in coming:
                tgids[parent] = None
        return LookupRequest(processes=tuple(tgids))

    def receive(self, result: LookupResult) -> None:
        self._facts = dict(result.processes)

    def name(self, who: Identity) -> tuple[str | None, bool]:
        program = self._programs.get(who.key)
        final = True
        if program is None:
            program, final = self._meet(who)
        program.comm = who.comm
        if not program.resolved:
            program.inherited, known = self._group_of_parent(program, 0)
            program.resolved, final = known, final and known
        if final:
            self._remember(who.key, program)
        group = self._group(program, who.comm)
        return None if group == NO_GROUP else group, final

    def _must_ask(self, who: Identity) -> bool:
        """Say whether only /proc can tell what a process runs.

        That is so if it ran before execs were seen, if its exec found no room in the table, or if it was forgotten.
        """
        if who.tgid in _NO_PARENT:
            return False
        if who.start_ns < self._execs_since_ns:
            # if the process has called execve(2) since, /proc only knows the new program, not this one
            latest = self._latest.get(who.tgid)
            return not (latest and latest.exec_id is not None and latest.exec_id > who.exec_id)
        parent = self._latest.get(who.parent_tgid) or self._from_facts(who.parent_tgid)
        return parent is None or (parent.exec_id is not None and parent.exec_id != who.exec_id)

    def _remember(self, key: tuple[int, int, int], program: _Program) -> None:
        _, tgid, exec_id = key
        self._programs[key] = program
        latest = self._latest.get(tgid)
        if latest is None or latest.start_ns < program.start_ns:  # the first one, or the tgid was used again
            self._latest[tgid] = program
        elif latest is not program and (latest.exec_id is None or latest.exec_id < exec_id):
            # keep one program before this one, not the whole chain: a process may call execve(2) for ever
            program.before, latest.before = latest, None
            program.execs += latest.execs
            self._latest[tgid] = program
        elif latest.exec_id is not None and latest.exec_id > exec_id:
            latest.before = latest.before or program

    def _meet(self, who: Identity) -> tuple[_Program, bool]:
        """Return the program of a process whose execve(2) was not seen, and whether that is all there is to know."""
        program = _Program(who.start_ns, who.exec_id, who.parent_tgid, who.comm, b"", b"")
        if self._must_ask(who):
            facts = self._facts.get(who.tgid)
            if facts is None:
                return program, who.tgid in self._facts
            if facts.start_ticks == who.start_ns // NS_PER_TICK:
                program.arguments, program.executable = facts.command_line.encode(), facts.executable.encode()
            return program, True
        # a forked process has its parent's command line until it calls execve(2)
        parent = self._parent(program)
        if parent:
            program.arguments, program.executable = parent.arguments, parent.executable
        return program, True

    def _parent(self, program: _Program) -> _Program | None:
        """Return what the parent ran when it forked this process."""
        parent = self._latest.get(program.parent_tgid) or self._from_facts(program.parent_tgid)
        if parent and parent.start_ns > program.start_ns:  # the parent is gone, and its tgid was used again
            return None
        if parent and parent.before and program.exec_id is not None and parent.exec_id is not None:
            # a fork copies exec_id, so without its own execs the child has the parent's of that time
            forked = program.exec_id - program.execs
            if parent.exec_id > forked:
                return parent.before
        return parent

    def _group_of_parent(self, program: _Program, depth: int) -> tuple[str | None, bool]:
        """Return the group that a process inherits, and whether it is final."""
        tgid = program.parent_tgid
        if tgid in _NO_PARENT or depth > _DEEPEST:  # so long a chain is a circle of tgids that were used again
            return None, True
        parent = self._parent(program)
        if parent is None:
            return None, tgid in self._facts or tgid in self._latest
        if not parent.resolved:
            parent.inherited, parent.resolved = self._group_of_parent(parent, depth + 1)
        return self._group(parent, parent.comm), parent.resolved

    def _from_facts(self, tgid: int) -> _Program | None:
        facts = self._facts.get(tgid)
        if facts is None:
            return None
        program = _Program(
            facts.start_ticks * NS_PER_TICK,
            None,
            facts.parent_tgid,
            facts.comm.encode(),
            facts.command_line.encode(),
            facts.executable.encode(),
        )
        self._latest[tgid] = program
        return program

    def _group(self, program: _Program, comm: bytes) -> str | None:
        own = self._match(comm, program.arguments) or program.inherited
        return own or (self._match(program.executable, b"") if program.executable else None)


def _make(context: Context) -> ByApplication:
    return ByApplication(context.groups, context.execs_since_ns)


GROUPING = Grouping(
    name="application", prefix="apps", make=_make, needs_execs=True, needs_groups=True, position=10
)  # fmt: skip
