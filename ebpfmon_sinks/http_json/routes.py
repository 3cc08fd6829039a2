"""What can be asked for: the one list from which the server, its page and its OpenAPI document are made."""

from __future__ import annotations

from dataclasses import dataclass

from ebpfmon_sinks.http_json.query import Parameter
from ebpfmon_sinks.http_json.rows import SUMS

JSON, HTML, TEXT, OPENMETRICS = "application/json", "text/html", "text/plain", "application/openmetrics-text"
NDJSON, EVENTS = "application/x-ndjson", "text/event-stream"

_SORT = Parameter(
    name="sort", default="calls", description=f"Busiest by a counter, or by the sum of all {' or '.join(SUMS)}."
)
_TOP = Parameter(name="top", default=50, maximum=1000, description="How many at most.")
_APP = Parameter(name="app", default="", description="Of this application alone, by its exact name.")
_FORMAT = Parameter(
    name="format", default="", choices=("sse", "ndjson"), description="How to stream, whatever Accept says."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """A path, and what a GET or HEAD of it answers. `schema` is what the document calls the JSON; it is empty where the
    answer is something else. `of_snapshot`: 503 until there is one, and 304 if the client has it already."""

    path: str
    name: str
    summary: str
    media: tuple[str, ...] = (JSON,)
    schema: str = ""
    parameters: tuple[Parameter, ...] = ()
    of_snapshot: bool = False
    open: bool = False
    """Answered without the token."""


ROUTES = (
    Route(path="/", name="page", summary="This page.", media=(HTML,)),
    Route(
        path="/api/v1/snapshot", name="snapshot", schema="Snapshot", of_snapshot=True,
        summary="The newest interval: all charts with their values.",
    ),
    Route(
        path="/api/v1/charts", name="charts", schema="Charts", of_snapshot=True,
        summary="All charts as they are declared, without values.",
    ),
    Route(
        path="/api/v1/charts/{id}", name="chart", schema="Chart", of_snapshot=True,
        summary="One chart with its values, by its id.",
    ),
    Route(
        path="/api/v1/processes", name="processes", schema="Processes", of_snapshot=True,
        summary="The processes that did most in the newest interval.", parameters=(_SORT, _TOP, _APP),
    ),
    Route(
        path="/api/v1/connections", name="connections", schema="Connections", of_snapshot=True,
        summary="The processes and destinations that exchanged most in the newest interval.", parameters=(_SORT, _TOP),
    ),
    Route(
        path="/api/v1/stream", name="stream", schema="Snapshot", media=(EVENTS, NDJSON), parameters=(_FORMAT,),
        summary="Every snapshot from now on: server-sent events, or NDJSON if Accept prefers it.",
    ),
    Route(
        path="/metrics", name="metrics", summary="For Prometheus, as text or as OpenMetrics.",
        media=(TEXT, OPENMETRICS),
    ),
    Route(path="/healthz", name="healthz", schema="Health", open=True, summary="Whether it is alive."),
    Route(
        path="/readyz", name="readyz", schema="Health", open=True,
        summary="200 if a snapshot came within the last three intervals, else 503.",
    ),
    Route(path="/openapi.json", name="openapi", schema="", summary="This API as an OpenAPI document."),
)  # fmt: skip
_BY_PATH = {route.path: route for route in ROUTES}
_CHART = _BY_PATH["/api/v1/charts/{id}"]


def find(path: str) -> tuple[Route, dict[str, str]] | None:
    """The route of a path, and what the path itself says; None if there is none."""
    stem, _, id_ = path.partition("/api/v1/charts/")
    if not stem and id_:
        return _CHART, {"id": id_}
    route = _BY_PATH.get(path)
    return None if route is None or route is _CHART else (route, {})
