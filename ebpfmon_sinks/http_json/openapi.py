"""Describe the API as an OpenAPI 3.1 document and as an HTML page. Both are generated from `routes.ROUTES`."""

from __future__ import annotations

import base64
import hashlib
import html
from importlib.metadata import version
from typing import Any

import msgspec

from ebpfmon import encode_json
from ebpfmon_sinks.http_json.responses import ProblemJson
from ebpfmon_sinks.http_json.routes import JSON, ROUTES, Route

_VERSION = version("ebpfmon")  # read now, because the daemon may become a user who cannot read it later
_STYLE = (
    "body{font:1rem/1.5 system-ui,sans-serif;max-width:56rem;margin:2rem auto;padding:0 1rem}"
    "td{padding:.2rem 1rem .2rem 0;vertical-align:top}"
)
PAGE_POLICY = (
    "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    f"style-src 'sha256-{base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()}'"
)
_REFS = "#/components/schemas/{name}"


def page() -> bytes:
    """Return an HTML page that loads nothing from other servers."""
    rows = []
    for route in ROUTES:
        parameters = "".join(
            f"<br><code>?{html.escape(p['name'])}=</code> {html.escape(p['description'])}" for p in _parameters(route)
        )
        path = html.escape(route.path)
        link = f"<code>{path}</code>" if "{" in path else f'<a href="{path}"><code>{path}</code></a>'
        rows.append(f"<tr><td>{link}<td>{html.escape(route.summary)}{parameters}")
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>ebpfmon</title><style>{_STYLE}</style><h1>ebpfmon {html.escape(_VERSION)}</h1>"
        f"<p>What the processes of this machine do in the kernel.<table>{''.join(rows)}</table>\n"
    ).encode()


def document_bytes() -> bytes:
    """Return the document as JSON."""
    return encode_json(document())


def document() -> dict[str, Any]:
    """Return the OpenAPI document."""
    types: list[type] = [ProblemJson, *(route.response for route in ROUTES if route.response)]
    references, schemas = msgspec.json.schema_components(types, ref_template=_REFS)
    by_type = dict(zip(types, references, strict=True))
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "ebpfmon",
            "version": _VERSION,
            "description": "What the processes of this machine do in the kernel, in the newest interval only.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "security": [{}, {"token": []}],
        "paths": {
            route.path: {
                "get": _operation(route, by_type) | {"operationId": route.name},
                "head": _without_content(_operation(route, by_type)) | {"operationId": f"head_{route.name}"},
            }
            for route in ROUTES
        },
        "components": {
            "securitySchemes": {
                "token": {"type": "http", "scheme": "bearer", "description": "Needed if token_file is set."}
            },
            "schemas": schemas,
        },
    }


def _operation(route: Route, by_type: dict[type, dict[str, Any]]) -> dict[str, Any]:
    """Describe GET of a route. `by_type` has references to the schemas of responses."""
    schema = by_type[route.response] if route.response else {"type": "object"}
    content = {
        media: {
            "schema": schema if media == JSON else {"type": "string", "description": _DESCRIPTIONS.get(media, media)}
        }
        for media in route.media
    }
    responses: dict[str, Any] = {"200": {"description": route.summary, "content": content}}
    for status, description in _failures(route).items():
        of_health = status == "503" and route.name == "readyz"
        failure = {"schema": schema if of_health else by_type[ProblemJson]}
        responses[status] = {"description": description, **({} if status == "304" else {"content": {JSON: failure}})}
    parameters = _parameters(route)
    if "{id}" in route.path:
        parameters.insert(0, {"name": "id", "in": "path", "required": True, "schema": {"type": "string"}})
    return {
        "summary": route.summary,
        **({"parameters": parameters} if parameters else {}),
        **({"security": []} if route.open else {}),
        "responses": responses,
    }


def _without_content(operation: dict[str, Any]) -> dict[str, Any]:
    """Return the same operation for HEAD, whose responses have no body."""
    responses = {status: {"description": r["description"]} for status, r in operation["responses"].items()}
    return {**operation, "responses": responses}


def _parameters(route: Route) -> list[dict[str, Any]]:
    """Describe the query of a route."""
    _, components = msgspec.json.schema_components([route.query])
    parameters = []
    for name, schema in components[route.query.__name__]["properties"].items():
        description = schema.pop("description")
        parameters.append({"name": name, "in": "query", "description": description, "schema": schema})
    return parameters


_DESCRIPTIONS = {
    "application/x-ndjson": "A snapshot on each line.",
    "text/event-stream": "Events named snapshot. Their data is a snapshot, their id its number.",
}
"""Descriptions of bodies that are not one JSON object, by media type."""


def _failures(route: Route) -> dict[str, str]:
    """Return the meaning of each status except 200."""
    meanings = {
        "400": "A parameter is wrong. The error names it and says what was expected.",
        "403": "The Host header is neither an address nor localhost.",
        "413": "The request has a body.",
    }
    if not route.open:
        meanings["401"] = "The token is missing or wrong."
    if route.of_snapshot:
        meanings["304"] = "The client already has the newest interval (If-None-Match)."
    if "{id}" in route.path:
        meanings["404"] = "There is no such chart."
    if route.of_snapshot or not route.open or route.name == "readyz":
        meanings["503"] = (
            "Try again later: there is no snapshot yet, too many clients are streaming, or the token cannot be checked."
        )
    return dict(sorted(meanings.items()))
