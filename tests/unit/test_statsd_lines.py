"""The lines of the StatsD sink (names, tags and values), parsed by the grammars of the servers, and their packing."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import get_args

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ebpfmon import VALUE, Chart, ChartData, Dimension, Kind, Role, Snapshot
from ebpfmon_sinks.statsd import lines as statsd
from ebpfmon_sinks.statsd.lines import Names, to_datagrams, without_lines
from ebpfmon_sinks.statsd.settings import StatsdSettings, Tags
from tests.unit.support import data, snapshot

FLAVOURS: tuple[Tags, ...] = get_args(Tags)
SENT, RECEIVED, WHOLE = Dimension("sent", "sent", ("s",)), Dimension("recv", "received", ("r",)), Dimension.value("f")


@dataclass(frozen=True)
class Line:
    """A metric as a server parses it."""

    name: str
    value: str
    type: str
    tags: Mapping[str, str] = field(default_factory=dict)


def chart_of(
    id_: str, dimensions: Iterable[Dimension], kind: Kind = Kind.COUNTER, labels: tuple[str, ...] = ()
) -> Chart:
    return Chart(
        id=id_, title="T", units="calls/s", family="F", priority=1, dimensions=tuple(dimensions), kind=kind,
        labels=labels,
    )  # fmt: skip


def system(id_: str, amounts: Mapping[str, float], kind: Kind = Kind.COUNTER) -> ChartData:
    dimensions = [Dimension(f"id_{name}", name, ("f",)) for name in amounts] or [WHOLE]
    return data(chart_of(id_, dimensions, kind), *(amounts.values() or [0]))


def applications(id_: str, amounts: Mapping[str, float], other: float | None = None) -> ChartData:
    return data(
        chart_of(id_, [WHOLE], labels=("application",)), series={(name,): [amount] for name, amount in amounts.items()},
        other=None if other is None else [other],
    )  # fmt: skip


def destinations(id_: str, amounts: Mapping[tuple[str, str], tuple[int, ...]], *dimensions: Dimension) -> ChartData:
    """Return a chart by destination. `amounts` has one number per dimension for each (address, name)."""
    return data(
        chart_of(id_, dimensions, labels=("port", "address")),
        series={("443", address): of for (address, _), of in amounts.items()},
        names={("443", address): ("https", name) for address, name in amounts},
    )


def lines(of: Snapshot, tags: Tags = "none", **settings: int | str) -> list[str]:
    """Return all lines of the datagrams."""
    chosen = msgspec.structs.replace(StatsdSettings(tags=tags), **settings)
    return [line for datagram in to_datagrams(of, Names(tags), chosen) for line in datagram.decode("ascii").split("\n")]


def etsy(line: str) -> Line:
    """Parse a line like stats.js 0.9.0. Fail on a bad line, and on a name that stats.js would change."""
    rest, _, tagged = line.partition("|#")
    tags = tagged.split(",") if tagged else []
    key, *values = rest.split(":")
    if tags:
        key += ";" + ";".join(tag.replace(";", "_", 1).replace(":", "=", 1) for tag in tags)
    assert re.fullmatch(r"[a-zA-Z_\-0-9.;=]+", key), key
    (value,) = values
    number, kind = value.split("|")
    assert math.isfinite(float(number))
    name, *pairs = key.split(";")
    return Line(name, number, kind, dict(pair.split("=") for pair in pairs))  # Graphite's syntax of tags


def dogstatsd(line: str) -> Line:
    """Parse a line in Datadog's format: `name:value|type|#key:value,...`."""
    found = re.fullmatch(r"([a-zA-Z0-9_.]+):([^|:]+)\|([cg])(?:\|#([^|]+))?", line)
    assert found, line
    name, value, kind, tags = found.groups()
    return Line(name, value, kind, dict(tag.split(":") for tag in (tags or "").split(",") if tag))


