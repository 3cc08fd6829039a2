"""The lines for Netdata, checked by a parser that is stricter than Netdata's."""

from __future__ import annotations

import cProfile
from collections.abc import Mapping, Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ebpfmon import Buckets, Chart, ChartData, Dimension, Kind, Snapshot
from ebpfmon_sinks.plugins_d.stream import Ids, Stream, chart_id, dimension_id, quote
from tests.unit.netdata import Netdata, lex
from tests.unit.support import chart, data, snapshot

BASE = 1 << 32

READ, WRITE = Dimension("r", "read", ("r",)), Dimension("w", "write", ("w",), negative=True)
IO = chart(READ, WRITE)
KEYS = chart(Dimension.value("b"), id="x.keys", labels=("key",))
ADDRESSES = chart(Dimension("s", "sent", ("s",)), Dimension("r", "recv", ("r",)), id="x.out", labels=("port", "host"))


def keyed(**deltas: int) -> ChartData:
    return data(KEYS, series={(name,): [delta] for name, delta in deltas.items()})


def updates_of(*snapshots: Snapshot, every_s: int = 1, interval_s: int = 1) -> tuple[Netdata, list[bytes]]:
    """Return a Netdata that has read one update for each snapshot, and the updates."""
    stream, netdata, updates = Stream(every_s), Netdata(), []
    for one in snapshots:
        stream.add(one)
        updates.append(stream.update(interval_s))
        netdata.read(updates[-1])
    return netdata, updates


def at(time_s: float, *charts: ChartData, elapsed_s: float = 1.0) -> Snapshot:
    return replace(snapshot(charts=charts), time_s=time_s, elapsed_s=elapsed_s)


def each_second(*charts: Sequence[ChartData] | ChartData) -> list[Snapshot]:
    return [at(100 + n, *([c] if isinstance(c, ChartData) else c)) for n, c in enumerate(charts)]


def test_a_chart_is_declared_once_with_all_its_attributes() -> None:
    netdata, updates = updates_of(*each_second(*[data(IO, 1, 2)] * 3))
    assert netdata.charts["x.io"].declared == ["Calls", "calls/s", "VFS", "x.io", "line", "1", "1", "ebpfmon", "VFS"]
    assert netdata.charts["x.io"].dims["w"].name == "write"
    assert [b"CHART" in u for u in updates] == [True, False, False]


def test_begin_has_the_microseconds_since_the_last_update_except_at_first() -> None:
    of = data(IO, 1, 2)
    netdata, _ = updates_of(
        at(100, of, elapsed_s=0.4), at(101, of, elapsed_s=1.000451), at(102), at(103, of, elapsed_s=0.99)
    )
    assert netdata.charts["x.io"].begins == [None, 1000451, 1990000]


def test_a_counter_begins_at_the_base_and_grows_by_each_delta() -> None:
    netdata, _ = updates_of(*each_second(data(IO, 5, 6), data(IO, 10, 20), data(IO, 0, 7)))
    assert netdata.charts["x.io"].dims["r"].collected == [BASE, BASE + 10, BASE + 10]
    assert netdata.charts["x.io"].shows("r") == [10, 0]
    assert netdata.charts["x.io"].shows("w") == [-20, -7]


@pytest.mark.parametrize(
    ("kind", "units", "given", "shown"),
    [
        (Kind.GAUGE, "MB", 45.25, 45250),
        (Kind.GAUGE, "rows", 17, 17000),
        (Kind.COUNTER, "events", 3, 3000),  # This is an amount, not a rate.
        (Kind.GAUGE, "MB", 1e300, (1 << 63) - 1),
    ],
)
def test_gauges_and_amounts_are_sent_as_absolute_values(kind: Kind, units: str, given: float, shown: int) -> None:
    of = data(chart(READ, kind=kind, units=units), given)
    netdata, _ = updates_of(at(100, of), at(102, of, elapsed_s=2.0))
    dim = netdata.charts["x.io"].dims["r"]
    assert (dim.algorithm, dim.divisor, dim.collected[1]) == ("absolute", 1000, shown)


