"""The snapshot as every JSON output shows it, schema version 2."""

from __future__ import annotations

from typing import Annotated, Any, Literal, NamedTuple

import msgspec
from msgspec import UNSET, UnsetType

from ebpfmon.model.chart import KINDS, Chart
from ebpfmon.model.series import ChartData, Histogram
from ebpfmon.model.snapshot import Snapshot


class DimensionJson(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, gc=False):
    """A dimension of a series: of a counter `delta`, `total` and `rate`, of a gauge `value`."""

    id: str
    name: str
    delta: int | float | UnsetType = UNSET
    """The interval's amount."""
    total: int | UnsetType = UNSET
    """What the amounts have come to since `start`. It never decreases, unless the dimension is a difference."""
    rate: float | UnsetType = UNSET
    """The amount per second."""
    value: int | float | UnsetType = UNSET
    """The gauge at the end of the interval."""


class BucketsJson(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, gc=False):
    """How values are distributed: one number for each bucket, their sum and count."""

    buckets: list[int]
    count: int
    sum: int | UnsetType = UNSET


class SeriesJson(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, gc=False):
    """One series of a chart: of a histogram `buckets`, `count`, `sum` and `total`, of others `dimensions`."""

    labels: dict[str, str]
    names: dict[str, str] | UnsetType = UNSET
    """What people call these label values, where that is something else than the value itself."""
    role: Literal["item", "other", "overflow"]
    start: float
    """When its totals began, in seconds since the epoch."""
    dimensions: list[DimensionJson] | UnsetType = UNSET
    buckets: list[int] | UnsetType = UNSET
    """The interval's values by bucket."""
    count: int | UnsetType = UNSET
    sum: int | UnsetType = UNSET
    total: BucketsJson | UnsetType = UNSET
    """The values since `start`."""


class ChartJson(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A chart and its series. `bounds`, `bucket_units` and `sum_units` are a histogram's."""

    id: str
    family: str
    title: str
    units: str
    kind: Annotated[str, msgspec.Meta(extra_json_schema={"enum": [*KINDS]})]
    labels: list[str]
    bounds: list[float] | UnsetType = UNSET
    """What values of each bucket do not exceed; the last bucket has the rest."""
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
    """Whether every table could be read and no run of a program is missing."""
    charts: list[ChartJson]


def to_json(snapshot: Snapshot) -> SnapshotJson:
    """Return the snapshot as JSON outputs show it: `msgspec.json.encode` makes bytes of it."""
    known: _Identities = {}
    return SnapshotJson(
        schema=2,
        host=snapshot.host,
        time=round(snapshot.time_s, 3),
        elapsed_s=round(snapshot.elapsed_s, 4),
        complete=snapshot.complete,
        charts=[_chart(data, snapshot.elapsed_s, known) for data in snapshot.charts],
    )


def chart_to_json(data: ChartData, elapsed_s: float) -> ChartJson:
    """Return one chart as JSON outputs show it."""
    return _chart(data, elapsed_s, {})


def snapshot_schema() -> dict[str, Any]:
    """Return the JSON Schema of a snapshot."""
    return msgspec.json.schema(SnapshotJson)


def _bounds(chart: Chart) -> dict[str, Any]:
    of = chart.buckets
    if not of:
        return {}
    return {"bounds": list(of.bounds), "bucket_units": of.units} | ({"sum_units": of.sum_units} if of.sum else {})


class _Identity(NamedTuple):
    """What a series is, whatever it counts."""

    labels: dict[str, str]
    names: dict[str, str] | UnsetType
    role: Literal["item", "other", "overflow"]
    start: float


_Identities = dict[tuple[int, tuple[str, ...]], list[_Identity]]
"""By the id of a SeriesIndex and label names: the charts of one table share them."""


def _chart(data: ChartData, elapsed_s: float, known: _Identities) -> ChartJson:
    chart, key = data.chart, (id(data.index), data.chart.labels)
    identities = known.get(key)
    if identities is None:
        identities = known[key] = _identities(data)
    series = _histograms(data, identities) if chart.buckets else _dimensions(data, identities, elapsed_s)
    return ChartJson(
        id=chart.id, family=chart.family, title=chart.title, units=chart.units, kind=chart.kind.name,
        labels=list(chart.labels), **_bounds(chart), series=series,
    )  # fmt: skip


def _identities(data: ChartData) -> list[_Identity]:
    index, of = data.index, data.chart.labels
    return [
        _Identity(dict(zip(of, labels, strict=True)), _names(of, labels, names), role.value, round(start_s, 3))
        for labels, names, role, start_s in zip(index.labels, index.names, index.roles, index.starts_s, strict=True)
    ]


def _dimensions(data: ChartData, identities: list[_Identity], elapsed_s: float) -> list[SeriesJson]:
    """Return the series of a counter or a gauge. Runs for every chart at every tick, so it builds all dimensions in one
    loop and no `Series`."""
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
        SeriesJson(labels=labels, names=names, role=role, start=start, dimensions=dimensions[at : at + width])
        for at, (labels, names, role, start) in zip(range(0, len(dimensions), width), identities, strict=True)
    ]


def _histograms(data: ChartData, identities: list[_Identity]) -> list[SeriesJson]:
    found = []
    for (labels, names, role, start), series in zip(identities, data.series(), strict=True):
        now, total = series.histogram, series.total_histogram
        so_far = BucketsJson(buckets=list(total.counts), count=total.count, sum=_sum(total))
        found.append(
            SeriesJson(
                labels=labels, names=names, role=role, start=start,
                buckets=list(now.counts), count=now.count, sum=_sum(now), total=so_far,
            )
        )  # fmt: skip
    return found


def _names(of: tuple[str, ...], labels: tuple[str, ...], names: tuple[str, ...]) -> dict[str, str] | UnsetType:
    """Return the label values that people call something else."""
    if names == labels:
        return UNSET
    return {label: name for label, value, name in zip(of, labels, names, strict=True) if name != value}


def _sum(histogram: Histogram) -> int | UnsetType:
    return UNSET if histogram.sum is None else histogram.sum
