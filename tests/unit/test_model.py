"""The JSON form of a snapshot is exactly what the published schema says."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

import ebpfmon
from ebpfmon import Chart, ChartValues, Dimension, Kind, Scope, Snapshot, Value, to_json
from tests.unit.support import chart, snapshot, values

SCHEMA: dict[str, Any] = json.loads((Path(ebpfmon.__file__).parent / "model" / "snapshot.schema.json").read_text())
VALIDATOR = Draft202012Validator(SCHEMA)
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=5)
DIMENSIONS = st.builds(Dimension, TEXT, TEXT, st.just(("f",)), negative=st.booleans())


@st.composite
def chart_values(draw: st.DrawFn) -> ChartValues:
    kind, dimensions = draw(st.sampled_from(Kind)), draw(st.lists(DIMENSIONS, max_size=3))
    of = Chart(
        id=draw(TEXT), title=draw(TEXT), units=draw(TEXT), family=draw(TEXT), priority=1, kind=kind,
        scope=draw(st.sampled_from(Scope)),
        dimensions=tuple(dimensions), return_only=draw(st.booleans()),
    )  # fmt: skip
    amount = st.integers(-(1 << 64), 1 << 64)
    if kind is Kind.LEVEL:
        level = amount | st.floats(allow_nan=False, allow_infinity=False)
        return ChartValues(of, tuple(Value(d, draw(level), 0) for d in dimensions))
    return ChartValues(of, tuple(Value(d, draw(amount), draw(amount)) for d in dimensions))


SNAPSHOTS = st.builds(
    Snapshot, host=TEXT, time_s=st.floats(-1e10, 1e10), elapsed_s=st.floats(1e-9, 1e6), complete=st.booleans(),
    charts=st.lists(chart_values(), max_size=3).map(tuple),
)  # fmt: skip
OPTIONAL = {"buckets", "sum_units"}  # of histograms alone
COUNTER = values(chart(Dimension("vfs_read", "read", ("reads",))), 41)
LEVEL = values(chart(Dimension("rss", "rss", ("rss",)), kind=Kind.LEVEL), 40.5)


def test_the_schema_is_one_and_every_part_of_it_is_described() -> None:
    Draft202012Validator.check_schema(SCHEMA)

    def look(part: Any, where: str) -> None:
        if isinstance(part, dict):
            if "type" in part or "const" in part:
                assert "description" in part, where
            if part.get("type") == "object":
                assert part["additionalProperties"] is False, where
                assert set(part["required"]) == set(part["properties"]) - OPTIONAL, where
            for name, inner in part.items():
                look(inner, f"{where}.{name}")

    look(SCHEMA, "$")


@given(SNAPSHOTS)
def test_every_snapshot_is_valid_by_the_schema(given_snapshot: Snapshot) -> None:
    line = msgspec.json.encode(to_json(given_snapshot))
    assert b"\n" not in line
    VALIDATOR.validate(json.loads(line))


@pytest.mark.parametrize(
    "spoil",
    [
        lambda s: s.pop("host"),
        lambda s: s.update(schema=2),
        lambda s: s.update(extra=1),
        lambda s: s.update(time="now"),
        lambda s: s["charts"][0].update(priority=1),
        lambda s: s["charts"][0].pop("units"),
        lambda s: s["charts"][0]["dimensions"][0].pop("rate"),
        lambda s: s["charts"][0]["dimensions"][0].update(value=1),
        lambda s: s["charts"][0]["dimensions"][0].update(delta=1.5),
        lambda s: s["charts"][1]["dimensions"][0].update(delta=1),
        lambda s: s["charts"][1]["dimensions"][0].update(value=None),
    ],
)
def test_the_schema_refuses_what_no_snapshot_is(spoil: Callable[[dict[str, Any]], object]) -> None:
    right = to_json(snapshot(charts=[COUNTER, LEVEL]))
    VALIDATOR.validate(right)
    wrong = copy.deepcopy(right)
    spoil(wrong)
    assert not VALIDATOR.is_valid(wrong)


def test_a_counter_has_its_rate_by_the_elapsed_time_and_a_level_its_value() -> None:
    counter, level = to_json(snapshot(charts=[COUNTER, LEVEL]))["charts"]
    assert counter["dimensions"] == [{"id": "vfs_read", "name": "read", "delta": 41, "total": 1000, "rate": 82.0}]
    assert level["dimensions"] == [{"id": "rss", "name": "rss", "value": 40.5}]


def test_the_form_of_the_issue_is_the_form_that_is_written() -> None:
    chart = Chart(id="ebpf.io", title="T", units="calls/s", family="VFS", priority=9, dimensions=())
    written = to_json(
        Snapshot(host="h", time_s=5.00051, elapsed_s=1.00031, complete=True, charts=(ChartValues(chart, ()),))
    )
    assert written == {
        "schema": 1, "host": "h", "time": 5.001, "elapsed_s": 1.0003, "complete": True,
        "charts": [{"id": "ebpf.io", "family": "VFS", "title": "T", "units": "calls/s", "scope": "system",
                    "dimensions": []}],
    }  # fmt: skip
