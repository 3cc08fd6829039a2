"""What the API is, as an OpenAPI 3.1 document for programs and as a page for people; both made of `routes.ROUTES`."""

from __future__ import annotations

import base64
import hashlib
import html
import json
from importlib.metadata import version
from importlib.resources import files
from typing import Any

import msgspec

from ebpfmon_sinks.http_json.routes import JSON, ROUTES, Route

_STYLE = (
    "body{font:1rem/1.5 system-ui,sans-serif;max-width:56rem;margin:2rem auto;padding:0 1rem}"
    "td{padding:.2rem 1rem .2rem 0;vertical-align:top}"
)
PAGE_POLICY = (
    "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    f"style-src 'sha256-{base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()}'"
)
_REFS = "#/components/schemas/"


def page() -> bytes:
    """A page without anything from elsewhere."""
    rows = []
    for route in ROUTES:
        parameters = "".join(
            f"<br><code>?{html.escape(p.name)}=</code> {html.escape(p.description)}" for p in route.parameters
        )
        path = html.escape(route.path)
        link = f"<code>{path}</code>" if "{" in path else f'<a href="{path}"><code>{path}</code></a>'
        rows.append(f"<tr><td>{link}<td>{html.escape(route.summary)}{parameters}")
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>ebpfmon</title><style>{_STYLE}</style><h1>ebpfmon {html.escape(version('ebpfmon'))}</h1>"
        f"<p>What processes do in this machine's kernel.<table>{''.join(rows)}</table>\n"
    ).encode()


def document_bytes() -> bytes:
    """The document as JSON."""
    return msgspec.json.encode(document())


def document() -> dict[str, Any]:
    """The OpenAPI document."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "ebpfmon",
            "version": version("ebpfmon"),
            "description": "What processes do in this machine's kernel, as of the newest interval. Nothing is kept.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "security": [{}, {"token": []}],
        "paths": {route.path: {"get": _operation(route), "head": _operation(route, head=True)} for route in ROUTES},
        "components": {
            "securitySchemes": {
                "token": {"type": "http", "scheme": "bearer", "description": "Where the setting token_file is set."}
            },
            "schemas": _schemas(),
        },
    }


def _operation(route: Route, *, head: bool = False) -> dict[str, Any]:
    parameters = [p.schema() for p in route.parameters]
    if "{id}" in route.path:
        parameters.insert(0, {"name": "id", "in": "path", "required": True, "schema": {"type": "string"}})
    schema = {"$ref": _REFS + route.schema} if route.schema else {"type": "object"}
    content = {
        media: {"schema": schema if media == JSON else {"type": "string", "description": _other(media)}}
        for media in route.media
    }
    done: dict[str, Any] = {"description": route.summary}
    if not head:
        done["content"] = content
    responses = {"200": done}
    for status, description in _failures(route).items():
        responses[status] = {"description": description}
        if status != "304" and not head:
            name = "Health" if route.schema == "Health" and status == "503" else "Error"
            responses[status]["content"] = {JSON: {"schema": {"$ref": _REFS + name}}}
    return {
        "operationId": f"head_{route.name}" if head else route.name,
        "summary": route.summary,
        **({"parameters": parameters} if parameters else {}),
        **({"security": []} if route.open else {}),
        "responses": responses,
    }


def _other(media: str) -> str:
    """What a body is that is no JSON object."""
    return {
        "application/x-ndjson": "A Snapshot on each line.",
        "text/event-stream": "Events named snapshot, whose data is a Snapshot, and whose id is its number.",
    }.get(media, media)


def _failures(route: Route) -> dict[str, str]:
    found = {
        "400": "A parameter is wrong: the error says which, and what was expected.",
        "403": "The Host header is neither an address nor localhost.",
        "413": "The request has a body.",
    }
    if not route.open:
        found["401"] = "The token is missing or wrong."
    if route.of_snapshot:
        found["304"] = "If-None-Match names the newest already."
    if "{id}" in route.path:
        found["404"] = "There is no such chart."
    if route.of_snapshot or not route.open or route.name == "readyz":
        found["503"] = "Not for now: there is no snapshot yet, too many clients are there, or no token can be checked."
    return dict(sorted(found.items()))


def _object(description: str = "", **properties: Any) -> dict[str, Any]:
    """One whose properties are all required; those are given as schemas, or as the names of types."""
    named = {name: {"type": of} if isinstance(of, str) else of for name, of in properties.items()}
    about = {"description": description} if description else {}
    return {
        **about,
        "type": "object",
        "additionalProperties": False,
        "required": [*named],
        "properties": named,
    }


def _list(of: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": of}


def _schemas() -> dict[str, Any]:
    snapshot = json.loads(
        (files("ebpfmon.model") / "snapshot.schema.json").read_text().replace('"#/$defs/', f'"{_REFS}Snapshot_')
    )
    parts = {f"Snapshot_{name}": part for name, part in snapshot.pop("$defs").items()}
    head = {name: snapshot["properties"][name] for name in ("schema", "host", "time", "elapsed_s", "complete")}
    nullable = {"type": ["string", "null"]}
    amounts = {
        "amounts": {
            "description": "What it did in the interval, by counter. What is not there is 0.",
            "type": "object",
            "additionalProperties": {"type": "integer", "minimum": 1},
        },
        "rates": {
            "description": "The same divided by elapsed_s, to two places.",
            "type": "object",
            "additionalProperties": {"type": "number"},
        },
    }
    found = {"type": "integer", "description": "How many there are, of which the busiest are shown."}
    overflow = {"type": "integer", "description": "Calls in the interval that found no row, and are in none of these."}
    app = {**nullable, "description": "The application's group; null if it is not known, or groups are turned off."}
    dimension = _object(
        "What a chart declares: in charts of scope apps and keys a template, of which every one that is shown has its "
        "own.",
        id="string", name="string", plus=_list({"type": "string"}), minus=_list({"type": "string"}), negative="boolean",
    )  # fmt: skip
    declared = _object(
        "", id="string", family="string", title="string", units="string", scope={"enum": ["system", "apps", "keys"]},
        kind={"enum": ["counter", "level"]}, priority="integer", dimensions=_list(dimension),
    )  # fmt: skip
    declared["properties"]["buckets"] = {"$ref": f"{_REFS}Snapshot_buckets"}  # of histograms
    process = _object(
        "", tgid="integer", start_ns="integer", exec_id="integer", parent_tgid="integer", uid="integer",
        cgroup_id="integer", comm="string", app=app, **amounts,
    )  # fmt: skip
    connection = _object(
        "", tgid="integer", start_ns="integer", exec_id="integer", comm=nullable, app=app,
        direction={"type": "string", "description": "outbound: its port of that address; inbound: our port."},
        address={**nullable, "description": "Of the other machine; null where rows are told apart by port alone."},
        port="integer", protocol="string", **amounts,
    )  # fmt: skip
    return {
        "Snapshot": {key: value for key, value in snapshot.items() if not key.startswith("$")},
        **parts,
        "Chart": _object("One chart of a snapshot.", **head, chart={"$ref": f"{_REFS}Snapshot_chart"}),
        "Charts": _object("", schema={"const": 1}, host="string", charts=_list(declared)),
        "Processes": _object("", **head, found=found, overflow_calls=overflow, processes=_list(process)),
        "Connections": _object("", **head, found=found, overflow_calls=overflow, connections=_list(connection)),
        "Health": _object("", schema={"const": 1}, status="string"),
        "Error": _object("", schema={"const": 1}, status="integer", error="string"),
    }