def telegraf(line: str) -> Line:
    """Parse a line like Telegraf: InfluxDB's tags follow the name, before the first colon."""
    bucket, value = line.split(":")
    name, *tags = bucket.split(",")
    number, kind = value.split("|")
    return Line(name, number, kind, dict(tag.split("=") for tag in tags))


PARSERS = {"none": etsy, "datadog": dogstatsd, "influx": telegraf, "graphite": etsy}
TEXTS = st.text(max_size=150)
AMOUNTS = st.integers(-(2**63), 2**63 - 1)
GAUGES = AMOUNTS | st.floats(allow_nan=False, allow_infinity=False)
CHARTS = st.one_of(
    st.builds(system, TEXTS, st.dictionaries(TEXTS, AMOUNTS, max_size=5)),
    st.builds(system, TEXTS, st.dictionaries(TEXTS, GAUGES, max_size=5), st.just(Kind.GAUGE)),
    st.builds(applications, TEXTS, st.dictionaries(TEXTS | st.just("other"), AMOUNTS, max_size=5), st.none() | AMOUNTS),
    st.builds(
        destinations, TEXTS, st.dictionaries(st.tuples(TEXTS, TEXTS), st.tuples(AMOUNTS, AMOUNTS), max_size=5),
        st.just(SENT), st.just(RECEIVED),
    ),
    st.builds(
        destinations, TEXTS, st.dictionaries(st.tuples(TEXTS, TEXTS), st.tuples(AMOUNTS), max_size=5), st.just(WHOLE)
    ),
)  # fmt: skip
SNAPSHOTS = st.lists(CHARTS, max_size=6, unique_by=lambda c: c.chart.id).map(lambda charts: snapshot(charts=charts))


def clean(text: str) -> str:
    return "".join(c if c in "abcdefghijklmnopqrstuvwxyz0123456789_.-" else "_" for c in text.lower()) or "_"


def is_named(part: str, text: str) -> bool:
    """Return whether a part is the clean text, or its beginning with a hash."""
    hashed = re.fullmatch(r"(.*)_[0-9a-f]{8}", part)
    return part == clean(text) or bool(hashed and clean(text).startswith(hashed[1]))


@dataclass(frozen=True)
class SentNumber:
    """A number that must be sent."""

    chart: Chart
    role: Role
    labels: tuple[str, ...]
    names: tuple[str, ...]
    column: Dimension
    delta: float


def expected_numbers(of: Snapshot) -> list[SentNumber]:
    """Return the numbers of a snapshot that must be sent, in order."""
    return [
        SentNumber(c.chart, series.role, series.labels, series.names, column, delta)
        for c in of.charts
        for series in c.series()
        for column, delta in zip(c.chart.columns, series.deltas, strict=True)
        if c.chart.kind is Kind.GAUGE or delta
    ]


@pytest.mark.parametrize("tags", FLAVOURS)
@given(given_=SNAPSHOTS, maximum=st.integers(512, 2000))
@example(given_=snapshot(charts=[system("x", {"a": -0.0, "b": -1e-300}, Kind.GAUGE)]), maximum=512)
@example(given_=snapshot(charts=[system("a.b", {"c": 1}), system("a", {"b.c": 2, "B_C": 3})]), maximum=512)
@example(given_=snapshot(charts=[system(".-.", {"\udcff": 1, "é": 2})]), maximum=512)
def test_every_line_is_read_back_as_the_right_name_value_type_and_tags(
    tags: Tags, given_: Snapshot, maximum: int
) -> None:
    settings = StatsdSettings(tags=tags, maximum_datagram=maximum, prefix="a-long_one." * 3 + "prefix")
    datagrams = to_datagrams(given_, Names(tags), settings)
    assert all(0 < len(datagram) <= maximum for datagram in datagrams)
    packets = [[PARSERS[tags](line) for line in d.decode("ascii").split("\n")] for d in datagrams]
    found = [line for packet in packets for line in packet]
    names: dict[str, object] = {}
    for one in expected_numbers(given_):
        line = found.pop(0)
        if one.chart.kind is Kind.GAUGE and one.delta < 0:
            assert (line.value, line.type) == ("0", "g")
            (packet,) = [p for p in packets if line in p]
            assert line.name == found[0].name
            assert found[0] in packet  # the two lines stay in one datagram
            line = found.pop(0)
        assert line.type == ("g" if one.chart.kind is Kind.GAUGE else "c")
        assert float(line.value) == float(one.delta)
        assert line.type == "c" or line.value[0] not in "+-" or one.delta < 0
        key = f"{line.name} {sorted(line.tags.items())}"
        source = (one.chart.id, one.role, one.labels, one.names, one.column.id)
        assert names.setdefault(key, source) == source
        if tags != "none":
            _check_tags(line, one)
    assert not found


