"""Compare what Netdata has, second by second, with what the daemon logged."""

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
"""All values that Netdata collected: the number that the sink sent, and the time in milliseconds of Netdata's clock."""


def poll(api: Api, seconds: float) -> list[Poll]:
    """Poll for this many seconds. Return one poll for each update that Netdata answered in time."""
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
    """Return whether a poll has one whole update: its last chart has the same time as its first."""
    of_charts = [c["id"] for c in snapshot["charts"] if not c["labels"]]
    first, last = (
        next((ms for (chart, _), (_, ms) in one.items() if chart == id_), 0) for id_ in of_charts[:: len(of_charts) - 1]
    )
    return bool(first and last) and abs(first - last) < 500


@dataclass(frozen=True)
class Line:
    """A dimension in all snapshots since the one that Netdata counts from. None: the snapshot does not have it."""

    values: list[float | None]
    is_rate: bool
    is_negative: bool

    def increments(self) -> list[float | None]:
        """Return what each update adds.

        Netdata counts from the first value of a dimension, so the first amount is sent with the second update, unless
        the dimension exists from the beginning.
        """
        found: list[float | None] = []
        carried, before = 0.0, None
        for n, value in enumerate(self.values):
            is_new = before is None
            found.append(None if is_new or value is None else value + carried)
            carried = value if is_new and value is not None and n > 0 else 0.0
            before = value
        return found


def declarations(*, enabled: bool = False) -> dict[str, Chart]:
    """Return the charts of all probes, or of those enabled by default, as they are published by application."""
    probes = [probe for probe in discover().probes.values() if probe.settings().enabled or not enabled]
    charts = [chart for probe in probes for chart in probe.charts]
    published = [chart.for_grouping("apps", "application") if chart.grouped else chart for chart in charts]
    return {chart.id: chart for chart in published}


def dimension_of(number: Number) -> str:
    """Return the id of a number's dimension in Netdata."""
    if not number.labels:
        return dimension_id(number.id)
    return dimension_id("_".join([number.joined_labels, *([number.id] if number.id != "value" else [])]))


def lines_of(snapshots: Sequence[Mapping[str, Any]]) -> dict[Key, Line]:
    """Return all dimensions that were logged."""
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
    """How much was compared.

    `delay_s` is how long after its tick an update was collected, at most. `numbers` were collected, and `points` are
    shown. `right` and `wrong` count charts in a second.
    """

    updates: int
    delay_s: float
    dimensions: int
    numbers: int
    points: int
    right: int
    wrong: int


def compare(api: Api, polls: Sequence[Poll], snapshots: Sequence[Mapping[str, Any]]) -> Compared:
    """Compare all that Netdata collected and shows of this run of the daemon with what the daemon logged."""
    reads = [
        next(int(n.amount) for n in numbers_of(s) if (n.chart["id"], n.id) == ("ebpf.io", "vfs_read"))
        for s in snapshots
    ]
    totals: list[int] = list(itertools.accumulate(reads))
    polls = [one for one in polls if is_whole(one, snapshots[0])]
    whole = [{key: value for key, (value, _) in one.items()} for one in polls]
    counted = [one["ebpf.io", "vfs_read"] - BASE for one in whole]
    assert counted
    # Netdata counts from one of the snapshots. An update is identified by its reads, because every second has some.
    numbers = {total: n for n, total in enumerate(totals)}
    first = next(n for n, total in enumerate(totals) if all(total + count in numbers for count in counted))
    last = max(numbers[totals[first] + count] for count in counted)
    delays_s = [
        one["ebpf.io", "vfs_read"][1] / 1000 - snapshots[numbers[totals[first] + count]]["time"]
        for one, count in zip(polls, counted, strict=True)
    ]
    lines = lines_of(snapshots[first:])
    collected = sum(
        compare_collected(one, lines, numbers[totals[first] + count] - first)
        for one, count in zip(whole, counted, strict=True)
    )
    shown_ = compare_shown(api, lines, snapshots[first : last + 1])
    return Compared(len(whole), max(delays_s), len(lines), collected, *shown_)


