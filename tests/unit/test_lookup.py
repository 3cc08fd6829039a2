"""Lookups in /proc, the user database and the cgroup file system, and their time limit."""

from __future__ import annotations

import errno
import os
import pwd
import subprocess
import sys
import threading
import time
from collections.abc import Container
from contextlib import closing, suppress
from pathlib import Path

import pytest

from ebpfmon import shortage
from ebpfmon.grouping.cgroup_tree import WALK_AGAIN_S, CgroupTree
from ebpfmon.grouping.lookup import COMMAND_LINE_BYTES, Lookup, LookupRequest, LookupResult, ProcessFacts
from ebpfmon.kernel.views import Problem, Views
from ebpfmon.threads import MAX_ABANDONED

LONG = 60.0


class Proc:
    """A fake /proc."""

    def __init__(self, top: Path) -> None:
        self.top = top

    def add(
        self, tgid: int, parent: int = 1, comm: bytes = b"x", cmdline: bytes = b"", exe: str = "", start: int = 7
    ) -> None:
        directory = self.top / str(tgid)
        directory.mkdir()
        fields = [b"S", b"%d" % parent, *[b"0"] * 17, b"%d" % start, b"1", b"2"]
        (directory / "stat").write_bytes(b"%d (%s) " % (tgid, comm) + b" ".join(fields) + b"\n")
        (directory / "cmdline").write_bytes(cmdline)
        if exe:
            (directory / "exe").symlink_to(exe)

    def look_up(self, *tgids: int, known: Container[int] = (), seconds: float = LONG) -> dict[int, ProcessFacts | None]:
        return dict(Lookup(self.top).look_up(LookupRequest(processes=tgids), known, seconds).processes)

    def facts(self, tgid: int) -> ProcessFacts:
        facts = self.look_up(tgid)[tgid]
        assert facts is not None
        return facts


def deny(*_: object) -> None:
    raise PermissionError


@pytest.fixture
def proc(tmp_path: Path) -> Proc:
    return Proc(tmp_path)


def test_a_request_is_true_if_it_is_not_empty() -> None:
    assert not LookupRequest()
    assert all((LookupRequest(processes=(1,)), LookupRequest(users=(0,)), LookupRequest(cgroups=(1,))))


def test_an_empty_request_has_an_empty_result(proc: Proc) -> None:
    proc.add(10)
    assert Lookup(proc.top).look_up(LookupRequest(), (), LONG) == LookupResult({}, {}, {})


def test_the_facts_of_a_process_are_read_from_its_files(proc: Proc) -> None:
    proc.add(10, 5, b"nginx", b"nginx:\0-g\0daemon off;\0", "/usr/sbin/nginx", 1234)
    proc.add(5)
    assert proc.facts(10) == ProcessFacts(1234, 5, "nginx", "nginx: -g daemon off;", "nginx")


@pytest.mark.parametrize(
    ("comm", "expected"),
    [(b"a) (b", "a) (b"), (b"(sd-pam)", "(sd-pam)"), (b") S 9 9", ") S 9 9"), (b"", ""), (b"a b\n", "a b\n")],
)
def test_a_comm_may_contain_parentheses_and_spaces(proc: Proc, comm: bytes, expected: str) -> None:
    proc.add(10, 5, comm, start=99)
    facts = proc.facts(10)
    assert (facts.comm, facts.parent_tgid, facts.start_ticks) == (expected, 5, 99)


def test_the_comm_of_a_kernel_thread_is_cut_to_15_bytes(proc: Proc) -> None:
    proc.add(10, 2, b"rcu_tasks_trace_kthread")
    proc.add(2, 0, b"kthreadd")
    assert proc.facts(10).comm == "rcu_tasks_trace"


@pytest.mark.parametrize(
    ("cmdline", "expected"),
    [
        (b"", ""),
        (b"a\0b c\0\0d\0", "a b c  d"),
        (b"postgres: writer\0\0\0\0", "postgres: writer"),
        (b"no NUL at all", "no NUL at all"),
        (b"caf\xe9\0", "caf�"),
    ],
)
def test_arguments_are_joined_by_spaces(proc: Proc, cmdline: bytes, expected: str) -> None:
    proc.add(10, cmdline=cmdline)
    assert proc.facts(10).command_line == expected


