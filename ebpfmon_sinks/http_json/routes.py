"""The routes of the API. The server, its HTML page and its OpenAPI document use this list."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from ebpfmon import SnapshotJson
from ebpfmon_sinks.http_json import responses
from ebpfmon_sinks.http_json.query import NoQuery

JSON, HTML, TEXT, OPENMETRICS = "application/json", "text/html", "text/plain", "application/openmetrics-text"
NDJSON, EVENTS = "application/x-ndjson", "text/event-stream"


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """A path, and what GET and HEAD return."""

    path: str
    name: str
    summary: str
    media: tuple[str, ...] = (JSON,)
    response: type[msgspec.Struct] | None = None
    """The type of the JSON response, or of each snapshot in a stream. None if the response is not JSON."""
    query: type[msgspec.Struct] = NoQuery
    of_snapshot: bool = False
    """Whether the newest snapshot is needed: 503 until there is one, 304 if the client already has it."""
    open: bool = False
    """Whether no token is needed."""


ROUTES = (
    Route(path="/", name="page", summary="This page.", media=(HTML,)),
    Route(
        path="/api/v1/snapshot", name="snapshot", response=SnapshotJson, of_snapshot=True,
        summary="The newest interval: all charts with their series.",
    ),
    Route(
        path="/api/v1/charts", name="charts", response=responses.ChartsJson, of_snapshot=True,
        summary="All charts as their probes declare them, without series.",
    ),
    Route(
        path="/api/v1/charts/{id}", name="chart", response=responses.OneChartJson, of_snapshot=True,
        summary="One chart with its series, by its id.",
    ),
    Route(
        path="/api/v1/processes", name="processes", response=responses.ProcessesJson, of_snapshot=True,
        summary="The busiest processes in the newest interval.", query=responses.ProcessesQuery,
    ),
    Route(
        path="/api/v1/connections", name="connections", response=responses.ConnectionsJson, of_snapshot=True,
        summary="The connections with the most traffic in the newest interval.",
        query=responses.ConnectionsQuery,
    ),
    Route(
        path="/api/v1/stream", name="stream", response=SnapshotJson, media=(EVENTS, NDJSON),
        query=responses.StreamQuery,
        summary="Every snapshot from now on: server-sent events, or NDJSON if Accept prefers it.",
    ),
    Route(
        path="/metrics", name="metrics", summary="Metrics for Prometheus, as text or as OpenMetrics.",
        media=(TEXT, OPENMETRICS),
    ),
    Route(
        path="/healthz", name="healthz", response=responses.HealthJson, open=True, summary="200 while the daemon runs.",
    ),
    Route(
        path="/readyz", name="readyz", response=responses.HealthJson, open=True,
        summary="200 if there was a snapshot within the last three intervals, otherwise 503.",
    ),
    Route(path="/openapi.json", name="openapi", summary="This API as an OpenAPI document."),
)  # fmt: skip