def declared(snapshot: Mapping[str, Any]) -> dict[str, set[Key]]:
    """Return the keys and names of dimensions by chart."""
    found: dict[str, set[Key]] = {}
    for number in numbers_of(snapshot):
        found.setdefault(number.chart["id"], set()).add((dimension_of(number), number.joined_names))
    return found


def compare_collected(raw: Mapping[Key, int], lines: Mapping[Key, Line], n: int) -> int:
    """Check that Netdata was sent exactly the sum of everything that was logged until update n.

    Dimensions that became obsolete are not checked. Returns how many numbers were compared.
    """
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
    """Return what Netdata shows of each dimension by second."""
    got = api.json(f"data?chart={chart}&after={after - 1}&before={before}&format=json&options=jsonwrap,seconds")
    rows = {int(row[0]): row[1:] for row in got["result"]["data"]}
    return {id_: {second: row[n] for second, row in rows.items()} for n, id_ in enumerate(got["dimension_ids"])}


LATE_S = 10
"""How many seconds late Netdata may show values if it was too busy."""
Rates = Sequence[tuple[float, float, float]]
"""For each dimension: the rate in an interval, the rate in the next one, and the rate that is shown."""


def compare_shown(api: Api, lines: Mapping[Key, Line], snapshots: Sequence[Mapping[str, Any]]) -> tuple[int, int, int]:
    """Compare what Netdata shows second by second.

    Returns how many points were compared, and how many charts in a second were right and wrong.

    Gauges are shown as they were collected in that second. Netdata assumes that a rate is constant between two updates,
    and shows its mean over each whole second. Updates come a little after the full second, so a value
    is the weighted mean of the rates of two updates. The weight depends on when the first update came, which
    cannot be queried, but it is the same for all dimensions of a chart. It is computed from the dimension that changed
    most, must fit the others, and must move from second to second with the microseconds that the sink sends.
    After a delay, Netdata uses its own clock instead; if the delay was a second or more, it shows an earlier interval.

    Seconds near an interval of unusual length, and charts that were just declared again, are left out. Their sums were
    compared already.
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
        """Return whether all updates from `start` to `n` were on time and had the same dimensions."""
        same_dimensions = all(one.get(chart) == were[n].get(chart) for one in were[max(start, 0) : n])
        return start > 0 and all(on_time[start : n + 1]) and same_dimensions

    def as_of(chart: str, second: int, m: int) -> tuple[int, float | None]:
        """Compare a chart in a second with updates m - 1 and m.

        Returns how many points are shown, and the weight of update m - 1, or None if the points do not fit.
        """
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
    print(f"of all charts and seconds, {late} were shown late, and {left_out} were left out because of earlier changes")
    moves = [move for move in moves if not math.isnan(move)]
    if len(moves) > 20 and not late and not left_out:
        assert statistics.median(map(abs, moves)) < 0.004
    return points, right, wrong


def weight_of(dims: Rates) -> float | None:
    """Return the weight of the earlier rate in the shown values of all dimensions.

    It is NaN if the rates are too similar to compute it, and None if no weight fits.
    """
    if not dims:
        return math.nan
    before, now, value = max(dims, key=lambda rates: abs(rates[1] - rates[0]))
    change, sum_ = abs(now - before), now + before
    weight = (now - value) / (now - before) if change else 0.0
    is_known = change > 0.1 * sum_
    if is_known and not -0.001 < weight < 1.001:
        return None
    for before, now, value in dims:
        # The log has the length of an interval to 0.1 ms, which limits the precision of rates and weights.
        unsure = 1e-4 * (now + before + (abs(now - before) * sum_ / change if change else 0)) + 1e-6
        if abs(value - (before * weight + now * (1 - weight))) > unsure:
            return None
    return weight if is_known else math.nan