def test_only_the_beginning_of_a_long_command_line_is_read(proc: Proc) -> None:
    proc.add(10, cmdline=b"x" * COMMAND_LINE_BYTES + b"y")
    assert proc.facts(10).command_line == "x" * COMMAND_LINE_BYTES


@pytest.mark.parametrize(
    ("exe", "expected"),
    [("/usr/bin/top (deleted)", "top"), ("/opt/my app/run me", "run me"), ("/memfd:x (deleted)", "memfd:x"), ("", "")],
)
def test_an_executable_is_the_name_of_its_file_even_if_deleted(proc: Proc, exe: str, expected: str) -> None:
    proc.add(10, exe=exe)
    assert proc.facts(10).executable == expected


def test_an_executable_whose_name_is_not_utf_8_can_be_encoded(proc: Proc) -> None:
    proc.add(10)
    os.symlink(b"/opt/caf\xe9", os.fsencode(proc.top / "10/exe"))
    assert proc.facts(10).executable == "caf\ufffd"
    assert proc.facts(10).executable.encode() == b"caf\xef\xbf\xbd"


def test_an_unreadable_executable_is_empty(proc: Proc, monkeypatch: pytest.MonkeyPatch) -> None:
    proc.add(10, comm=b"x", cmdline=b"x\0-y\0", exe="/usr/bin/x")
    monkeypatch.setattr(os, "readlink", deny)
    assert proc.facts(10) == ProcessFacts(7, 1, "x", "x -y", "")


@pytest.mark.parametrize("error", [errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EACCES, errno.EIO])
@pytest.mark.parametrize("file", ["stat", "cmdline"])
def test_a_process_that_cannot_be_read_now_is_not_gone_but_tried_again(
    proc: Proc, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, file: str, error: int
) -> None:
    proc.add(10)
    proc.add(11)
    lookup, fails = Lookup(proc.top), {f"{proc.top}/10/{file}", f"{proc.top}/11/{file}"}
    real_open = os.open

    def open_(path: str, flags: int) -> int:
        if path in fails:
            raise OSError(error, os.strerror(error))
        return real_open(path, flags)

    monkeypatch.setattr(os, "open", open_)
    with closing(lookup):
        for _ in range(3):
            assert lookup.look_up(LookupRequest(processes=(10, 11)), (), LONG).processes == {}
        reason = f"{os.strerror(error)}{shortage.remedy(error)}"
        assert caplog.messages == [f"cannot look up process 10: {reason}; ebpfmon tries again"]
        fails.clear()
        assert lookup.look_up(LookupRequest(processes=(10, 11)), (), LONG).processes.keys() == {10, 11}


