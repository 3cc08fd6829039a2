"""Run random work while ebpfmon counts, and compare (see random_work.py).

`python -m tests.kernel.random_watch --minutes 60` does so with random seeds, until a time is over or something differs.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import hypothesis
import hypothesis.strategies as st
import numpy as np
from hypothesis import HealthCheck, Phase

from ebpfmon import Role, Rows, Snapshot
from ebpfmon.grouping.naming import Identity
from ebpfmon.grouping.registry import groupings
from ebpfmon_network_viewer.destinations import address_text
from tests.kernel.random_work import (
    APPLICATIONS,
    CGROUPS,
    FILE_WISHES,
    NAMES,
    SOCKET_WISHES,
    TASK_WISHES,
    USERS,
    Caller,
    Draft,
    Place,
    Raw,
    Run,
    World,
)
from tests.kernel.support import RELEASES_ARE_SEEN, Monitor

ALL_WISHES = FILE_WISHES + TASK_WISHES * 2 + SOCKET_WISHES * 2
MAY_MISS = () if RELEASES_ARE_SEEN else ("tasks_released", "tcp_close_calls")
"""Counters of events that happen in interrupts, which some sandboxes hide from BPF programs while PID 1 runs."""
NOT_COMPARED = ("tcp_retransmits", "retransmits")
"""Counters that depend on how busy the machine is."""
_IDENTITY = (
    *Identity._fields, "address_high", "address_low", "port", "protocol",
)  # fmt: skip
Counts = dict[Any, Counter[str]]
"""Counters by caller, destination or group."""


def wishes(names: Sequence[str]) -> st.SearchStrategy[list[Raw]]:
    """Return lists of wishes. They shrink to lists of nothing, because short lists find little."""
    number = st.integers(0, 40)
    return st.lists(
        st.tuples(st.sampled_from(("nothing", *names)), number, number, number, number), min_size=20, max_size=60
    )


class Watch:
    """Runs plans while ebpfmon counts, and compares."""

    def __init__(self, monitor: Monitor, place: Place) -> None:
        self.monitor, self.place, self.steps = monitor, place, 0
        cgroups = (place.cgroups[name].name for name in CGROUPS)
        # The group of a user or a cgroup is known when it has been looked up, for which an interval may have no time.
        changes = [("enter", 0), ("enter", 1), ("user", 0), ("user", 2), ("user", 1)]
        calls = [("enter", 0, n, 0, 0) if what == "enter" else ("user", 0, 2, n, 0) for what, n in changes]
        Run(Draft.plan([wish for call in calls for wish in (call, ("close", 0, 0, 0, 0))]), place).wait()
        self._next_interval()
        self._next_interval()
        self.own_groups = {*NAMES, *(str(uid) for uid in USERS if uid), *cgroups}

    def run(self, several: Sequence[Sequence[Raw]]) -> None:
        """Run plans at the same time, and assert that everything they did is counted."""
        runs, found = self._run(several)
        self.steps += sum(len(one.plan) for one in runs)
        found = found or self._group_differences(self.monitor.snapshots[1:])
        if found:
            shown = [[wish for wish in each if wish[0] != "nothing"] for each in several]
            raise AssertionError("\n".join([*found, *map(str, runs), f"--replay '{json.dumps(shown)}'"]))

    def reduced(self, several: Sequence[Sequence[Raw]]) -> Sequence[Sequence[Raw]]:
        """Return the smallest plan that still differs, or all plans if none differs alone."""
        failing = self._failing(several)
        if not failing:
            return several
        plan = several[failing[0]]
        size = len(plan) // 2
        while size:
            parts = [[*plan[:n], *plan[n + size :]] for n in range(0, len(plan), size)]
            for n in range(0, len(parts), 8):  # Eight plans at a time take as long as one.
                batch = parts[n : n + 8]
                if failing := self._failing(batch):
                    plan = batch[failing[0]]
                    break
            else:
                size //= 2
        return [plan]

    def _failing(self, several: Sequence[Sequence[Raw]]) -> list[int]:
        """Return the numbers of the plans that differ."""
        _, found = self._run(several)
        return [n for n in range(len(several)) if any(line.startswith(f"plan {n} ") for line in found)]

    def _run(self, several: Sequence[Sequence[Raw]]) -> tuple[list[Run], list[str]]:
        """Run plans at the same time, and return what differs, with the number of each plan."""
        del self.monitor.snapshots[:-1]
        runs = [Run(Draft.plan(each), self.place, n) for n, each in enumerate(several)]
        for one in runs:
            self._end_pauses(one)
        worlds = [one.wait() for one in runs]
        begin = len(self.monitor.snapshots)
        found: list[str] = []

        def is_equal() -> bool:
            lines = [(n, line) for n, world in enumerate(worlds) for line in self._differences(world)]
            found[:] = [f"plan {n} {line}" for n, line in lines]
            return not found or len(self.monitor.snapshots) >= begin + 2

        self.monitor.until(is_equal)
        return runs, found

    def _end_pauses(self, one: Run) -> None:
        turn, since = -1, 0.0
        while one._process.poll() is None:
            step = one.at()
            if turn != one.shared.turn:
                turn, since = one.shared.turn, time.monotonic()
            elif time.monotonic() > since + 10:
                one._process.kill()
                raise AssertionError(f"step {turn} does not end:\n{one}")
            if step and step.operation == "pause" and one.shared.continued <= step.given[0]:
                self._next_interval()
                one.go_on()
            else:
                time.sleep(0.001)

    def _next_interval(self) -> None:
        seen = len(self.monitor.snapshots)
        self.monitor.until(lambda: len(self.monitor.snapshots) > seen)

    def _differences(self, world: World) -> list[str]:
        snapshots = self.monitor.snapshots[1:]  # The first one ended before the plans began.
        if not snapshots:
            return ["no interval has ended"]
        rows = {
            table: np.concatenate([s.tables[table].harvest.rows for s in snapshots])
            for table in ("process", "network", "outbound", "inbound")
        }
        own = rows["process"][rows["process"]["tgid"] == os.getpid()]
        if not len(own):
            return ["the test itself has no row"]
        first_exec = int(own["exec_id"].max()) + 1
        tgids = list(world.tgids)
        rows = {t: all_[np.isin(all_["tgid"], tgids) & (all_["exec_id"] >= first_exec)] for t, all_ in rows.items()}
        callers = {table: self._by_caller(rows[table], first_exec) for table in ("process", "network")}
        network: Counts = defaultdict(Counter)
        network.update({caller: Counter(counters) for caller, counters in world.network.items()})
        room = {caller: counters["tcp_close_calls"] for caller, counters in callers["network"].items()}
        for caller in _assign(world.closes, room):
            network[caller]["tcp_close_calls"] += 1
        return [
            *_compare("process", world.by_process, callers["process"]),
            *_compare("network", network, callers["network"]),
            *_compare("outbound", world.outbound, _by_destination(rows["outbound"], first_exec)),
            *_compare("inbound", world.inbound, _by_destination(rows["inbound"], first_exec)),
            *_application_differences(snapshots, tgids),
        ]

    def _by_caller(self, rows: Rows, first_exec: int) -> Counts:
        cgroups = {path.stat().st_ino: name for name, path in self.place.cgroups.items()}
        return _sum(
            rows,
            lambda row: Caller(
                int(row["tgid"]), int(row["exec_id"]) - first_exec, int(row["uid"]),
                row["comm"].decode(errors="replace"),
                cgroups.get(int(row["cgroup_id"]), str(row["cgroup_id"])),
            ),
        )  # fmt: skip

    def _group_differences(self, snapshots: Sequence[Snapshot]) -> list[str]:
        """Compare the series of groups with the rows of their processes, which other programs may have too."""
        cgroups = {path.stat().st_ino: path.name for path in self.place.cgroups.values()}
        groups: dict[str, Callable[[Any], str]] = {
            "process": lambda row: row["comm"].decode(errors="replace"),
            "user": lambda row: str(row["uid"]),
            "container": lambda row: cgroups.get(int(row["cgroup_id"]), ""),
        }
        expected: Counts = defaultdict(Counter)
        counted: Counts = defaultdict(Counter)
        for snapshot in snapshots:
            sums = {
                (table, grouping): _sum(snapshot.tables[table].harvest.rows, group_of)
                for table in ("process", "network")
                for grouping, group_of in groups.items()
            }
            for data in snapshot.charts:
                of_rows = sums.get((data.chart.table, "".join(data.chart.labels)))
                if of_rows is None:
                    continue
                for n, column in enumerate(data.chart.columns):
                    name = f"{data.chart.id} {column.id}"
                    for group in self.own_groups & of_rows.keys():
                        counters = of_rows[group]
                        expected[group][name] += sum(counters[c] for c in column.plus)
                        expected[group][name] -= sum(counters[c] for c in column.minus)
                    series = zip(data.index.labels, data.index.roles, data.deltas[:, n].tolist(), strict=True)
                    for labels, role, delta in series:
                        if role is Role.ITEM and labels[0] in self.own_groups:
                            counted[labels[0]][name] += delta
        return _compare("group", expected, counted)


def _application_differences(snapshots: Sequence[Snapshot], tgids: Sequence[int]) -> list[str]:
    """Return the rows that are in another application than the one which the groups file gives their name."""
    found = []
    for snapshot in snapshots:
        for table in ("process", "network"):
            view = snapshot.tables[table]
            groups = view.groups["application"]
            for row, id_ in zip(view.harvest.rows, groups.ids.tolist(), strict=True):
                name, must = groups.names.get(id_), APPLICATIONS.get(row["comm"].decode(errors="replace"))
                if row["tgid"] in tgids and must and name != must:
                    found.append(f"{table} {row['tgid']} {row['comm']}: {must} expected, {name} counted")
    return found


def _sum(rows: Rows, key: Callable[[Any], Any]) -> Counts:
    """Return the sums of the counters of rows, by key."""
    names = [name for name in rows.dtype.names or () if name not in _IDENTITY]
    sums: Counts = defaultdict(Counter)
    for row in rows:
        sums[key(row)].update({name: int(row[name]) for name in names if row[name]})
    return sums


def _by_destination(rows: Rows, first_exec: int) -> Counts:
    def key(row: Any) -> tuple[Any, ...]:
        process = int(row["tgid"]), int(row["exec_id"]) - first_exec, int(row["protocol"])
        if "address_high" in (rows.dtype.names or ()):
            return *process, address_text(int(row["address_high"]), int(row["address_low"])), int(row["port"])
        return *process, int(row["port"])

    return _sum(rows, key)


def _assign(closes: Sequence[tuple[Caller, Caller]], room: dict[Caller, int]) -> list[Caller]:
    """Return one of the two callers for each close, so that as many as possible find room."""
    held: dict[Caller, list[int]] = defaultdict(list)

    def find(n: int, tried: set[Caller]) -> bool:
        for caller in closes[n]:
            if caller in tried:
                continue
            tried.add(caller)
            if len(held[caller]) < room.get(caller, 0):
                held[caller].append(n)
                return True
            for k, other in enumerate(held[caller]):
                if find(other, tried):
                    held[caller][k] = n
                    return True
        return False

    missing = [closes[n][0] for n in range(len(closes)) if not find(n, set())]
    return missing + [caller for caller, numbers in held.items() for _ in numbers]


def _compare(table: str, expected: Mapping[Any, Counter[str]], counted: Counts) -> list[str]:
    found = []
    for key in sorted(expected.keys() | counted.keys()):
        for name in sorted(expected[key].keys() | counted[key].keys()):
            must, did = expected[key][name], counted[key][name]
            if must != did and name not in NOT_COMPARED and not (name in MAY_MISS and did < must):
                found.append(f"{table} {key} {name}: {must} expected, {did} counted")
    return found


def watching(place: Place, interval: int = 1) -> Monitor:
    """Return ebpfmon with everything that can be compared. The model says what tracepoints see."""
    return Monitor(
        {
            "ebpfmon": {"load_mode": "return", "interval": interval, "attach": "tracepoint"},
            "groups": {"by": list(groupings()), "maximum": 1000, "file": str(place.directory / "groups")},
            "plugins": {"network_viewer": {"ips": "*"}},
        }
    )


def plans(names: Sequence[str], most: int = 4) -> st.SearchStrategy[list[list[Raw]]]:
    """Return lists of plans that run at the same time."""
    return st.lists(wishes(names), min_size=1, max_size=most)


def _differing(watch: Watch, seed: int, end: float) -> Sequence[Sequence[Raw]]:
    """Run plans with this seed until a time, and return the first ones that differ, or none."""
    found: list[Sequence[Sequence[Raw]]] = []

    @hypothesis.seed(seed)
    @hypothesis.settings(
        database=None, deadline=None, max_examples=20, suppress_health_check=list(HealthCheck),
        phases=(Phase.generate,),
    )  # fmt: skip
    @hypothesis.given(plans(ALL_WISHES, 6))
    def compare(several: list[list[Raw]]) -> None:
        if time.monotonic() > end or found:
            return
        try:
            watch.run(several)
        except AssertionError as error:
            print(error, flush=True)
            found.append(several)

    compare()
    return found[0] if found else []


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.kernel.random_watch")
    parser.add_argument("--minutes", type=float, default=60, help="for how long (default: 60)")
    parser.add_argument("--seed", type=int, help="the first seed, to repeat a run (default: a random one)")
    parser.add_argument("--interval", type=int, default=1, help="ebpfmon's interval in seconds (default: 1)")
    parser.add_argument("--replay", help="run these plans once: the JSON that a difference was printed with")
    arguments = parser.parse_args()
    seed = arguments.seed if arguments.seed is not None else random.randrange(1 << 32)
    end, done = time.monotonic() + 60 * arguments.minutes, 0
    with Place() as place, watching(place, arguments.interval) as monitor:
        watch = Watch(monitor, place)
        if arguments.replay:
            watch.run(json.loads(arguments.replay))
            return 0
        while time.monotonic() < end:
            if several := _differing(watch, seed, end):
                try:
                    watch.run(watch.reduced(several))
                except AssertionError as error:
                    print(f"seed {seed} differs, and so does this:\n{error}")
                return 1
            done += 20
            print(f"seed {seed}: equal; {done} examples, {watch.steps} steps", flush=True)
            seed += 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
