"""The OpenAPI document describes what the HTTP sink does."""

from __future__ import annotations

import json
import re
from typing import Any

import jsonschema
import pytest
from aiohttp import hdrs

from ebpfmon_sinks.http_json.openapi import document
from ebpfmon_sinks.http_json.routes import ROUTES
from tests.unit.http_support import SNAPSHOT, Answer, run, serving, settings_on_free_port

DOCUMENT = document()
VALID = {
    "/": "/", "/api/v1/charts/{id}": "/api/v1/charts/ebpf.io",
    "/api/v1/processes": "/api/v1/processes?sort=bytes&top=2&by=application&group=web",
    "/api/v1/connections": "/api/v1/connections?sort=retransmits&top=1000",
}  # fmt: skip
INVALID = {
    "/api/v1/charts/{id}": "/api/v1/charts/nope", "/api/v1/processes": "/api/v1/processes?sort=x",
    "/api/v1/connections": "/api/v1/connections?top=-1",
}  # fmt: skip


def assert_described(path: str, answer: Answer, method: str = "get") -> None:
    """Check that the document describes the status, type and body of an answer."""
    response = DOCUMENT["paths"][path][method]["responses"][str(answer.status)]
    if "content" not in response:
        assert answer.body == b""
        return
    media, _, _ = answer.headers["Content-Type"].partition(";")
    schema = response["content"][media]["schema"]
    if media == "application/json":
        jsonschema.Draft202012Validator({**schema, "components": DOCUMENT["components"]}).validate(answer.json)


def test_the_document_has_exactly_the_paths_and_methods_of_the_server() -> None:
    async def test() -> None:
        async with serving(None, SNAPSHOT) as served:
            page = (await served.get("/")).body.decode()
            assert set(re.findall(r"<code>(/[^<]*)</code>", page)) == DOCUMENT["paths"].keys()
            for path, item in DOCUMENT["paths"].items():
                allowed = (await served.get(path.replace("{id}", "ebpf.io"), method="POST")).headers["Allow"]
                assert {method.upper() for method in item} == {*allowed.split(", ")}
                assert (await served.get(path.replace("{id}", "ebpf.io"), method="HEAD")).status == 200
                for other in (f"{path}/", f"{path}x", path[:-1], f"/x{path}", path.replace("/", "//")):
                    if path != "/":
                        assert (await served.get(other.replace("{id}", ""))).status == 404, other

    run(test)


@pytest.mark.parametrize("path", [r.path for r in ROUTES if r.name != "stream"])
def test_every_answer_matches_the_document(path: str) -> None:
    asked = VALID.get(path, path)

    async def test() -> None:
        async with serving() as served:
            assert_described(path, await served.get(asked))
            await served.sink.send(SNAPSHOT)
            answer = await served.get(asked)
            assert answer.status == 200
            assert_described(path, answer)
            assert_described(path, await served.get(asked, method="HEAD"), "head")
            assert_described(path, await served.get(asked, {"If-None-Match": "*"}))
            assert_described(path, await served.get(asked, {"Accept": "application/openmetrics-text"}))
            wrong = await served.get(INVALID.get(path, f"{path}?nope=1"))
            assert wrong.status in (400, 404)
            assert_described(path, wrong)
            assert_described(path, await served.get(asked, {"Host": "a.example"}))

    run(test)


@pytest.mark.parametrize("route", ROUTES, ids=lambda r: r.name)
def test_the_document_says_which_paths_need_a_token(route: Any, tmp_path: Any) -> None:
    (tmp_path / "token").write_text("x")

    async def test() -> None:
        async with serving(settings_on_free_port(token_file=str(tmp_path / "token")), SNAPSHOT) as served:
            answer = await served.get(VALID.get(route.path, route.path))
            operation = DOCUMENT["paths"][route.path]["get"]
            assert (answer.status == 401) is ("401" in operation["responses"]) is ("security" not in operation)
            assert_described(route.path, answer)

    run(test)


def test_the_stream_has_the_documented_media_types_and_lines() -> None:
    async def test() -> None:
        async with serving(None, SNAPSHOT) as served:
            for media in DOCUMENT["paths"]["/api/v1/stream"]["get"]["responses"]["200"]["content"]:
                head = await served.get("/api/v1/stream", {"Accept": media}, hdrs.METH_HEAD)
                assert head.headers["Content-Type"] == media
            async with served.session.get(f"{served.url}/api/v1/stream?format=ndjson") as response:
                line = await response.content.readline()
            schema = {"$ref": "#/components/schemas/SnapshotJson", "components": DOCUMENT["components"]}
            jsonschema.Draft202012Validator(schema).validate(json.loads(line))

    run(test)


def test_all_references_resolve_and_all_schemas_are_valid() -> None:
    text = json.dumps(DOCUMENT)
    schemas = DOCUMENT["components"]["schemas"]
    references = set(re.findall(r'"\$ref": "([^"]+)"', text))
    assert references <= {f"#/components/schemas/{name}" for name in schemas}
    assert {f"#/components/schemas/{name}" for name in schemas} <= references
    for schema in schemas.values():
        jsonschema.Draft202012Validator.check_schema(schema)
    operations = [o["operationId"] for item in DOCUMENT["paths"].values() for o in item.values()]
    assert len(set(operations)) == len(operations)
    assert "$defs" not in text