@pytest.mark.parametrize("unknown", [float("nan"), float("inf")])
def test_a_nan_or_infinite_gauge_is_not_sent(unknown: float) -> None:
    of = chart(READ, kind=Kind.GAUGE, units="MB")
    stream = Stream(1)
    stream.add(at(100, data(of, unknown)))
    assert b"SET" not in stream.update(1)


def test_a_rate_that_may_be_negative_is_divided_by_the_elapsed_time() -> None:
    difference = chart(Dimension("d", "d", ("a",), ("b",)))
    first, second = data(difference, 0), data(difference, -30)
    netdata, _ = updates_of(at(100, first), at(102, second, elapsed_s=2.0))
    assert netdata.charts["x.io"].dims["d"].algorithm == "absolute"
    assert netdata.charts["x.io"].shows("d") == [-15]


def test_a_new_dimension_is_declared_after_its_chart_and_loses_no_counts() -> None:
    netdata, updates = updates_of(*each_second(keyed(a=1), keyed(a=1, b=100), keyed(a=1, b=10), keyed(a=1, b=0)))
    lines = updates[1].decode().splitlines()
    assert [lex(line)[:2] for line in lines[:3]] == [["CHART", "x.keys"], ["DIMENSION", "b"], ["BEGIN", "x.keys"]]
    assert "line" in netdata.charts["x.keys"].declared
    assert netdata.charts["x.keys"].shows("b") == [110, 0]
    assert b"CHART" not in updates[2] + updates[3]


def test_a_missing_dimension_becomes_obsolete_and_may_return() -> None:
    snapshots = each_second(keyed(a=1, b=2), keyed(a=1, b=2), keyed(a=3), keyed(a=4), keyed(a=4, b=7), keyed(a=4, b=1))
    netdata, updates = updates_of(*snapshots)
    gone = updates[2].decode().splitlines()[1]
    assert lex(gone)[:2] + lex(gone)[-1:] == ["DIMENSION", "b", "obsolete"]
    assert updates[3].count(b"DIMENSION") == 0
    assert netdata.charts["x.keys"].shows("b") == [8]


def test_a_dimension_of_one_interval_is_sent_before_it_becomes_obsolete() -> None:
    _, updates = updates_of(*each_second(keyed(a=1), keyed(a=1, b=9), keyed(a=1), keyed(a=1)))
    assert f'SET "b" = {BASE + 9}\n'.encode() in updates[2]
    assert b"obsolete" not in updates[2]
    assert b"obsolete" in updates[3]


def test_a_new_name_of_a_dimension_is_declared() -> None:
    def named(name: str) -> ChartData:
        return data(KEYS, series={("1.2.3.4",): [1]}, names={("1.2.3.4",): (name,)})

    netdata, updates = updates_of(*each_second(named("1.2.3.4"), named("host"), named("host")))
    assert netdata.charts["x.keys"].dims["1_2_3_4"].name == "host"
    assert [u.count(b"DIMENSION") for u in updates] == [1, 1, 0]


def test_a_chart_becomes_obsolete_after_a_minute_without_data() -> None:
    netdata, updates = updates_of(at(100, keyed(a=1), data(IO, 1, 1)), *(at(101 + n, keyed(a=1)) for n in range(62)))
    assert [n for n, u in enumerate(updates) if b"'obsolete'" in u] == [61]
    assert [*netdata.charts] == ["x.keys"]


def test_a_chart_without_values_is_not_declared() -> None:
    netdata, _ = updates_of(*each_second(keyed(), keyed()))
    assert not netdata.charts


