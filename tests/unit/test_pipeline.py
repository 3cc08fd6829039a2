"""Pipeline: the charts of whole ticks, without labels, by key and by group."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import replace
from typing import Any, cast

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from ebpfmon import Chart, Column, Dimension, Kind, LabelSource, Role, Rows, Snapshot, TableHarvest, to_json
from ebpfmon.errors import describe
from ebpfmon.grouping import execs
from ebpfmon.grouping.groups import Groups
from ebpfmon.grouping.lookup import Lookup, LookupResult
from ebpfmon.grouping.registry import Context, groupings
from ebpfmon.model import Harvest
from ebpfmon.pipeline.harvest import Harvester
from ebpfmon.pipeline.pipeline import GroupStage, Pipeline, TableSpecs
from ebpfmon.pipeline.publish import Publisher
from ebpfmon.pipeline.self_metrics import SelfMetrics
from ebpfmon.testing import keyed_table, process_table
from tests.unit.support import COUNTERS, table

PORTS = np.dtype([("port", "u4"), ("unused", "u4"), ("calls", "u8")])
Values = dict[str, tuple[int, int]]


def chart(
    name: str, dimension: Dimension, *labels: str, grouped: bool = False, of: str = "ports", kind: Kind = Kind.COUNTER
) -> Chart:
    return Chart(
        id=name, title="", units="calls/s", family="f", priority=1, dimensions=(dimension,), labels=labels, table=of,
        grouped=grouped, kind=kind,
    )  # fmt: skip


READ = chart("system", Dimension("r", "r", ("read_calls",)), of="process")
CHARTS = {
    "process": (READ,),
    "ports": (
        chart("keys", Dimension.value("calls"), "port"),
        chart("all ports", Dimension("all", "all", ("calls",))),
        chart("more keys", Dimension("n", "n", ("calls",)), "port"),
    ),
    "others": (chart("without labels of its own", Dimension.value("calls"), "port", of="others"),),
}
COLUMN = Column(id="calls", header="CALLS", fields=("calls",))


class Ports(LabelSource):
    """The labels of the table `ports`."""

    fields, labels, maximum = ("port",), ("port",), 1

    def included(self, rows: Rows) -> NDArray[np.bool_] | None:
        included: NDArray[np.bool_] = rows["port"] != 9
        return included

    def values(self, rows: Rows) -> Sequence[tuple[str, ...]]:
        return [(str(port),) for port in rows["port"].tolist()]


def ports(*rows: tuple[int, int]) -> TableHarvest:
    return keyed_table([("port", "u4"), ("unused", "u4")], ["calls"], [{"port": p, "calls": c} for p, c in rows])


SPECS = TableSpecs(
    charts=CHARTS,
    counters={"process": COUNTERS, "ports": ("calls",), "others": ("calls",)},
    labels={"ports": Ports()},
    columns={"ports": (COLUMN,)},
    by_process=frozenset({"process"}),
)


class FakeHarvester:
    """Returns these harvests, one after the other."""

    def __init__(self, *left: Harvest) -> None:
        self.left = list(left)

    def harvest(self) -> Harvest:
        return self.left.pop(0)

    def switch_sources(self, sources: object) -> Harvest:
        return self.left.pop(0)


class FakePublisher:
    """Keeps all published snapshots."""

    def __init__(self) -> None:
        self.published: list[Snapshot] = []

    def publish(self, snapshot: Snapshot) -> None:
        self.published.append(snapshot)


Stage = Callable[[TableSpecs, Executor], GroupStage]


def ticks(
    *intervals: Mapping[str, TableHarvest] | Harvest, specs: TableSpecs = SPECS, stage: Stage | None = None
) -> list[Snapshot]:
    """Return the snapshots that are published for these harvests of one second each."""
    harvests = [
        each if isinstance(each, Harvest) else harvest(each, time_s=float(n)) for n, each in enumerate(intervals, 5)
    ]
    harvester, publisher = FakeHarvester(*harvests), FakePublisher()

    async def run() -> None:
        with ThreadPoolExecutor(1) as executor:
            groups, monitor = stage(specs, executor) if stage else None, SelfMetrics(specs.counters, [])
            pipeline = Pipeline(
                "h", cast(Harvester, harvester), cast(Publisher, publisher), executor, specs, groups, monitor
            )
            while harvester.left:
                await pipeline.tick()
                pipeline.reconfigure(specs, groups, monitor)  # The same settings again must change nothing.

    asyncio.run(run())
    return publisher.published


def harvest(tables: Mapping[str, TableHarvest], *overlap: TableHarvest, time_s: float = 5) -> Harvest:
    overlap_ = tuple(("ports", each) for each in overlap)
    return Harvest(time_s=time_s, elapsed_s=1, tables=tables, swap_ns=1, drain_ns=1, overlap=overlap_)


def values(snapshot: Snapshot) -> dict[str, Values]:
    """Return chart -> labels -> (delta, total), without the self-metrics."""
    return {
        data.chart.id: {".".join(s.labels): (int(s.deltas[0]), s.totals[0]) for s in data.series()}
        for data in snapshot.charts
        if data.chart.family != "ebpfmon"
    }


def test_each_chart_has_the_series_of_its_table_and_labels() -> None:
    first, second = ticks(
        {"process": table([(7, b"x", 3, 0)]), "ports": ports((80, 5), (22, 2), (9, 100))},
        {"process": table([]), "ports": ports((22, 4))},
    )
    assert values(first) == {
        "system": {"": (3, 3)},
        "all ports": {"": (107, 107)},
        "keys": {"80": (5, 5), "other": (2, 2)},
        "more keys": {"80": (5, 5), "other": (2, 2)},
    }
    assert values(second)["keys"] == {"80": (0, 5), "other": (4, 6)}
    assert values(second)["all ports"] == {"": (4, 111)}
    assert set(first.tables) == {"process", "ports"}
    assert (first.tables["process"].groups, first.tables["process"].labels) == ({}, None)
    assert (first.tables["ports"].columns, first.tables["ports"].labels) == ((COLUMN,), SPECS.labels["ports"])


def test_only_a_table_that_cannot_be_read_has_no_charts() -> None:
    (only,) = ticks({"process": table([])})
    assert set(values(only)) == {"system"}
    (only,) = ticks({"ports": ports((80, 1))})
    assert set(values(only)) == {"all ports", "keys", "more keys"}


def grouped(*by: str, maximum: int = 200, lookup: Lookup | None = None) -> Stage:
    """Return a factory for a stage with these groupings, as in the daemon. It needs no lookups."""

    def made(specs: TableSpecs, executor: Executor) -> GroupStage:
        there_are = groupings()
        context = Context(groups=Groups.parse("", "no file"), execs_since_ns=float("inf"))
        namings = {name: there_are[name].make(context) for name in by}
        return GroupStage([there_are[name] for name in by], namings, specs, maximum, lookup or Lookup(), executor)

    return made


def test_command_lines_never_leave_the_pipeline() -> None:
    for stage in (None, grouped("process")):
        (only,) = ticks({"process": table([]), execs.TABLE: table([])}, stage=stage)
        assert set(only.tables) == {"process"}
        assert execs.TABLE not in str(to_json(only).charts)


GAUGE = chart("gauge", Dimension.value("began", minus=("ended",)), "port", kind=Kind.GAUGE)
UNDER_WAY = TableSpecs(
    charts={"ports": (GAUGE,)}, counters={"ports": ("began", "ended")}, labels={"ports": Ports()}
)  # fmt: skip


def under_way(port: int, began: int, ended: int) -> TableHarvest:
    row = {"port": port, "began": began, "ended": ended}
    return keyed_table([("port", "u4"), ("unused", "u4")], ["began", "ended"], [row])


def test_gauges_continue_under_new_settings_and_restart_with_new_sources() -> None:
    """First only the labels change, then the programs."""
    harvester = FakeHarvester(
        harvest({"ports": under_way(80, 5, 1)}),
        harvest({"ports": under_way(80, 0, 1)}),
        harvest({"ports": under_way(80, 9, 0)}, under_way(80, 1, 0), under_way(80, 1, 0)),
        harvest({"ports": under_way(80, 0, 1)}),
    )
    publisher = FakePublisher()

    async def run() -> None:
        with ThreadPoolExecutor(1) as executor:

            def specs() -> tuple[TableSpecs, None, SelfMetrics]:
                return replace(UNDER_WAY, labels={"ports": Ports()}), None, SelfMetrics([], [])

            pipeline = Pipeline(
                "h", cast(Harvester, harvester), cast(Publisher, publisher), executor, *specs()
            )  # fmt: skip
            await pipeline.tick()
            pipeline.reconfigure(*specs())
            await pipeline.tick()
            await pipeline.switch_sources([])
            pipeline.reconfigure(*specs())
            await pipeline.tick()

    asyncio.run(run())
    assert [values(snapshot)["gauge"]["80"][0] for snapshot in publisher.published] == [4, 3, 12, 1]


def test_totals_survive_a_reload_unless_the_series_change() -> None:
    """First the labels change, then the programs, and then the series."""
    seen = {"ports": ports((80, 5))}
    harvester = FakeHarvester(harvest(seen), harvest(seen), harvest(seen, ports((80, 1))), harvest(seen), harvest(seen))
    publisher = FakePublisher()

    async def run() -> None:
        with ThreadPoolExecutor(1) as executor:

            def specs(labels: LabelSource) -> tuple[TableSpecs, None, SelfMetrics]:
                return replace(SPECS, labels={"ports": labels}), None, SelfMetrics([], [])

            first = specs(Ports())
            pipeline = Pipeline("h", cast(Harvester, harvester), cast(Publisher, publisher), executor, *first)
            await pipeline.tick()
            pipeline.reconfigure(*specs(Ports()))
            await pipeline.tick()
            await pipeline.switch_sources([])
            pipeline.reconfigure(*specs(Ports()))
            await pipeline.tick()
            more = Ports()
            more.maximum = 2
            pipeline.reconfigure(*specs(more))
            await pipeline.tick()

    asyncio.run(run())
    assert [values(s)["keys"]["80"] for s in publisher.published] == [(5, 5), (5, 10), (5, 15), (5, 20), (5, 5)]


# Several groupings at once.

IO = chart("read", Dimension.value("read_calls"), grouped=True, of="process")
SENT = chart("sent", Dimension.value("sent_bytes"), grouped=True, of="network")
BY_PROCESS = TableSpecs(
    charts={"process": (READ, IO), "network": (SENT,)},
    counters={"process": COUNTERS, "network": ("sent_calls", "sent_bytes")},
    by_process=frozenset({"process", "network"}),
)
ROWS = st.lists(
    st.tuples(st.integers(0, 5), st.sampled_from([b"a", b"b", b"other", b"overflow", b""]), st.integers(0, 1 << 40)),
    max_size=12,
)


def of_processes(counters: Sequence[str], rows: Sequence[tuple[int, bytes, int]], overflow: int) -> TableHarvest:
    named = [
        {"tgid": n + 100 * uid, "start_ns": n, "uid": uid, "comm": comm, counters[0]: amount, counters[1]: 2 * amount}
        for n, (uid, comm, amount) in enumerate(rows, 1)
    ]
    return process_table(counters, named, overflow_calls=overflow)


@settings(max_examples=30)
@given(
    st.integers(1, 3),
    st.lists(st.tuples(ROWS, ROWS, st.integers(0, 99)), min_size=1, max_size=4),
)  # fmt: skip
def test_the_series_of_every_grouped_chart_add_up_to_the_total(
    maximum: int, intervals: list[tuple[list[tuple[int, bytes, int]], list[tuple[int, bytes, int]], int]]
) -> None:
    by = ("user", "process")
    harvests = [
        {
            "process": of_processes(COUNTERS, first, overflow),
            "network": of_processes(("sent_calls", "sent_bytes"), second, 3 * overflow),
        }
        for first, second, overflow in intervals
    ]
    for snapshot, tables in zip(
        ticks(*harvests, specs=BY_PROCESS, stage=grouped(*by, maximum=maximum)), harvests, strict=True
    ):
        charts = {
            data.chart.id: data for data in snapshot.charts if data.chart.labels and "ebpfmon" not in data.chart.id
        }
        assert list(charts) == ["users.read", "users.sent", "processes.read", "processes.sent"]
        for id_, data in charts.items():
            prefix, _, name = id_.partition(".")
            total = tables["process"].totals["read_calls"] if name == "read" else tables["network"].totals["sent_bytes"]
            assert data.sums() == {"value": total}
            assert data.chart.labels == ({"users": "user", "processes": "process"}[prefix],)
            assert data.index.roles[-2:] == (Role.OTHER, Role.OVERFLOW)
            assert len(data) <= maximum + 2
            assert data.index is charts[f"{prefix}.read"].index
        assert set(snapshot.tables["process"].groups) == set(by)


def test_each_grouping_has_its_groups_and_its_charts() -> None:
    rows = [(0, b"cat", 3), (0, b"other", 5), (7, b"cat", 11), (7, b"", 2)]
    (only,) = ticks(
        {"process": of_processes(COUNTERS, rows, 4)}, specs=BY_PROCESS, stage=grouped("process", "user")
    )  # fmt: skip
    by_process = only.chart("processes.read")
    assert by_process
    assert {(s.role, *s.labels): s.deltas[0] for s in by_process.series()} == {
        (Role.ITEM, "cat"): 14, (Role.ITEM, "other"): 5, (Role.OTHER, "other"): 2, (Role.OVERFLOW, "overflow"): 4,
    }  # fmt: skip
    by_user = only.chart("users.read")
    assert by_user
    assert sorted(s.deltas[0] for s in by_user.series() if s.role is Role.ITEM) == [8, 13]
    groups = only.tables["process"].groups
    assert [groups["process"].name(n) for n in range(4)] == ["cat", "other", "cat", None]


def test_a_grouping_keeps_its_totals_when_others_are_added_or_removed() -> None:
    tables = {"process": of_processes(COUNTERS, [(0, b"cat", 3)], 0)}
    harvester, publisher = FakeHarvester(*(harvest(tables) for _ in range(3))), FakePublisher()

    async def run() -> None:
        with ThreadPoolExecutor(1) as executor:

            def by_groupings(*by: str, maximum: int = 200) -> tuple[TableSpecs, GroupStage, SelfMetrics]:
                return BY_PROCESS, grouped(*by, maximum=maximum)(BY_PROCESS, executor), SelfMetrics([], [])

            first = by_groupings("process")
            pipeline = Pipeline("h", cast(Harvester, harvester), cast(Publisher, publisher), executor, *first)
            await pipeline.tick()
            pipeline.reconfigure(*by_groupings("user", "process"))
            await pipeline.tick()
            pipeline.reconfigure(*by_groupings("process", maximum=199))
            await pipeline.tick()

    asyncio.run(run())
    found = [snapshot.chart("processes.read") for snapshot in publisher.published]
    assert [int(data.totals[0, 0]) for data in found if data] == [3, 6, 3], "a new maximum must restart the totals"


@pytest.mark.parametrize(("programs", "maximum", "most"), [(1, 1000, 310), (5, 100, 100)])
def test_a_snapshot_stays_bounded_while_groups_come_and_go(programs: int, maximum: int, most: int) -> None:
    """For 22 minutes, new programs start every second and run for ten seconds."""
    harvests = [
        {
            "process": of_processes(
                COUNTERS, [(0, b"p%d" % n, 1) for n in range(programs * second, programs * (second + 10))], 0
            )
        }
        for second in range(22 * 60)
    ]
    published = ticks(*harvests, specs=BY_PROCESS, stage=grouped("process", maximum=maximum))
    data = [of for snapshot in published if (of := snapshot.chart("processes.read"))]
    assert len({labels for of in data for labels in of.index.labels}) > most, "there must be more groups than series"
    assert max(map(len, data)) <= most + 2
    sizes = [len(msgspec.json.encode(to_json(snapshot))) for snapshot in published[::20]]
    # After the first ten minutes, lines must not grow.
    assert max(sizes[30:]) <= 1.02 * max(sizes[:30])


def test_a_snapshot_shrinks_again_five_minutes_after_groups_are_gone() -> None:
    rows = [(0, b"p%d" % n, 1) for n in range(1000)]
    harvests = [{"process": of_processes(COUNTERS, each, 0)} for each in ([], rows, *([],) * 301)]
    published = ticks(*harvests, specs=BY_PROCESS, stage=grouped("process", maximum=1000))
    sizes = [len(msgspec.json.encode(to_json(snapshot))) for snapshot in (*published[:2], published[-1])]
    assert max(sizes) > 30 * sizes[0]
    assert sizes[-1] < 1.1 * sizes[0]
    assert len(published[-1].charts) == len(published[0].charts)


class FailingLookup(Lookup):
    """Fails as often as `failures` says."""

    failures = 2

    def look_up(self, *args: Any) -> LookupResult:
        if self.failures:
            self.failures -= 1
            raise MemoryError("on purpose")
        return super().look_up(*args)


def test_a_lookup_that_fails_costs_no_tick_and_is_tried_again(caplog: pytest.LogCaptureFixture) -> None:
    lookup = FailingLookup()
    harvests = [{"process": of_processes(COUNTERS, [(0, b"x", 3)], 0)}] * 4
    published = ticks(*harvests, specs=BY_PROCESS, stage=grouped("user", lookup=lookup))
    by_user = [snapshot.chart("users.read") for snapshot in published]
    found = [{(s.role, *s.labels): s.deltas[0] for s in data.series() if s.deltas[0]} for data in by_user if data]
    other, root = {(Role.OTHER, "other"): 3}, {(Role.ITEM, "root"): 3}
    assert found == [other, other, root, root]
    assert caplog.messages == [f"cannot look up processes: {describe(MemoryError())}; ebpfmon tries again"]


NO_THREAD = "can't start new thread"


class NoThread(Executor):
    """An executor of a system that allows no more threads."""

    def submit(self, *args: object, **kwargs: object) -> Any:
        raise RuntimeError(NO_THREAD)


def test_without_a_thread_for_lookups_processes_keep_provisional_groups(caplog: pytest.LogCaptureFixture) -> None:
    harvests = [{"process": of_processes(COUNTERS, [(0, b"x", 3)], 0)}] * 3
    stage = grouped("user")
    published = ticks(*harvests, specs=BY_PROCESS, stage=lambda specs, _: stage(specs, NoThread()))
    assert [data.sums() for s in published if (data := s.chart("users.read"))] == [{"value": 3}] * 3
    assert caplog.messages == [f"cannot look up processes: {describe(RuntimeError(NO_THREAD))}; ebpfmon tries again"]
