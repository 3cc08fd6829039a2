"""Namings: from the kernel's facts, from looked up facts, and by inheritance."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import pytest

from ebpfmon.grouping.by.application import ByApplication
from ebpfmon.grouping.by.container import ByContainer
from ebpfmon.grouping.by.process import ByProcess
from ebpfmon.grouping.by.user import ASK_AGAIN_S, ByUser
from ebpfmon.grouping.groups import Groups
from ebpfmon.grouping.lookup import LookupRequest, LookupResult, ProcessFacts
from ebpfmon.grouping.naming import REMEMBERED, Identity

EXEC = np.dtype(
    [("start_ns", "u8"), ("tgid", "u4"), ("exec_id", "u4"), ("cgroup_id", "u8"), ("parent_tgid", "u4"), ("uid", "u4"),
     ("comm", "S16"), ("executable", "S64"), ("arguments", "S256"), ("execs", "u8")]
)  # fmt: skip
GROUPS = Groups.parse("shell: sh\nmine: *--mine*\nweb: nginx\npython: python3*\n", "test")
BEGAN_NS = 1_000_000_000


def identity(tgid: int, comm: bytes, *, parent: int = 50, execs: int = 1, start_ns: int = 2 * BEGAN_NS) -> Identity:
    return Identity(start_ns, tgid, execs, 7, parent, 1000, comm)


def execs(*programs: tuple[Identity, bytes], executable: bytes = b"") -> np.ndarray:
    rows = [(*started, executable, arguments, 1) for started, arguments in programs]
    return np.array(rows, EXEC)


def facts(
    parent: int, comm: str, command_line: str | None = "", executable: str = "", start_ns: int = 0
) -> ProcessFacts:
    return ProcessFacts(start_ns // 10_000_000, parent, comm, command_line, executable)


@pytest.fixture
def naming() -> ByApplication:
    return ByApplication(GROUPS, BEGAN_NS)


def test_no_lookup_is_needed_if_a_pattern_matches_the_comm(naming: ByApplication) -> None:
    shell, program = identity(50, b"sh", parent=1), identity(60, b"nginx")
    naming.learn(execs((shell, b"sh")))
    assert not naming.request([program])
    assert naming.name(program) == ("web", True)


def test_the_command_line_of_an_exec_is_used_even_after_the_process_has_ended(naming: ByApplication) -> None:
    program = identity(60, b"true", parent=1, execs=2)
    naming.learn(execs((program, b"/bin/true\0--mine")))
    assert naming.request([program]) == LookupRequest()
    assert naming.name(program) == ("mine", True)


def test_a_forked_child_has_its_parents_command_line_until_it_calls_execve(naming: ByApplication) -> None:
    parent = identity(50, b"worker", parent=1)
    child, later = identity(51, b"worker", start_ns=3 * BEGAN_NS), identity(51, b"true", execs=2, start_ns=3 * BEGAN_NS)
    naming.learn(execs((parent, b"worker\0--mine")))
    assert naming.name(parent) == ("mine", True)
    assert naming.name(child) == ("mine", True)
    naming.learn(execs((later, b"nginx\0master")))
    assert naming.name(identity(51, b"nginx", execs=2, start_ns=3 * BEGAN_NS)) == ("web", True)


def test_a_child_inherits_the_group_that_its_parent_had_at_the_fork(
    naming: ByApplication,
) -> None:
    shell, became = identity(50, b"sh", parent=1), identity(50, b"nginx", parent=1, execs=2)
    child = identity(51, b"sleep", execs=2, start_ns=3 * BEGAN_NS)
    naming.learn(execs((shell, b"sh"), (became, b"nginx"), (child, b"sleep\x001")))
    assert [naming.name(i) for i in (shell, became, child)] == [("shell", True), ("web", True), ("shell", True)]
    later = identity(52, b"cat", execs=3, start_ns=4 * BEGAN_NS)
    naming.learn(execs((later, b"cat")))
    assert naming.name(later) == ("web", True)


def test_grandchildren_inherit_too_except_from_the_first_process(naming: ByApplication) -> None:
    shell, between = identity(50, b"sh", parent=1), identity(51, b"env", execs=2, start_ns=3 * BEGAN_NS)
    last = identity(52, b"cat", parent=51, execs=3, start_ns=4 * BEGAN_NS)
    orphan = identity(53, b"cat", parent=1, execs=3, start_ns=5 * BEGAN_NS)
    naming.learn(execs((shell, b"sh"), (between, b"env"), (last, b"cat"), (orphan, b"cat")))
    assert [naming.name(i)[0] for i in (last, orphan)] == ["shell", None]


def test_an_older_process_is_requested_and_provisional_until_it_is_looked_up(naming: ByApplication) -> None:
    old = identity(60, b"main", parent=40, start_ns=BEGAN_NS // 2)
    assert naming.request([old]) == LookupRequest(processes=(60, 40))
    assert naming.name(old) == (None, False)
    naming.receive(LookupResult({60: facts(40, "main", "main --mine", start_ns=BEGAN_NS // 2), 40: facts(1, "sh")}))
    assert naming.name(old) == ("mine", True)
    assert naming.request([old]) == LookupRequest()


def test_a_process_inherits_from_looked_up_ancestors(naming: ByApplication) -> None:
    child = identity(60, b"cat", parent=59, execs=2)
    naming.learn(execs((child, b"cat")))
    assert naming.request([child]) == LookupRequest(processes=(59,))
    naming.receive(LookupResult({59: facts(58, "env"), 58: facts(1, "sh")}))
    assert naming.name(child) == ("shell", True)


@pytest.mark.parametrize(
    ("processes", "expected"),
    [({60: None, 40: None}, (None, True)), ({60: facts(1, "sh", "--mine", start_ns=5), 40: None}, (None, True))],
    ids=["gone", "another process has its tgid now"],
)
def test_a_process_that_cannot_be_looked_up_has_a_final_name(
    naming: ByApplication, processes: Mapping[int, ProcessFacts | None], expected: tuple[str, bool]
) -> None:
    old = identity(60, b"main", parent=40, start_ns=BEGAN_NS // 2)
    naming.receive(LookupResult(processes))
    assert naming.name(old) == expected


def test_the_executable_is_used_only_if_nothing_else_matches(naming: ByApplication) -> None:
    renamed = identity(60, b"my daemon", parent=1)
    below = identity(61, b"job", parent=50, execs=2, start_ns=3 * BEGAN_NS)
    naming.learn(execs((identity(50, b"sh", parent=1), b"sh")))
    naming.learn(execs((renamed, b"x"), (below, b"job"), executable=b"python3.11"))
    assert [naming.name(i)[0] for i in (renamed, below)] == ["python", "shell"]


def test_a_reused_tgid_is_another_process(naming: ByApplication) -> None:
    first, second = identity(50, b"x", parent=1, execs=9), identity(50, b"y", parent=1, execs=2, start_ns=3 * BEGAN_NS)
    child = identity(51, b"z", execs=2, start_ns=4 * BEGAN_NS)
    naming.learn(execs((first, b"x\0--mine")))
    naming.name(first)
    naming.learn(execs((second, b"sh\0-c")))
    assert naming.name(second) == (None, True)
    assert naming.name(child) == (None, True)


def test_without_execs_everything_is_looked_up() -> None:
    naming = ByApplication(GROUPS, math.inf)
    assert naming.request([identity(60, b"x", parent=1)]) == LookupRequest(processes=(60,))


def test_a_forgotten_process_is_looked_up_again() -> None:
    naming = ByApplication(GROUPS, BEGAN_NS)
    daemon = identity(60, b"java", parent=1, execs=3)
    naming.learn(execs((daemon, b"java\0--mine")))
    assert naming.name(daemon) == ("mine", True)
    naming.learn(execs(*[(identity(n, b"x", execs=2), b"x") for n in range(1000, 14000)]))
    assert naming.request([daemon]) == LookupRequest(processes=(60,))
    naming.receive(LookupResult({60: facts(1, "java", "java --mine", start_ns=2 * BEGAN_NS)}))
    assert naming.name(daemon) == ("mine", True)


def test_a_process_inherits_from_the_fork_even_after_two_execs(naming: ByApplication) -> None:
    shell, became = identity(50, b"sh", parent=1, execs=5), identity(50, b"nginx", parent=1, execs=6)
    first, second = (identity(51, c, execs=e, start_ns=3 * BEGAN_NS) for c, e in ((b"env", 6), (b"cat", 7)))
    naming.learn(execs((shell, b"sh"), (became, b"nginx"), (first, b"env"), (second, b"cat")))
    assert [naming.name(i)[0] for i in (shell, became, first, second)] == ["shell", "web", "shell", "shell"]


def test_a_younger_process_with_the_parents_tgid_is_not_the_parent(naming: ByApplication) -> None:
    child = identity(51, b"cat", execs=2, start_ns=3 * BEGAN_NS)
    younger = identity(50, b"nginx", parent=1, start_ns=9 * BEGAN_NS)
    naming.learn(execs((child, b"cat"), (younger, b"nginx")))
    assert naming.name(child) == (None, True)


def test_by_process_uses_the_comm_and_merges_kernel_threads() -> None:
    naming = ByProcess()
    assert naming.name(identity(60, b"my prog")) == ("my prog", True)
    assert naming.name(identity(60, b"kworker/3:1-ev", parent=2)) == ("kworker", True)
    assert naming.name(identity(60, b"")) == (None, True)


def test_users_and_cgroups_are_requested_once() -> None:
    user, cgroup = ByUser(), ByContainer()
    assert user.request([identity(60, b"a"), identity(61, b"b")]) == LookupRequest(users=(1000,))
    assert cgroup.request([identity(60, b"a"), identity(61, b"b")]) == LookupRequest(cgroups=(7,))
    assert user.name(identity(60, b"a")) == cgroup.name(identity(60, b"a")) == (None, False)
    user.receive(LookupResult(users={1000: "alice"}))
    cgroup.receive(LookupResult(cgroups={7: "/system.slice/nginx.service"}))
    assert user.name(identity(60, b"a")) == ("alice", True)
    assert cgroup.name(identity(60, b"a")) == ("nginx.service", True)
    assert not user.request([identity(60, b"a")])
    assert not cgroup.request([identity(60, b"a")])
    cgroup.receive(LookupResult(cgroups={8: None}))
    assert cgroup.name(identity(60, b"a")._replace(cgroup_id=8)) == (None, True)


def test_a_user_without_a_name_is_its_uid_and_asked_for_again_from_time_to_time() -> None:
    now = [0.0]
    user, process = ByUser(lambda: now[0]), identity(60, b"a")
    assert not user.receive(LookupResult(users={1000: None, 7: "seven"}))
    assert user.name(process) == ("1000", True)
    now[0] = ASK_AGAIN_S - 1
    assert not user.request([process])
    now[0] = ASK_AGAIN_S
    assert user.request([]) == LookupRequest(users=(1000,))
    assert not user.receive(LookupResult(users={1000: None})), "still nameless"
    assert not user.request([])
    now[0] *= 2
    assert user.request([process]) == LookupRequest(users=(1000,))
    assert user.receive(LookupResult(users={1000: "alice"})), "a name that was final has changed"
    assert user.name(process) == ("alice", True)
    now[0] *= 2
    assert not user.request([process])


def test_only_a_few_of_many_users_without_a_name_are_asked_for_again_at_a_time() -> None:
    now = [0.0]
    user = ByUser(lambda: now[0])
    user.receive(LookupResult(users=dict.fromkeys(range(10_000))))
    now[0] = ASK_AGAIN_S
    asked: set[int] = set()
    while users := user.request([]).users:
        assert len(users) < 100
        asked |= set(users)
        user.receive(LookupResult(users=dict.fromkeys(users)))
    assert asked == set(range(10_000 - REMEMBERED, 10_000))


def test_a_process_whose_command_line_does_not_come_has_a_provisional_name(naming: ByApplication) -> None:
    old = identity(60, b"main", parent=1, start_ns=BEGAN_NS // 2)
    for command_line, expected in ((None, ("python", False)), ("main --mine", ("mine", True))):
        assert naming.request([old]) == LookupRequest(processes=(60,))
        looked_up = facts(1, "main", command_line, "python3.11", start_ns=BEGAN_NS // 2)
        naming.receive(LookupResult({60: looked_up}))
        assert naming.name(old) == expected
    assert not naming.request([old])


def test_children_of_a_process_whose_command_line_does_not_come_have_provisional_names(naming: ByApplication) -> None:
    program, forked = identity(60, b"cat", parent=59, execs=2), identity(61, b"main", parent=59)
    naming.learn(execs((program, b"cat")))
    for command_line, final in ((None, False), ("main --mine", True)):
        assert 59 in naming.request([program, forked]).processes
        naming.receive(LookupResult({59: facts(1, "main", command_line)}))
        group = "mine" if final else None
        assert [naming.name(program), naming.name(forked)] == [(group, final)] * 2
    assert not naming.request([program, forked])


def test_a_process_that_started_after_its_child_is_not_the_parent(naming: ByApplication) -> None:
    later = identity(50, b"sh", parent=1, start_ns=4 * BEGAN_NS)
    naming.learn(execs((later, b"sh\0--mine")))
    orphan = identity(60, b"main", parent=50, start_ns=3 * BEGAN_NS)
    assert naming.request([orphan]) == LookupRequest(processes=(60,)), "the parent that forked it is unknown"
    naming.receive(LookupResult({60: facts(50, "main", "nginx", start_ns=3 * BEGAN_NS)}))
    assert naming.name(orphan) == (None, True)


def test_looked_up_facts_of_a_process_that_started_after_its_child_are_not_the_parents(naming: ByApplication) -> None:
    orphan = identity(60, b"cat", parent=50, execs=2, start_ns=3 * BEGAN_NS)
    naming.learn(execs((orphan, b"cat")))
    assert naming.request([orphan]) == LookupRequest(processes=(50,))
    naming.receive(LookupResult({50: facts(1, "sh", "sh --mine", start_ns=4 * BEGAN_NS)}))
    assert naming.name(orphan) == (None, True)