@pytest.mark.parametrize(("every_s", "interval_s", "step_s"), [(1, 1, 1), (5, 1, 5), (5, 2, 6), (1, 10, 10)])
def test_updates_come_at_multiples_of_the_longer_interval_with_all_counts(
    every_s: int, interval_s: int, step_s: int
) -> None:
    times = range(1200 + interval_s, 1321, interval_s)
    snapshots = [at(t + 0.01, data(IO, 3, t), elapsed_s=interval_s) for t in times]
    netdata, updates = updates_of(*snapshots, every_s=every_s, interval_s=interval_s)
    sent = [t for t, u in zip(times, updates, strict=True) if u]
    assert sent[1:] == [t for t in times if t % step_s == 0 and t > sent[0]]
    shown = netdata.charts["x.io"]
    assert shown.declared[6] == str(step_s)
    assert set(shown.begins[2:]) == {step_s * 1_000_000}
    assert sum(shown.shows("r")) == 3 * sum(1 for t in times if sent[0] < t <= sent[-1])
    assert sum(shown.shows("w")) == -sum(t for t in times if sent[0] < t <= sent[-1])


def test_updates_come_in_time_even_if_the_clock_is_set_back_again_and_again() -> None:
    times = [1200 + n % 4 for n in range(100)]  # the next multiple of 5 never comes
    netdata, updates = updates_of(*(at(t, data(IO, 1, 1)) for t in times), every_s=5)
    assert [n for n, update in enumerate(updates) if update] == [*range(0, 100, 5)]
    assert sum(netdata.charts["x.io"].shows("r")) == 95


def test_an_update_of_several_intervals_has_the_newest_gauge() -> None:
    of = chart(READ, kind=Kind.GAUGE, units="MB")
    netdata, _ = updates_of(*(at(t, data(of, t)) for t in range(100, 111)), every_s=5)
    assert netdata.charts["x.io"].shows("r") == [105, 110]


def test_a_changed_interval_is_declared() -> None:
    stream, netdata = Stream(1), Netdata()
    for now, interval_s in ((100, 2), (102, 2), (103, 1), (104, 1)):
        stream.add(at(now, data(IO, 1, 1)))
        netdata.read(stream.update(interval_s))
    assert netdata.charts["x.io"].declared[6] == "1"
    assert netdata.charts["x.io"].declarations == 2


def test_the_counts_of_a_skipped_update_are_in_the_next_one() -> None:
    stream, netdata = Stream(1), Netdata()
    for n in range(6):
        stream.add(at(100 + n, keyed(a=1, **({"b": 5} if n in (2, 3) else {}))))
        if n in (0, 1, 4, 5):
            netdata.read(stream.update(1))
    assert netdata.charts["x.keys"].shows("a") == [1, 3, 1]
    assert netdata.charts["x.keys"].begins == [None, 1000000, 3000000, 1000000]
    assert "b" in netdata.charts["x.keys"].dims, "the last update had its counts"


def shown(of: ChartData) -> dict[str, dict[str, str]]:
    """Return the names of dimensions by chart and id."""
    netdata, _ = updates_of(*each_second(of, of))
    return {id_: {dim: found.name for dim, found in chart.dims.items()} for id_, chart in netdata.charts.items()}


def test_label_values_are_joined_and_ipv6_addresses_are_put_in_brackets() -> None:
    series: Mapping[tuple[str, ...], list[int]] = {
        ("443", "10.0.0.1"): [1, 2],
        ("53", "fe80::1"): [3, 4],
        ("22", "::1"): [5, 6],
    }
    names: Mapping[tuple[str, ...], tuple[str, ...]] = {
        ("443", "10.0.0.1"): ("https", "host"),
        ("22", "::1"): ("a:b", "::1"),
    }
    assert shown(data(ADDRESSES, series=series, names=names, other=[0, 0]))["x.out"] == {
        "443:10_0_0_1_s": "https:host_sent", "443:10_0_0_1_r": "https:host_recv",
        "53:[fe80::1]_s": "53:[fe80::1]_sent", "53:[fe80::1]_r": "53:[fe80::1]_recv",
        "22:[::1]_s": "a:b:[::1]_sent", "22:[::1]_r": "a:b:[::1]_recv",
        "other:other_s": "other:other_sent", "other:other_r": "other:other_recv",
    }  # fmt: skip


