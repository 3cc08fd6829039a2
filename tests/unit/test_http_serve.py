"""The answers of the HTTP sink, over real sockets."""

from __future__ import annotations

import asyncio
import gzip
import json
import threading
import time

import jsonschema
import msgspec
import pytest

from ebpfmon import snapshot_schema, to_json
from ebpfmon_sinks.http_json import metrics, serve, views
from ebpfmon_sinks.http_json.routes import ROUTES
from tests.unit.http_support import SNAPSHOT, run, serving, snapshot_after

PATHS = [r.path.replace("{id}", "ebpf.io") for r in ROUTES if r.name != "stream"]
OF_SNAPSHOT = [r.path.replace("{id}", "ebpf.io") for r in ROUTES if r.of_snapshot]


def test_the_newest_snapshot_has_the_same_json_as_in_the_log() -> None:
    async def test() -> None:
        async with serving(None, SNAPSHOT, snapshot_after(1)) as served:
            answer = await served.get("/api/v1/snapshot")
            assert answer.json == json.loads(msgspec.json.encode(to_json(snapshot_after(1))))
            jsonschema.validate(answer.json, snapshot_schema())
            chart = (await served.get("/api/v1/charts/ebpf.io")).json
            assert chart["chart"] == answer.json["charts"][0]
            assert chart["time"] == answer.json["time"]

    run(test)


def test_all_charts_are_declared_with_their_fields() -> None:
    async def test() -> None:
        async with serving(None, SNAPSHOT) as served:
            charts = (await served.get("/api/v1/charts")).json["charts"]
            assert [c["id"] for c in charts] == [c.chart.id for c in SNAPSHOT.charts]
            assert charts[3]["labels"] == ["port", "protocol", "address"]
            assert charts[3]["unbounded"] is True
            assert charts[3]["dimensions"] == [
                {"id": "sent", "name": "sent", "plus": ["x"], "minus": [], "negative": True},
                {"id": "recv", "name": "recv", "plus": ["y"], "minus": [], "negative": False},
            ]
            assert (charts[6]["kind"], charts[6]["bounds"], charts[6]["dimensions"]) == ("histogram", [128, 256], [])
            assert (charts[6]["bucket_units"], charts[6]["sum_units"]) == ("microseconds", "nanoseconds")

    run(test)


@pytest.mark.parametrize("path", OF_SNAPSHOT)
def test_before_the_first_snapshot_the_answer_is_503_with_the_reason(path: str) -> None:
    async def test() -> None:
        async with serving() as served:
            answer = await served.get(path)
            assert (answer.status, answer.json["error"]) == (503, "there is no snapshot yet")
            assert answer.headers["Retry-After"] == "1"
            assert (await served.get("/metrics")).status == 200
            assert (await served.get("/healthz")).status == 200
            assert (await served.get("/readyz")).status == 503

    run(test)


@pytest.mark.parametrize(
    ("path", "status", "message"),
    [
        ("/nope", 404, "no such path '/nope'; / lists all paths"),
        ("/api/v1/charts/nope", 404, "no such chart 'nope'; /api/v1/charts lists all charts"),
        ("/api/v1/charts/%1b%0a", 404, "no such chart '??'; /api/v1/charts lists all charts"),
        ("/api/v1/snapshot/", 404, "no such path '/api/v1/snapshot/'; / lists all paths"),
        ("/api/v1/processes?top=0", 400, "top: expected a number from 1 to 1000"),
        ("/api/v1/processes?sort=x", 400, "sort: no column 'x': expected one of calls, bytes, read, rbytes,"),
        ("/api/v1/processes?by=x", 400, "by: no grouping 'x': expected one of application, user"),
        ("/api/v1/snapshot?x=1", 400, "no such parameter 'x': this path has none"),
        ("/healthz?x", 400, "no such parameter 'x': this path has none"),
        ("/api/v1/stream?format=xml", 400, "format: expected one of auto, ndjson, sse"),
    ],
)
def test_an_unknown_path_or_invalid_query_is_an_error_in_json(path: str, status: int, message: str) -> None:
    async def test() -> None:
        async with serving(None, SNAPSHOT) as served:
            answer = await served.get(path)
            assert (answer.status, answer.json["status"], answer.json["schema"]) == (status, status, 2)
            assert answer.json["error"].startswith(message)

    run(test)


@pytest.mark.parametrize("path", [*PATHS, "/api/v1/stream"])
@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "TRACE", "PATCH"])
def test_methods_other_than_get_and_head_are_refused(path: str, method: str) -> None:
    async def test() -> None:
        async with serving(None, SNAPSHOT) as served:
            answer = await served.get(path, method=method)
            assert (answer.status, answer.headers["Allow"]) == (405, "GET, HEAD")
            assert answer.json["error"] == f"method '{method}' is not allowed; use GET, HEAD"

    run(test)


@pytest.mark.parametrize("path", [*PATHS, "/api/v1/stream"])
def test_head_has_the_headers_of_get_and_no_body(path: str) -> None:
    async def test() -> None:
        async with serving(None, SNAPSHOT) as served:
            head = await served.get(path, method="HEAD")
            assert (head.status, head.body) == (200, b"")
            if path not in ("/api/v1/stream", "/metrics"):  # Their length changes.
                whole = await served.get(path)
                same = ("Content-Type", "Content-Length", "ETag")
                assert [head.headers.get(n) for n in same] == [whole.headers.get(n) for n in same]

    run(test)


