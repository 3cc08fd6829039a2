"""Two series never share an id in any output, whatever names programs, users and hosts have, and sums stay.

The series `other` and `overflow` keep their ids. An item that is called like them gets another one.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from prometheus_client.exposition import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from ebpfmon import (
    Buckets,
    Chart,
    ChartData,
    Dimension,
    Kind,
    RowGroups,
    TableHarvest,
    to_json,
    unique_names,
)
from ebpfmon.pipeline.account import GroupAccount, GroupSums
from ebpfmon.pipeline.schedule import TimeInterval
from ebpfmon.testing import view
from ebpfmon.top.state import State
from ebpfmon.top.view import render as render_top
from ebpfmon_sinks.http_json.metrics import name_of, render
from ebpfmon_sinks.http_json.rows import processes_to_json
from ebpfmon_sinks.log.journal import Names as FieldNames
from ebpfmon_sinks.log.journal import fields_of
from ebpfmon_sinks.log.text import Limits
from ebpfmon_sinks.log.text import render as render_text
from ebpfmon_sinks.plugins_d.stream import Stream
from ebpfmon_sinks.statsd.lines import Names, to_datagrams
from ebpfmon_sinks.statsd.settings import StatsdSettings, Tags
from tests.unit.netdata import Dim, Netdata
from tests.unit.support import data, snapshot, table
from tests.unit.test_plugins_d_stream import each_second, updates_of
from tests.unit.test_statsd_lines import FLAVOURS, PARSERS
from tests.unit.top_support import snapshot_of

CALLS = Dimension.value("calls")
BOTH = (Dimension("sent", "sent", ("s",)), Dimension("sent_more", "more", ("m",)))
RESERVED = ("other", "overflow", "total", "host", "other:ALL:other", "_sent", "", "value", "dimension", "le")
LOOK_ALIKE = ("a b", "a_b", "a.b", "A b", "a\x01b", "a\x02b", "a?b", 'a"b', "a'b", "a\\b", "a/b", "é", "e\u0301")
LONG = ("x" * 89 + "1", "x" * 89 + "2", "x" * 300, "x" * 301, "ü" * 150, "ü" * 151)
ANY = st.text(max_size=40) | st.sampled_from([*RESERVED, *LOOK_ALIKE, *LONG])


def of(
    dimensions: Sequence[Dimension] = (CALLS,), kind: Kind = Kind.COUNTER, labels: tuple[str, ...] = ("by",)
) -> Chart:
    return Chart(
        id="apps.x", title="T", units="calls/s", family="F", priority=1, dimensions=tuple(dimensions), kind=kind,
        labels=labels,
    )  # fmt: skip


def in_netdata(*intervals: ChartData) -> tuple[dict[str, int], list[str]]:
    """Return what Netdata shows by dimension id, and the names of the dimensions."""
    chart = intervals[0].chart.id
    netdata, _ = updates_of(*each_second(*intervals, intervals[-1]))
    dims = netdata.charts[chart].dims
    return {id_: netdata.charts[chart].shows(id_)[-1] for id_ in dims}, [dim.name for dim in dims.values()]


def in_statsd(interval: ChartData, tags: Tags, names: Names | None = None) -> dict[str, int]:
    datagrams = to_datagrams(snapshot(charts=[interval]), names or Names(tags), StatsdSettings(tags=tags))
    shown: dict[str, int] = {}
    for line in b"\n".join(datagrams).decode().splitlines():
        metric = PARSERS[tags](line)
        id_ = " ".join((metric.name, *(f"{tag}={value}" for tag, value in sorted(metric.tags.items()))))
        assert id_ not in shown, "two series share a name"
        shown[id_] = int(metric.value)
    return shown


def in_prometheus(interval: ChartData) -> dict[str, int]:
    first = replace(interval, totals=interval.deltas.astype(np.int64))
    text = render(snapshot(charts=[first]), 0, 0, generate_latest).decode()
    shown: dict[str, int] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples if family.name == name_of(interval.chart) else ():
            id_ = json.dumps(sample.labels, sort_keys=True)
            assert id_ not in shown, "two series share their labels"
            shown[id_] = int(sample.value)
    return shown


def in_journal(interval: ChartData) -> dict[str, int]:
    fields = fields_of(snapshot(charts=[interval]), FieldNames(), 99, 99)
    shown: dict[str, int] = json.loads(fields.get("EBPFMON_APPS_X", "{}"))
    return shown


def in_json(interval: ChartData) -> dict[str, int]:
    shown: dict[str, int] = {}
    for series in to_json(snapshot(charts=[interval])).charts[0].series:
        for dimension in series.dimensions or ():
            id_ = json.dumps([series.role, series.labels, dimension.id])
            assert id_ not in shown
            assert isinstance(dimension.delta, int)
            shown[id_] = dimension.delta
    return shown


def in_text(interval: ChartData) -> list[str]:
    """Return the names that the log's text shows for the series, in order of their numbers."""
    lines = [*render_text(snapshot(charts=[interval]), Limits(groups=99, processes=99, series=99))]
    return [line[2:].rsplit(maxsplit=1)[0].rstrip() for line in lines[2:-1]]


