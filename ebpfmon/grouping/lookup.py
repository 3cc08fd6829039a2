"""Look up facts that BPF programs did not see: processes older than ebpfmon, user names and cgroup paths.

Lookups read /proc, the user database and the cgroup file system. They block, so they run in a worker thread and within
a time limit. Facts that are not found in time are requested again. Lookups that may never return run in threads that
can be left behind (`ebpfmon.grouping.questions`).
"""

from __future__ import annotations

import errno
import logging
import os
import pwd
import time
from collections.abc import Callable, Container, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from ebpfmon import shortage
from ebpfmon.errors import describe
from ebpfmon.grouping.cgroup_tree import CgroupTree
from ebpfmon.grouping.questions import ANSWER_S, Questions, UnansweredError
from ebpfmon.kernel import features
from ebpfmon.kernel.views import Problem, Views
from ebpfmon.text import printable

COMMAND_LINE_BYTES = 4096
"""How many bytes of a command line are read."""
_COMM_BYTES = 15  # The kernel's comm. /proc has longer names for kernel threads.
_PARENT, _START_TICKS = 1, 19  # The positions in /proc/PID/stat after the comm, counted from 0.


log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ProcessFacts:
    """What /proc says about a process.

    `start_ticks` is its start in ticks of USER_HZ since boot. `comm` has up to 15 bytes. `command_line` has the
    arguments joined by spaces; it is empty for a kernel thread, and None if the kernel does not answer. `executable` is
    the file name without the path, or empty if it cannot be read. Bytes that are not UTF-8 are replaced.
    """

    start_ticks: int
    parent_tgid: int
    comm: str
    command_line: str | None
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

    `processes` also has ancestors. A user is None if there is no name for now: the user database has none, or does not
    answer. `cgroups` has paths as in /proc/PID/cgroup.
    """

    processes: Mapping[int, ProcessFacts | None] = field(default_factory=dict)
    users: Mapping[int, str | None] = field(default_factory=dict)
    cgroups: Mapping[int, str | None] = field(default_factory=dict)

    def __or__(self, later: LookupResult) -> LookupResult:
        return LookupResult(
            {**self.processes, **later.processes}, {**self.users, **later.users}, {**self.cgroups, **later.cgroups}
        )


class Lookup:
    """Looks up facts in /proc, the user database and the cgroup file system. Must be closed.

    A lookup that does not return delays no other one. Its fact is left out, or replaced by what is known without it. A
    fact that cannot be looked up for another reason, such as a lack of descriptors, is left out. The first failure of
    each kind is logged.
    """

    def __init__(
        self,
        proc: Path = Path("/proc"),
        cgroup: Path | None = None,
        answer_s: float = ANSWER_S,
        views: Callable[[], Views] = Views,
    ) -> None:
        """Prepare lookups. `cgroup` is the mount point of cgroup2; if it is None, it is searched for.

        `answer_s` is how long to wait for a fact. `views` returns what this process cannot see, and is called once.
        Processes are not looked up if /proc shows others than the kernel's PIDs refer to.
        """
        self._proc = proc
        mount = cgroup or features.mounted(proc, "cgroup2", "/sys/fs/cgroup")
        self._tree = CgroupTree(mount) if mount else None
        self._command_lines = Questions[tuple[int, int], tuple[tuple[str, str], bytes]]("command line", answer_s)
        self._users = Questions[int, str | None]("name", answer_s)
        self._cgroups = Questions[None, dict[int, str | None]]("paths", answer_s)
        self._logged: set[tuple[str, type[Exception], int | None]] = set()
        self._detect_views, self._detected = views, Questions[None, Views]("namespaces", answer_s)
        self._views: Views | None = None
        self._warned: set[Problem] = set()

    def close(self) -> None:
        """Let the threads end. Never waits. Closing twice is harmless."""
        for questions in (self._command_lines, self._users, self._cgroups, self._detected):
            questions.close()

    def look_up(self, request: LookupRequest, known: Container[int], time_limit_s: float) -> LookupResult:
        """Return the facts that can be found within this time, plus the time of facts that are waited for.

        For each process the result also has its ancestors, up to the first one that is in `known`. At least one process
        or user is looked up, even if there is no time. Cgroups may need several calls: each one continues the walk
        through the cgroup tree.
        """
        deadline = time.monotonic() + time_limit_s
        processes: dict[int, ProcessFacts | None] = {}
        users: dict[int, str | None] = {}

        def out_of_time() -> bool:
            return bool(processes or users) and time.monotonic() >= deadline

        views = self._known_views()
        if request.processes and self._warned_of(views.processes):
            processes = dict.fromkeys(request.processes)
        elif request.processes:
            self._warned_of(views.hidden)
        if request.users:
            self._warned_of(views.users)
        for tgid in request.processes:
            self._look_up_process(tgid, processes, known, out_of_time)
        for uid in request.users:
            if not out_of_time():
                self._look_up_user(uid, users)
        return LookupResult(processes, users, self._look_up_cgroups(request.cgroups, deadline))

    def _look_up_process(
        self,
        tgid: int,
        processes: dict[int, ProcessFacts | None],
        known: Container[int],
        out_of_time: Callable[[], bool],
    ) -> None:
        while tgid not in processes and not out_of_time():
            try:
                facts = processes[tgid] = self._read(tgid)
            except Exception as error:  # whatever it is, other facts can still be found
                self._failed("process", tgid, error)
                return
            if facts is None or facts.parent_tgid in (0, 1) or facts.parent_tgid in known:
                return
            tgid = facts.parent_tgid

    def _read(self, tgid: int) -> ProcessFacts | None:
        """Return the facts about a process, None if it is gone. Raises OSError if that is unknown."""
        directory = f"{self._proc}/{tgid}"
        try:
            stat = _read_start(f"{directory}/stat")
            # The comm may contain any characters, including parentheses, so split at the last one.
            before, _, after = stat.rpartition(b")")
            fields = after.split()
            start_ticks = int(fields[_START_TICKS])
            comm = before.partition(b"(")[2][:_COMM_BYTES].decode(errors="replace")
            executable = _executable(directory)
            command_line: str | None = None
            # The kernel needs the lock of the process's memory to read a command line, and nothing above. A process
            # that waits for a file system while it holds that lock makes every reader wait too.
            with suppress(UnansweredError):
                arguments = self._read_arguments(tgid, start_ticks, comm, executable)
                command_line = arguments.rstrip(b"\0").replace(b"\0", b" ").decode(errors="replace")
        except (FileNotFoundError, ProcessLookupError):
            return None
        return ProcessFacts(start_ticks, int(fields[_PARENT]), comm, command_line, executable)

    def _read_arguments(self, tgid: int, start_ticks: int, comm: str, executable: str) -> bytes:
        """Return the command line of a process. Raises UnansweredError, OSError."""
        program = comm, executable
        for _ in range(2):
            asked_about, arguments = self._command_lines.ask(
                (tgid, start_ticks),
                lambda: (program, _read_start(f"{self._proc}/{tgid}/cmdline")),
                f"process {tgid} ({printable(comm)})",
            )
            if asked_about == program:  # Otherwise the answer has come so late that the process runs another program.
                break
        return arguments

    def _look_up_user(self, uid: int, users: dict[int, str | None]) -> None:
        try:
            users[uid] = self._users.ask(uid, lambda: _user(uid), f"user {uid}")
        except UnansweredError:
            users[uid] = None
        except Exception as error:  # whatever it is, other facts can still be found
            self._failed("user", uid, error)

    def _look_up_cgroups(self, ids: tuple[int, ...], deadline: float) -> dict[int, str | None]:
        tree = self._tree
        is_part = bool(ids) and self._warned_of(self._known_views().cgroups)
        if not tree:
            return dict.fromkeys(ids)
        found = self._read_cgroups(tree, ids, deadline)
        # The top of a part of the tree is not the root cgroup.
        return {i: None if is_part and path == "/" else path for i, path in found.items()}

    def _read_cgroups(self, tree: CgroupTree, ids: tuple[int, ...], deadline: float) -> dict[int, str | None]:
        found = tree.known(ids)
        missing = tuple(i for i in ids if i not in found)
        if not missing:
            return found
        try:
            return found | self._cgroups.ask(None, lambda: tree.look_up(missing, deadline), "the cgroups")
        except UnansweredError:
            self._tree = tree.successor()  # The thread that is left behind still uses the former one.
        except Exception as error:  # whatever it is, other facts can still be found
            self._failed("cgroup", missing[0], error)
        return found

    def _known_views(self) -> Views:
        """Return what this process cannot see. While that is unknown, assume that it sees everything."""
        if self._views is None:
            try:
                self._views = self._detected.ask(None, self._detect_views, "this process")
            except Exception as error:  # whatever it is, facts can still be found
                if not isinstance(error, UnansweredError):
                    self._failed("namespaces of", "this process", error)
                return Views()
            self._detected.close()
        return self._views

    def _warned_of(self, problem: Problem | None) -> bool:
        """Return whether there is this problem, and log it the first time."""
        if problem and problem not in self._warned:
            log.warning("%s", problem)
            self._warned.add(problem)
        return problem is not None

    def _failed(self, what: str, which: object, error: Exception) -> None:
        code = error.errno if isinstance(error, OSError) else None
        if (what, type(error), code) not in self._logged:
            reason = f"{os.strerror(code)}{shortage.remedy(code)}" if code else describe(error)
            log.warning("cannot look up %s %s: %s; ebpfmon tries again", what, which, reason)
            self._logged.add((what, type(error), code))


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


def _executable(directory: str) -> str:
    """Return the name of the file that a process runs, or nothing if there is none or if it must not be read."""
    try:
        target = os.readlink(f"{directory}/exe".encode())
    except OSError as error:
        if error.errno == errno.ENOMEM:
            raise
        return ""  # Kernel threads have no executable.
    return target.removesuffix(b" (deleted)").rpartition(b"/")[2].decode(errors="replace")


def _user(uid: int) -> str | None:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return None
