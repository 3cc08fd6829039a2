"""Namings: edge cases."""

from __future__ import annotations

import math

from ebpfmon.grouping.by.application import ByApplication
from ebpfmon.grouping.by.process import ByProcess
from ebpfmon.grouping.groups import Groups
from ebpfmon.grouping.lookup import LookupRequest, LookupResult
from tests.unit.test_naming import BEGAN_NS, GROUPS, execs, facts, identity

OLD = BEGAN_NS // 2


def test_a_process_is_requested_once_even_if_its_comm_changes() -> None:
    naming = ByApplication(GROUPS, math.inf)
    old = identity(60, b"x", parent=1)
    naming.receive(LookupResult({60: facts(1, "x", "x --mine", start_ns=old.start_ns)}))
    assert naming.name(old) == ("mine", True)
    naming.receive(LookupResult())
    changed = old._replace(comm=b"y")
    assert naming.request([changed]) == LookupRequest()
    assert naming.name(changed) == ("mine", True)
    assert naming.name(old._replace(comm=b"sh")) == ("shell", True), "the first pattern of the file wins"


def test_a_program_before_a_seen_execve_is_not_looked_up() -> None:
    naming = ByApplication(GROUPS, BEGAN_NS)
    before, after = (identity(60, b"x", parent=1, execs=n, start_ns=OLD) for n in (1, 2))
    naming.learn(execs((after, b"y\0--mine")))
    assert naming.request([before, after]) == LookupRequest()
    assert [naming.name(before), naming.name(after)] == [(None, True), ("mine", True)]


def test_an_orphan_is_not_named_after_a_program_that_it_started_later() -> None:
    naming = ByApplication(GROUPS, BEGAN_NS)
    init = identity(1, b"init", parent=0, execs=1, start_ns=0)
    # A shell forked it and ended at once, so the kernel recorded process 1 as its parent.
    fork, became = (identity(60, c, parent=1, execs=n) for n, c in ((5, b"bash"), (6, b"x")))
    assert naming.name(init) == (None, True)
    naming.learn(execs((init, b"init\0--mine"), (became, b"x"), executable=b"nginx"))
    assert naming.request([fork, became]) == LookupRequest()
    naming.receive(LookupResult({60: facts(1, "x", "x", "nginx", start_ns=2 * BEGAN_NS)}))
    assert [naming.name(fork), naming.name(became)] == [(None, True), ("web", True)]


def test_a_program_that_may_have_been_started_after_the_interval_is_not_used() -> None:
    naming = ByApplication(GROUPS, BEGAN_NS)
    fork, became = (identity(60, c, parent=1, execs=n) for n, c in ((5, b"bash"), (6, b"x")))
    assert naming.request([fork]) == LookupRequest(processes=(60,))
    naming.receive(LookupResult({60: facts(1, "x", "x", "nginx", start_ns=2 * BEGAN_NS)}))
    assert naming.name(fork) == (None, False)
    naming.learn(execs((became, b"x"), executable=b"nginx"))
    assert [naming.name(fork), naming.name(became)] == [(None, True), ("web", True)]


def test_a_process_that_only_changed_its_comm_is_looked_up_again() -> None:
    naming = ByApplication(GROUPS, BEGAN_NS)
    before = identity(60, b"x", parent=1, start_ns=OLD)
    after = before._replace(comm=b"y")
    assert naming.request([before]) == LookupRequest(processes=(60,))
    naming.receive(LookupResult({60: facts(1, "y", "x --mine", "x", start_ns=OLD)}))
    assert naming.name(before) == (None, False)
    assert naming.request([after]) == LookupRequest(processes=(60,))
    assert naming.name(after) == ("mine", True)


def test_rows_before_and_after_a_change_of_name_in_one_interval_are_both_named_at_once() -> None:
    naming = ByApplication(GROUPS, BEGAN_NS)
    before = identity(60, b"x", parent=1, start_ns=OLD)
    after = before._replace(comm=b"y")
    assert naming.request([before, after]) == LookupRequest(processes=(60,))
    naming.receive(LookupResult({60: facts(1, "y", "x --mine", "x", start_ns=OLD)}))
    assert [naming.name(process) for process in (before, after)] == [("mine", True)] * 2


def test_a_program_whose_exec_found_no_free_row_is_looked_up() -> None:
    naming = ByApplication(GROUPS, BEGAN_NS)
    naming.learn(execs((identity(50, b"bash", parent=1, execs=3), b"bash")))
    forked = identity(60, b"bash", execs=3, start_ns=3 * BEGAN_NS)
    execed = identity(60, b"x", execs=4, start_ns=3 * BEGAN_NS)
    assert naming.request([forked]) == LookupRequest()
    assert naming.request([execed]) == LookupRequest(processes=(60,))
    naming.receive(LookupResult({60: facts(50, "x", "x --mine", start_ns=3 * BEGAN_NS)}))
    assert naming.name(execed) == ("mine", True)


def test_children_inherit_from_the_later_of_two_programs() -> None:
    naming = ByApplication(GROUPS, BEGAN_NS)
    first, second = identity(50, b"sh", parent=1, execs=2), identity(50, b"nginx", parent=1, execs=3)
    naming.learn(execs((second, b"nginx"), (first, b"sh")))
    assert naming.name(identity(51, b"x", execs=3, start_ns=3 * BEGAN_NS)) == ("web", True)


def test_a_cycle_of_parents_ends() -> None:
    naming = ByApplication(GROUPS, BEGAN_NS)
    one, two = identity(60, b"x", parent=61), identity(61, b"x", parent=60)
    naming.learn(execs((one, b"x"), (two, b"x")))
    assert [naming.name(one), naming.name(two)] == [(None, True), (None, True)]


def test_a_command_line_may_be_any_bytes() -> None:
    naming = ByApplication(Groups.parse("mine: '*a b\ufffd c*'", "test"), BEGAN_NS)
    program = identity(60, b"caf\xe9", parent=1)
    naming.learn(execs((program, b"x\0a b\xe9\0c")))
    assert naming.name(program) == ("mine", True)


def test_a_slash_ends_only_the_names_of_kernel_threads() -> None:
    naming = ByProcess()
    assert naming.name(identity(60, b"a/b", parent=3)) == ("a/b", True)
    assert naming.name(identity(60, b"kswapd0", parent=2)) == ("kswapd0", True)
    assert naming.name(identity(60, b"caf\xe9")) == ("caf\ufffd", True)
    assert naming.request([identity(60, b"a")]) == LookupRequest()