OUTPUTS: dict[str, Callable[[ChartData], dict[str, int]]] = {
    "netdata": lambda interval: in_netdata(interval)[0],
    **{f"statsd {tags}": partial(in_statsd, tags=tags) for tags in FLAVOURS},
    "prometheus": in_prometheus,
    "journal": in_journal,
    "json": in_json,
}  # fmt: skip


def three(name: str, *dimensions: Dimension) -> ChartData:
    """Return an item of this name with 5 calls, `other` with 7, and `overflow` with 11."""
    return data(of(dimensions or (CALLS,)), series={(name,): [5]}, other=[7], overflow=[11])


@pytest.mark.parametrize("output", OUTPUTS)
@pytest.mark.parametrize("name", RESERVED)
def test_an_item_with_a_reserved_name_has_an_id_of_its_own(output: str, name: str) -> None:
    shown = OUTPUTS[output](three(name))
    assert sorted(shown.values()) == [5, 7, 11]
    without = OUTPUTS[output](data(of(), series={("a",): [5]}, other=[7], overflow=[11]))
    for amount in (7, 11):
        ids = [next(id_ for id_, number in found.items() if number == amount) for found in (shown, without)]
        assert ids[0] == ids[1], "`other` and `overflow` always have the same ids"


@pytest.mark.parametrize("output", OUTPUTS)
@pytest.mark.parametrize("names", [LOOK_ALIKE, LONG])
def test_items_whose_names_differ_only_in_what_is_replaced_or_cut_have_ids_of_their_own(
    output: str, names: Sequence[str]
) -> None:
    amounts = [2**n for n in range(len(names))]
    series: dict[tuple[str, ...], list[int]] = {(name,): [amount] for name, amount in zip(names, amounts, strict=True)}
    shown = OUTPUTS[output](data(of(), series=series, other=[7], overflow=[11]))
    assert sorted(shown.values()) == sorted([*amounts, 7, 11])


def test_an_item_that_was_there_first_does_not_take_the_id_of_other() -> None:
    item = data(of(), series={("overflow",): [500]}, other=[0], overflow=[0])
    shown, names = in_netdata(item, item)
    assert shown["other"] == shown["overflow"] == 0
    assert [id_ for id_, amount in shown.items() if amount == 500] == ["overflow_e6e4a750"]
    assert sorted(names) == ["other", "overflow", "overflow_e6e4a750"]


def test_the_names_of_dimensions_in_netdata_are_as_unique_as_their_ids() -> None:
    hosts = data(
        of(labels=("port", "address")), series={("443", "192.0.2.1"): [1], ("443", "192.0.2.2"): [2], ("80", "h"): [3]},
        names={("443", "192.0.2.1"): ("https", "h"), ("443", "192.0.2.2"): ("https", "h"), ("80", "h"): ("http", "h")},
        other=[0],
    )  # fmt: skip
    _, names = in_netdata(hosts)
    assert sorted(names) == ["443:192_0_2_1", "443:192_0_2_2", "http:h", "other:other"]


def test_the_text_of_the_log_shows_two_lines_of_one_name_with_their_ids() -> None:
    assert in_text(three("other")) == ["other~aac26433", "other", "overflow"]
    hosts = data(
        of(), series={("192.0.2.1",): [1], ("192.0.2.2",): [2]}, names={("192.0.2.1",): ("h",), ("192.0.2.2",): ("h",)}
    )
    assert sorted(in_text(hosts)) == ["192.0.2.1", "192.0.2.2"]