def test_the_separator_of_the_chart_is_used_and_empty_values_are_left_out() -> None:
    errors = replace(KEYS, labels=("call", "error"), separator=" ")
    found = shown(data(errors, series={("openat (32-bit)", "ENOENT"): [1], ("all", ""): [2]}))
    assert [*found["x.keys"].values()] == ["openat (32-bit) ENOENT", "all"]


def test_a_chart_whose_series_add_up_to_a_whole_is_stacked() -> None:
    netdata, _ = updates_of(*each_second(*[data(KEYS, series={("a",): [1]}, other=[2], overflow=[3])] * 2))
    assert "stacked" in netdata.charts["x.keys"].declared
    assert [*netdata.charts["x.keys"].dims] == ["a", "other", "overflow"]


def test_an_item_named_other_never_shares_the_dimension_of_the_series_other() -> None:
    with_item = data(KEYS, series={("other",): [5], ("a",): [1]}, other=[7])
    without = data(KEYS, series={("a",): [1]}, other=[7])
    for snapshots in ([with_item] * 3, [without, with_item, with_item, with_item]):
        netdata, _ = updates_of(*each_second(*snapshots))
        dims = netdata.charts["x.keys"].dims
        (item,) = {*dims} - {"other", "a"}
        assert item.startswith("other_")
        assert netdata.charts["x.keys"].shows("other")[-1] == 7
        assert netdata.charts["x.keys"].shows(item)[-1] == 5


def test_each_series_of_a_histogram_is_a_heatmap_of_its_buckets() -> None:
    buckets = Buckets(field="f", bounds=(1.0, 2.0), units="ms", sum="s")
    of = Chart(
        id="x.time", title="Times", units="calls/s", family="F", priority=1, buckets=buckets, labels=("disk",)
    )  # fmt: skip
    netdata, _ = updates_of(*each_second(*[data(of, series={("other",): [1, 2, 3, 99]}, other=[4, 5, 6, 99])] * 2))
    rest, item = netdata.charts["x.time_other"], next(c for i, c in netdata.charts.items() if i != "x.time_other")
    assert (rest.declared[0], item.declared[0]) == ("Times: other", "Times: other~aac26433")
    assert (rest.declared[3], rest.declared[4]) == ("x.time", "heatmap")
    assert [rest.shows(dim)[-1] for dim in rest.dims] == [4, 5, 6]
    assert [item.shows(dim)[-1] for dim in item.dims] == [1, 2, 3]


def test_an_obsolete_chart_that_returns_is_declared_again() -> None:
    of, keys = data(IO, 1, 1), keyed(a=1)
    netdata, _ = updates_of(
        at(100, keys, of), *(at(101 + n, keys) for n in range(62)), *(at(n, keys, of) for n in (170, 171))
    )
    assert netdata.charts["x.io"].shows("r") == [1]


ANYTHING = st.text(st.characters(), max_size=300)  # surrogates, controls, quotation marks
NAMES = st.lists(st.tuples(ANYTHING, ANYTHING), min_size=1, max_size=6, unique_by=lambda n: n[0])


@given(chart_ids=st.lists(ANYTHING, min_size=1, max_size=3, unique=True), names=NAMES, title=ANYTHING, units=ANYTHING)
def test_netdata_can_read_charts_and_dimensions_with_any_names(
    chart_ids: list[str], names: list[tuple[str, str]], title: str, units: str
) -> None:
    dims = tuple(Dimension(i, n, ("f",)) for i, n in names)
    charts = [replace(chart(*dims, units=units, family=title), id=i, title=title) for i in chart_ids]
    netdata, _ = updates_of(*each_second(*[[data(c, *range(len(dims))) for c in charts]] * 2))
    assert len(netdata.charts) == len(charts)
    for id_, shown in netdata.charts.items():
        kind, dot, name = id_.partition(".")
        assert kind
        assert dot
        assert name
        assert len(id_) <= 200
        assert len(shown.dims) == len(dims)
        assert next(d.collected[-1] % 1000 for d in shown.dims.values()) in (0, BASE % 1000)
        assert not [d for d in shown.dims if "." in d or len(d) > 200 or not d]
        for words in (shown.declared[0], shown.declared[1], *(d.name for d in shown.dims.values())):
            assert words.isprintable()
            assert len(words.encode()) <= 200


