"""What Netdata must have, by what the daemon wrote down: compared to the last unit, second by second."""

from __future__ import annotations

import itertools
import math
import re
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import pytest

from ebpfmon import Chart
from ebpfmon.plugins.registry import discover
from ebpfmon_sinks.plugins_d.stream import dimension_id
from tests.sinks.support import Number, numbers_of

BASE = 1 << 32
Key = tuple[str, str]  # ids of a chart and of a dimension
Raw = re.compile(r'^\S+\{chart="([^"]+)",family="[^"]*",dimension="([^"]+)"\} (-?\d+) (\d+)$', re.M)


class Api(Protocol):
    """Netdata's HTTP API."""

    def collected(self) -> str: ...
    def json(self, path: str) -> Any: ...


Poll = Mapping[Key, tuple[int, int]]
"""All as Netdata collected it: the numbers as the sink sent them, and when, in milliseconds of its clock."""


def poll(api: Api, seconds: float) -> list[Poll]:
    """One of each update that there is in that time, as far as Netdata can be asked so often."""
    polls: list[Poll] = []
    end = time.monotonic() + seconds
    before: Poll | None = None
    while time.monotonic() < end:
        now = {
            (chart, dim): (int(value), int(ms))
            for chart, dim, value, ms in Raw.findall(api.collected())
            if not chart.startswith(("statsd_", "netdata."))
        }
        if now and now == before and (not polls or now != polls[-1]):
            polls.append(now)
        before = now
        time.sleep(0.2)
    return polls


def is_whole(one: Poll, snapshot: Mapping[str, Any]) -> bool:
    """Whether no update was under way: the last chart is of the same time as the first."""
    of_charts = [c["id"] for c in snapshot["charts"] if not c["labels"]]
    first, last = (
        next((ms for (chart, _), (_, ms) in one.items() if chart == id_), 0) for id_ in of_charts[:: len(of_charts) - 1]
    )
    return bool(first and last) and abs(first - last) < 500


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


def declarations(*, enabled: bool = False) -> dict[str, Chart]:
    """The charts of all probes, or of those that are enabled by default, as they are published by application."""
    probes = [probe for probe in discover().probes.values() if probe.settings().enabled or not enabled]
    charts = [chart for probe in probes for chart in probe.charts]
    published = [chart.for_grouping("apps", "application") if chart.grouped else chart for chart in charts]
    return {chart.id: chart for chart in published}


def dimension_of(number: Number) -> str:
    """The id that a number's dimension has in Netdata."""
    if not number.labels:
        return dimension_id(number.id)
    return dimension_id("_".join([number.joined_labels, *([number.id] if number.id != "value" else [])]))


def lines_of(snapshots: Sequence[Mapping[str, Any]]) -> dict[Key, Line]:
    """All that was written down."""
    charts = declarations()
    found: dict[Key, Line] = {}
    for n, snapshot in enumerate(snapshots):
        for number in numbers_of(snapshot):
            key = number.chart["id"], dimension_of(number)
            if key not in found:
                declared = charts.get(number.chart["id"])
                columns = declared.columns if declared else ()
                is_difference = any(column.minus for column in columns)
                is_rate = not number.is_gauge and number.chart["units"].endswith("/s") and not is_difference
                is_negative = any(column.negative for column in columns if column.id == number.id)
                found[key] = Line([None] * len(snapshots), is_rate, is_negative)
            found[key].values[n] = number.amount
    return found


@dataclass(frozen=True)
class Compared:
    """How much was: updates, dimensions, numbers as they were collected, points as they are shown; and charts in a
    second that were shown as they should be, and that were not."""

    updates: int
    dimensions: int
    numbers: int
    points: int
    right: int
    wrong: int


def compare(api: Api, polls: Sequence[Poll], snapshots: Sequence[Mapping[str, Any]]) -> Compared:
    """All that Netdata collected, and shows, of this run of the daemon, with what the daemon wrote down."""
    reads = [
        next(int(n.amount) for n in numbers_of(s) if (n.chart["id"], n.id) == ("ebpf.io", "vfs_read"))
        for s in snapshots
    ]
    totals: list[int] = list(itertools.accumulate(reads))
    whole = [{key: value for key, (value, _) in one.items()} for one in polls if is_whole(one, snapshots[0])]
    counted = [one["ebpf.io", "vfs_read"] - BASE for one in whole]
    assert counted
    # of one snapshot on it counts, and each update is known by how many reads it has: there are some in every second
    numbers = {total: n for n, total in enumerate(totals)}
    first = next(n for n, total in enumerate(totals) if all(total + count in numbers for count in counted))
    last = max(numbers[totals[first] + count] for count in counted)
    lines = lines_of(snapshots[first:])
    collected = sum(
        compare_collected(one, lines, numbers[totals[first] + count] - first)
        for one, count in zip(whole, counted, strict=True)
    )
    shown_ = compare_shown(api, lines, snapshots[first : last + 1])
    return Compared(len(whole), len(lines), collected, *shown_)


def declared(snapshot: Mapping[str, Any]) -> dict[str, set[Key]]:
    """By chart, what tells its dimensions apart, and their names."""
    found: dict[str, set[Key]] = {}
    for number in numbers_of(snapshot):
        found.setdefault(number.chart["id"], set()).add((dimension_of(number), number.joined_names))
    return found


def compare_collected(raw: Mapping[Key, int], lines: Mapping[Key, Line], n: int) -> int:
    """To the last unit: Netdata was told the sum of all that was written down until update n. Returns how many numbers
    that were; what was retired is not looked at."""
    there = {key for key, line in lines.items() if line.values[n] is not None}
    assert there <= {*raw}, f"{n}: {sorted(there - {*raw})[:9]}"
    for key in there:
        line, value = lines[key], raw[key]
        if line.is_rate:
            start = max((m for m in range(n) if line.values[m] is None), default=-1) + 1
            assert value - BASE == sum(v or 0 for v in line.increments()[start : n + 1]), key
        elif n and line.values[n - 1] is not None:
            assert value == round((line.values[n] or 0) * 1000), key
    return len(there)


