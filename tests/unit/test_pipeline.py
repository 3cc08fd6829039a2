"""One tick: charts of the whole system, by key and by application, of what was harvested."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import cast

import numpy as np

from ebpfmon import Chart, Dimension, Kind, Scope, Snapshot, TableHarvest
from ebpfmon.daemon.self_metrics import SelfMonitor
from ebpfmon.grouping import execs
from ebpfmon.model.everything import Harvest
from ebpfmon.pipeline.harvest import Harvester
from ebpfmon.pipeline.pipeline import Charted, Pipeline
from ebpfmon.pipeline.publish import Fanout
from tests.unit.support import table

PORTS = np.dtype([("port", "u4"), ("calls", "u8")])
PER_PORT = Dimension("", "", ("calls",))
Values = dict[str, tuple[int | float, int]]


def chart(name: str, scope: Scope, dimension: Dimension) -> Chart:
    return Chart(
        id=name, title="", units="calls/s", family="f", priority=1, scope=scope, dimensions=(dimension,), table="ports"
    )


CHARTS = {
    "process": (chart("system", Scope.SYSTEM, Dimension("r", "r", ("read_calls",))),),
    "ports": (
        chart("keys", Scope.KEYS, PER_PORT),
        chart("all ports", Scope.SYSTEM, Dimension("all", "all", ("calls",))),
        chart("more keys", Scope.KEYS, Dimension("n", "n", ("calls",))),
    ),
    "others": (chart("without keys", Scope.KEYS, PER_PORT),),
}


class Ports:
    """The keys of the table `ports`."""

    fields, maximum, other = ("port",), 1, "other"

    def wanted(self, rows: np.ndarray) -> np.ndarray | None:
        wanted: np.ndarray = rows["port"] != 9
        return wanted

    def labels(self, rows: np.ndarray) -> Sequence[tuple[str, str]]:
        return [(str(port), f"port {port}") for port in rows["port"].tolist()]


def ports(*rows: tuple[int, int]) -> TableHarvest:
    array = np.array([*rows], PORTS)
    return TableHarvest(array, {"calls": int(array["calls"].sum())}, {"calls": 0}, 0, 64)


def ticks(*intervals: Mapping[str, TableHarvest]) -> list[Snapshot]:
    """What is published of these harvests, without applications."""
    left, published = list(intervals), list[Snapshot]()

    class FakeHarvester:
        def harvest(self) -> Harvest:
            return Harvest(time_s=5, elapsed_s=1, tables=left.pop(0), swap_ns=1, drain_ns=1)

    class FakeFanout:
        def publish(self, snapshot: Snapshot) -> None:
            published.append(snapshot)

    async def run() -> None:
        with ThreadPoolExecutor(1) as executor:
            pipeline = Pipeline("h", cast(Harvester, FakeHarvester()), cast(Fanout, FakeFanout()), executor)
            keys = {"ports": Ports()}
            while left:
                # to be shown the same again changes nothing
                pipeline.show(Charted(CHARTS, keys), None, SelfMonitor(CHARTS, []))
                await pipeline.tick()

    asyncio.run(run())
    return published


def values(snapshot: Snapshot) -> dict[str, Values]:
    """Chart -> dimension -> amount and total, but for what ebpfmon says of itself."""
    return {
        c.chart.id: {v.dimension.name: (v.delta, v.total) for v in c.values}
        for c in snapshot.charts
        if c.chart.family != "ebpfmon"
    }


def test_each_chart_is_made_by_its_scope_and_of_its_table() -> None:
    first, second = ticks(
        {"process": table([(7, b"x", 3, 0)]), "ports": ports((80, 5), (22, 2), (9, 100))},
        {"process": table([]), "ports": ports((22, 4))},
    )
    assert values(first) == {
        "system": {"r": (3, 3)},
        "all ports": {"all": (107, 107)},
        "keys": {"port 80": (5, 5), "other": (2, 2)},
        "more keys": {"port 80_n": (5, 5), "other_n": (2, 2)},
    }
    assert values(second)["keys"] == {"port 80": (0, 5), "other": (4, 6)}
    assert values(second)["all ports"] == {"all": (4, 111)}
    assert (first.owners, set(first.tables)) == ({}, {"process", "ports"})


def test_a_table_that_could_not_be_read_has_no_charts_and_the_others_have_theirs() -> None:
    (only,) = ticks({"process": table([])})
    assert set(values(only)) == {"system"}
    (only,) = ticks({"ports": ports((80, 1))})
    assert set(values(only)) == {"all ports", "keys", "more keys"}


def test_command_lines_leave_the_pipeline_for_nobody() -> None:
    (only,) = ticks({"process": table([]), execs.TABLE: table([])})
    assert set(only.tables) == {"process"}


LEVEL = Chart(
    id="level", title="", units="requests", family="f", priority=1, scope=Scope.KEYS, kind=Kind.LEVEL, table="ports",
    dimensions=(Dimension("", "", ("began",), ("ended",)),),
)  # fmt: skip
BEGAN = np.dtype([("port", "u4"), ("unused", "u4"), ("began", "u8"), ("ended", "u8")])


def under_way(*rows: tuple[int, int, int]) -> TableHarvest:
    array = np.array([(port, 0, began, ended) for port, began, ended in rows], BEGAN)
    totals = {name: int(array[name].sum()) for name in ("began", "ended")}
    return TableHarvest(array, totals, dict.fromkeys(totals, 0), 0, 64)


def test_levels_go_on_under_other_settings_and_of_other_sources_begin_with_what_they_had_counted() -> None:
    """First the keys are others and the programs the same; then the programs are others."""
    published = list[Snapshot]()

    def harvest(table_: TableHarvest, *begun: TableHarvest) -> Harvest:
        begun_ = tuple(("ports", each) for each in begun)
        return Harvest(time_s=5, elapsed_s=1, tables={"ports": table_}, swap_ns=1, drain_ns=1, begun=begun_)

    left = [harvest(under_way((80, *each))) for each in ((5, 1), (0, 1), (0, 1))]

    class FakeHarvester:
        def harvest(self) -> Harvest:
            return left.pop(0)

        def change(self, sources: object) -> Harvest:
            return harvest(under_way((80, 9, 0)), under_way((80, 1, 0)), under_way((80, 1, 0)))

    class FakeFanout:
        def publish(self, snapshot: Snapshot) -> None:
            published.append(snapshot)

    async def run() -> None:
        with ThreadPoolExecutor(1) as executor:
            pipeline = Pipeline("h", cast(Harvester, FakeHarvester()), cast(Fanout, FakeFanout()), executor)

            def show() -> None:
                pipeline.show(Charted({"ports": (LEVEL,)}, {"ports": Ports()}), None, SelfMonitor([], []))

            show()
            await pipeline.tick()
            show()
            await pipeline.tick()
            await pipeline.change([])
            show()
            await pipeline.tick()

    asyncio.run(run())
    assert [values(snapshot)["level"]["port 80"][0] for snapshot in published] == [4, 3, 12, 1]