@pytest.mark.parametrize("group", ["other", "overflow", "a\x01b"])
def test_the_log_and_top_tell_a_group_with_a_reserved_name_from_rows_without_a_group(group: str) -> None:
    rows = table([(1, b"a", 5, 0), (2, b"b", 70, 0), (3, b"c", 900, 0)])
    groups = {"t": view(rows, groups={"user": [group, None, "a\x02b"]})}
    top = snapshot_of({"tgid": 1, "read_calls": 5}, {"tgid": 2, "read_calls": 70}, {"tgid": 3, "read_calls": 900})
    (process,) = top.tables
    tables = {process: replace(top.tables[process], groups=groups["t"].groups)}
    shown = render_top(replace(top, tables=tables), State(mode="groups", by="user"), 120, None)
    names = {line.split()[0] for line in shown[-3:]}
    assert len(names) == 3
    assert "other" in names
    assert (group == "other") == any(name.startswith("other~") for name in names)


def test_a_query_for_the_group_other_lists_processes_of_the_group_and_not_those_without() -> None:
    rows = view(table([(1, b"a", 5, 0), (2, b"b", 70, 0)]), groups={"user": ["other", None]})  # and no columns
    listed = processes_to_json(snapshot(tables={"t": rows}), "calls", 9, "other", "user")
    assert [(process.tgid, process.groups) for process in listed.processes] == [(1, {"user": "other"})]


def test_numbers_whose_joined_names_are_equal_are_not_added_up() -> None:
    """`a` with `sent_more`, and `a_sent` with `more`, both join to `a_sent_more`."""
    pair = (Dimension("x", "sent_more", ("s",)), Dimension("y", "more", ("m",)))
    two = data(of(pair), series={("a",): [1, 2], ("a_sent",): [4, 8]}, other=[16, 32])
    for output in OUTPUTS.values():
        assert sorted(output(two).values()) == [1, 2, 4, 8, 16, 32]


def test_a_histogram_of_an_item_named_other_is_not_that_of_other() -> None:
    buckets = Buckets(field="f", bounds=(1.0,), units="seconds")
    chart = Chart(id="x.t", title="T", units="calls/s", family="F", priority=1, buckets=buckets, labels=("disk",))
    interval = data(chart, series={("other",): [1, 2]}, other=[4, 8])
    interval = replace(interval, totals=interval.deltas.astype(np.int64))
    text = render(snapshot(charts=[interval]), 0, 0, generate_latest).decode()
    counts = [line.rsplit(" ", 1) for line in text.splitlines() if line.startswith("ebpfmon_x_t_seconds_count")]
    assert [number for _, number in counts] == ["3.0", "12.0"]
    assert counts[1][0] == 'ebpfmon_x_t_seconds_count{disk="other"}'
    assert counts[0][0].startswith('ebpfmon_x_t_seconds_count{disk="other~')


def test_a_heatmap_of_an_item_never_has_the_id_of_another_chart() -> None:
    buckets = Buckets(field="f", bounds=(1.0,), units="seconds")
    chart = Chart(id="x.t", title="T", units="calls/s", family="F", priority=1, buckets=buckets, labels=("disk",))
    charts = [data(chart, series={("all",): [1, 2]}, other=[4, 8]), data(replace(of(labels=()), id="x.t_all"), 16)]
    netdata, _ = updates_of(*each_second(*[charts] * 3))
    assert netdata.charts["x.t_all"].shows("value")[-1] == 16
    (item,) = {*netdata.charts} - {"x.t_all", "x.t_other"}
    assert item.startswith("x.t_all_")
    assert netdata.charts[item].shows("le_1")[-1] == 1


def test_an_id_is_the_same_in_every_interval_whatever_the_order_of_the_items() -> None:
    names = Names("none")
    first = in_statsd(data(of(), series={("a b",): [1], ("a_b",): [2]}, other=[4]), "none", names)
    assert in_statsd(data(of(), series={("a_b",): [2], ("a b",): [1]}, other=[4]), "none", names) == first


@given(st.lists(st.tuples(ANY, ANY, st.booleans()), max_size=8))
@example([("a", "b", False), ("a", "b", False), ("b", "b", False)])
def test_unique_names_are_unique_and_reserved_and_unique_ones_stay(given_names: list[tuple[str, str, bool]]) -> None:
    reserved = [name for name, _, stays in given_names if stays]
    given_names = [
        n for i, n in enumerate(given_names) if not n[2] or n[0] not in [o for o, _, s in given_names[:i] if s]
    ]
    names, ids = [name for name, _, _ in given_names], [id_ for _, id_, _ in given_names]
    unique = unique_names(names, ids, [stays for *_, stays in given_names])
    assert len(set(unique)) == len(unique)
    for (name, _, stays), new in zip(given_names, unique, strict=True):
        assert new == name or (not stays and names.count(name) > 1)
    assert {*reserved} <= {*unique}


