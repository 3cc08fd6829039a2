"""Group processes by application, as defined in the groups file."""

from __future__ import annotations

from collections.abc import Container, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from ebpfmon.grouping.groups import Groups
from ebpfmon.grouping.lookup import LookupRequest, LookupResult, ProcessFacts
from ebpfmon.grouping.naming import REMEMBERED, Identity, decode
from ebpfmon.grouping.recent import Recent
from ebpfmon.grouping.registry import Context, Grouping

NS_PER_TICK = 10_000_000
"""The unit of start times in /proc/PID/stat. USER_HZ is 100 on all supported architectures."""
NO_GROUP = "other"
"""A group with this name in the file means that a process belongs to no group."""
_NO_PARENT = (0, 1)
"""The tgids of parents whose children inherit no group: the first process, and none."""
_MAX_DEPTH = 64
"""A longer chain of parents is assumed to be a cycle, which reused tgids can form."""


@dataclass(slots=True)
class _Program:
    """What is known about a program that a process runs or has run.

    `exec_id` is None if the facts come from /proc, which does not have it. `complete` is False if the arguments are
    unknown because /proc did not answer. `inherited` is the group of the parent, and `resolved` is whether that group
    is final. `execs` is how many execve(2) calls of this process were seen. `previous` is the program that the process
    ran before its last execve(2).
    """

    start_ns: int
    exec_id: int | None
    parent_tgid: int
    comm: bytes
    arguments: bytes
    executable: bytes
    complete: bool = True
    inherited: str | None = None
    resolved: bool = False
    execs: int = 0
    previous: _Program | None = None


