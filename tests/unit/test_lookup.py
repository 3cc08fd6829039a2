"""Lookups in /proc, the user database and the cgroup file system, and their time limit."""

from __future__ import annotations

import os
import pwd
import subprocess
import sys
import time
from collections.abc import Container
from pathlib import Path

import pytest

from ebpfmon.grouping.lookup import COMMAND_LINE_BYTES, Lookup, LookupRequest, LookupResult, ProcessFacts

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


def test_an_unreadable_process_is_none(proc: Proc, monkeypatch: pytest.MonkeyPatch) -> None:
    proc.add(10)
    monkeypatch.setattr(os, "open", deny)
    assert proc.look_up(10) == {10: None}


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


def test_a_user_without_a_name_is_the_uid(proc: Proc) -> None:
    nameless = max(set(range(60_000, 60_999)) - {user.pw_uid for user in pwd.getpwall()})
    users = Lookup(proc.top).look_up(LookupRequest(users=(0, nameless)), (), LONG).users
    assert users == {0: "root", nameless: str(nameless)}


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
