"""Processes and connections as the HTTP sink shows them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ebpfmon import Owners
from ebpfmon.top.listing import listing
from ebpfmon_sinks.http_json.query import QueryError
from ebpfmon_sinks.http_json.rows import connections_to_json, processes, processes_to_json
from tests.unit.http_support import SENT, SNAPSHOT, harvested, row
from tests.unit.support import ROW, snapshot


def asked(sort: str = "calls", top: int = 50, app: str = "") -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = processes_to_json(SNAPSHOT, sort, top, app)["processes"]
    return found


def test_a_process_is_one_however_many_tables_and_programs_it_was_in_and_is_called_as_the_last() -> None:
    nginx = next(p for p in asked() if p["tgid"] == 100)
    assert nginx == {
        "tgid": 100, "start_ns": 10, "exec_id": 2, "parent_tgid": 1, "uid": 33, "cgroup_id": 7,
        "comm": "nginx", "app": "web",
        "amounts": {"read_calls": 7, "read_bytes": 100, "send_calls": 9, "send_bytes": 900},
        "rates": {"read_calls": 14.0, "read_bytes": 200.0, "send_calls": 18.0, "send_bytes": 1800.0},
    }  # fmt: skip


def test_a_number_that_was_given_again_is_another_process() -> None:
    assert sorted((p["start_ns"], p["comm"]) for p in asked() if p["tgid"] == 200) == [(20, "\ufffdcat"), (30, "other")]


def test_the_busiest_come_first_by_whatever_was_asked_for() -> None:
    assert [p["tgid"] for p in asked()] == [200, 100, 200]
    assert asked("bytes")[0]["tgid"] == 100
    assert asked("read_calls")[0]["tgid"] == 200
    assert [p["comm"] for p in asked("read_calls", 2)] == ["\ufffdcat", "nginx"]
    assert processes_to_json(SNAPSHOT, "calls", 1, "")["found"] == 3


def test_an_application_can_be_asked_for_and_one_that_is_not_there_has_nothing() -> None:
    assert [p["comm"] for p in asked(app="web")] == ["nginx"]
    assert [p["comm"] for p in asked(app="tools")] == ["\ufffdcat"]
    assert asked(app="nobody") == []


def test_without_groups_nobody_has_one() -> None:
    bare = replace(SNAPSHOT, owners={})
    assert {p["app"] for p in processes_to_json(bare, "calls", 50, "")["processes"]} == {None}
    assert connections_to_json(bare, "calls", 50)["connections"][0]["app"] is None


def test_what_found_no_row_is_told() -> None:
    assert processes_to_json(SNAPSHOT, "calls", 1, "")["overflow_calls"] == 6
    assert connections_to_json(SNAPSHOT, "calls", 1)["overflow_calls"] == 3


def test_connections_have_both_ends_and_their_process() -> None:
    first, second, third = connections_to_json(SNAPSHOT, "calls", 50)["connections"]
    assert first == {
        "comm": "nginx", "app": "web", "tgid": 100, "start_ns": 10, "exec_id": 2, "direction": "outbound",
        "address": "192.0.2.1", "port": 443, "protocol": "TCP",
        "amounts": {"sent_calls": 9, "sent_bytes": 900}, "rates": {"sent_calls": 18.0, "sent_bytes": 1800.0},
    }  # fmt: skip
    assert (second["direction"], second["address"], second["protocol"]) == ("inbound", None, "132")
    assert (third["comm"], third["app"], third["address"]) == (None, None, "2001:db8::1")
    assert third["amounts"]["retransmits"] == 2


def test_connections_are_sorted_and_bounded_and_tables_of_something_else_are_none() -> None:
    found = connections_to_json(SNAPSHOT, "bytes", 2)
    assert [c["port"] for c in found["connections"]] == [53, 443]
    assert found["found"] == 3
    assert [c["port"] for c in connections_to_json(SNAPSHOT, "retransmits", 1)["connections"]] == [53]


@pytest.mark.parametrize("sort", ["io_calls", "tgid", "", "calls "])
def test_a_counter_that_is_not_there_is_an_error_that_says_what_is(sort: str) -> None:
    with pytest.raises(QueryError, match="expected one of calls, bytes, read_calls, read_bytes, send_calls"):
        processes_to_json(SNAPSHOT, sort, 1, "")
    with pytest.raises(QueryError, match="expected one of calls, bytes, sent_calls"):
        connections_to_json(SNAPSHOT, sort, 1)


def test_nothing_at_all_is_an_empty_list() -> None:
    assert processes_to_json(snapshot(), "calls", 1, "")["processes"] == []
    assert connections_to_json(snapshot(), "calls", 1)["connections"] == []
    empty = snapshot(tables={"t": harvested(np.zeros(0, ROW))})
    assert processes_to_json(empty, "read_bytes", 1, "")["found"] == 0


ROWS = st.lists(
    st.tuples(st.integers(1, 5), st.integers(1, 3), st.integers(0, 2), st.integers(0, 9), st.integers(0, 3)),
    max_size=30,
)


@given(ROWS, ROWS)
def test_it_is_what_top_shows_and_nothing_is_lost(first: list[tuple[int, ...]], second: list[tuple[int, ...]]) -> None:
    made, owners = {}, {}
    for stem, dtype, drawn in (("a", ROW, first), ("b", SENT, second)):
        rows = [row(dtype, tgid=r[0], start_ns=r[1], exec_id=r[2], comm=b"%d" % r[2]) for r in drawn]
        for one, r in zip(rows, drawn, strict=True):
            one[dtype.names[-2]] = r[3]  # type: ignore[index]
        made[stem] = harvested(np.concatenate([np.zeros(0, dtype), *rows]))
        owners[stem] = Owners(("other", "overflow", "x", "y"), np.array([r[4] for r in drawn], np.int64))
    given_ = replace(snapshot(tables=made), owners=owners)
    found, shown = processes(given_), listing(given_, "processes", errors=True)
    assert found.who[["tgid", "start_ns"]].tolist() == shown.who[["tgid", "start_ns"]].tolist()
    for name in ("read_calls", "send_calls"):
        assert found.amounts[name].tolist() == shown.amounts[name].tolist()
        assert int(found.amounts[name].sum()) == sum(t.totals.get(name, 0) for t in made.values())
    names = [found.groups[n] or "-" for n in found.group.tolist()]
    assert names == [shown.names[n] for n in shown.group.tolist()]