class Account:
    """An account of a grouping with one chart of calls."""

    def __init__(self, maximum: int) -> None:
        self._account = GroupAccount([replace(of(), table="t")], {"t": ("calls",)}, maximum)
        self._now_s = 0.0

    def add(self, groups: Mapping[str, int], no_group: int, overflow: int) -> tuple[ChartData, int]:
        """Return the chart of an interval with these calls by group, and the sum of all calls."""
        self._now_s += 1.0
        names = {hash(name) & (1 << 64) - 1 or 1: name for name in groups}
        ids = np.array([*names, RowGroups.OTHER], np.uint64)
        counts = np.array([*(groups[name] for name in names.values()), no_group], np.int64)
        rows = np.array(
            [*zip(ids.tolist(), counts.tolist(), strict=True)], np.dtype([("group", "u8"), ("calls", "u8")])
        )
        total = int(counts.sum()) + overflow
        harvest = TableHarvest(rows, {"calls": total}, {"calls": overflow}, overflow, 64)
        sums = {"t": GroupSums(ids, counts[:, np.newaxis])}
        (interval,) = self._account.account({"t": harvest}, sums, names, TimeInterval(self._now_s, 1.0))
        return interval, total


@given(
    groups=st.dictionaries(ANY, st.integers(1, 1 << 40), max_size=12),
    no_group=st.integers(0, 1 << 40),
    overflow=st.integers(0, 1 << 40),
    maximum=st.integers(1, 14),
)
@example(
    groups={name: 2**n for n, name in enumerate((*RESERVED, *LOOK_ALIKE, *LONG))}, no_group=3, overflow=5, maximum=40
)
def test_in_every_output_ids_are_unique_and_the_sum_of_all_series_is_the_total(
    groups: dict[str, int], no_group: int, overflow: int, maximum: int
) -> None:
    account = Account(maximum)
    interval, total = account.add(groups, no_group, overflow)
    assert interval.sums() == {"value": total}
    assert len(set(interval.index.keys)) == len(interval) == min(len(groups), maximum) + 2
    for name, output in OUTPUTS.items():
        shown = output(interval)
        assert sum(shown.values()) == total, name
        if name in ("netdata", "json"):  # the others leave out what is 0
            assert len(shown) == len(interval)
    _, in_netdata_names = in_netdata(interval)
    assert len(set(in_netdata_names)) == len(interval)
    shown_lines = in_text(interval)
    assert len(set(shown_lines)) == len(shown_lines) == np.count_nonzero(interval.deltas)


@given(
    st.lists(st.dictionaries(ANY, st.integers(1, 1 << 40), max_size=8), min_size=2, max_size=5),
    st.integers(0, 1 << 40),
    st.integers(1, 5),
)
@example([{"a\x01": 2}, {"a\x02": 1, "b": 1}, {"b": 1, "a ": 2}], 0, 2)
def test_the_sums_of_several_intervals_arrive_whichever_groups_are_selected(
    intervals: list[dict[str, int]], overflow: int, maximum: int
) -> None:
    account, statsd, netdata, stream = Account(maximum), Names("none"), Netdata(), Stream(1)
    dims: dict[int, Dim] = {}  # those that were made obsolete, too
    # Netdata shows a dimension from its second value on, so there is one more interval.
    for n, groups in enumerate([*intervals, {}]):
        interval, total = account.add(groups, 3, overflow)
        assert sum(in_statsd(interval, "none", statsd).values()) == total
        stream.add(replace(snapshot(charts=[interval]), time_s=100.0 + n, elapsed_s=1.0))
        netdata.read(stream.update(1))
        now = netdata.charts["apps.x"].dims.values()
        assert len({dim.name for dim in now}) == len(now)
        dims |= {id(dim): dim for dim in now}
    shown = sum(dim.collected[-1] - dim.collected[0] for dim in dims.values())
    assert shown == sum(sum(groups.values()) + 3 + overflow for groups in [*intervals[1:], {}])
