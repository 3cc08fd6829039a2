"""The newest snapshot as JSON, one function for each route of that name. Pure; called in a thread."""

from __future__ import annotations

import dataclasses
from typing import Any

import msgspec

from ebpfmon import Chart, Dimension, Snapshot, to_json
from ebpfmon_sinks.http_json import rows
from ebpfmon_sinks.http_json.query import QueryError, shown


def snapshot(snapshot: Snapshot) -> bytes:
    """All charts with their values."""
    return msgspec.json.encode(to_json(snapshot))


def charts(snapshot: Snapshot) -> bytes:
    """All charts as they are declared."""
    shown_so = zip(snapshot.charts, to_json(snapshot)["charts"], strict=True)
    declared = [{**one, **_declared(values.chart)} for values, one in shown_so]
    return msgspec.json.encode({"schema": 1, "host": snapshot.host, "charts": declared})


def chart(snapshot: Snapshot, id: str) -> bytes:
    """One chart. Raises NoChartError."""
    found = tuple(c for c in snapshot.charts if c.chart.id == id)
    if not found:
        raise NoChartError(f"there is no chart '{shown(id)}': see /api/v1/charts")
    whole = to_json(dataclasses.replace(snapshot, charts=found[:1]))
    (one,) = whole.pop("charts")
    return msgspec.json.encode({**whole, "chart": one})


def processes(snapshot: Snapshot, sort: str, top: int, app: str) -> bytes:
    """The busiest processes. Raises QueryError."""
    return msgspec.json.encode(rows.processes_to_json(snapshot, sort, top, app))


def connections(snapshot: Snapshot, sort: str, top: int) -> bytes:
    """The busiest connections. Raises QueryError."""
    return msgspec.json.encode(rows.connections_to_json(snapshot, sort, top))


class NoChartError(QueryError):
    """There is none of this id."""

    status = 404


def _declared(chart: Chart) -> dict[str, Any]:
    """What a snapshot does not say of a chart, and its dimensions without values."""
    return {"kind": chart.kind, "priority": chart.priority, "dimensions": [_dimension(d) for d in chart.dimensions]}


def _dimension(dimension: Dimension) -> dict[str, Any]:
    return {
        "id": dimension.id,
        "name": dimension.name,
        "plus": dimension.plus,
        "minus": dimension.minus,
        "negative": dimension.negative,
    }
