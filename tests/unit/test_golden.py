"""The plugins.d stream and the StatsD datagrams are byte for byte the recorded ones (tests/golden)."""

from __future__ import annotations

import asyncio
import gzip
import json
import os
import re
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from ebpfmon import ChartData, LabelSource, LoadMode, Snapshot, TableHarvest
from ebpfmon.daemon.probes import table_specs
from ebpfmon.grouping import execs
from ebpfmon.grouping.lookup import Lookup, LookupRequest, LookupResult
from ebpfmon.grouping.naming import Identity
from ebpfmon.grouping.registry import DEFAULT_GROUPING, groupings
from ebpfmon.model import Harvest
from ebpfmon.pipeline.harvest import Harvester
from ebpfmon.pipeline.pipeline import GroupStage, Pipeline
from ebpfmon.pipeline.publish import Publisher, SinkStatistics
from ebpfmon.pipeline.self_metrics import SelfMetrics
from ebpfmon.plugins.registry import discover
from ebpfmon_block_io.disks import Disks
from ebpfmon_network_viewer.destinations import Inbound, Outbound
from ebpfmon_network_viewer.resolver import Resolver
from ebpfmon_network_viewer.selectors import Hostnames
from ebpfmon_network_viewer.services import Services
from ebpfmon_sinks.plugins_d.stream import Stream
from ebpfmon_sinks.statsd.lines import Names, to_datagrams
from ebpfmon_sinks.statsd.settings import StatsdSettings
from ebpfmon_syscalls.calls import Calls, Errors

GOLDEN = Path(__file__).parents[1] / "golden"
RECORDED: dict[str, list[str]] = json.loads((GOLDEN / "charts.json").read_text(encoding="utf-8"))
"""The recorded charts, and the columns of each."""
Scenario = Mapping[str, Any]


def recorded(name: str) -> str:
    return gzip.decompress((GOLDEN / f"{name}.gz").read_bytes()).decode()


@lru_cache(1)
def scenarios() -> dict[str, Scenario]:
    return {one["name"]: one for one in json.loads(recorded("input.json"))}


class Now:
    """The current interval of a scenario."""

    def __init__(self, scenario: Scenario) -> None:
        self.scenario, self.number = scenario, 0

    @property
    def interval(self) -> Mapping[str, Any]:
        found: Mapping[str, Any] = self.scenario["intervals"][self.number]
        return found