def test_a_process_whose_executable_finds_no_memory_is_tried_again(proc: Proc, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_memory(_: object) -> str:
        raise OSError(errno.ENOMEM, "no memory")

    proc.add(10, exe="/usr/bin/x")
    with monkeypatch.context() as patched:
        patched.setattr(os, "readlink", no_memory)
        assert proc.look_up(10) == {}
    assert proc.facts(10).executable == "x"


class Hung:
    """Command lines that are never answered: reading them waits for a writer of a FIFO."""

    def __init__(self, proc: Proc, *tgids: int) -> None:
        self._paths = [proc.top / str(tgid) / "cmdline" for tgid in tgids]
        for path in self._paths:
            path.unlink()
            os.mkfifo(path)

    def release(self, command_line: bytes) -> None:
        """Answer those that wait, and turn the FIFOs into files."""
        for path in self._paths:
            with suppress(OSError):  # nobody waits
                os.close(os.open(path, os.O_WRONLY | os.O_NONBLOCK))
            path.unlink()
            path.write_bytes(command_line)


def test_a_command_line_that_does_not_come_holds_up_no_other_and_is_used_when_it_comes(
    proc: Proc, caplog: pytest.LogCaptureFixture
) -> None:
    for tgid in (10, 11, 12):
        proc.add(tgid, comm=b"p%d" % tgid, cmdline=b"x", exe=f"/bin/e{tgid}")
    hung, request = Hung(proc, 11), LookupRequest(processes=(10, 11, 12))
    with closing(Lookup(proc.top, answer_s=0.2)) as lookup:
        for _ in range(3):
            found = lookup.look_up(request, (), LONG).processes
            assert found[10] == ProcessFacts(7, 1, "p10", "x", "e10")
            assert found[11] == ProcessFacts(7, 1, "p11", None, "e11")
            assert found[12] == ProcessFacts(7, 1, "p12", "x", "e12")
        assert caplog.messages == [
            "cannot look up the command line of process 11 (p11): no answer within 0.2 s; ebpfmon does without it "
            "until there is an answer"
        ]
        hung.release(b"late")
        while (facts := lookup.look_up(LookupRequest(processes=(11,)), (), LONG).processes[11]) and (
            facts.command_line is None
        ):
            pass
    assert facts == ProcessFacts(7, 1, "p11", "", "e11"), "the FIFO was empty when its writer closed it"


def rename(proc: Proc, tgid: int, comm: bytes) -> None:
    """Change the comm of a process."""
    path = proc.top / str(tgid) / "stat"
    before, _, rest = path.read_bytes().partition(b"(")
    path.write_bytes(before + b"(" + comm + b")" + rest.rpartition(b")")[2])


def test_a_process_that_changes_its_name_is_asked_only_once_for_its_command_line(proc: Proc) -> None:
    proc.add(10)
    proc.add(11, cmdline=b"x")
    hung = Hung(proc, 10)
    with closing(Lookup(proc.top, answer_s=0.05)) as lookup:
        for n in range(2 * MAX_ABANDONED):
            rename(proc, 10, b"name-%d" % n)
            found = lookup.look_up(LookupRequest(processes=(10, 11)), (), LONG).processes
            assert found[10] == ProcessFacts(7, 1, f"name-{n}", None, "")
            assert found[11] == ProcessFacts(7, 1, "x", "x", "")
        hung.release(b"the present one")
        while (facts := lookup.look_up(LookupRequest(processes=(10,)), (), LONG).processes[10]) and (
            facts.command_line is None
        ):
            pass
    assert facts
    assert facts.command_line == "the present one", "the late answer is that of a former program"


def test_other_facts_are_found_while_no_further_command_line_can_be_waited_for(
    proc: Proc, caplog: pytest.LogCaptureFixture
) -> None:
    tgids = range(10, 10 + MAX_ABANDONED + 5)
    for tgid in tgids:
        proc.add(tgid)
    hung = Hung(proc, *tgids[:-1])
    threads = threading.active_count()
    with closing(Lookup(proc.top, answer_s=0.05)) as lookup:
        for _ in range(3):
            result = lookup.look_up(LookupRequest(processes=tuple(tgids), users=(0,)), (), LONG)
            assert all(facts and facts.command_line is None for facts in result.processes.values())
            assert result.processes.keys() == set(tgids)
            assert result.users == {0: "root"}
            assert threading.active_count() <= threads + MAX_ABANDONED + 2, "one more for command lines, one for users"
        assert len(caplog.messages) == MAX_ABANDONED + 2
        assert caplog.messages[-2].startswith("cannot look up any further command line until one is answered: ")
        hung.release(b"x")
        while any(
            facts is None or facts.command_line is None
            for facts in lookup.look_up(LookupRequest(processes=tuple(tgids)), (), LONG).processes.values()
        ):
            pass


def test_a_process_that_is_gone_is_none_even_if_it_exits_during_the_lookup(proc: Proc) -> None:
    proc.add(11)
    (proc.top / "11/cmdline").unlink()
    assert proc.look_up(10, 11) == {10: None, 11: None}


def test_this_process_is_found_in_the_real_proc() -> None:
    result = Lookup().look_up(LookupRequest(processes=(os.getpid(),)), (os.getppid(),), LONG).processes
    facts = result[os.getpid()]
    assert facts is not None
    assert result.keys() == {os.getpid()}, "the parent is known, so it must be left out"
    assert facts.parent_tgid == os.getppid()
    assert facts.comm == Path("/proc/self/comm").read_text().removesuffix("\n")
    arguments = Path("/proc/self/cmdline").read_bytes()[:COMMAND_LINE_BYTES].decode().rstrip("\0").split("\0")
    assert facts.command_line == " ".join(arguments)
    assert facts.executable == Path("/proc/self/exe").resolve().name
    up_s = time.clock_gettime(time.CLOCK_BOOTTIME)
    assert 0 < facts.start_ticks / os.sysconf("SC_CLK_TCK") <= up_s


def test_the_facts_of_a_real_process_with_a_misleading_comm_are_right() -> None:
    tell = "import ctypes; ctypes.CDLL(None).prctl(15, b'a) S 9 (b'); print(flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", tell], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"\n", "the child must have set its name"
        facts = Lookup().look_up(LookupRequest(processes=(child.pid,)), (os.getpid(),), LONG).processes[child.pid]
        stat = Path(f"/proc/{child.pid}/stat").read_text()
        child.communicate(b"\n")
    assert facts is not None
    assert facts.comm == "a) S 9 (b"
    assert facts.parent_tgid == os.getpid()
    assert facts.start_ticks == int(stat.removeprefix(f"{child.pid} (a) S 9 (b) ").split()[22 - 3])