@pytest.mark.parametrize("path", [p for p in PATHS if p not in ("/healthz", "/readyz", "/metrics")])
def test_a_client_that_accepts_gzip_gets_the_same_body_compressed(path: str) -> None:
    async def test() -> None:
        async with serving(None, SNAPSHOT) as served:
            plain = await served.get(path)
            small = await served.get(path, {"Accept-Encoding": "br, gzip;q=0.5"})
            assert "Content-Encoding" not in plain.headers
            assert small.headers["Content-Encoding"] == "gzip"
            assert "Accept-Encoding" in small.headers["Vary"]
            assert gzip.decompress(small.body) == plain.body
            assert len(small.body) < len(plain.body)

    run(test)


@pytest.mark.parametrize("path", OF_SNAPSHOT)
def test_a_request_with_the_current_etag_gets_304_until_the_next_snapshot(path: str) -> None:
    async def test() -> None:
        async with serving(None, SNAPSHOT) as served:
            tag = (await served.get(path)).headers["ETag"]
            again = await served.get(path, {"If-None-Match": f'"x", {tag}'})
            assert (again.status, again.body, again.headers["ETag"]) == (304, b"", tag)
            await served.sink.send(snapshot_after(1))
            newer = await served.get(path, {"If-None-Match": tag})
            assert newer.status == 200
            assert newer.headers["ETag"] != tag

    run(test)


def test_each_form_is_made_once_per_snapshot_and_only_on_request(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []

    def counted(name: str, inner: object) -> object:
        def call(*args: object, **kw: object) -> object:
            made.append(name)
            return inner(*args, **kw)  # type: ignore[operator]

        return call

    for module, name in ((views, "snapshot"), (views, "processes"), (metrics, "render")):
        monkeypatch.setattr(module, name, counted(name, getattr(module, name)))

    async def test() -> None:
        before = set(threading.enumerate())  # A thread of an earlier test may not have ended yet.
        async with serving(None, *(snapshot_after(n) for n in range(5))) as served:
            assert not made
            assert not [t for t in set(threading.enumerate()) - before if t.name.startswith("http_json")]
            for _ in range(3):
                for path in ("/api/v1/snapshot", "/metrics", "/api/v1/processes", "/api/v1/processes?top=50"):
                    await asyncio.gather(*(served.get(path, h) for h in ({}, {"Accept-Encoding": "gzip"}, {})))
            assert sorted(made) == ["processes", "render", "snapshot"]
            await served.get("/metrics", {"Accept": "application/openmetrics-text"})
            assert made.count("render") == 2

    run(test)


def test_the_accept_header_selects_the_format_of_metrics() -> None:
    async def test() -> None:
        async with serving(None, SNAPSHOT) as served:
            text = await served.get("/metrics")
            assert text.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
            assert b"# EOF" not in text.body
            prometheus = "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.2,*/*;q=0.1"
            more = await served.get("/metrics", {"Accept": prometheus})
            media = "application/openmetrics-text; version=1.0.0; charset=utf-8; escaping=underscores"
            assert more.headers["Content-Type"] == media
            assert more.body.endswith(b"# EOF\n")

    run(test)


def test_the_index_page_lists_every_path_and_loads_nothing_external() -> None:
    async def test() -> None:
        async with serving() as served:
            page = await served.get("/")
            assert page.headers["Content-Type"] == "text/html; charset=utf-8"
            policy = page.headers["Content-Security-Policy"]
            assert policy.startswith("default-src 'none'")
            assert "unsafe" not in policy
            text = page.body.decode()
            assert "http:" not in text
            assert "https:" not in text
            assert "<script" not in text
            assert all(route.path in text for route in ROUTES)

    run(test)


def test_readyz_fails_when_snapshots_stop_arriving(monkeypatch: pytest.MonkeyPatch) -> None:
    now = time.monotonic()
    moved = [0.0]

    class Clock:
        monotonic = staticmethod(lambda: now + moved[0])

    async def test() -> None:
        async with serving(None, snapshot_after(0, 0.1)) as served:
            monkeypatch.setattr(serve, "time", Clock)
            monkeypatch.setattr("ebpfmon_sinks.http_json.encodings.time", Clock)
            moved[0] = 3000
            assert (await served.get("/readyz")).status == 200, "the length of an interval is not known yet"
            await served.sink.send(snapshot_after(1, 10.0))
            moved[0] += 31.9
            assert (await served.get("/readyz")).status == 200
            moved[0] += 0.2
            answer = await served.get("/readyz")
            assert (answer.status, answer.json["status"]) == (503, "no snapshot for 32 s")
            assert (await served.get("/healthz")).json == {"schema": 2, "status": "alive"}
            await served.sink.send(snapshot_after(2, 10.0))
            assert (await served.get("/readyz")).status == 200

    run(test)


def test_the_number_of_cached_answers_is_limited() -> None:
    async def test() -> None:
        async with serving(None, SNAPSHOT) as served:
            for top in range(1, 101):
                assert (await served.get(f"/api/v1/processes?top={top}", {"Accept-Encoding": "gzip"})).status == 200
            newest = served.sink._newest
            assert newest
            assert len(newest.encodings._encodings) == 32

    run(test)