def test_long_names_make_no_line_that_is_too_long() -> None:
    long = "x" * 1000
    updates_of(
        *each_second(
            [data(replace(chart(Dimension(long, long, ("f",)), units=long, family=long), id=long, title=long), 1)]
        )
    )


@given(ANYTHING)
def test_quoted_text_is_one_word_and_unchanged_if_it_can_be(words: str) -> None:
    (read,) = lex(quote(words))
    if words.isprintable() and not set(words) & set('"\\') and len(words.encode()) <= 200:
        assert read == words


@given(st.lists(ANYTHING, unique=True, max_size=8), st.sampled_from([chart_id, dimension_id]))
def test_ids_that_cleaning_makes_equal_stay_distinct(words: list[str], clean: object) -> None:
    ids = Ids(chart_id if clean is chart_id else dimension_id)
    found = [ids.assign(w) for w in words]
    assert len({*found}) == len(found)
    assert max(map(len, found), default=0) <= 200


def test_ids_keep_all_characters_that_netdata_allows() -> None:
    assert chart_id("ebpf.io") == "ebpf.io"
    assert chart_id("mine") == "ebpfmon.mine"
    assert chart_id("a b.c=d") == "a_b.c_d"
    assert dimension_id("https:TCP:[fe80::1]_sent") == "https:TCP:[fe80::1]_sent"
    assert dimension_id("53:UDP:10.0.0.1_recv") == "53:UDP:10_0_0_1_recv"
    ids = Ids(dimension_id)
    first, second = ids.assign("a.b"), ids.assign("a_b")
    assert (first, second[:4], len(second)) == ("a_b", "a_b_", 12)
    ids.release(first)
    assert ids.assign("a b") == "a_b"


@given(st.lists(st.dictionaries(st.sampled_from("abcd"), st.integers(0, 1000)), min_size=3, max_size=12))
def test_all_counts_since_the_first_update_are_sent_whatever_series_come_and_go(
    seconds: list[Mapping[str, int]],
) -> None:
    """Add up all increments of each dimension, also those before it became obsolete."""
    stream, netdata, total = Stream(1), Netdata(), 0
    of_line: dict[str, int] = {}
    for now, deltas in enumerate([*seconds, {}, {}]):
        stream.add(at(100 + now, keyed(**deltas)))
        data = stream.update(1)
        for line in data.decode().splitlines():
            match lex(line):
                case ["SET", id_, value]:
                    total += int(value) - of_line.get(id_, BASE)
                    of_line[id_] = int(value)
                case ["DIMENSION", id_, *_, "obsolete"]:
                    of_line.pop(id_, None)
        netdata.read(data)
    first = next((n for n, deltas in enumerate(seconds) if deltas), 0)
    assert total == sum(sum(deltas.values()) for deltas in seconds[first + 1 :])


def test_an_update_of_many_dimensions_makes_few_calls_for_each() -> None:
    """The time that an update takes is in the benchmarks."""
    wide = chart(*(replace(READ, id=f"{n}", name=f"{n}") for n in range(6000)))
    stream, snapshots = Stream(1), [at(n, data(wide, *[n] * 6000)) for n in range(12)]
    stream.add(snapshots[0])
    stream.update(1)
    with cProfile.Profile() as profile:
        for one in snapshots[1:]:
            stream.add(one)
            stream.update(1)
    calls = sum(entry.callcount for entry in profile.getstats())
    assert calls / 11 / 6000 < 15