def shown(api: Api, chart: str, after: int, before: int) -> dict[str, dict[int, float | None]]:
    """Of each dimension what Netdata shows, by second."""
    got = api.json(f"data?chart={chart}&after={after - 1}&before={before}&format=json&options=jsonwrap,seconds")
    rows = {int(row[0]): row[1:] for row in got["result"]["data"]}
    return {id_: {second: row[n] for second, row in rows.items()} for n, id_ in enumerate(got["dimension_ids"])}


LATE_S = 10
"""So many seconds later than they were written down may Netdata show things, if it had no time for them sooner."""
Rates = Sequence[tuple[float, float, float]]
"""Of dimensions: the rate in an interval and in the next one, and what is shown."""


def compare_shown(api: Api, lines: Mapping[Key, Line], snapshots: Sequence[Mapping[str, Any]]) -> tuple[int, int, int]:
    """Second by second; returns how many points were compared, and how many charts in a second were right and wrong.

    A level is what was collected in that second, as it is. A rate Netdata takes for even between two updates, and shows
    its mean over each whole second; as updates come some hundredths after the second, that is the mean of two updates'
    rates. The weights it has from when the first one came, which nobody can ask for, but they are the same for all
    dimensions of a chart: the one that changed most tells them, and they must be right for the others, and move from
    second to second with the microseconds that the sink names (but where Netdata takes its own clock, as it does after
    a delay; if that was a second or more, all that it shows is of an interval before). Left out are seconds around an
    interval that was much longer or shorter, and charts that were just declared anew: their sums were compared.
    """
    points = right = late = wrong = left_out = 0
    times = [(math.floor(s["time"]), s["elapsed_s"]) for s in snapshots]
    on_time = [abs(elapsed_s - 1) < 0.2 for _, elapsed_s in times]
    of_charts = {chart: shown(api, chart, times[0][0], times[-1][0]) for chart in {chart for chart, _ in lines}}
    dimensions = {chart: [key for key in lines if key[0] == chart] for chart in of_charts}
    increments = {key: line.increments() for key, line in lines.items()}
    were = [declared(s) for s in snapshots]
    weights: dict[str, tuple[int, float]] = {}
    moves: list[float] = []

    def is_regular(chart: str, start: int, n: int) -> bool:
        """Whether from one update on up to another nothing was out of the ordinary."""
        alike = all(one.get(chart) == were[n].get(chart) for one in were[max(start, 0) : n])
        return start > 0 and all(on_time[start : n + 1]) and alike

    def as_of(chart: str, second: int, m: int) -> tuple[int, float | None]:
        """How many points are shown in a second, and the weight with which all that is what was written down in update
        m and the one before; None: it is not."""
        rates, count = [], 0
        for key in dimensions[chart]:
            before, now = increments[key][m - 1 : m + 1]
            if before is None or now is None:
                continue
            value, count = of_charts[chart][key[1]][second], count + 1
            assert value is not None, (key, second)
            value = -value if lines[key].is_negative else value
            if lines[key].is_rate:
                rates.append((before / times[m - 1][1], now / times[m][1], value))
            elif value != pytest.approx(lines[key].values[m], rel=2e-6, abs=1e-6):
                return 0, None
        return count, weight_of(rates)

    for n, chart in ((n, chart) for n in range(4, len(times)) for chart in of_charts):
        second = times[n][0]
        if not is_regular(chart, n - 3, n):
            continue
        count, weight = as_of(chart, second, n)
        if weight is not None:
            points, right = points + count, right + 1
            if weights.get(chart, (0, 0.0))[0] == n - 1:
                moves.append(weight - weights[chart][1] - (times[n - 1][1] - 1))
            if not math.isnan(weight):
                weights[chart] = n, weight
        elif is_regular(chart, n - LATE_S - 2, n):
            found = [m for m in range(n - LATE_S, n) if as_of(chart, second, m)[1] is not None]
            late, wrong = late + bool(found), wrong + (not found)
            if not found:
                of = dimensions[chart]
                values = {key[1]: (lines[key].values[n - 2 : n + 1], of_charts[chart][key[1]][second]) for key in of}
                print(f"{chart} at {second}: {values}")
        else:
            left_out += 1
    print(f"of all charts and seconds {late} were shown late, and {left_out} left out, as much changed before")
    moves = [move for move in moves if not math.isnan(move)]
    if len(moves) > 20 and not late and not left_out:
        assert statistics.median(map(abs, moves)) < 0.004
    return points, right, wrong


def weight_of(dims: Rates) -> float | None:
    """The part of the earlier rate in what is shown of all these dimensions; NaN if they tell none; None if there is
    none with which it would be right."""
    if not dims:
        return math.nan
    before, now, value = max(dims, key=lambda rates: abs(rates[1] - rates[0]))
    change, sum_ = abs(now - before), now + before
    weight = (now - value) / (now - before) if change else 0.0
    tells = change > 0.1 * sum_
    if tells and not -0.001 < weight < 1.001:
        return None
    for before, now, value in dims:
        # the log has the length of an interval to a tenth of a millisecond: so exact are rates, and weights
        unsure = 1e-4 * (now + before + (abs(now - before) * sum_ / change if change else 0)) + 1e-6
        if abs(value - (before * weight + now * (1 - weight))) > unsure:
            return None
    return weight if tells else math.nan