def test_ancestors_are_included_up_to_the_first_process(proc: Proc) -> None:
    for tgid, parent in ((1, 0), (5, 1), (6, 5), (7, 6), (9, 5), (2, 0), (3, 2)):
        proc.add(tgid, parent)
    assert proc.look_up(7).keys() == {7, 6, 5}
    assert proc.look_up(3).keys() == {3, 2}
    assert proc.look_up(7, 9).keys() == {7, 6, 5, 9}


def test_ancestors_are_included_up_to_the_first_known_one(proc: Proc) -> None:
    for tgid, parent in ((5, 1), (6, 5), (7, 6)):
        proc.add(tgid, parent)
    assert proc.look_up(7, known={5}).keys() == {7, 6}
    assert proc.look_up(7, known={6}).keys() == {7}
    assert proc.look_up(7, known={7}).keys() == {7, 6, 5}, "a requested process must be looked up even if it is known"


def test_a_chain_of_ancestors_ends_at_a_missing_process_or_in_a_cycle(proc: Proc) -> None:
    proc.add(7, 6)
    proc.add(8, 9)
    proc.add(9, 8)
    result = proc.look_up(7, 8)
    assert result.keys() == {7, 6, 8, 9}
    assert result[6] is None


def test_without_time_one_process_is_looked_up_per_call(proc: Proc) -> None:
    for tgid, parent in ((5, 1), (6, 5), (7, 1)):
        proc.add(tgid, parent)
    assert proc.look_up(6, 7, seconds=0).keys() == {6}
    assert proc.look_up(7, 5, seconds=0).keys() == {7}
    assert proc.look_up(5, seconds=-1).keys() == {5}


def test_without_time_one_user_is_looked_up(proc: Proc) -> None:
    proc.add(10)
    lookup = Lookup(proc.top)
    assert lookup.look_up(LookupRequest(users=(0, 1)), (), 0).users == {0: "root"}
    both = lookup.look_up(LookupRequest(processes=(10,), users=(0,)), (), 0)
    assert both.processes.keys() == {10}
    assert not both.users


def test_a_user_without_a_name_is_none(proc: Proc) -> None:
    nameless = max(set(range(60_000, 60_999)) - {user.pw_uid for user in pwd.getpwall()})
    users = Lookup(proc.top).look_up(LookupRequest(users=(0, nameless)), (), LONG).users
    assert users == {0: "root", nameless: None}


