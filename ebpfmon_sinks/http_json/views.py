"""Encode the newest snapshot as JSON, with one function for each route. Pure; called in a thread."""

from __future__ import annotations

import msgspec

from ebpfmon import Chart, Snapshot, chart_to_json, encode_json, to_json
from ebpfmon_sinks.http_json import rows
from ebpfmon_sinks.http_json.query import NotFoundError, excerpt
from ebpfmon_sinks.http_json.responses import ChartsJson, DeclaredChartJson, DeclaredDimensionJson, OneChartJson


def snapshot(snapshot: Snapshot) -> bytes:
    """Return all charts with their series."""
    return encode_json(to_json(snapshot))


def charts(snapshot: Snapshot) -> bytes:
    """Return all charts as their probes declare them."""
    declared = [_declared(data.chart) for data in snapshot.charts]
    return encode_json(ChartsJson(host=snapshot.host, charts=declared))


def chart(snapshot: Snapshot, id: str) -> bytes:
    """Return one chart with its series. Raises NotFoundError."""
    data = snapshot.chart(id)
    if data is None:
        raise NotFoundError(f"no such chart '{excerpt(id)}'; /api/v1/charts lists all charts")
    response = OneChartJson(
        host=snapshot.host, time=round(snapshot.time_s, 3), elapsed_s=round(snapshot.elapsed_s, 4),
        complete=snapshot.complete, chart=chart_to_json(data, snapshot.elapsed_s),
    )  # fmt: skip
    return encode_json(response)


def processes(snapshot: Snapshot, sort: str, top: int, group: str, by: str) -> bytes:
    """Return the busiest processes. Raises QueryError."""
    return encode_json(rows.processes_to_json(snapshot, sort, top, group, by))


def connections(snapshot: Snapshot, sort: str, top: int) -> bytes:
    """Return the busiest connections. Raises QueryError."""
    return encode_json(rows.connections_to_json(snapshot, sort, top))


def _declared(chart: Chart) -> DeclaredChartJson:
    dimensions = [
        DeclaredDimensionJson(id=d.id, name=d.name, plus=list(d.plus), minus=list(d.minus), negative=d.negative)
        for d in chart.dimensions
    ]
    declared = DeclaredChartJson(
        id=chart.id, family=chart.family, title=chart.title, units=chart.units, kind=chart.kind.name,
        labels=list(chart.labels), priority=chart.priority, unbounded=chart.unbounded, dimensions=dimensions,
    )  # fmt: skip
    if of := chart.buckets:
        sum_units = of.sum_units if of.sum else msgspec.UNSET
        return msgspec.structs.replace(declared, bounds=list(of.bounds), bucket_units=of.units, sum_units=sum_units)
    return declared
