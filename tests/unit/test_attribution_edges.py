"""The edges of what test_attribution.py is about."""

from __future__ import annotations

import numpy as np
import pytest

from ebpfmon import Owners, TableHarvest
from ebpfmon.grouping.lookup import Found
from ebpfmon.grouping.naming import Identity
from ebpfmon.pipeline import attribute as attribution
from ebpfmon.pipeline.attribute import Attribution
from tests.unit.test_attribution import ROW, FakeNaming, names, rows

WHO = Identity(100, 1, 1, 7, 1, 0, b"a")


def one(who: Identity) -> TableHarvest:
    return TableHarvest(np.array([(*who, 5)], ROW), {"calls": 5}, {"calls": 0}, 0, 64)


@pytest.fixture
def naming() -> FakeNaming:
    return FakeNaming()


@pytest.mark.parametrize(
    "changed",
    [WHO._replace(start_ns=101), WHO._replace(exec_id=2), WHO._replace(cgroup_id=8), WHO._replace(parent_tgid=2),
     WHO._replace(uid=9), WHO._replace(comm=b"b")],
    ids=["start", "exec", "cgroup", "parent", "uid", "comm"],
)  # fmt: skip
def test_who_changes_anything_is_looked_at_again(naming: FakeNaming, changed: Identity) -> None:
    attribute = Attribution({"app": naming}, "app")
    for who in (WHO, changed, WHO, changed):
        assert names(attribute.own(attribute.look({"t": one(who)}), Found())["t"]) == [who.comm.decode()]
    assert naming.asked == [WHO, changed]


def test_a_process_in_two_tables_is_asked_about_once_and_both_have_its_owner(naming: FakeNaming) -> None:
    attribute = Attribution({"app": naming}, "app")
    owners = attribute.own(attribute.look({"t": rows((1, b"a")), "u": rows((2, b"b"), (1, b"a"))}), Found())
    assert (names(owners["t"]), names(owners["u"])) == (["a"], ["b", "a"])
    assert len(naming.asked) == 2
    assert owners["t"].groups[:2] == ("other", "overflow")
    assert (Owners.OTHER, Owners.OVERFLOW) == (0, 1)


def test_all_namings_learn_what_was_started(naming: FakeNaming) -> None:
    waiting, execs = FakeNaming(), rows((9, b"x"))
    Attribution({"app": naming, "user": waiting}, "app").look({"execs": execs})
    assert naming.learnt is waiting.learnt is execs.rows


def test_the_same_grouping_again_changes_nothing(naming: FakeNaming) -> None:
    attribute = Attribution({"app": naming}, "app")
    for _ in range(2):
        attribute.own(attribute.look({"t": rows((1, b"a"))}), Found())
        attribute.by = "app"
    assert len(naming.asked) == 1


def test_an_id_that_is_used_again_is_the_new_groups_and_what_was_handed_out_keeps_its_names(
    naming: FakeNaming,
) -> None:
    attribute = Attribution({"app": naming}, "app")
    before = attribute.own(attribute.look({"t": rows((1, b"a"))}), Found())["t"]
    attribute.forget(frozenset({2}))
    after = attribute.own(attribute.look({"t": rows((2, b"b"), (1, b"a"))}), Found())["t"]
    assert names(before) == ["a"]
    assert names(after) == ["b", "a"]
    assert after.groups == ("other", "overflow", "b", "a")
    assert len(naming.asked) == 3, "a process of a forgotten group is named again"


def test_as_many_processes_are_known_as_a_table_can_hold(naming: FakeNaming, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attribution, "_IDENTITIES", 4)
    attribute, table = Attribution({"app": naming}, "app"), rows(*((n, b"a") for n in range(64)))
    for _ in range(3):
        attribute.own(attribute.look({"t": table}), Found())
    assert (len(naming.asked), attribute.forgotten) == (64, 0)


def test_processes_are_forgotten_when_too_many_come_and_what_is_still_used_is_not(
    naming: FakeNaming, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attribution, "_IDENTITIES", 64)
    attribute = Attribution({"app": naming}, "app")
    for tgid in range(1, 200):
        attribute.own(attribute.look({"t": rows((0, b"a"), (tgid, b"b"))}), Found())
    assert sum(who.tgid == 0 for who in naming.asked) <= 1 + 200 // 64, "it is used in every interval"
    assert attribute.forgotten > 0
    asked = len(naming.asked)
    attribute.own(attribute.look({"t": rows((1, b"b"), (199, b"b"))}), Found())
    assert len(naming.asked) == asked + 1, "the first is looked at again, the last is known"