def test_a_name_service_that_does_not_answer_holds_up_no_other_user(
    proc: Proc, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    answer = threading.Event()
    real = pwd.getpwuid

    def getpwuid(uid: int) -> pwd.struct_passwd:
        if uid == 1000 and not answer.wait(LONG):
            raise KeyError
        return real(0)

    monkeypatch.setattr(pwd, "getpwuid", getpwuid)
    request = LookupRequest(users=(1000, 0))
    with closing(Lookup(proc.top, answer_s=0.1)) as lookup:
        for _ in range(3):
            assert lookup.look_up(request, (), LONG).users == {1000: None, 0: "root"}
        assert len(caplog.messages) == 1
        assert caplog.messages[0].startswith("cannot look up the name of user 1000: no answer within 0.1 s")
        answer.set()
        while lookup.look_up(request, (), LONG).users != {1000: "root", 0: "root"}:
            pass


@pytest.mark.parametrize("error", [OSError(errno.EIO, "i/o error"), MemoryError(), ValueError("odd")])
def test_an_error_of_the_user_database_is_said_once_and_the_user_is_tried_again(
    proc: Proc, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, error: Exception
) -> None:
    def fail(uid: int) -> pwd.struct_passwd:
        raise error

    proc.add(10)
    with closing(Lookup(proc.top)) as lookup:
        with monkeypatch.context() as patched:
            patched.setattr(pwd, "getpwuid", fail)
            for _ in range(3):
                result = lookup.look_up(LookupRequest(processes=(10,), users=(0,)), (), LONG)
                assert result.processes.keys() == {10}
                assert not result.users
        assert len(caplog.messages) == 1
        assert lookup.look_up(LookupRequest(users=(0,)), (), LONG).users == {0: "root"}


class Tree:
    """A fake cgroup file system: directories, whose inode numbers are the ids."""

    def __init__(self, top: Path) -> None:
        self.top, self.lookup = top, Lookup(top / "none", top)

    def add(self, path: str) -> int:
        (self.top / path).mkdir()
        return (self.top / path).stat().st_ino

    def look_up(self, *ids: int, seconds: float = LONG) -> dict[int, str | None]:
        return dict(self.lookup.look_up(LookupRequest(cgroups=ids), (), seconds).cgroups)


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return Tree(tmp_path)


def test_a_cgroup_has_its_path_relative_to_the_mount(tree: Tree) -> None:
    a, b, c = tree.add("a.slice"), tree.add("a.slice/b"), tree.add("a.slice/b/c d.scope")
    (tree.top / "a.slice/cgroup.procs").touch()
    (tree.top / "link").symlink_to(tree.top / "a.slice")
    assert tree.look_up(c, a) == {c: "/a.slice/b/c d.scope", a: "/a.slice"}
    assert tree.look_up(tree.top.stat().st_ino, b) == {tree.top.stat().st_ino: "/", b: "/a.slice/b"}
    file = (tree.top / "a.slice/cgroup.procs").stat().st_ino
    assert tree.look_up(file) == {file: None}


def test_a_removed_cgroup_is_none_unless_it_was_seen_before(tree: Tree) -> None:
    seen, unseen = tree.add("seen"), tree.add("unseen")
    (tree.top / "unseen").rmdir()
    assert tree.look_up(seen, unseen) == {seen: "/seen", unseen: None}
    (tree.top / "seen").rmdir()
    assert tree.look_up(seen) == {seen: "/seen"}


def test_a_cgroup_that_was_created_later_is_found(tree: Tree) -> None:
    a = tree.add("a")
    assert tree.look_up(a) == {a: "/a"}
    b = tree.add("a/b")
    assert tree.look_up(b) == {b: "/a/b"}


@pytest.mark.parametrize("seconds", [0, -1])
def test_without_time_each_call_continues_the_walk_until_all_cgroups_are_found(tree: Tree, seconds: float) -> None:
    paths = ["a", "a/b", "a/b/c", "d", "d/e"]
    missing = {tree.add(path): f"/{path}" for path in paths}
    assert tree.look_up(*missing, seconds=seconds) == {}, "only the root was read"
    for _ in paths:
        result = tree.look_up(*missing, seconds=seconds)
        assert len(result) == 1, "each call must find one more"
        for inode, path in result.items():
            assert missing.pop(inode) == path
    assert not missing


def test_a_cgroup_is_none_only_after_a_walk_that_began_after_the_request(tree: Tree) -> None:
    a, _ = tree.add("a"), tree.add("a/b")
    assert tree.look_up(a, seconds=0) == {}
    late = tree.add("late")  # The walk may or may not have read the root already.
    (tree.top / "late").rmdir()
    assert tree.look_up(a, late) == {a: "/a"}
    assert tree.look_up(a, late) == {a: "/a", late: None}


def test_a_cgroup_is_none_even_if_no_call_completes_a_walk(tree: Tree) -> None:
    for name in "abcd":
        tree.add(name)
    gone = tree.add("gone")
    (tree.top / "gone").rmdir()
    results = [tree.look_up(gone, seconds=0) for _ in range(6)]  # Five directories, and then the end of the walk.
    assert results == [{}] * 5 + [{gone: None}]


def test_known_cgroups_are_returned_during_a_new_walk(tree: Tree) -> None:
    a = tree.add("a")
    assert tree.look_up(a) == {a: "/a"}
    b = tree.add("a/b")
    assert tree.look_up(a, b, seconds=0) == {a: "/a"}
    assert tree.look_up(a, b) == {a: "/a", b: "/a/b"}


def test_cgroups_missing_from_a_new_walk_are_forgotten(tree: Tree) -> None:
    old = tree.add("old")
    assert tree.look_up(old) == {old: "/old"}
    new = tree.add("new")
    (tree.top / "old").rmdir()
    assert tree.look_up(new) == {new: "/new"}
    assert tree.look_up(old) == {old: None}


def test_a_path_that_is_not_utf_8_can_be_encoded(tree: Tree) -> None:
    raw = os.fsencode(tree.top) + b"/caf\xe9"
    os.mkdir(raw)
    os.mkdir(raw + b"/b")
    below = os.stat(raw + b"/b").st_ino
    assert tree.look_up(below) == {below: "/caf\ufffd/b"}


def test_every_cgroup_is_none_after_an_unmount(tmp_path: Path) -> None:
    lookup = Lookup(tmp_path, tmp_path / "unmounted")
    assert lookup.look_up(LookupRequest(cgroups=(5,)), (), LONG).cgroups == {5: None}


def test_a_directory_removed_during_the_walk_is_left_out(tree: Tree) -> None:
    a, b = tree.add("a"), tree.add("b")
    inside = {tree.add("a/x"), tree.add("b/x")}
    while len(tree.look_up(a, b, seconds=0)) < 2:  # Their names have been read, but not their entries.
        pass
    (tree.top / "a/x").rmdir()
    (tree.top / "a").rmdir()
    result = tree.look_up(*inside)
    assert list(result.values()) == ["/b/x"]


@pytest.mark.parametrize("error", [errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EACCES])
def test_a_cgroup_is_not_gone_while_a_directory_cannot_be_read(
    tree: Tree, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, error: int
) -> None:
    now, real = [0.0], os.scandir
    tree.lookup._tree = CgroupTree(tree.top, clock=lambda: now[0])
    b, hidden, gone = tree.add("b"), (tree.add("a"), tree.add("a/x"))[1], tree.add("gone")
    (tree.top / "gone").rmdir()

    def scandir(path: bytes) -> object:
        if path.endswith(b"/a"):
            raise OSError(error, os.strerror(error))
        return real(path)

    with monkeypatch.context() as patched:
        patched.setattr(os, "scandir", scandir)
        for _ in range(3):
            assert tree.look_up(b, hidden, gone).get(gone, "?") == "?"
            now[0] += WALK_AGAIN_S
        assert tree.look_up(b, hidden, gone) == {b: "/b"}
    reason = f"{os.strerror(error)}{shortage.remedy(error)}"
    assert caplog.messages == [f"cannot look up cgroup {b}: {reason}; ebpfmon tries again"]
    now[0] += WALK_AGAIN_S
    assert tree.look_up(b, hidden, gone) == {b: "/b", hidden: "/a/x", gone: None}


def test_a_cgroup_tree_that_does_not_answer_holds_up_no_other_fact(
    tree: Tree, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    a = tree.add("a")
    answer, real = threading.Event(), os.scandir

    def scandir(path: bytes) -> object:
        answer.wait(LONG)
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    with closing(Lookup(tree.top / "none", tree.top, answer_s=0.1)) as lookup:
        for _ in range(3):
            assert lookup.look_up(LookupRequest(users=(0,), cgroups=(a,)), (), LONG) == LookupResult(users={0: "root"})
        assert len(caplog.messages) == 1
        assert caplog.messages[0].startswith("cannot look up the paths of the cgroups: no answer within 0.1 s")
        answer.set()
        while lookup.look_up(LookupRequest(cgroups=(a,)), (), LONG).cgroups != {a: "/a"}:
            pass


def test_cgroup2_is_found_wherever_it_is_mounted(tree: Tree) -> None:
    mounted = tree.add("unified")
    self = tree.top / "proc/self"
    self.mkdir(parents=True)
    (self / "mounts").write_text(
        "/dev/sdb1 /media/caf\udce9 ext4 rw 0 0\n"
        "cgroup /sys/fs/cgroup/memory cgroup rw,memory 0 0\n"
        f"cgroup2 {tree.top}/unified cgroup2 rw,nosuid 0 0\n",
        errors="surrogateescape",
    )
    lookup = Lookup(tree.top / "proc")
    assert lookup.look_up(LookupRequest(cgroups=(mounted,)), (), LONG).cgroups == {mounted: "/"}


@pytest.mark.parametrize("mounts", [None, "sysfs /sys sysfs rw 0 0\n"])
def test_without_cgroup2_every_cgroup_is_none(tmp_path: Path, mounts: str | None) -> None:
    (tmp_path / "self").mkdir()
    if mounts is not None:
        (tmp_path / "self/mounts").write_text(mounts)
    assert Lookup(tmp_path).look_up(LookupRequest(cgroups=(5,)), (), 0).cgroups == {5: None}


PROBLEM = Problem("x is hidden", "y is wrong", "do z")


def test_no_process_is_looked_up_if_proc_shows_others(proc: Proc, caplog: pytest.LogCaptureFixture) -> None:
    for tgid in (5, 6, 7):
        proc.add(tgid, parent=5)
    with closing(Lookup(proc.top, views=lambda: Views(processes=PROBLEM))) as lookup:
        assert not caplog.messages
        for _ in range(3):
            assert lookup.look_up(LookupRequest(processes=(6, 7)), (), LONG).processes == {6: None, 7: None}
    assert caplog.messages == ["x is hidden, so y is wrong; do z"]


def test_processes_that_are_not_hidden_are_looked_up(proc: Proc, caplog: pytest.LogCaptureFixture) -> None:
    proc.add(6)
    with closing(Lookup(proc.top, views=lambda: Views(hidden=PROBLEM))) as lookup:
        for _ in range(3):
            found = lookup.look_up(LookupRequest(processes=(6, 7)), (), LONG).processes
            assert found[6]
            assert found[7] is None
    assert caplog.messages == ["x is hidden, so y is wrong; do z"]


def test_a_problem_with_users_is_logged_once_and_names_are_looked_up(
    proc: Proc, caplog: pytest.LogCaptureFixture
) -> None:
    with closing(Lookup(proc.top, views=lambda: Views(users=PROBLEM))) as lookup:
        for _ in range(3):
            assert lookup.look_up(LookupRequest(users=(0,)), (), LONG).users == {0: "root"}
    assert caplog.messages == ["x is hidden, so y is wrong; do z"]


def test_the_top_of_a_part_of_the_cgroups_is_not_the_root(tree: Tree, caplog: pytest.LogCaptureFixture) -> None:
    top, a = tree.top.stat().st_ino, tree.add("a")
    with closing(Lookup(tree.top / "none", tree.top, views=lambda: Views(cgroups=PROBLEM))) as lookup:
        for _ in range(3):
            assert lookup.look_up(LookupRequest(cgroups=(top, a)), (), LONG).cgroups == {top: None, a: "/a"}
    assert caplog.messages == ["x is hidden, so y is wrong; do z"]


def test_facts_are_found_while_it_is_unknown_what_this_process_cannot_see(
    proc: Proc, caplog: pytest.LogCaptureFixture
) -> None:
    proc.add(10)
    answer = threading.Event()

    def views() -> Views:
        assert answer.wait(LONG)
        return Views(processes=PROBLEM)

    with closing(Lookup(proc.top, answer_s=0.1, views=views)) as lookup:
        for _ in range(3):
            assert lookup.look_up(LookupRequest(processes=(10,)), (), LONG).processes[10]
        assert len(caplog.messages) == 1
        assert "no answer within 0.1 s" in caplog.messages[0]
        answer.set()
        while lookup.look_up(LookupRequest(processes=(10,)), (), LONG).processes[10]:
            pass
    assert caplog.messages[-1] == "x is hidden, so y is wrong; do z"


def test_a_name_of_a_process_is_safe_to_log(proc: Proc, caplog: pytest.LogCaptureFixture) -> None:
    proc.add(10, comm=b"\x1b[31m\nx")
    hung = Hung(proc, 10)
    with closing(Lookup(proc.top, answer_s=0.05)) as lookup:
        lookup.look_up(LookupRequest(processes=(10,)), (), LONG)
        hung.release(b"")
    assert len(caplog.messages) == 1
    assert "process 10 (?[31m?x)" in caplog.messages[0]
