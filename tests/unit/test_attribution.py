"""Rows to owners: who is known is not asked for again, and who is not waits under a provisional name."""

from __future__ import annotations

from collections.abc import Container, Sequence

import numpy as np
import pytest

from ebpfmon import Owners, TableHarvest
from ebpfmon.grouping.lookup import Found, Wanted
from ebpfmon.grouping.naming import Identity
from ebpfmon.pipeline import attribute as attribution
from ebpfmon.pipeline.attribute import Attribution

ROW = np.dtype(
    [("start_ns", "u8"), ("tgid", "u4"), ("exec_id", "u4"), ("cgroup_id", "u8"), ("parent_tgid", "u4"), ("uid", "u4"),
     ("comm", "S16"), ("calls", "u8")]
)  # fmt: skip


class FakeNaming:
    """Names a process by its comm; those that begin with `?` are not known until they were found."""

    known: Container[int] = ()

    def __init__(self) -> None:
        self.asked: list[Identity] = []
        self.answers: set[int] = set()

    def learn(self, execs: np.ndarray) -> None:
        self.learnt = execs

    def wanted(self, new: Sequence[Identity]) -> Wanted:
        return Wanted(processes=tuple(i.tgid for i in new if i.comm.startswith(b"?")))

    def found(self, found: Found) -> None:
        self.answers |= found.processes.keys()

    def name(self, who: Identity) -> tuple[str, bool]:
        self.asked.append(who)
        known = not who.comm.startswith(b"?") or who.tgid in self.answers
        return (who.comm.decode().strip("?") if known else "other"), known


def rows(*of: tuple[int, bytes]) -> TableHarvest:
    """A table with a row for each (tgid, comm)."""
    array = np.array([(1000 - tgid, tgid, 1, 7, 1, 0, comm, 5) for tgid, comm in of], ROW)
    return TableHarvest(array, {"calls": 5 * len(of)}, {"calls": 0}, 0, 64)


def names(owners: Owners) -> list[str]:
    return [owners.groups[group] for group in owners.of_rows]


@pytest.fixture
def naming() -> FakeNaming:
    return FakeNaming()


@pytest.fixture
def attribute(naming: FakeNaming) -> Attribution:
    return Attribution({"app": naming, "user": FakeNaming()}, "app")


NOTHING = Found()


def own(attribute: Attribution, table: TableHarvest, found: Found = NOTHING) -> list[str]:
    return names(attribute.own(attribute.look({"t": table}), found)["t"])


def test_each_row_has_its_owner_and_who_is_known_is_not_looked_at_again(
    attribute: Attribution, naming: FakeNaming
) -> None:
    assert own(attribute, rows((1, b"a"), (2, b"b"), (3, b"a"))) == ["a", "b", "a"]
    assert own(attribute, rows((3, b"a"), (4, b"c"))) == ["a", "c"]
    assert len(naming.asked) == 4


def test_parents_are_named_before_their_children(attribute: Attribution, naming: FakeNaming) -> None:
    own(attribute, rows((1, b"a"), (2, b"b"), (3, b"c")))
    assert [i.start_ns for i in naming.asked] == [997, 998, 999]


def test_who_changes_its_name_is_looked_at_again(attribute: Attribution, naming: FakeNaming) -> None:
    own(attribute, rows((1, b"a")))
    assert own(attribute, rows((1, b"z"))) == ["z"]


def test_a_provisional_name_is_asked_again_and_counted(attribute: Attribution, naming: FakeNaming) -> None:
    pending = attribute.look({"t": rows((1, b"?x"), (2, b"b"))})
    assert pending.wanted == Wanted(processes=(1,))
    assert names(attribute.own(pending, Found())["t"]) == ["other", "b"]
    assert attribute.waiting == 1
    assert own(attribute, rows((1, b"?x")), Found(processes={1: None})) == ["x"]
    assert attribute.waiting == 0
    assert not attribute.look({"t": rows((1, b"?x"))}).new


def test_what_was_started_is_learnt_and_is_no_table_of_anybodys(attribute: Attribution, naming: FakeNaming) -> None:
    execs = rows((9, b"x"))
    assert attribute.own(attribute.look({"execs": execs}), Found()) == {}
    assert naming.learnt is execs.rows


def test_a_table_that_is_not_by_process_is_left_alone(attribute: Attribution) -> None:
    table = TableHarvest(np.zeros(3, [("port", "u4"), ("calls", "u8")]), {"calls": 0}, {"calls": 0}, 0, 64)
    assert attribute.own(attribute.look({"ports": table}), Found()) == {}


def test_another_grouping_looks_at_all_of_them_again(attribute: Attribution, naming: FakeNaming) -> None:
    own(attribute, rows((1, b"a")))
    attribute.by = "user"
    assert own(attribute, rows((1, b"a"))) == ["a"]
    assert len(naming.asked) == 1


def test_when_there_are_too_many_groups_some_are_forgotten_and_others_take_their_place(
    attribute: Attribution, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attribution, "_NAMES", 4)
    assert own(attribute, rows((1, b"a"), (2, b"b"), (3, b"c"))) == ["other", "b", "c"]
    assert attribute.full
    attribute.forget(frozenset({attribute.names.index("c")}))
    assert not attribute.full
    assert own(attribute, rows((2, b"b"), (4, b"d"))) == ["b", "d"]
    assert own(attribute, rows((3, b"c"))) == ["other"]


def test_an_empty_table_is_nobodys(attribute: Attribution) -> None:
    assert own(attribute, rows()) == []
