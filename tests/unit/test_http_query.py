"""What stands in a URL and in headers, however wrong."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ebpfmon_sinks.http_json import negotiate
from ebpfmon_sinks.http_json.query import Parameter, QueryError, parse
from ebpfmon_sinks.http_json.routes import ROUTES

TOP = Parameter(name="top", description="", default=50, maximum=10_000)
SORT = Parameter(name="sort", description="", default="calls")
FORMAT = Parameter(name="format", description="", default="", choices=("sse", "ndjson"))
KNOWN = (TOP, SORT, FORMAT)


def test_what_is_not_given_has_its_default() -> None:
    assert parse([], KNOWN) == {"top": 50, "sort": "calls", "format": ""}
    assert parse([("top", "7"), ("format", "sse")], KNOWN) == {"top": 7, "sort": "calls", "format": "sse"}


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ([("top", "0")], "top: expected a number from 1 to 10000"),
        ([("top", "10001")], "top: expected a number from 1 to 10000"),
        ([("top", "9" * 5000)], "top: expected a number from 1 to 10000"),
        ([("top", "1_0")], "top: expected"), ([("top", "+1")], "top: expected"), ([("top", "٣")], "top: expected"),
        ([("top", "")], "top: expected"),
        ([("top", "1"), ("top", "1")], "top: given twice"),
        ([("format", "xml")], "format: expected one of sse, ndjson"),
        ([("sort", "")], "sort: expected 1 to 256 characters"),
        ([("sort", "x" * 257)], "sort: expected 1 to 256 characters"),
        ([("toq", "1")], "no such parameter 'toq': expected one of top, sort, format"),
        ([("a\x1b\n" + "b" * 99, "1")], "no such parameter 'a??" + "b" * 61 + "': expected one of"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(given: list[tuple[str, str]], said: str) -> None:
    with pytest.raises(QueryError) as caught:
        parse(given, KNOWN)
    assert str(caught.value).startswith(said)


def test_where_there_are_no_parameters_none_can_be_given() -> None:
    with pytest.raises(QueryError, match="no such parameter 'x': there are none here"):
        parse([("x", "")], ())


@given(st.lists(st.tuples(st.sampled_from(["top", "sort", "format", "app"]) | st.text(), st.text())))
def test_whatever_is_asked_has_an_answer_in_bounds_or_an_error_that_can_be_shown(given: list[tuple[str, str]]) -> None:
    said = ""
    try:
        found = parse(given, KNOWN)
    except QueryError as error:
        said = f"{error.status} {error}"
    if said:
        assert said.startswith("400 ")
        assert said.isprintable()
        assert len(said) < 300
    else:
        assert found.keys() == {"top", "sort", "format"}
        assert 1 <= found["top"] <= 10_000
        assert found["format"] in ("", "sse", "ndjson")
        assert 1 <= len(found["sort"]) <= 256


@given(st.integers(-20, 20_000).map(str))
def test_a_number_is_taken_if_it_is_in_bounds_and_only_then(text: str) -> None:
    try:
        assert parse([("top", text)], KNOWN)["top"] == int(text)
    except QueryError:
        assert not 1 <= int(text) <= 10_000


@pytest.mark.parametrize("route", ROUTES, ids=lambda r: r.name)
def test_the_defaults_of_a_route_are_what_may_be_given(route: object) -> None:
    for parameter in route.parameters:  # type: ignore[attr-defined]
        if parameter.default != "":
            assert parameter.parse(str(parameter.default)) == parameter.default


@pytest.mark.parametrize(
    ("header", "wanted"),
    [
        ("", False), ("gzip", True), ("GZIP", True), ("gzip;q=0", False), ("gzip;q=0.0", False), ("gzip; q=0.1", True),
        ("deflate, gzip", True), ("*", True), ("*;q=0", False), ("*, gzip;q=0", False), ("identity", False),
        ("x-gzip", True), ("gzip;q=abc", False), ("gzip;q=-1", False), ("gzip;q=nan", False), (";;,,=", False),
    ],
)  # fmt: skip
def test_gzip_is_sent_to_who_takes_it(header: str, wanted: bool) -> None:
    assert negotiate.accepts_gzip(header) is wanted


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
        ("application/openmetrics-text;q=0.1,text/plain", False),
        ("application/openmetrics-text;q=0", False), ("application/openmetrics-text;version=0.0.1", False),
    ],
)  # fmt: skip
def test_openmetrics_is_sent_to_who_prefers_it(header: str, wanted: bool) -> None:
    assert negotiate.prefers_openmetrics(header) is wanted


def test_ndjson_is_sent_to_who_prefers_it() -> None:
    assert negotiate.prefers_ndjson("application/x-ndjson")
    assert negotiate.prefers_ndjson("application/ndjson, text/event-stream;q=0.5")
    assert not negotiate.prefers_ndjson("")
    assert not negotiate.prefers_ndjson("text/event-stream, application/x-ndjson")


@pytest.mark.parametrize(
    ("header", "same"),
    [('W/"a-1"', True), ('"a-1"', True), ("*", True), ('"x", W/"a-1"', True), ('"a-2"', False), ("", False)],
)
def test_a_tag_is_known_again(header: str, same: bool) -> None:
    assert negotiate.matches(header, 'W/"a-1"') is same


@given(st.text() | st.lists(st.sampled_from(["gzip", ";", "q", "=", "0.5", ",", "*", "é", " "])).map("".join))
@example("," * 100_000)
@example(";" * 100_000)
def test_no_header_is_too_strange(header: str) -> None:
    negotiate.accepts_gzip(header)
    negotiate.prefers_openmetrics(header)
    negotiate.prefers_ndjson(header)
    negotiate.matches(header, 'W/"a"')