def _check_tags(line: Line, one: SentNumber) -> None:
    expected = {label: name for label, name in zip(one.chart.labels, one.names, strict=True) if name}
    expected = expected or dict(zip(one.chart.labels, one.names, strict=True))
    if one.column.id != VALUE:
        expected["dimension"] = one.column.name
    assert [*line.tags] == [*expected]
    assert all(is_named(line.tags[key], text) for key, text in expected.items())


@given(value=GAUGES, before=st.floats(-1e9, 1e9))
def test_a_gauge_is_set_to_its_value_whatever_it_was_before(value: float, before: float) -> None:
    gauge = before
    for line in map(etsy, lines(snapshot(charts=[system("x", {"a": value}, Kind.GAUGE)]))):
        # In stats.js a sign means a relative value, unless the gauge does not exist or is 0.
        gauge = gauge + float(line.value) if gauge and line.value[0] in "+-" else float(line.value)
    assert gauge == float(value)


NETWORK = destinations("ebpf.outbound_bytes", {("2001:db8::1", "2001:db8::1"): (5, 7)}, SENT, RECEIVED)
SAMPLE = snapshot(
    charts=[
        system("ebpf.io", {"read": 3, "Write": -1}),
        system("ebpfmon.memory", {"rss": -1.5}, Kind.GAUGE),
        applications("apps.file_open", {"web.server v2": 2}),
        NETWORK,
        data(chart_of("ebpf.retransmit", [WHOLE], labels=("port", "address")), other=[9]),
    ]
)


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        (
            "none",
            ["ebpf.io.read:3|c", "ebpf.io.write:-1|c", "ebpfmon.memory.rss:0|g", "ebpfmon.memory.rss:-1.5|g",
             "apps.file_open.web_server_v2:2|c", "ebpf.outbound_bytes.https__2001_db8__1_.sent:5|c",
             "ebpf.outbound_bytes.https__2001_db8__1_.received:7|c", "ebpf.retransmit.other_other:9|c"],
        ),
        (
            "datadog",
            ["ebpf.io:3|c|#dimension:read", "ebpf.io:-1|c|#dimension:write", "ebpfmon.memory:0|g|#dimension:rss",
             "ebpfmon.memory:-1.5|g|#dimension:rss", "apps.file_open:2|c|#application:web.server_v2",
             "ebpf.outbound_bytes:5|c|#port:https,address:2001_db8__1,dimension:sent",
             "ebpf.outbound_bytes:7|c|#port:https,address:2001_db8__1,dimension:received",
             "ebpf.retransmit:9|c|#port:other,address:other"],
        ),
        (
            "influx",
            ["ebpf.io,dimension=read:3|c", "ebpf.io,dimension=write:-1|c", "ebpfmon.memory,dimension=rss:0|g",
             "ebpfmon.memory,dimension=rss:-1.5|g", "apps.file_open,application=web.server_v2:2|c",
             "ebpf.outbound_bytes,port=https,address=2001_db8__1,dimension=sent:5|c",
             "ebpf.outbound_bytes,port=https,address=2001_db8__1,dimension=received:7|c",
             "ebpf.retransmit,port=other,address=other:9|c"],
        ),
        (
            "graphite",
            ["ebpf.io;dimension=read:3|c", "ebpf.io;dimension=write:-1|c", "ebpfmon.memory;dimension=rss:0|g",
             "ebpfmon.memory;dimension=rss:-1.5|g", "apps.file_open;application=web.server_v2:2|c",
             "ebpf.outbound_bytes;port=https;address=2001_db8__1;dimension=sent:5|c",
             "ebpf.outbound_bytes;port=https;address=2001_db8__1;dimension=received:7|c",
             "ebpf.retransmit;port=other;address=other:9|c"],
        ),
    ],
)  # fmt: skip
def test_each_flavour_of_tags_has_its_own_syntax(tags: Tags, expected: list[str]) -> None:
    assert lines(SAMPLE, tags) == [f"ebpfmon.{line}" for line in expected]
    assert lines(SAMPLE, tags, prefix="") == expected


