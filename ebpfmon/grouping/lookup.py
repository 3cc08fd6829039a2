"""Facts that eBPF did not give: processes that ran before ebpfmon, names of users, paths of cgroups. Blocking.

It runs in a worker thread, within a time budget: what is not answered in time is asked for again.
"""

from __future__ import annotations

import os
import pwd
import time
from collections.abc import Callable, Container, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ebpfmon.kernel import features

COMMAND_LINE_BYTES = 4096
"""So much of a command line is read."""
_COMM_BYTES = 15  # of a kernel thread /proc says more than the kernel's comm
_PARENT, _START_TICKS = 1, 19  # fields of /proc/PID/stat behind the comm, from 0


@dataclass(frozen=True, slots=True)
class ProcessFacts:
    """What /proc says of a process: its start in USER_HZ ticks since boot, its parent, its names.

    `comm` is up to 15 bytes; `command_line` has the arguments joined by spaces, and is empty for a kernel thread;
    `executable` is the name of its file without the path, empty where that cannot be read. What is not UTF-8 in
    them is replaced.
    """

    start_ticks: int
    parent_tgid: int
    comm: str
    command_line: str
    executable: str


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is asked for: processes by tgid, users by uid, cgroups by id (as bpf_get_current_cgroup_id() has it)."""

    processes: tuple[int, ...] = ()
    users: tuple[int, ...] = ()
    cgroups: tuple[int, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.processes or self.users or self.cgroups)


@dataclass(frozen=True, slots=True)
class Found:
    """The answers, as far as they came in time. A process or cgroup that is no longer there is None.

    `processes` has ancestors too; `users` a number as text where there is no name; `cgroups` paths as in
    /proc/PID/cgroup.
    """

    processes: Mapping[int, ProcessFacts | None] = field(default_factory=dict)
    users: Mapping[int, str] = field(default_factory=dict)
    cgroups: Mapping[int, str | None] = field(default_factory=dict)


class Lookup:
    """Answers questions from /proc, the user database and the cgroup file system."""

    def __init__(self, proc: Path = Path("/proc"), cgroup: Path | None = None) -> None:
        """`cgroup`: where cgroup2 is mounted; None looks for it."""
        self._proc, self._cgroup = proc, cgroup or features.mounted(proc, "cgroup2", "/sys/fs/cgroup")
        self._paths: dict[int, str] = {}  # of the last whole walk, and of the one that is under way
        self._walk: Iterator[tuple[int, str]] | None = None
        self._walked: dict[int, str] = {}
        self._sought: frozenset[int] = frozenset()  # what was asked for when the walk began

    def answer(self, wanted: Wanted, known: Container[int], seconds: float) -> Found:
        """What can be found out in so many seconds, one thing at least.

        Of each process its ancestors are answered too, up to the first that is `known`. Of cgroups a call may answer
        none, but then it goes on with the walk through their tree, which answers them in a later call.
        """
        deadline = time.monotonic() + seconds
        processes: dict[int, ProcessFacts | None] = {}
        users: dict[int, str] = {}

        def enough() -> bool:
            return bool(processes or users) and time.monotonic() >= deadline

        for tgid in wanted.processes:
            self._ask_process(tgid, processes, known, enough)
        for uid in wanted.users:
            if not enough():
                users[uid] = _user(uid)
        return Found(processes, users, self._ask_cgroups(wanted.cgroups, deadline))

    def _ask_process(
        self, tgid: int, found: dict[int, ProcessFacts | None], known: Container[int], enough: Callable[[], bool]
    ) -> None:
        while tgid not in found and not enough():
            facts = found[tgid] = self._read(tgid)
            if facts is None or facts.parent_tgid in (0, 1) or facts.parent_tgid in known:
                return
            tgid = facts.parent_tgid

    def _read(self, tgid: int) -> ProcessFacts | None:
        directory = f"{self._proc}/{tgid}"
        try:
            stat = _head(f"{directory}/stat")
            arguments = _head(f"{directory}/cmdline")
        except OSError:  # gone, or shielded even from root
            return None
        before, _, behind = stat.rpartition(b")")
        fields = behind.split()
        try:
            executable = os.readlink(f"{directory}/exe".encode()).removesuffix(b" (deleted)").rpartition(b"/")[2]
        except OSError:  # a kernel thread has none
            executable = b""
        return ProcessFacts(
            start_ticks=int(fields[_START_TICKS]),
            parent_tgid=int(fields[_PARENT]),
            comm=before.partition(b"(")[2][:_COMM_BYTES].decode(errors="replace"),
            command_line=arguments.rstrip(b"\0").replace(b"\0", b" ").decode(errors="replace"),
            executable=executable.decode(errors="replace"),
        )

    def _ask_cgroups(self, ids: tuple[int, ...], deadline: float) -> dict[int, str | None]:
        if self._cgroup is None:
            return dict.fromkeys(ids)
        gone: frozenset[int] = frozenset()
        if not all(i in self._paths for i in ids):
            if self._walk is None:
                self._walk, self._walked = _directories(os.fsencode(self._cgroup)), {}
                self._sought = frozenset(ids)
            for inode, path in self._walk:
                self._paths[inode] = self._walked[inode] = path
                if time.monotonic() >= deadline:
                    break
            else:
                self._walk, self._paths = None, self._walked
                # what was asked for later may have been made behind the walk's back: the next one tells
                gone = self._sought - self._paths.keys()
        return {i: self._paths.get(i) for i in ids if i in self._paths or i in gone}


def _head(path: str) -> bytes:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(fd, COMMAND_LINE_BYTES)
    finally:
        os.close(fd)


def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _directories(top: bytes) -> Iterator[tuple[int, str]]:
    """(inode, path below the top) of every directory; none where the top itself cannot be read."""
    try:
        yield os.stat(top).st_ino, "/"
    except OSError:
        return
    waiting = [b""]
    while waiting:
        parent = waiting.pop()
        try:
            with os.scandir(top + (parent or b"/")) as entries:
                below = [(e.inode(), parent + b"/" + e.name) for e in entries if e.is_dir(follow_symlinks=False)]
        except OSError:  # it is gone
            continue
        for inode, path in below:
            yield inode, path.decode(errors="replace")
        waiting += (path for _, path in below)
