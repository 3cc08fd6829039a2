"""Look up facts that BPF programs did not see: processes older than ebpfmon, user names and cgroup paths.

Lookups read /proc, the user database and the cgroup file system. They block, so they run in a worker thread and within
a time limit. Facts that are not found in time are requested again.
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
"""How many bytes of a command line are read."""
_COMM_BYTES = 15  # The kernel's comm. /proc has longer names for kernel threads.
_PARENT, _START_TICKS = 1, 19  # The positions in /proc/PID/stat after the comm, counted from 0.


@dataclass(frozen=True, slots=True)
class ProcessFacts:
    """What /proc says about a process.

    `start_ticks` is its start in ticks of USER_HZ since boot. `comm` has up to 15 bytes. `command_line` has the
    arguments joined by spaces; it is empty for a kernel thread. `executable` is the file name without the path, or
    empty if it cannot be read. Bytes that are not UTF-8 are replaced.
    """

    start_ticks: int
    parent_tgid: int
    comm: str
    command_line: str
    executable: str


@dataclass(frozen=True, slots=True)
class LookupRequest:
    """Facts to look up: processes by tgid, users by uid, and cgroups by the id of bpf_get_current_cgroup_id()."""

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
    """The facts that were found in time. A process or a cgroup that no longer exists is None.

    `processes` also has ancestors. `users` has the uid as text for users without a name. `cgroups` has paths as in
    /proc/PID/cgroup.
    """

    processes: Mapping[int, ProcessFacts | None] = field(default_factory=dict)
    users: Mapping[int, str] = field(default_factory=dict)
    cgroups: Mapping[int, str | None] = field(default_factory=dict)


class Lookup:
    """Looks up facts in /proc, the user database and the cgroup file system."""

    def __init__(self, proc: Path = Path("/proc"), cgroup: Path | None = None) -> None:
        """Prepare lookups. `cgroup` is the mount point of cgroup2; if it is None, it is searched for."""
        self._proc, self._cgroup = proc, cgroup or features.mounted(proc, "cgroup2", "/sys/fs/cgroup")
        # The cgroup paths of the last complete walk through the tree, and those of the current walk.
        self._paths: dict[int, str] = {}
        self._walk: Iterator[tuple[int, str]] | None = None
        self._walk_paths: dict[int, str] = {}
        # The ids that were requested when the current walk began.
        self._walk_ids: frozenset[int] = frozenset()

    def look_up(self, request: LookupRequest, known: Container[int], time_limit_s: float) -> LookupResult:
        """Return the facts that can be found within this time.

        For each process the result also has its ancestors, up to the first one that is in `known`. At least one process
        or user is looked up, even if there is no time. Cgroups may need several calls: each one continues the walk
        through the cgroup tree.
        """
        deadline = time.monotonic() + time_limit_s
        processes: dict[int, ProcessFacts | None] = {}
        users: dict[int, str] = {}

        def out_of_time() -> bool:
            return bool(processes or users) and time.monotonic() >= deadline

        for tgid in request.processes:
            self._look_up_process(tgid, processes, known, out_of_time)
        for uid in request.users:
            if not out_of_time():
                users[uid] = _user(uid)
        return LookupResult(processes, users, self._look_up_cgroups(request.cgroups, deadline))

    def _look_up_process(
        self,
        tgid: int,
        processes: dict[int, ProcessFacts | None],
        known: Container[int],
        out_of_time: Callable[[], bool],
    ) -> None:
        while tgid not in processes and not out_of_time():
            facts = processes[tgid] = self._read(tgid)
            if facts is None or facts.parent_tgid in (0, 1) or facts.parent_tgid in known:
                return
            tgid = facts.parent_tgid

    def _read(self, tgid: int) -> ProcessFacts | None:
        directory = f"{self._proc}/{tgid}"
        try:
            stat = _read_start(f"{directory}/stat")
            arguments = _read_start(f"{directory}/cmdline")
        except OSError:  # The process is gone, or hidden even from root.
            return None
        # The comm may contain any characters, including parentheses, so split at the last one.
        before, _, after = stat.rpartition(b")")
        fields = after.split()
        try:
            executable = os.readlink(f"{directory}/exe".encode()).removesuffix(b" (deleted)").rpartition(b"/")[2]
        except OSError:  # Kernel threads have no executable.
            executable = b""
        return ProcessFacts(
            start_ticks=int(fields[_START_TICKS]),
            parent_tgid=int(fields[_PARENT]),
            comm=before.partition(b"(")[2][:_COMM_BYTES].decode(errors="replace"),
            command_line=arguments.rstrip(b"\0").replace(b"\0", b" ").decode(errors="replace"),
            executable=executable.decode(errors="replace"),
        )

    def _look_up_cgroups(self, ids: tuple[int, ...], deadline: float) -> dict[int, str | None]:
        if self._cgroup is None:
            return dict.fromkeys(ids)
        gone: frozenset[int] = frozenset()
        if not all(i in self._paths for i in ids):
            if self._walk is None:
                self._walk, self._walk_paths = _directories(os.fsencode(self._cgroup)), {}
                self._walk_ids = frozenset(ids)
            for inode, path in self._walk:
                self._paths[inode] = self._walk_paths[inode] = path
                if time.monotonic() >= deadline:
                    break
            else:
                self._walk, self._paths = None, self._walk_paths
                # Ids requested later do not count: their cgroups may be in directories that were read before.
                gone = self._walk_ids - self._paths.keys()
        return {i: self._paths.get(i) for i in ids if i in self._paths or i in gone}


def _union(first: tuple[int, ...], second: tuple[int, ...]) -> tuple[int, ...]:
    """Return the elements of both, without duplicates."""
    return tuple(dict.fromkeys(first + second))


def _read_start(path: str) -> bytes:
    """Return the first bytes of a file. This makes fewer system calls than a file object."""
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
    """Yield (inode, path relative to `top`) of every directory, or nothing if `top` itself cannot be read."""
    try:
        yield os.stat(top).st_ino, "/"
    except OSError:
        return
    queue = [b""]
    while queue:
        parent = queue.pop()
        try:
            with os.scandir(top + (parent or b"/")) as entries:
                children = [(e.inode(), parent + b"/" + e.name) for e in entries if e.is_dir(follow_symlinks=False)]
        except OSError:  # The directory is gone.
            continue
        for inode, path in children:
            yield inode, path.decode(errors="replace")
        queue += (path for _, path in children)
