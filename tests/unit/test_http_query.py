"""Queries in URLs, and headers, valid and invalid."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from msgspec import Meta
from prometheus_client import CollectorRegistry

from ebpfmon_sinks.http_json.metrics import choose_encoder
from ebpfmon_sinks.http_json.query import NoQuery, QueryError, parse
from ebpfmon_sinks.http_json.routes import ROUTES, Route


class Query(msgspec.Struct, frozen=True):
    top: Annotated[int, Meta(ge=1, le=10_000)] = 50
    sort: Annotated[str, Meta(min_length=1, max_length=256)] = "calls"
    format: Literal["auto", "sse", "ndjson"] = "auto"


def test_missing_parameters_have_their_defaults() -> None:
    assert parse([], Query) == Query(top=50, sort="calls", format="auto")
    assert parse([("top", "7"), ("format", "sse")], Query) == Query(top=7, sort="calls", format="sse")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([("top", "0")], "top: expected a number from 1 to 10000"),
        ([("top", "10001")], "top: expected a number from 1 to 10000"),
        ([("top", "9" * 5000)], "top: expected a number from 1 to 10000"),
        ([("top", "1_0")], "top: expected"), ([("top", "+1")], "top: expected"), ([("top", "٣")], "top: expected"),
        ([("top", "")], "top: expected"),
        ([("top", "1"), ("top", "1")], "top: given twice"),
        ([("format", "xml")], "format: expected one of auto, ndjson, sse"),
        ([("sort", "")], "sort: expected 1 to 256 characters"),
        ([("sort", "x" * 257)], "sort: expected 1 to 256 characters"),
        ([("toq", "1")], "no such parameter 'toq': expected one of top, sort, format"),
        ([("a\x1b\n" + "b" * 99, "1")], "no such parameter 'a??" + "b" * 61 + "': expected one of"),
    ],
)  # fmt: skip
def test_an_invalid_parameter_is_an_error_that_names_it(given: list[tuple[str, str]], message: str) -> None:
    with pytest.raises(QueryError) as caught:
        parse(given, Query)
    assert str(caught.value).startswith(message)


def test_a_path_without_parameters_accepts_none() -> None:
    with pytest.raises(QueryError, match="no such parameter 'x': this path has none"):
        parse([("x", "")], NoQuery)


@given(st.lists(st.tuples(st.sampled_from(["top", "sort", "format", "app"]) | st.text(), st.text())))
def test_any_query_is_within_bounds_or_a_printable_error(given: list[tuple[str, str]]) -> None:
    message = ""
    try:
        found = parse(given, Query)
    except QueryError as error:
        message = f"{error.status} {error}"
    if message:
        assert message.startswith("400 ")
        assert message.isprintable()
        assert len(message) < 300
    else:
        assert 1 <= found.top <= 10_000
        assert found.format in ("auto", "sse", "ndjson")
        assert 1 <= len(found.sort) <= 256


@given(st.integers(-20, 20_000).map(str))
def test_a_number_is_accepted_exactly_if_it_is_within_bounds(text: str) -> None:
    try:
        assert parse([("top", text)], Query).top == int(text)
    except QueryError:
        assert not 1 <= int(text) <= 10_000


@pytest.mark.parametrize("route", ROUTES, ids=lambda r: r.name)
def test_the_defaults_of_a_route_may_be_given_explicitly(route: Route) -> None:
    defaults = msgspec.structs.asdict(route.query())
    given_all = [(name, str(value)) for name, value in defaults.items() if value != ""]
    assert parse(given_all, route.query) == route.query()


@pytest.mark.parametrize(
    ("header", "wanted"),
    [
        ("", False), ("*/*", False), ("text/plain", False), ("application/openmetrics-text", True),
        (  # Prometheus 2.42
            "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,"
            "text/plain;version=0.0.4;q=0.5,*/*;q=0.1", True,
        ),
        (  # Prometheus 3.5
            "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.5,application/openmetrics-text;"
            "version=0.0.1;q=0.4,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.3,text/plain;version=0.0.4;q=0.2,"
            "*/*;q=0.1", True,
        ),
        ("application/openmetrics-text;version=0.0.1", False), ("application/openmetrics-text;version=x", False),
        ("text/plain;version=1.x", False),
    ],
)  # fmt: skip
def test_openmetrics_is_sent_only_to_clients_that_accept_it(header: str, wanted: bool) -> None:
    encode, media = choose_encoder(header)
    assert media.startswith("application/openmetrics-text" if wanted else "text/plain")
    assert encode(CollectorRegistry()).endswith(b"# EOF\n") is wanted


@given(
    st.text()
    | st.lists(
        st.sampled_from(
            ["application/openmetrics-text", "text/plain", ";", "version", "escaping", "=", "1.0.0", ",", "é"]
        )
    ).map("".join)
)
@example("," * 100_000)
@example(";" * 100_000)
@example("text/plain;version=" + "9" * 5000)
def test_any_accept_header_gets_one_of_the_two_formats(header: str) -> None:
    encode, media = choose_encoder(header)
    assert isinstance(encode(CollectorRegistry()), bytes)
    assert media.partition(";")[0] in ("text/plain", "application/openmetrics-text")
