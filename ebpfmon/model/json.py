"""The JSON form of a snapshot, schema version 2. Every JSON output uses it."""

from __future__ import annotations

import json
import math
from typing import Annotated, Any, Literal, NamedTuple

import msgspec
from msgspec import UNSET, UnsetType

from ebpfmon.model.chart import KINDS, Chart
from ebpfmon.model.series import ChartData, Histogram
from ebpfmon.model.snapshot import Snapshot
from ebpfmon.text import escaped_json


class DimensionJson(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, gc=False):
    """A dimension of a series. A counter has `delta`, `total` and `rate`; a gauge has `value`."""

    id: str
    name: str
    delta: int | float | UnsetType = UNSET
    """The amount in the interval."""
    total: int | UnsetType = UNSET
    """The amount since `start`. It never decreases, unless the dimension is a difference."""
    rate: float | UnsetType = UNSET
    """The amount per second."""
    value: int | float | UnsetType = UNSET
    """The gauge at the end of the interval."""


class BucketsJson(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, gc=False):
    """A distribution of values: the number of values in each bucket, the number of all values, and their sum."""

    buckets: list[int]
    count: int
    sum: int | UnsetType = UNSET


class SeriesJson(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, gc=False):
    """One series of a chart. A histogram has `buckets`, `count`, `sum` and `total`; all others have `dimensions`."""

    labels: dict[str, str]
    names: dict[str, str] | UnsetType = UNSET
    """Display names of the label values, only for those that differ from the value itself."""
    role: Literal["item", "other", "overflow"]
    start: float
    """When the totals of the series began, in seconds since the epoch."""
    dimensions: list[DimensionJson] | UnsetType = UNSET
    buckets: list[int] | UnsetType = UNSET
    """The number of values in each bucket, in the interval."""
    count: int | UnsetType = UNSET
    sum: int | UnsetType = UNSET
    total: BucketsJson | UnsetType = UNSET
    """The same numbers for all values since `start`."""


