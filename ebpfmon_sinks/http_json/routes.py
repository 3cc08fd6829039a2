"""The routes of the API. The server, its HTML page and its OpenAPI document use this list."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from ebpfmon import SnapshotJson
from ebpfmon_sinks.http_json import answers
from ebpfmon_sinks.http_json.query import NoQuery

JSON, HTML, TEXT, OPENMETRICS = "application/json", "text/html", "text/plain", "application/openmetrics-text"
NDJSON, EVENTS = "application/x-ndjson", "text/event-stream"


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """A path, and the answers to GET and HEAD."""

    path: str
    name: str
    summary: str
    media: tuple[str, ...] = (JSON,)
    answer: type[msgspec.Struct] | None = None
    """The type of the JSON answer, or of each snapshot in a stream. None if the answer is not JSON."""
    query: type[msgspec.Struct] = NoQuery
    of_snapshot: bool = False
    """Whether the newest snapshot is needed: 503 until there is one, 304 if the client already has it."""
    open: bool = False
    """Whether no token is needed."""


ROUTES = (
    Route(path="/", name="page", summary="This page.", media=(HTML,)),
    Route(
        path="/api/v1/snapshot", name="snapshot", answer=SnapshotJson, of_snapshot=True,
        summary="The newest interval: all charts with their series.",
    ),
    Route(
        path="/api/v1/charts", name="charts", answer=answers.ChartsJson, of_snapshot=True,
        summary="All charts as their probes declare them, without series.",
    ),
    Route(
        path="/api/v1/charts/{id}", name="chart", answer=answers.OneChartJson, of_snapshot=True,
        summary="One chart with its series, by its id.",
    ),
    Route(
        path="/api/v1/processes", name="processes", answer=answers.ProcessesJson, of_snapshot=True,
        summary="The busiest processes in the newest interval.", query=answers.ProcessesQuery,
    ),
    Route(
        path="/api/v1/connections", name="connections", answer=answers.ConnectionsJson, of_snapshot=True,
        summary="The connections with the most traffic in the newest interval.",
        query=answers.ConnectionsQuery,
    ),
    Route(
        path="/api/v1/stream", name="stream", answer=SnapshotJson, media=(EVENTS, NDJSON), query=answers.StreamQuery,
        summary="Every snapshot from now on: server-sent events, or NDJSON if Accept prefers it.",
    ),
    Route(
        path="/metrics", name="metrics", summary="Metrics for Prometheus, as text or as OpenMetrics.",
        media=(TEXT, OPENMETRICS),
    ),
    Route(path="/healthz", name="healthz", answer=answers.HealthJson, open=True, summary="200 while the daemon runs."),
    Route(
        path="/readyz", name="readyz", answer=answers.HealthJson, open=True,
        summary="200 if there was a snapshot within the last three intervals, otherwise 503.",
    ),
    Route(path="/openapi.json", name="openapi", summary="This API as an OpenAPI document."),
)  # fmt: skip
