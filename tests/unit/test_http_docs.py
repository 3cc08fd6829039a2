"""The page of the http_json sink matches the code. Its settings are checked in `test_sink_pages.py`."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from ebpfmon_sinks import http_common
from ebpfmon_sinks.http_json import connection, listen, middlewares, rows, serve, stream
from ebpfmon_sinks.http_json.query import QueryError, parse
from ebpfmon_sinks.http_json.routes import ROUTES, Route

PAGE = (Path(__file__).parents[2] / "ebpfmon_sinks" / "http_json" / "README.md").read_text()


@pytest.mark.parametrize("route", ROUTES, ids=lambda r: r.name)
def test_the_page_has_every_path_with_its_parameters(route: Route) -> None:
    line = next(line for line in PAGE.splitlines() if line.startswith(f"| `{route.path}` |"))
    assert set(re.findall(r"`\?(\w+)=", line)) == {*route.query.__struct_fields__}
    assert ("no token" in line) is route.open


def test_the_limits_on_the_page_are_those_in_the_code() -> None:
    (processes,) = (r for r in ROUTES if r.name == "processes")
    with pytest.raises(QueryError) as caught:
        parse([("top", "0")], processes.query)
    assert str(caught.value) in PAGE
    text = " ".join(PAGE.split())
    assert f"There may be {listen.CONNECTIONS} connections, {stream.CLIENTS} of them streams" in text
    assert f"at most {listen.PER_ORIGIN} of them from one address" in text
    assert f"takes more than {connection.FIRST_REQUEST_S:.0f} s for its first request" in text
    assert f"or {connection.IDLE_S:.0f} s for the next one" in text
    assert f"{listen.RESERVED_DESCRIPTORS} descriptors" in text
    assert f"for {middlewares.WRITE_S:.0f} s." in text
    assert f"within {http_common.ANSWER_S:.0f} s" in text
    assert stream.WAITING == 4
    assert "four snapshots behind" in text
    assert serve._LATE_INTERVALS == 3
    assert all(f"`{name}`" in PAGE for name in rows.SUMS)
