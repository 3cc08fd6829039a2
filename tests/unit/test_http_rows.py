"""Processes and connections as the HTTP sink lists them."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ebpfmon import Rows, Snapshot, TableView
from ebpfmon_sinks.http_json.query import QueryError
from ebpfmon_sinks.http_json.rows import connections_to_json, processes_to_json
from tests.unit.http_support import READ, ROW, SEND, SENT, SNAPSHOT, groups, harvested, row


def answer(sort: str = "calls", top: int = 50, group: str = "", by: str = "", of: Snapshot = SNAPSHOT) -> Any:
    return msgspec.to_builtins(processes_to_json(of, sort, top, group, by))


def processes(sort: str = "calls", top: int = 50, group: str = "", by: str = "", of: Snapshot = SNAPSHOT) -> Any:
    return answer(sort, top, group, by, of)["processes"]


def connections(sort: str = "calls", top: int = 50, of: Snapshot = SNAPSHOT) -> Any:
    return msgspec.to_builtins(connections_to_json(of, sort, top))


def test_a_process_has_one_entry_for_all_tables_and_execs_with_its_last_comm() -> None:
    nginx = next(p for p in processes() if p["tgid"] == 100)
    assert nginx == {
        "tgid": 100, "start_ns": 10, "exec_id": 2, "parent_tgid": 1, "uid": 33, "cgroup_id": 7,
        "comm": "nginx", "groups": {"application": "web", "user": "web"},
        "amounts": {"read": 7, "rbytes": 100, "moved": 1000, "send": 9},
        "rates": {"read": 14.0, "rbytes": 200.0, "moved": 2000.0, "send": 18.0},
    }  # fmt: skip


def test_a_reused_process_id_is_another_process() -> None:
    assert sorted((p["start_ns"], p["comm"]) for p in processes() if p["tgid"] == 200) == [
        (20, "\ufffdcat"),
        (30, "other"),
    ]


def test_processes_are_sorted_by_the_requested_column_busiest_first() -> None:
    assert [p["tgid"] for p in processes()] == [200, 100, 200]
    assert processes("bytes")[0]["tgid"] == 100
    assert processes("read")[0]["tgid"] == 200
    assert [p["comm"] for p in processes("read", 2)] == ["\ufffdcat", "nginx"]
    assert answer("calls", 1)["found"] == 3


def test_the_columns_are_those_that_the_tables_declare() -> None:
    assert answer()["columns"] == [
        {"id": "read", "name": "read", "units": "calls/s"}, {"id": "rbytes", "name": "read", "units": "bytes/s"},
        {"id": "moved", "name": "moved", "units": "bytes/s"}, {"id": "send", "name": "send", "units": "calls/s"},
    ]  # fmt: skip
    assert [c["id"] for c in connections()["columns"]] == ["sends", "sent", "retransmits"]


def test_processes_can_be_filtered_by_a_group_of_any_grouping() -> None:
    assert [p["comm"] for p in processes(group="web")] == ["nginx"]
    assert [p["comm"] for p in processes(group="tools")] == ["\ufffdcat"]
    assert processes(group="nobody") == []
    assert processes(group="root") == []
    assert [p["comm"] for p in processes(group="root", by="user")] == ["\ufffdcat", "other"]
    assert answer(group="root", by="user")["found"] == 2
    with pytest.raises(QueryError, match="by: no grouping 'container': expected one of application, user"):
        processes(by="container")


def without_groups() -> Snapshot:
    return replace(SNAPSHOT, tables={name: replace(view, groups={}) for name, view in SNAPSHOT.tables.items()})


def test_without_groupings_no_process_has_a_group() -> None:
    bare = without_groups()
    assert all(p["groups"] == {} for p in processes(of=bare))
    assert connections(of=bare)["connections"][0]["groups"] == {}
    assert processes(group="web", of=bare) == []
    with pytest.raises(QueryError, match="by: no grouping 'application': groups are turned off"):
        processes(by="application", of=bare)


def test_the_group_of_a_process_without_one_is_null() -> None:
    assert next(p for p in processes() if p["comm"] == "other")["groups"] == {"application": None, "user": "root"}


def test_calls_in_the_overflow_are_reported() -> None:
    assert answer("calls", 1)["overflow_calls"] == 6
    assert connections("calls", 1)["overflow_calls"] == 3


def test_a_connection_has_its_process_and_the_labels_of_its_source() -> None:
    first, second, third = connections()["connections"]
    assert first == {
        "table": "outbound", "tgid": 100, "start_ns": 10, "exec_id": 2, "comm": "nginx",
        "groups": {"application": "web", "user": "web"}, "labels": {"port": "443", "address": "1"},
        "amounts": {"sends": 9, "sent": 900}, "rates": {"sends": 18.0, "sent": 1800.0},
    }  # fmt: skip
    assert (second["table"], second["labels"], second["comm"]) == ("inbound", {"port": "80"}, "\ufffdcat")
    assert (third["comm"], third["groups"], third["labels"]) == (None, {}, {"port": "53", "address": "2"})
    assert third["amounts"]["retransmits"] == 2


def test_connections_are_sorted_and_limited_and_come_only_from_tables_of_connections() -> None:
    found = connections("bytes", 2)
    assert [c["labels"]["port"] for c in found["connections"]] == ["53", "443"]
    assert found["found"] == 3
    assert [c["labels"]["port"] for c in connections("retransmits", 1)["connections"]] == ["53"]


@pytest.mark.parametrize("sort", ["io", "tgid", "", "calls ", "all", "read_calls"])
def test_an_unknown_column_is_an_error_that_lists_the_columns(sort: str) -> None:
    with pytest.raises(QueryError, match="expected one of calls, bytes, read, rbytes, moved, send"):
        processes(sort, 1)
    with pytest.raises(QueryError, match="expected one of calls, bytes, sends, sent"):
        connections(sort, 1)


def test_without_tables_or_rows_the_list_is_empty() -> None:
    nothing = replace(SNAPSHOT, tables={})
    assert processes(of=nothing) == []
    assert connections(of=nothing)["connections"] == []
    empty = TableView(harvest=harvested(np.zeros(0, ROW)), columns=READ)
    assert answer("rbytes", of=replace(SNAPSHOT, tables={"t": empty}))["found"] == 0


@pytest.mark.parametrize("comm", [b"a\x1b[2Jb", "‮".encode()])
def test_the_comm_of_a_process_is_made_printable(comm: bytes) -> None:
    view = TableView(harvest=harvested(row(ROW, tgid=1, comm=comm, read_calls=1)), columns=READ)
    (found,) = processes(of=replace(SNAPSHOT, tables={"t": view}))
    assert found["comm"].isprintable()


ROWS = st.lists(
    st.tuples(st.integers(1, 5), st.integers(1, 3), st.integers(0, 2), st.integers(0, 9), st.integers(0, 2)),
    max_size=30,
    unique_by=lambda r: r[:3],  # In the kernel's tables, keys are unique.
)


@given(ROWS, ROWS)
def test_each_process_has_the_sum_of_its_rows_and_nothing_is_lost(
    first: list[tuple[int, ...]], second: list[tuple[int, ...]]
) -> None:
    views, expected = {}, defaultdict[tuple[int, int], dict[str, int]](lambda: {"read": 0, "send": 0, "exec_id": -1})
    for name, dtype, columns, drawn in (("a", ROW, READ, first), ("b", SENT, SEND, second)):
        made: list[Rows] = [np.zeros(0, dtype)]
        for tgid, start_ns, exec_id, amount, group in drawn:
            counter = "read_calls" if name == "a" else "send_calls"
            made.append(
                row(dtype, tgid=tgid, start_ns=start_ns, exec_id=exec_id, comm=b"%d" % exec_id, **{counter: amount})
            )
            process = expected[tgid, start_ns]
            process["read" if name == "a" else "send"] += amount
            if exec_id >= process["exec_id"]:
                process |= {"exec_id": exec_id, "group": group}
        ids = groups(*(r[4] for r in drawn))
        views[name] = TableView(harvest=harvested(np.concatenate(made)), columns=columns, groups={"application": ids})
    of = replace(SNAPSHOT, tables=views)
    found = {(p["tgid"], p["start_ns"]): p for p in processes(of=of)}
    assert found.keys() == expected.keys()
    for key, wanted in expected.items():
        one = found[key]
        assert {n: one["amounts"].get(n, 0) for n in ("read", "send")} == {n: wanted[n] for n in ("read", "send")}
        assert (one["exec_id"], one["comm"]) == (wanted["exec_id"], str(wanted["exec_id"]))
        assert one["groups"]["application"] == {0: None, 1: "web", 2: "tools"}[wanted["group"]]
    in_web = {(p["tgid"], p["start_ns"]) for p in processes(group="web", of=of)}
    assert in_web == {key for key, wanted in expected.items() if wanted["group"] == 1}