class ByApplication:
    """Finds the application of a process: by its comm or command line, else by its parent, else by its executable."""

    def __init__(self, groups: Groups, execs_since_ns: float) -> None:
        """Start without known processes. See `registry.Context` for `execs_since_ns`."""
        self._execs_since_ns = execs_since_ns
        self._programs: Recent[tuple[int, int, int], _Program] = Recent(REMEMBERED)
        self._latest: Recent[int, _Program] = Recent(REMEMBERED)
        self._facts: dict[int, ProcessFacts | None] = {}
        self._comms: dict[tuple[int, int, int], set[str]] = {}
        """The names that each new program had in this interval."""

        @lru_cache(REMEMBERED)
        def match(comm: bytes, arguments: bytes) -> str | None:
            return groups.match(decode(comm), decode(arguments).replace("\0", " "))

        self._match = match

    @property
    def known(self) -> Container[int]:
        return self._latest

    def learn(self, execs: NDArray[np.void]) -> None:
        if not len(execs):
            return
        columns = ["start_ns", "tgid", "exec_id", "parent_tgid", "comm", "arguments", "executable"]
        # Sorting puts the later of two programs of one process after the earlier one.
        started = sorted(execs[columns].tolist())
        for start_ns, tgid, exec_id, parent, comm, arguments, executable in started:
            program = _Program(start_ns, exec_id, parent, comm, arguments, executable, execs=1)
            self._remember((start_ns, tgid, exec_id), program)

    def request(self, new: Sequence[Identity]) -> LookupRequest:
        to_look_up: dict[int, None] = {}
        new_tgids = {process.tgid for process in new}
        self._comms = {process.key: set() for process in new}
        for process in new:
            self._comms[process.key].add(decode(process.comm))
            program = self._programs.get(process.key)
            parent = program.parent_tgid if program else process.parent_tgid
            # A new parent is named before its child, so the child can use its facts.
            parent_is_new = parent in new_tgids and parent not in self._latest
            is_old = process.start_ns < self._execs_since_ns
            if program is None and self._needs_proc(process) and (is_old or not parent_is_new):
                to_look_up[process.tgid] = None
            if parent not in _NO_PARENT and parent not in self._latest and parent not in new_tgids:
                to_look_up[parent] = None
        return LookupRequest(processes=tuple(to_look_up))

    def receive(self, result: LookupResult) -> bool:
        self._facts = dict(result.processes)
        return False

    def name(self, process: Identity) -> tuple[str | None, bool]:
        program = self._programs.get(process.key)
        final = True
        if program is None:
            program, final = self._first_seen(process)
        program.comm = process.comm
        if not program.resolved:
            program.inherited, program.resolved = self._group_of_parent(program, 0)
            final = final and program.resolved
        if final:
            self._remember(process.key, program)
        group = self._group(program, process.comm)
        return None if group == NO_GROUP else group, final

    def _needs_proc(self, process: Identity) -> bool:
        """Return whether only /proc can tell what a process runs.

        That is the case if the process is older than the probe `execs`, if its execve(2) found no free row, or if it
        was forgotten.
        """
        if process.tgid in _NO_PARENT or self._has_called_execve_since(process):
            return False
        if process.start_ns < self._execs_since_ns:
            return True
        parent = self._latest.get(process.parent_tgid) or self._from_facts(process.parent_tgid)
        if parent and parent.start_ns > process.start_ns:  # The parent is gone, and its tgid was reused.
            return True
        return parent is None or (parent.exec_id is not None and parent.exec_id != process.exec_id)

    def _has_called_execve_since(self, process: Identity) -> bool:
        """Return whether the process has started a later program. Then /proc knows only that one."""
        latest = self._latest.get(process.tgid)
        if latest is None or latest.exec_id is None:
            return False
        return latest.start_ns == process.start_ns and latest.exec_id > process.exec_id

    def _remember(self, key: tuple[int, int, int], program: _Program) -> None:
        _, tgid, exec_id = key
        self._programs[key] = program
        latest = self._latest.get(tgid)
        if latest is None or latest.start_ns < program.start_ns:  # The tgid is new, or was reused.
            self._latest[tgid] = program
        elif latest is not program and (latest.exec_id is None or latest.exec_id < exec_id):
            # Keep only one previous program, not the whole chain, because a process may call execve(2) for ever.
            program.previous, latest.previous = latest, None
            program.execs += latest.execs
            self._latest[tgid] = program
        elif latest.exec_id is not None and latest.exec_id > exec_id:
            latest.previous = latest.previous or program

    def _first_seen(self, process: Identity) -> tuple[_Program, bool]:
        """Return the program of a process whose execve(2) was not seen, and whether it is final."""
        program = _Program(process.start_ns, process.exec_id, process.parent_tgid, process.comm, b"", b"")
        if self._needs_proc(process):
            facts = self._facts.get(process.tgid)
            if facts is None:
                return program, process.tgid in self._facts
            if facts.start_ticks == process.start_ns // NS_PER_TICK:
                if facts.executable and facts.comm not in self._comms[process.key]:
                    # Since its last call, the process has called execve(2), or has only changed its name. The next
                    # interval shows which.
                    return program, False
                program.arguments, program.executable = _arguments(facts), facts.executable.encode()
                program.complete = facts.command_line is not None
            return program, program.complete
        # A forked process has the command line of its parent until it calls execve(2). If their exec_id differs, this
        # parent did not fork the program: another process did, and this one adopted the process when that one ended.
        parent = self._parent(program)
        if parent and parent.exec_id in (None, process.exec_id):
            program.arguments, program.executable = parent.arguments, parent.executable
            program.complete = parent.complete
        return program, program.complete

    def _parent(self, program: _Program) -> _Program | None:
        """Return the program that the parent ran when it forked this process, or None if it is unknown."""
        parent = self._latest.get(program.parent_tgid) or self._from_facts(program.parent_tgid)
        if parent and parent.start_ns > program.start_ns:  # The parent is gone, and its tgid was reused.
            return None
        if parent and parent.previous and program.exec_id is not None and parent.exec_id is not None:
            # A fork copies exec_id, and each execve(2) adds 1. So this was the parent's exec_id when it forked.
            exec_id_at_fork = program.exec_id - program.execs
            if parent.exec_id > exec_id_at_fork:
                return parent.previous
        return parent

    def _group_of_parent(self, program: _Program, depth: int) -> tuple[str | None, bool]:
        """Return the group that a process inherits from its parent, and whether it is final."""
        tgid = program.parent_tgid
        if tgid in _NO_PARENT or depth > _MAX_DEPTH:
            return None, True
        parent = self._parent(program)
        if parent is None:
            return None, tgid in self._facts or tgid in self._latest
        if not parent.resolved:
            parent.inherited, parent.resolved = self._group_of_parent(parent, depth + 1)
        return self._group(parent, parent.comm), parent.resolved and parent.complete

    def _from_facts(self, tgid: int) -> _Program | None:
        facts = self._facts.get(tgid)
        if facts is None:
            return None
        program = _Program(
            facts.start_ticks * NS_PER_TICK,
            None,
            facts.parent_tgid,
            facts.comm.encode(),
            _arguments(facts),
            facts.executable.encode(),
            complete=facts.command_line is not None,
        )
        if program.complete:  # Otherwise it is looked up again.
            self._latest[tgid] = program
        return program

    def _group(self, program: _Program, comm: bytes) -> str | None:
        own = self._match(comm, program.arguments) or program.inherited
        return own or (self._match(program.executable, b"") if program.executable else None)


def _arguments(facts: ProcessFacts) -> bytes:
    return (facts.command_line or "").encode()


def _make(context: Context) -> ByApplication:
    return ByApplication(context.groups, context.execs_since_ns)


GROUPING = Grouping(
    name="application", prefix="apps", make=_make, uses_execs=True, uses_groups_file=True, position=10
)  # fmt: skip
