"""The JSON form of a snapshot matches its schema exactly."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from ebpfmon import (
    Buckets,
    Chart,
    ChartData,
    Dimension,
    Kind,
    Role,
    SeriesIndex,
    Snapshot,
    snapshot_schema,
    to_json,
)
from ebpfmon.model import KINDS
from tests.unit.support import chart, data, snapshot

SCHEMA = snapshot_schema()
VALIDATOR = Draft202012Validator(SCHEMA)
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=5)
DIMENSIONS = st.builds(Dimension, TEXT, TEXT, st.just(("f",)), negative=st.booleans())
BUCKETS = Buckets(field="size", bounds=(1, 2.5), units="ms")
WITH_SUM = Buckets(field="size", bounds=(1,), units="ms", sum="some_ns", sum_units="ns")


@st.composite
def chart_data(draw: st.DrawFn) -> ChartData:
    kind, labels = draw(st.sampled_from([*KINDS.values()])), tuple(draw(st.lists(TEXT, max_size=3, unique=True)))
    columns: dict[str, Any] = {"dimensions": tuple(draw(st.lists(DIMENSIONS, min_size=1, max_size=3)))}
    if kind is Kind.HISTOGRAM:
        columns = {"buckets": draw(st.sampled_from([BUCKETS, WITH_SUM]))}
    made = Chart(
        id=draw(TEXT),
        title=draw(TEXT),
        units=draw(TEXT),
        family=draw(TEXT),
        priority=1,
        kind=kind,
        labels=labels,
        **columns,
    )
    roles = draw(st.lists(st.sampled_from(Role), max_size=3)) if labels else [Role.ITEM]
    values = [tuple(draw(TEXT) for _ in labels) for _ in roles]
    names = [tuple(draw(st.sampled_from([value, "a name"])) for value in each) for each in values]
    amount = st.integers(-(1 << 63), (1 << 63) - 1)
    if kind is Kind.GAUGE and draw(st.booleans()):
        amount = st.floats(allow_nan=False, allow_infinity=False)  # type: ignore[assignment]
    shape = len(roles), len(made.columns)
    numbers = [[draw(amount) for _ in range(shape[1])] for _ in range(shape[0])]
    index = SeriesIndex(
        labels=tuple(values),
        names=tuple(names),
        roles=tuple(roles),
        starts_s=(draw(st.floats(-1e10, 1e10)),) * shape[0],
    )
    deltas = np.array(numbers).reshape(shape)
    return ChartData(chart=made, index=index, deltas=deltas, totals=np.full(shape, draw(st.integers(0, 1 << 62))))


SNAPSHOTS = st.builds(
    Snapshot, host=TEXT, time_s=st.floats(-1e10, 1e10), elapsed_s=st.floats(1e-3, 1e6), complete=st.booleans(),
    charts=st.lists(chart_data(), max_size=3).map(tuple),
)  # fmt: skip
READS = Dimension("vfs_read", "read", ("reads",))
COUNTER = data(chart(READS), 41)
GAUGE = data(chart(Dimension("rss", "rss", ("rss",)), kind=Kind.GAUGE), 40.5)
HISTOGRAM = data(
    Chart(
        id="x.times", title="T", units="calls/s", family="F", priority=1, labels=("disk",), buckets=WITH_SUM
    ),
    series={("8:0",): (1, 2, 30)},
    names={("8:0",): ("sda",)},
    other=(0, 0, 0),
)  # fmt: skip


def written(given_snapshot: Snapshot) -> Any:
    """Return the decoded JSON line of a snapshot."""
    line = msgspec.json.encode(to_json(given_snapshot))
    assert b"\n" not in line
    return json.loads(line)


def test_the_schema_is_valid() -> None:
    Draft202012Validator.check_schema(SCHEMA)
    assert json.loads(msgspec.json.encode(SCHEMA)) == SCHEMA


def test_every_object_of_the_schema_has_a_description_and_no_extra_properties() -> None:
    """A new property needs a new version of the schema."""
    for name, definition in SCHEMA["$defs"].items():
        assert definition["type"] == "object", name
        assert definition["description"], name
        assert definition.get("additionalProperties") is False, name


@given(SNAPSHOTS)
def test_every_snapshot_is_valid_under_the_schema(given_snapshot: Snapshot) -> None:
    VALIDATOR.validate(written(given_snapshot))


@given(SNAPSHOTS)
def test_encoding_and_decoding_returns_the_same_snapshot(given_snapshot: Snapshot) -> None:
    made = to_json(given_snapshot)
    assert msgspec.json.decode(msgspec.json.encode(made), type=type(made)) == made


@pytest.mark.parametrize(
    "spoil",
    [
        lambda s: s.pop("host"),
        lambda s: s.pop("schema"),
        lambda s: s.update(schema=1),
        lambda s: s.update(extra=1),
        lambda s: s.update(time="now"),
        lambda s: s["charts"][0].update(priority=1),
        lambda s: s["charts"][0].update(kind="unknown"),
        lambda s: s["charts"][0].pop("units"),
        lambda s: s["charts"][0].pop("labels"),
        lambda s: s["charts"][0]["series"][0].update(role="key"),
        lambda s: s["charts"][0]["series"][0].pop("start"),
        lambda s: s["charts"][0]["series"][0]["dimensions"][0].pop("id"),
        lambda s: s["charts"][0]["series"][0]["dimensions"][0].update(total=1.5),
        lambda s: s["charts"][1]["series"][0]["dimensions"][0].update(value=None),
        lambda s: s["charts"][2]["series"][0].update(buckets=[1.5]),
        lambda s: s["charts"][2]["series"][0]["labels"].update(disk=1),
        lambda s: s["charts"][2]["series"][0]["total"].pop("count"),
    ],
)
def test_the_schema_rejects_invalid_snapshots(spoil: Callable[[dict[str, Any]], object]) -> None:
    right = written(snapshot(charts=[COUNTER, GAUGE, HISTOGRAM]))
    VALIDATOR.validate(right)
    wrong = copy.deepcopy(right)
    spoil(wrong)
    assert not VALIDATOR.is_valid(wrong)


def test_a_counter_has_its_rate_by_the_elapsed_time_and_a_gauge_its_value() -> None:
    counter, gauge = written(snapshot(charts=[COUNTER, GAUGE]))["charts"]
    assert counter["series"] == [
        {
            "labels": {}, "role": "item", "start": 1.6e9,
            "dimensions": [{"id": "vfs_read", "name": "read", "delta": 41, "total": 1000, "rate": 82.0}],
        }
    ]  # fmt: skip
    assert gauge["series"][0]["dimensions"] == [{"id": "rss", "name": "rss", "value": 40.5}]


def test_a_histogram_has_its_bounds_and_its_series_buckets_sum_and_count() -> None:
    (found,) = written(snapshot(charts=[HISTOGRAM]))["charts"]
    assert found == {
        "id": "x.times", "family": "F", "title": "T", "units": "calls/s", "kind": "histogram", "labels": ["disk"],
        "bounds": [1], "bucket_units": "ms", "sum_units": "ns",
        "series": [
            {
                "labels": {"disk": "8:0"}, "names": {"disk": "sda"}, "role": "item", "start": 1.6e9,
                "buckets": [1, 2], "count": 3, "sum": 30,
                "total": {"buckets": [1000, 1000], "count": 2000, "sum": 1000},
            },
            {
                "labels": {"disk": "other"}, "role": "other", "start": 1.6e9, "buckets": [0, 0], "count": 0, "sum": 0,
                "total": {"buckets": [1000, 1000], "count": 2000, "sum": 1000},
            },
        ],
    }  # fmt: skip
    sizes = Chart(id="x.sizes", title="", units="", family="", priority=1, buckets=BUCKETS)
    (plain,) = written(snapshot(charts=[data(sizes, 1, 2, 3)]))["charts"]
    assert (plain["bounds"], plain["bucket_units"], "sum_units" in plain) == ([1, 2.5], "ms", False)
    assert "sum" not in plain["series"][0]


def test_a_small_snapshot_has_exactly_this_form() -> None:
    reads = Chart(
        id="apps.reads", title="T", units="calls/s", family="VFS", priority=9, labels=("application",),
        dimensions=(READS,),
    )  # fmt: skip
    index = SeriesIndex(
        labels=(("nginx",),), names=(("nginx",),), roles=(Role.ITEM,), starts_s=(1795374000.00049,)
    )  # fmt: skip
    numbers = ChartData(chart=reads, index=index, deltas=np.array([[6]]), totals=np.array([[99]]))
    given_ = Snapshot(host="h", time_s=5.00051, elapsed_s=1.00031, complete=True, charts=(numbers,))
    assert written(given_) == {
        "schema": 2, "host": "h", "time": 5.001, "elapsed_s": 1.0003, "complete": True,
        "charts": [
            {
                "id": "apps.reads", "family": "VFS", "title": "T", "units": "calls/s", "kind": "counter",
                "labels": ["application"],
                "series": [
                    {
                        "labels": {"application": "nginx"}, "role": "item", "start": 1795374000.0,
                        "dimensions": [{"id": "vfs_read", "name": "read", "delta": 6, "total": 99, "rate": 6.0}],
                    }
                ],
            }
        ],
    }  # fmt: skip