def test_counters_of_0_are_not_sent_but_gauges_of_0_are() -> None:
    assert lines(snapshot(charts=[system("c", {"a": 0}), system("l", {"a": 0}, Kind.GAUGE)])) == ["ebpfmon.l.a:0|g"]
    assert to_datagrams(snapshot(charts=[system("c", {"a": 0})]), Names("none"), StatsdSettings()) == []


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_nan_and_infinite_gauges_are_left_out(value: float) -> None:
    assert lines(snapshot(charts=[system("l", {"a": value, "b": 1}, Kind.GAUGE)])) == ["ebpfmon.l.b:1.0|g"]


def test_names_that_cleaning_makes_equal_stay_distinct_and_stable() -> None:
    names, apps = Names("none"), snapshot(charts=[applications("apps.x", {"a b": 1, "a:b": 2, "A_b": 3})])
    first = to_datagrams(apps, names, StatsdSettings())[0].decode().split("\n")
    assert first[0] == "ebpfmon.apps.x.a_b:1|c"
    assert all(re.match(r"ebpfmon\.apps\.x\.a_b_[0-9a-f]{8}:", line) for line in first[1:])
    assert len({line.partition(":")[0] for line in first}) == 3
    reverse = snapshot(charts=[applications("apps.x", {"A_b": 3, "a:b": 2, "a b": 1})])
    assert to_datagrams(reverse, names, StatsdSettings())[0].decode().split("\n") == first[::-1]


def test_an_item_named_other_never_shares_the_name_of_the_series_other() -> None:
    names = Names("none")
    for other in (0, 7):
        of = snapshot(charts=[applications("apps.x", {"other": 5}, other)])
        found = to_datagrams(of, names, StatsdSettings())[0].decode().split("\n")
        assert re.fullmatch(r"ebpfmon\.apps\.x\.other_[0-9a-f]{8}:5\|c", found[0])
        assert found[1:] == (["ebpfmon.apps.x.other:7|c"] if other else [])


def test_both_directions_of_a_destination_have_the_same_label_values() -> None:
    amounts = {("192.0.2.1", "host"): (1, 2), ("192.0.2.2", "host"): (3, 4)}
    found = [etsy(line) for line in lines(snapshot(charts=[destinations("n", amounts, SENT, RECEIVED)]), "graphite")]
    hosts = [line.tags["address"] for line in found]
    assert hosts[0] == hosts[1] == "host"
    assert hosts[2] == hosts[3] != hosts[0]
    assert {line.tags["port"] for line in found} == {"https"}


def test_the_hash_that_makes_a_name_unique_depends_only_on_its_id() -> None:
    def found(*hosts: int) -> list[str]:
        amounts = {(f"192.0.2.{host}", "host"): (host,) for host in hosts}
        return lines(snapshot(charts=[destinations("n", amounts, WHOLE)]))

    assert found(1, 3)[1] == found(1, 2, 3)[2] == found(2, 3)[1]


