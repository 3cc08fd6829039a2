"""What Netdata must have, by what the daemon wrote down: compared to the last unit, second by second."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import pytest

from ebpfmon.registry import discover
from ebpfmon_sinks.plugins_d_stream import dimension_id

BASE = 1 << 32
Key = tuple[str, str]  # ids of a chart and of a dimension
Raw = re.compile(r'^\S+\{chart="([^"]+)",family="[^"]*",dimension="([^"]+)"\} (-?\d+) (\d+)$', re.M)


class Place(Protocol):
    """Where both are: Netdata's HTTP API, and the daemon's log."""

    def get(self, path: str) -> str: ...
    def json(self, path: str) -> Any: ...
    def snapshots(self) -> list[dict[str, Any]]: ...


@dataclass(frozen=True)
class Poll:
    """The newest update as Netdata collected it: the numbers as the sink sent them, and the second in which it came."""

    raw: Mapping[Key, int]
    second: int


def poll(place: Place, seconds: int) -> list[Poll]:
    """Once a second, in the middle between two updates: each is of one update."""
    polls = []
    for _ in range(seconds):
        time.sleep(1.6 - time.time() % 1)
        found = Raw.findall(place.get("allmetrics?format=prometheus&source=as-collected&timestamps=yes&names=no"))
        newest = max((int(ms) for *_, ms in found), default=0)
        now = {(chart, dim): int(value) for chart, dim, value, ms in found if int(ms) > newest - 400}
        polls += [Poll(now, newest // 1000)] if now else []  # a chart is in there after a second or two
    assert len(polls) > seconds - 3
    return polls


@dataclass(frozen=True)
class Line:
    """A dimension in all the snapshots from the one that Netdata counts from; None where it is not shown."""

    values: list[float | None]
    is_rate: bool
    is_negative: bool

    def increments(self) -> list[float | None]:
        """What each update adds. A dimension's first value is where Netdata counts from: what the first has comes with
        the second, unless it was there from the beginning."""
        found: list[float | None] = []
        carried, before = 0.0, None
        for n, value in enumerate(self.values):
            is_new = before is None
            found.append(None if is_new or value is None else value + carried)
            carried = value if is_new and value is not None and n > 0 else 0.0
            before = value
        return found


def lines_of(snapshots: Sequence[Mapping[str, Any]]) -> dict[Key, Line]:
    """All that was written down."""
    charts = {c.id: c for p in discover().probes.values() for c in p.charts}
    found: dict[Key, Line] = {}
    for n, snapshot in enumerate(snapshots):
        for chart in snapshot["charts"]:
            declared = charts.get(chart["id"])
            is_difference = declared is not None and any(d.minus for d in declared.dimensions)
            for dim in chart["dimensions"]:
                key = chart["id"], dimension_id(dim["id"])
                if key not in found:
                    of = [d for d in declared.dimensions if d.id and dim["id"].endswith(d.id)] if declared else []
                    is_rate = "delta" in dim and chart["units"].endswith("/s") and not is_difference
                    found[key] = Line([None] * len(snapshots), is_rate, bool(of) and of[0].negative)
                found[key].values[n] = dim.get("delta", dim.get("value"))
    return found


def check(place: Place, seconds: int) -> tuple[int, int, int]:
    """Compares all that Netdata collects and shows of this run of the daemon in so many seconds; returns how many
    dimensions, collected numbers and shown points that were."""
    polls = poll(place, seconds)
    time.sleep(1.1)  # what is complete by then is shown
    snapshots = place.snapshots()
    numbers = {math.floor(s["time"]): n for n, s in enumerate(snapshots)}
    reads = [next(d["total"] for c in s["charts"] if c["id"] == "ebpf.io" for d in c["dimensions"]) for s in snapshots]
    counted = polls[-1].raw["ebpf.io", "vfs_read"] - BASE
    first = reads.index(reads[numbers[polls[-1].second]] - counted)  # of this snapshot on it counts
    lines = lines_of(snapshots[first:])
    numbers = {second: n - first for second, n in numbers.items()}
    collected = sum(compare_collected(one.raw, lines, numbers[one.second]) for one in polls)
    return len(lines), collected, compare_shown(place, lines, snapshots[first : first + numbers[polls[-1].second] + 1])


def declared(snapshot: Mapping[str, Any]) -> dict[str, set[Key]]:
    """By chart, the ids and names of its dimensions."""
    return {c["id"]: {(d["id"], d["name"]) for d in c["dimensions"]} for c in snapshot["charts"]}


def compare_collected(raw: Mapping[Key, int], lines: Mapping[Key, Line], n: int) -> int:
    """To the last unit: Netdata was told the sum of all that was written down until update n."""
    there = {key for key, line in lines.items() if line.values[n] is not None}
    assert {*raw} == there, f"{n}: {sorted({*raw} ^ there)[:9]}"
    for key, value in raw.items():
        line = lines[key]
        if line.is_rate:
            start = max((m for m in range(n) if line.values[m] is None), default=-1) + 1
            assert value - BASE == sum(v or 0 for v in line.increments()[start : n + 1]), key
        elif n and line.values[n - 1] is not None:
            assert value == round((line.values[n] or 0) * 1000), key
    return len(raw)


def shown(place: Place, chart: str, after: int, before: int) -> dict[str, dict[int, float | None]]:
    """Of each dimension what Netdata shows, by second."""
    got = place.json(f"data?chart={chart}&after={after - 1}&before={before}&format=json&options=jsonwrap,seconds")
    rows = {int(row[0]): row[1:] for row in got["result"]["data"]}
    return {id_: {second: row[n] for second, row in rows.items()} for n, id_ in enumerate(got["dimension_ids"])}


def compare_shown(place: Place, lines: Mapping[Key, Line], snapshots: Sequence[Mapping[str, Any]]) -> int:
    """Second by second.

    A level is what was collected in that second, as it is. A rate Netdata takes for even between two updates, and shows
    its mean over each whole second; as updates come some hundredths after the second, that is the mean of two updates'
    rates. The weights it has from when the first one came, which nobody can ask for, but they are the same for all
    dimensions of a chart: the one that changed most tells them, and they must be right for the others, and move from
    second to second with the microseconds that the sink names. Where a chart was declared anew Netdata does not believe
    these, and takes its own clock.
    """
    points = 0
    times = [(math.floor(s["time"]), s["elapsed_s"]) for s in snapshots]
    seconds = [(n, second) for n, (second, _) in enumerate(times) if n > 3]
    of_charts = {chart: shown(place, chart, seconds[0][1], seconds[-1][1]) for chart in {chart for chart, _ in lines}}
    increments = {key: line.increments() for key, line in lines.items()}
    weights: dict[str, tuple[int, float]] = {}
    for n, second in seconds:
        was, is_ = ([declared(s) for s in snapshots[m : m + 2]] for m in (n - 2, n - 1))
        moving: dict[str, list[tuple[float, float, float]]] = {}
        for (chart, dimension), line in lines.items():
            earlier, later = increments[chart, dimension][n - 1 : n + 1]
            if earlier is None or later is None:
                continue  # it came or went, and its sum was compared
            value = of_charts[chart][dimension][second]
            assert value is not None, (chart, dimension, second)
            value = -value if line.is_negative else value
            if line.is_rate:
                moving.setdefault(chart, []).append((earlier / times[n - 1][1], later / times[n][1], value))
            else:
                assert value == pytest.approx(line.values[n], rel=2e-6, abs=1e-6), (chart, dimension, second)
            points += 1
        for chart, dims in moving.items():
            is_same = was[0].get(chart) == was[1].get(chart) == is_[1].get(chart)
            before, now, value = max(dims, key=lambda rates: abs(rates[1] - rates[0]))
            change, sum_ = abs(now - before), now + before
            weight = (now - value) / (now - before) if change else 0.0
            if is_same and change > 0.1 * sum_:
                assert -0.001 < weight < 1, (chart, second, weight)
                if weights.get(chart, (0, 0.0))[0] == n - 1:
                    moved = weight - weights[chart][1]
                    on_time = all(abs(elapsed_s - 1) < 0.05 for _, elapsed_s in times[n - 3 : n + 1])
                    if on_time:  # Netdata takes its own clock after a delay, too
                        assert moved == pytest.approx(times[n - 1][1] - 1, abs=0.004), (chart, second)
                weights[chart] = n, weight
            for before, now, value in dims:
                if not is_same:
                    assert 0.75 * min(before, now) - 1e-6 <= value <= 1.25 * max(before, now) + 1e-6, (chart, second)
                    continue
                # the log has the length of an interval to a tenth of a millisecond: so exact are rates, and weights
                unsure = 1e-4 * (now + before + (abs(now - before) * sum_ / change if change else 0)) + 1e-6
                assert value == pytest.approx(before * weight + now * (1 - weight), abs=unsure), (chart, second)
    return points
