"""Attribution: known processes are not named again, and unknown ones wait with a provisional group."""

from __future__ import annotations

from collections.abc import Container, Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from ebpfmon import RowGroups, TableHarvest
from ebpfmon.grouping.lookup import LookupRequest, LookupResult
from ebpfmon.grouping.naming import Identity
from ebpfmon.pipeline import attribute as module
from ebpfmon.pipeline.attribute import Attributed, Attribution

ROW = np.dtype(
    [("start_ns", "u8"), ("tgid", "u4"), ("exec_id", "u4"), ("cgroup_id", "u8"), ("parent_tgid", "u4"), ("uid", "u4"),
     ("comm", "S16"), ("calls", "u8")]
)  # fmt: skip


class FakeNaming:
    """Names a process by its comm. If the comm begins with `?`, it must be looked up first; `-` belongs to no group."""

    known: Container[int] = ()

    def __init__(self) -> None:
        self.asked: list[Identity] = []
        self.answers: set[int] = set()

    def learn(self, execs: NDArray[np.void]) -> None:
        self.learnt = execs

    def request(self, new: Sequence[Identity]) -> LookupRequest:
        return LookupRequest(processes=tuple(i.tgid for i in new if i.comm.startswith(b"?")))

    def receive(self, result: LookupResult) -> bool:
        self.answers |= result.processes.keys()
        return False

    def name(self, process: Identity) -> tuple[str | None, bool]:
        self.asked.append(process)
        known = not process.comm.startswith(b"?") or process.tgid in self.answers
        if process.comm == b"-":
            return None, True
        return (process.comm.decode().strip("?") if known else None), known


class ByUser(FakeNaming):
    """Names a process by its uid."""

    def name(self, process: Identity) -> tuple[str | None, bool]:
        return f"user {process.uid}", True


def rows(*processes: tuple[int, bytes]) -> TableHarvest:
    """Return a table with a row for each (tgid, comm)."""
    array = np.array([(1000 - tgid, tgid, 1, 7, 1, 0, comm, 5) for tgid, comm in processes], ROW)
    return TableHarvest(array, {"calls": 5 * len(processes)}, {"calls": 0}, 0, 64)


def names(groups: RowGroups) -> list[str | None]:
    return [groups.name(row) for row in range(len(groups.ids))]


@pytest.fixture
def naming() -> FakeNaming:
    return FakeNaming()


@pytest.fixture
def attribution(naming: FakeNaming) -> Attribution:
    return Attribution({"app": naming})


NOTHING = LookupResult()


def attribute(attribution: Attribution, result: LookupResult = NOTHING, **tables: TableHarvest) -> Attributed:
    return attribution.assign(attribution.prepare(tables), result)


def named(attribution: Attribution, table: TableHarvest, result: LookupResult = NOTHING) -> list[str | None]:
    return names(attribute(attribution, result, t=table).row_groups("t")["app"])


def test_each_row_has_its_group_and_known_processes_are_not_named_again(
    attribution: Attribution, naming: FakeNaming
) -> None:
    assert named(attribution, rows((1, b"a"), (2, b"b"), (3, b"a"))) == ["a", "b", "a"]
    assert named(attribution, rows((3, b"a"), (4, b"c"))) == ["a", "c"]
    assert len(naming.asked) == 4


def test_parents_are_named_before_their_children(attribution: Attribution, naming: FakeNaming) -> None:
    named(attribution, rows((1, b"a"), (2, b"b"), (3, b"c")))
    assert [i.start_ns for i in naming.asked] == [997, 998, 999]


def test_a_process_that_changes_its_comm_is_named_again(attribution: Attribution) -> None:
    named(attribution, rows((1, b"a")))
    assert named(attribution, rows((1, b"z"))) == ["z"]


def test_a_process_without_a_group_has_the_id_other(attribution: Attribution) -> None:
    groups = attribute(attribution, t=rows((1, b"-"), (2, b"b"))).row_groups("t")["app"]
    assert names(groups) == [None, "b"]
    assert groups.ids[0] == RowGroups.OTHER
    assert not attribution.waiting


def test_a_group_may_be_named_other_or_overflow(attribution: Attribution) -> None:
    groups = attribute(attribution, t=rows((1, b"other"), (2, b"overflow"), (3, b"-"))).row_groups("t")["app"]
    assert names(groups) == ["other", "overflow", None]
    assert len(set(groups.ids.tolist())) == 3


def test_a_process_with_a_provisional_name_waits_and_is_named_again(attribution: Attribution) -> None:
    pending = attribution.prepare({"t": rows((1, b"?x"), (2, b"b"))})
    assert pending.request == LookupRequest(processes=(1,))
    assert names(attribution.assign(pending, LookupResult()).row_groups("t")["app"]) == [None, "b"]
    assert attribution.waiting == 1
    assert named(attribution, rows((1, b"?x")), LookupResult(processes={1: None})) == ["x"]
    assert attribution.waiting == 0
    assert not attribution.prepare({"t": rows((1, b"?x"))}).new


def test_namings_learn_execs_whose_table_has_no_groups(attribution: Attribution, naming: FakeNaming) -> None:
    execs = rows((9, b"x"))
    assert attribute(attribution, execs=execs).combinations == {}
    assert naming.learnt is execs.rows


def test_a_table_with_keys_of_its_own_has_no_groups(attribution: Attribution) -> None:
    table = TableHarvest(np.zeros(3, [("port", "u4"), ("calls", "u8")]), {"calls": 0}, {"calls": 0}, 0, 64)
    assert attribute(attribution, ports=table).combinations == {}


def test_an_empty_table_has_no_groups(attribution: Attribution) -> None:
    assert named(attribution, rows()) == []


def test_one_pass_finds_the_groups_of_all_groupings(naming: FakeNaming) -> None:
    attribution, user = Attribution({"app": naming, "user": ByUser()}), rows((1, b"a"), (2, b"b"), (3, b"a"), (4, b"?"))
    user.rows["uid"] = [5, 5, 7, 5]
    attributed = attribute(attribution, t=user)
    groups = attributed.row_groups("t")
    assert list(groups) == list(attributed.groupings) == ["app", "user"]
    assert names(groups["app"]) == ["a", "b", "a", None]
    assert names(groups["user"]) == ["user 5", "user 5", "user 7", "user 5"]
    assert len(attributed.groups) == len({*zip(*(names(each) for each in groups.values()), strict=True)}) == 4
    assert attribution.waiting == 1, "a process must wait while one of its groups is provisional"
    assert len(attribute(attribution, t=user).groups) == 4
    assert len(naming.asked) == 5


def test_too_many_groups_are_forgotten_and_get_the_same_ids_again(
    attribution: Attribution, naming: FakeNaming, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_MAX_COMBINATIONS", 3)
    table = rows((1, b"a"), (2, b"b"), (3, b"c"))
    before = attribute(attribution, t=table)
    after = attribute(attribution, t=table)
    assert len(naming.asked) == 6
    assert attribution.forgotten == 3
    for each in (before, after):
        assert names(each.row_groups("t")["app"]) == ["a", "b", "c"]
    assert after.row_groups("t")["app"].ids.tolist() == before.row_groups("t")["app"].ids.tolist()
    for n in range(100):
        named(attribution, rows((n + 10, b"%d" % n)))
    assert len(attribution._groups) <= 3
    assert len(attribution._names) <= 3
    assert names(before.row_groups("t")["app"]) == ["a", "b", "c"], "returned groups must keep their names"