def test_long_label_values_are_cut_equally_and_short_ones_are_unchanged() -> None:
    address = "2001:db8:1111:2222:3333:4444:5555:6666"
    found = etsy(lines(snapshot(charts=[destinations("n", {("a", address): (1,)}, WHOLE)]), "graphite")[0])
    assert found.tags == {"port": "https", "address": clean(address)}
    wide = chart_of("n", [WHOLE], labels=tuple("abcde"))
    (line,) = lines(snapshot(charts=[data(wide, series={(*["x" * 80] * 4, "y"): [1]})]), "graphite")
    tags = etsy(line).tags
    assert tags["e"] == "y"
    assert len({tags[label] for label in "abcd"}) == 1
    assert len(line) < 236


def test_an_empty_label_value_has_no_tag() -> None:
    of = chart_of("n", [WHOLE], labels=("call", "error"))
    assert lines(snapshot(charts=[data(of, series={("other", ""): [1]})]), "influx") == ["ebpfmon.n,call=other:1|c"]


def test_a_chart_with_a_single_number_is_named_by_its_id_alone() -> None:
    for tags in FLAVOURS:
        assert lines(snapshot(charts=[data(chart_of("x", [WHOLE]), 3)]), tags) == ["ebpfmon.x:3|c"]


def test_a_long_name_is_cut_and_stays_unique() -> None:
    apps = applications("c" * 500, {"a" * 400 + end: 1 for end in "xyz"})
    found = [etsy(line).name for line in lines(snapshot(charts=[apps]), maximum_datagram=512)]
    assert len(set(found)) == 3
    assert {len(name) for name in found} == {len("ebpfmon.") + 60 + 1 + 90}


def test_datagrams_are_filled_and_the_order_is_kept() -> None:
    amounts = {f"{n:03}": 1 for n in range(200)}
    found = to_datagrams(snapshot(charts=[system("x", amounts)]), Names("none"), StatsdSettings(maximum_datagram=512))
    size = len(b"ebpfmon.x.000:1|c\n")
    assert [len(d.split(b"\n")) for d in found[:-1]] == [513 // size] * (len(found) - 1)
    assert [line[10:13] for d in found for line in d.decode().split("\n")] == list(amounts)
    exact = len(b"\n".join([b"ebpfmon.x.000:1|c"] * 32))  # fits to the byte
    filled = to_datagrams(
        snapshot(charts=[system("x", amounts)]), Names("none"), StatsdSettings(maximum_datagram=exact)
    )
    assert len(filled[0]) == exact


def test_names_are_forgotten_when_there_are_too_many_but_not_within_a_snapshot(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statsd, "_CACHED_NAMES", 10)
    names, numbers = Names("none"), itertools.count()
    for _ in range(5):
        apps = applications("x", {f"{next(numbers)}": 1 for _ in range(30)} | {"a.": 1, "a,": 1})
        (datagram,) = to_datagrams(snapshot(charts=[apps]), names, StatsdSettings())
        assert len({line.partition(b":")[0] for line in datagram.split(b"\n")}) == 32
        assert len(names._known) == 32


@pytest.mark.parametrize(
    "wrong",
    [{"prefix": p} for p in ("a b", "a\n", "a.", ".a", "a..b", "a:b", "é", "x" * 41)]
    + [{"port": 0}, {"port": 65536}, {"host": ""}, {"protocol": "unix"}, {"tags": "prometheus"}]
    + [{"maximum_datagram": 511}, {"maximum_datagram": 65508}, {"packets_per_second": 0}],
    ids=str,
)
def test_invalid_settings_are_refused(wrong: dict[str, object]) -> None:
    assert msgspec.convert({"type": "statsd"}, StatsdSettings) == StatsdSettings()
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"type": "statsd", **wrong}, StatsdSettings)


@given(SNAPSHOTS, st.integers(0, 40))
def test_without_the_first_lines_a_snapshot_has_all_other_counters_and_every_gauge(of: Snapshot, count: int) -> None:
    before = lines(of)
    after = lines(without_lines(of, count))

    def numbers(some: list[str], kind: str) -> list[str]:
        return [line.rpartition(":")[2] for line in some if line.endswith(kind)]

    assert numbers(after, "|g") == numbers(before, "|g")
    assert numbers(after, "|c") == numbers(before[count:], "|c")
