"""The snapshot as every JSON output shows it, schema version 2."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, UnsetType

from ebpfmon.model.chart import KINDS, Chart
from ebpfmon.model.series import ChartData, Histogram, Series
from ebpfmon.model.snapshot import Snapshot


class DimensionJson(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
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


class BucketsJson(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How values are distributed: one number for each bucket, their sum and count."""

    buckets: list[int]
    count: int
    sum: int | UnsetType = UNSET


class SeriesJson(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
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
    return SnapshotJson(
        schema=2,
        host=snapshot.host,
        time=round(snapshot.time_s, 3),
        elapsed_s=round(snapshot.elapsed_s, 4),
        complete=snapshot.complete,
        charts=[chart_to_json(data, snapshot.elapsed_s) for data in snapshot.charts],
    )


def chart_to_json(data: ChartData, elapsed_s: float) -> ChartJson:
    """Return one chart as JSON outputs show it."""
    chart = data.chart
    return ChartJson(
        id=chart.id, family=chart.family, title=chart.title, units=chart.units,
        kind=chart.kind.name,
        labels=list(chart.labels), **_bounds(chart), series=[_series(s, elapsed_s) for s in data.series()],
    )  # fmt: skip


def snapshot_schema() -> dict[str, Any]:
    """Return the JSON Schema of a snapshot."""
    return msgspec.json.schema(SnapshotJson)


def _bounds(chart: Chart) -> dict[str, Any]:
    of = chart.buckets
    if not of:
        return {}
    return {"bounds": list(of.bounds), "bucket_units": of.units} | ({"sum_units": of.sum_units} if of.sum else {})


def _series(series: Series, elapsed_s: float) -> SeriesJson:
    chart = series.chart
    names = {
        label: name
        for label, value, name in zip(chart.labels, series.labels, series.names, strict=True)
        if name != value
    }
    more: dict[str, Any] = {"names": names} if names else {}
    if chart.buckets:
        now, total = series.histogram, series.total_histogram
        more |= {"buckets": list(now.counts), "count": now.count, **_sum(now)}
        more["total"] = BucketsJson(buckets=list(total.counts), count=total.count, **_sum(total))
    else:
        more["dimensions"] = _dimensions(series, elapsed_s)
    return SeriesJson(labels=series.label_map, role=series.role.value, start=round(series.start_s, 3), **more)


def _sum(histogram: Histogram) -> dict[str, int]:
    return {} if histogram.sum is None else {"sum": histogram.sum}


def _dimensions(series: Series, elapsed_s: float) -> list[DimensionJson]:
    columns = series.chart.columns
    if not series.chart.kind.cumulative:
        return [DimensionJson(id=c.id, name=c.name, value=v) for c, v in zip(columns, series.deltas, strict=True)]
    return [
        DimensionJson(
            id=c.id, name=c.name, delta=delta, total=total, rate=round(delta / elapsed_s, 2) if delta else 0.0
        )
        for c, delta, total in zip(columns, series.deltas, series.totals, strict=True)
    ]
