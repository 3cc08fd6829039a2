"""Attribution: edge cases."""

from __future__ import annotations

import numpy as np
import pytest

from ebpfmon import TableHarvest
from ebpfmon.grouping.naming import Identity
from ebpfmon.pipeline import attribute as module
from ebpfmon.pipeline.attribute import Attribution
from tests.unit.test_attribute import ROW, FakeNaming, attribute, named, names, rows

A = Identity(100, 1, 1, 7, 1, 0, b"a")


def one(process: Identity) -> TableHarvest:
    return TableHarvest(np.array([(*process, 5)], ROW), {"calls": 5}, {"calls": 0}, 0, 64)


@pytest.fixture
def naming() -> FakeNaming:
    return FakeNaming()


@pytest.mark.parametrize(
    "changed",
    [A._replace(start_ns=101), A._replace(exec_id=2), A._replace(cgroup_id=8), A._replace(parent_tgid=2),
     A._replace(uid=9), A._replace(comm=b"b")],
    ids=["start", "exec", "cgroup", "parent", "uid", "comm"],
)  # fmt: skip
def test_a_process_that_changes_any_identity_field_is_named_again(naming: FakeNaming, changed: Identity) -> None:
    attribution = Attribution({"app": naming})
    for process in (A, changed, A, changed):
        assert named(attribution, one(process)) == [process.comm.decode()]
    assert naming.asked == [A, changed]


def test_a_process_in_two_tables_is_named_once(naming: FakeNaming) -> None:
    attributed = attribute(Attribution({"app": naming}), t=rows((1, b"a")), u=rows((2, b"b"), (1, b"a")))
    assert names(attributed.row_groups("t")["app"]) == ["a"]
    assert names(attributed.row_groups("u")["app"]) == ["b", "a"]
    assert len(naming.asked) == 2


def test_all_namings_learn_execs(naming: FakeNaming) -> None:
    waiting, execs = FakeNaming(), rows((9, b"x"))
    Attribution({"app": naming, "user": waiting}).prepare({"execs": execs})
    assert naming.learnt is waiting.learnt is execs.rows


def test_a_process_is_known_only_if_all_namings_know_it(naming: FakeNaming) -> None:
    other = FakeNaming()
    naming.known, other.known = {1, 2}, {2, 3}
    known = Attribution({"app": naming, "user": other}).known
    assert [tgid for tgid in range(5) if tgid in known] == [2]


def test_all_processes_of_a_full_table_are_remembered(naming: FakeNaming, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MAX_IDENTITIES", 4)
    attribution, table = Attribution({"app": naming}), rows(*((n, b"a") for n in range(64)))
    for _ in range(3):
        named(attribution, table)
    assert (len(naming.asked), attribution.forgotten) == (64, 0)


def test_processes_beyond_the_limit_are_forgotten_except_those_in_use(
    naming: FakeNaming, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_MAX_IDENTITIES", 64)
    attribution = Attribution({"app": naming})
    for tgid in range(1, 200):
        named(attribution, rows((0, b"a"), (tgid, b"b")))
    assert sum(process.tgid == 0 for process in naming.asked) <= 1 + 200 // 64, "a used process must stay known"
    assert attribution.forgotten > 0
    asked = len(naming.asked)
    named(attribution, rows((1, b"b"), (199, b"b")))
    assert len(naming.asked) == asked + 1, "the first process must be named again, the last one is known"


def test_all_processes_are_named_again_after_a_name_has_changed(
    naming: FakeNaming, monkeypatch: pytest.MonkeyPatch
) -> None:
    attribution = Attribution({"other": FakeNaming(), "app": naming})
    assert named(attribution, one(A)) == named(attribution, one(A)) == ["a"]
    assert naming.asked == [A]
    with monkeypatch.context() as patched:
        patched.setattr(naming, "receive", lambda result: True)
        assert named(attribution, one(A)) == ["a"], "from the next interval on"
    for _ in range(3):
        assert named(attribution, one(A)) == ["a"]
    assert naming.asked == [A, A]
