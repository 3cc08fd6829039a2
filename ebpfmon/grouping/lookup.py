"""Look up facts that eBPF did not see: processes older than ebpfmon, names of users, paths of cgroups.

This blocks, so it runs in a worker thread and within a time budget. What is not answered in time is asked for again.
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
"""How much of a command line is read."""
_COMM_BYTES = 15  # for a kernel thread, /proc has a longer name than the kernel's comm
_PARENT, _START_TICKS = 1, 19  # the fields of /proc/PID/stat after the comm, counted from 0


@dataclass(frozen=True, slots=True)
class ProcessFacts:
    """What /proc says about a process: its start in ticks of USER_HZ since boot, its parent, its names.

    `comm` has up to 15 bytes. `command_line` has the arguments joined by spaces; a kernel thread has none. `executable`
    is the name of the file without its path, or empty if it cannot be read. Bytes that are not UTF-8 are replaced.
    """

    start_ticks: int
    parent_tgid: int
    comm: str
    command_line: str
    executable: str


@dataclass(frozen=True, slots=True)
class LookupRequest:
    """Facts to look up: processes by tgid, users by uid, cgroups by the id that bpf_get_current_cgroup_id() returns."""

    processes: tuple[int, ...] = ()
    users: tuple[int, ...] = ()
    cgroups: tuple[int, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.processes or self.users or self.cgroups)

    def __or__(self, other: LookupRequest) -> LookupRequest:
        return LookupRequest(
            _union(self.processes, other.processes),
            _union(self.users, other.users),
            _union(self.cgroups, other.cgroups),
        )


@dataclass(frozen=True, slots=True)
class LookupResult:
    """The facts that were found in time. A process or cgroup that is gone is None.

    `processes` also has ancestors. `users` has the number as text if there is no name. `cgroups` has paths as in
    /proc/PID/cgroup.
    """

    processes: Mapping[int, ProcessFacts | None] = field(default_factory=dict)
    users: Mapping[int, str] = field(default_factory=dict)
    cgroups: Mapping[int, str | None] = field(default_factory=dict)


class Lookup:
    """Looks facts up in /proc, the user database and the cgroup file system."""

    def __init__(self, proc: Path = Path("/proc"), cgroup: Path | None = None) -> None:
        """`cgroup` is where cgroup2 is mounted; None looks for it."""
        self._proc, self._cgroup = proc, cgroup or features.mounted(proc, "cgroup2", "/sys/fs/cgroup")
        self._paths: dict[int, str] = {}  # from the last complete walk, and from the one under way
        self._walk: Iterator[tuple[int, str]] | None = None
        self._walked: dict[int, str] = {}
        self._sought: frozenset[int] = frozenset()  # the ids that were request when the walk began

    def answer(self, request: LookupRequest, known: Container[int], seconds: float) -> LookupResult:
        """Return what can be found out within this time, and at least one fact.

        For each process the result also has its ancestors, up to the first that is `known`. It may have no cgroup at
        all: then the walk through the tree of cgroups goes on in the next call.
        """
        deadline = time.monotonic() + seconds
        processes: dict[int, ProcessFacts | None] = {}
        users: dict[int, str] = {}

        def enough() -> bool:
            return bool(processes or users) and time.monotonic() >= deadline

        for tgid in request.processes:
            self._ask_process(tgid, processes, known, enough)
        for uid in request.users:
            if not enough():
                users[uid] = _user(uid)
        return LookupResult(processes, users, self._ask_cgroups(request.cgroups, deadline))

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
        except OSError:  # the process is gone, or hidden even from root
            return None
        before, _, behind = stat.rpartition(b")")
        fields = behind.split()
        try:
            executable = os.readlink(f"{directory}/exe".encode()).removesuffix(b" (deleted)").rpartition(b"/")[2]
        except OSError:  # a kernel thread has no executable
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
                # a cgroup that was request later may have been made where the walk had already been
                gone = self._sought - self._paths.keys()
        return {i: self._paths.get(i) for i in ids if i in self._paths or i in gone}


def _union(first: tuple[int, ...], second: tuple[int, ...]) -> tuple[int, ...]:
    """Return what is in either, each once."""
    return tuple(dict.fromkeys(first + second))


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
    """Yield (inode, path below the top) of every directory, or nothing if the top itself cannot be read."""
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
        except OSError:  # the directory is gone
            continue
        for inode, path in below:
            yield inode, path.decode(errors="replace")
        waiting += (path for _, path in below)