class Rows:
    """A harvester that returns the rows of the scenario."""

    def __init__(self, now: Now) -> None:
        self._now = now
        self._since_load = {name: dict.fromkeys(t["counters"], 0) for name, t in now.scenario["tables"].items()}

    def harvest(self) -> Harvest:
        interval = self._now.interval
        return Harvest(
            time_s=interval["time_s"], elapsed_s=interval["elapsed_s"], complete=interval["complete"],
            tables={name: self._table(name, found) for name, found in interval["tables"].items()},
            swap_ns=interval["self"]["swap_ns"], drain_ns=interval["self"]["drain_ns"],
            missed_runs=interval["self"]["missed_runs"],
        )  # fmt: skip

    def _table(self, name: str, found: Mapping[str, Any]) -> TableHarvest:
        of = self._now.scenario["tables"][name]
        counters, key = of["counters"], [*map(tuple, of["key"])]
        if name == "block_io":
            key = [(field, "u8") for field in Disks.fields]
        rows = np.zeros(len(found["rows"]), [*key, *((name, "u8") for name in counters)])
        for n, row in enumerate(found["rows"]):
            if name == "block_io":
                row = self._with_disk_name(row)
            for field, value in row.items():
                rows[n][field] = value.encode() if isinstance(value, str) else value
        overflow = dict.fromkeys(counters, 0) | found["overflow"]
        totals = {name: int(rows[name].sum()) + overflow[name] for name in counters}
        since = self._since_load[name] = {name: n + totals[name] for name, n in self._since_load[name].items()}
        return TableHarvest(rows, totals, overflow, found["overflow_calls"], of["capacity"], since)

    def _with_disk_name(self, row: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return a row with the name of the disk in words. The recordings have device numbers and links in sysfs."""
        numbers = f"{row['device'] >> 20}:{row['device'] & 0xFFFFF}"
        target = self._now.scenario["settings"]["disk_links"].get(numbers, numbers)
        words = np.frombuffer(os.path.basename(target).replace("!", "/").encode().ljust(32, b"\0"), "<u8")
        counters = {field: value for field, value in row.items() if field not in ("device", "unused")}
        return {**dict(zip(Disks.fields, words.tolist(), strict=True)), **counters}


class ByComm:
    """A naming that knows the group of each command."""

    known: tuple[int, ...] = ()

    def __init__(self, groups: Mapping[str, str]) -> None:
        self._groups = groups

    def learn(self, execs: np.ndarray) -> None: ...

    def receive(self, result: LookupResult) -> bool:
        return False

    def request(self, new: Sequence[Identity]) -> LookupRequest:
        return LookupRequest()

    def name(self, process: Identity) -> tuple[str | None, bool]:
        return self._groups.get(process.comm.decode()), True


class Measured(SelfMetrics):
    """Self-metrics from the scenario instead of measurements."""

    def __init__(self, now: Now) -> None:
        self._now, tables = now, list(now.scenario["tables"])
        sinks = [SimpleNamespace(name=name, statistics=SinkStatistics()) for name in now.interval["self"]["sinks"]]
        self._of = {"table": tables, "sink": [sink.name for sink in sinks]}
        super().__init__(tables, sinks)

    def measure(
        self, harvest: Harvest, late_ticks: int, attribution: Mapping[str, int]
    ) -> dict[str, list[list[int | float]]]:
        fields = self._now.interval["self_fields"]

        def each(label: str, name: str) -> list[list[int | float]]:
            return [[fields.get(f"{of}.{name}", 0)] for of in self._of[label]]

        def one(*names: str) -> list[list[int | float]]:
            return [[fields[name] for name in names]]

        return super().measure(harvest, late_ticks, attribution) | {
            "harvest_time": one("swap", "drain"), "rows": each("table", "rows"),
            "table_occupancy": each("table", "occupancy"), "overflow": each("table", "overflow"),
            "lost": one("late_ticks", "missed_runs"), "attribution": one("looked_up", "waiting", "forgotten"),
            "cpu": one("user", "system"), "memory": one("rss"),
            **{f"sinks_{name}": each("sink", name) for name in ("sent", "dropped", "errors", "queue", "age")},
        }  # fmt: skip


def labels_of(now: Now, where: Path) -> dict[str, dict[str, LabelSource]]:
    """Return the label sources by probe and table, as the probes set them up."""
    settings = now.scenario["settings"]
    services = resolver = None
    if settings["services"]:
        (where / "services").write_text(settings["services"]["file"], encoding="utf-8")
        own = {int(port): name for port, name in settings["services"]["own"].items()}
        services = Services(own, where / "services")
    if settings["resolver"] is not None:

        def name(address: str) -> str | None:
            known, first = settings["resolver"].get(address, (None, 0))
            return known.lower() if known and now.number >= first else None

        resolver = cast(Resolver, SimpleNamespace(name=name))
    hostnames, machine = Hostnames.parse(settings["hostnames"]), settings["machine"]
    return {
        "block_io": {"block_io": Disks(settings["disks_maximum"])},
        "network_viewer": {
            "outbound": Outbound(settings["outbound_maximum"], services, resolver, hostnames),
            "inbound": Inbound(settings["inbound_maximum"], services),
        },
        "syscalls": {
            "syscalls": Calls(settings["calls_maximum"], machine),
            "syscall_errors": Errors(settings["errors_maximum"], machine),
        },
    }


def snapshots_of(scenario: Scenario, where: Path) -> list[Snapshot]:
    """Return the snapshots of a scenario, as the pipeline publishes them."""
    now = Now(scenario)
    labels = labels_of(now, where)

    def loaded(probe: Any) -> Any:
        tables = [
            SimpleNamespace(
                name=name,
                counters=tuple(of["counters"]),
                is_by_process=[field for field, _ in of["key"]][-1] == "comm",
            )
            for name, of in scenario["tables"].items()
            if of["probe"] == probe.name
        ]
        return SimpleNamespace(probe=probe, tables=tables, setup=SimpleNamespace(labels=labels.get(probe.name, {})))

    published = table_specs([loaded(p) for p in (*discover().probes.values(), execs.PROBE)], LoadMode.RETURN)
    assert list(published.charts) == list(scenario["tables"])
    snapshots: list[Snapshot] = []
    with ThreadPoolExecutor(1) as executor:
        naming = {DEFAULT_GROUPING: ByComm(scenario["groups"])}
        maximum = scenario["settings"]["apps_maximum"]
        groups = GroupStage([groupings()[DEFAULT_GROUPING]], naming, published, maximum, cast(Lookup, None), executor)
        pipeline = Pipeline(
            "golden", cast(Harvester, Rows(now)), cast(Publisher, SimpleNamespace(publish=snapshots.append)), executor,
            published, groups, Measured(now),
        )  # fmt: skip

        async def run() -> None:
            for now.number, interval in enumerate(scenario["intervals"]):
                await pipeline.tick(interval["self"]["late_ticks"])

        asyncio.run(run())
    return [replace(s, charts=tuple(as_recorded(c) for c in s.charts if c.chart.id in RECORDED)) for s in snapshots]


def as_recorded(data: ChartData) -> ChartData:
    """Return the chart without dimensions that were added after the recording."""
    kept = [n for n, column in enumerate(data.chart.columns) if column.id in RECORDED[data.chart.id]]
    if len(kept) == len(data.chart.columns):
        return data
    of = replace(data.chart, dimensions=tuple(data.chart.columns[n] for n in kept))
    return replace(data, chart=of, deltas=data.deltas[:, kept], totals=data.totals[:, kept])


@pytest.fixture(scope="module", params=["small", "large", "slow"])
def scenario(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture(scope="module")
def snapshots(scenario: str, tmp_path_factory: pytest.TempPathFactory) -> list[Snapshot]:
    return snapshots_of(scenarios()[scenario], tmp_path_factory.mktemp("golden"))


@pytest.mark.parametrize("every_s", [1, 5])
def test_the_plugins_d_stream_equals_the_recording(scenario: str, snapshots: list[Snapshot], every_s: int) -> None:
    interval_s = scenarios()[scenario]["settings"]["interval_s"]
    stream, output = Stream(every_s), b""
    for snapshot in snapshots:
        stream.add(snapshot)
        output += stream.update(interval_s)
    recorded_every_s = every_s if every_s > interval_s else 1
    assert output.decode().splitlines() == recorded(f"plugins_d_{scenario}_{recorded_every_s}.txt").splitlines()


def test_the_statsd_datagrams_equal_the_recording(scenario: str, snapshots: list[Snapshot]) -> None:
    names, output = Names("none"), ""
    for n, snapshot in enumerate(snapshots):
        output += f"=== interval {n}\n"
        for m, datagram in enumerate(to_datagrams(snapshot, names, StatsdSettings())):
            output += f"--- datagram {m}\n{datagram.decode()}\n"
    # The recording has 0 for the occupancy of a table that cannot be read; now it is a float like all others.
    expected = re.sub(r"(\.table_occupancy\.\w+:0)(\|g)", r"\1.0\2", recorded(f"statsd_{scenario}.txt"))
    assert output.splitlines() == expected.splitlines()