class ChartJson(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A chart and its series. Only histograms have `bounds`, `bucket_units` and `sum_units`."""

    id: str
    family: str
    title: str
    units: str
    kind: Annotated[str, msgspec.Meta(extra_json_schema={"enum": [*KINDS]})]
    labels: list[str]
    bounds: list[float] | UnsetType = UNSET
    """The upper bound of each bucket except the last, which holds all greater values."""
    bucket_units: str | UnsetType = UNSET
    sum_units: str | UnsetType = UNSET
    series: list[SeriesJson]


class SnapshotJson(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One interval."""

    schema: Literal[2]
    host: str
    time: float
    """The end of the interval, in seconds since the epoch."""
    elapsed_s: float
    complete: bool
    """Whether every table could be read and the kernel skipped no run of a BPF program."""
    charts: list[ChartJson]


def to_json(snapshot: Snapshot) -> SnapshotJson:
    """Return the JSON form of a snapshot. Encode it with `encode_json`."""
    cache: _Identities = {}
    return SnapshotJson(
        schema=2,
        host=snapshot.host,
        time=round(snapshot.time_s, 3),
        elapsed_s=round(snapshot.elapsed_s, 4),
        complete=snapshot.complete,
        charts=[_chart(data, snapshot.elapsed_s, cache) for data in snapshot.charts],
    )


def encode_json(value: object) -> bytes:
    """Return a value as JSON of one line that is safe to show on a terminal.

    Unprintable characters are escaped, so that a reader of the JSON gets the same text.
    """
    try:
        encoded = msgspec.json.encode(value)
    except UnicodeEncodeError:  # a lone surrogate, for which UTF-8 has no bytes, but JSON has an escape
        encoded = json.dumps(_without_nan(msgspec.to_builtins(value)), separators=(",", ":")).encode()
    if encoded.isascii() and b"\x7f" not in encoded:
        return encoded
    return escaped_json(encoded.decode()).encode()


def _without_nan(value: Any) -> Any:
    """Return built-in types with null for numbers that JSON does not have, as msgspec writes them."""
    if isinstance(value, dict):
        return {key: _without_nan(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_without_nan(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def chart_to_json(data: ChartData, elapsed_s: float) -> ChartJson:
    """Return the JSON form of one chart."""
    return _chart(data, elapsed_s, {})


def snapshot_schema() -> dict[str, Any]:
    """Return the JSON Schema of a snapshot."""
    return msgspec.json.schema(SnapshotJson)


def _bounds(chart: Chart) -> dict[str, Any]:
    buckets = chart.buckets
    if not buckets:
        return {}
    sum_units = {"sum_units": buckets.sum_units} if buckets.sum else {}
    return {"bounds": list(buckets.bounds), "bucket_units": buckets.units} | sum_units


class _Identity(NamedTuple):
    """The part of a series that does not depend on its numbers."""

    labels: dict[str, str]
    names: dict[str, str] | UnsetType
    role: Literal["item", "other", "overflow"]
    start: float


_Identities = dict[tuple[int, tuple[str, ...]], list[_Identity]]
"""Cached identities by the id() of a SeriesIndex and the label names, because the charts of one table share them."""


def _chart(data: ChartData, elapsed_s: float, cache: _Identities) -> ChartJson:
    chart, key = data.chart, (id(data.index), data.chart.labels)
    identities = cache.get(key)
    if identities is None:
        identities = cache[key] = _identities(data)
    series = _histograms(data, identities) if chart.buckets else _dimensions(data, identities, elapsed_s)
    return ChartJson(
        id=chart.id, family=chart.family, title=chart.title, units=chart.units, kind=chart.kind.name,
        labels=list(chart.labels), **_bounds(chart), series=series,
    )  # fmt: skip


def _identities(data: ChartData) -> list[_Identity]:
    index, keys = data.index, data.chart.labels
    return [
        _Identity(dict(zip(keys, values, strict=True)), _names(keys, values, names), role.value, round(start_s, 3))
        for values, names, role, start_s in zip(index.labels, index.names, index.roles, index.starts_s, strict=True)
    ]


def _dimensions(data: ChartData, identities: list[_Identity], elapsed_s: float) -> list[SeriesJson]:
    """Return the series of a counter or a gauge.

    This runs for every chart in every interval, so it builds all dimensions in one loop and creates no `Series`.
    """
    columns = [(column.id, column.name) for column in data.chart.columns]
    numbers = zip(columns * len(identities), data.deltas.ravel().tolist(), strict=True)
    if data.chart.kind.cumulative:
        totals = data.totals.ravel().tolist()
        dimensions = [
            DimensionJson(id=i, name=n, delta=d, total=t, rate=round(d / elapsed_s, 2) if d else 0.0)
            for ((i, n), d), t in zip(numbers, totals, strict=True)
        ]
    else:
        dimensions = [DimensionJson(id=i, name=n, value=v) for (i, n), v in numbers]
    width = len(columns)
    return [
        SeriesJson(labels=labels, names=names, role=role, start=start, dimensions=dimensions[first : first + width])
        for first, (labels, names, role, start) in zip(range(0, len(dimensions), width), identities, strict=True)
    ]


def _histograms(data: ChartData, identities: list[_Identity]) -> list[SeriesJson]:
    histograms = []
    for (labels, names, role, start), series in zip(identities, data.series(), strict=True):
        now, total = series.histogram, series.total_histogram
        since_start = BucketsJson(buckets=list(total.counts), count=total.count, sum=_sum(total))
        histograms.append(
            SeriesJson(
                labels=labels, names=names, role=role, start=start,
                buckets=list(now.counts), count=now.count, sum=_sum(now), total=since_start,
            )
        )  # fmt: skip
    return histograms


def _names(keys: tuple[str, ...], values: tuple[str, ...], names: tuple[str, ...]) -> dict[str, str] | UnsetType:
    """Return the display names that differ from the label values."""
    if names == values:
        return UNSET
    return {key: name for key, value, name in zip(keys, values, names, strict=True) if name != value}


def _sum(histogram: Histogram) -> int | UnsetType:
    return UNSET if histogram.sum is None else histogram.sum
