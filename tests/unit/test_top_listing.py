"""Rows become lines: merged, filtered, sorted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ebpfmon.testing import process_table, view
from ebpfmon.top.columns import Mode
from ebpfmon.top.listing import OTHER
from ebpfmon.top.state import State
from ebpfmon.top.view import render, to_json
from tests.unit.top_support import (
    COLUMNS,
    GROUPS,
    PROCESS_COLUMNS,
    SENT,
    busy_snapshot,
    fields_of,
    keyed,
    network,
    of_processes,
    pids,
    snapshot_of,
)


@pytest.mark.parametrize("descending", [True, False])
@pytest.mark.parametrize(("mode", "key"), [(mode, c.key) for mode, of_mode in COLUMNS.items() for c in of_mode])
def test_every_column_sorts_both_ways(mode: Mode, key: str, descending: bool) -> None:
    column = next(c for c in COLUMNS[mode] if c.key == key)
    words = {"pid": "pid", "user": "uid", "group": "group", "command": "command", "count": "processes"}

    def value(line: Mapping[str, Any]) -> Any:
        if column.is_rate:
            return sum(line[name] for name in fields_of(key))
        found = line[words[key]]
        return found.lower() if isinstance(found, str) else found

    lines = to_json(busy_snapshot(), State(mode=mode, sort=key, descending=descending))[mode]
    shown = [value(line) for line in lines]
    assert len(set(shown)) > 1
    assert shown == sorted(shown, reverse=descending)


def test_lines_with_equal_sort_values_are_ordered_by_calls_in_both_directions() -> None:
    made = snapshot_of(*({"tgid": n, "write_calls": calls} for n, calls in ((1, 5), (2, 50), (3, 5), (4, 20))))
    for descending in (True, False):
        assert pids(made, State(sort="err", descending=descending)) == [2, 4, 1, 3]


def test_a_process_is_one_line_for_all_execs_and_tables_with_its_last_command() -> None:
    made = snapshot_of(
        {"tgid": 9, "start_ns": 50, "exec_id": 3, "comm": b"nginx", "read_calls": 5, "group": 2, "uid": 33},
        {"tgid": 9, "start_ns": 50, "exec_id": 2, "comm": b"sh", "read_calls": 30, "group": 3, "parent_tgid": 4},
        {"tgid": 9, "start_ns": 10, "exec_id": 7, "comm": b"old", "read_calls": 1},
        network=network(
            {"tgid": 9, "start_ns": 50, "exec_id": 3, "comm": b"nginx", "uid": 33, "tcp_send_bytes": 4, "group": 2},
            {"tgid": 9, "start_ns": 50, "exec_id": 2, "comm": b"sh", "udp_send_bytes": 3, "group": 3},
        ),
    )
    first, second_, *rest = to_json(made, State())["processes"]
    assert not rest
    shown = {k: first[k] for k in ("pid", "parent", "uid", "command", "group", "start_ns", "read_calls", *SENT[:2])}
    assert shown == {
        "pid": 9, "parent": 0, "uid": 33, "command": "nginx", "group": "web", "start_ns": 50, "read_calls": 35,
        "tcp_send_bytes": 4, "udp_send_bytes": 3,
    }  # fmt: skip
    assert (second_["command"], second_["start_ns"], second_["tcp_send_bytes"]) == ("old", 10, 0)


def test_a_process_in_only_one_table_has_a_line_too() -> None:
    made = snapshot_of({"tgid": 5, "start_ns": 1}, network=network({"tgid": 6, SENT[0]: 4}, grouped=False))
    for tables in (made.tables, dict(reversed([*made.tables.items()]))):
        found = {line["pid"]: line for line in to_json(replace(made, tables=tables), State())["processes"]}
        assert [(found[n]["group"], found[n]["start_ns"], found[n][SENT[0]]) for n in (5, 6)] == [
            ("other", 1, 0), ("-", 0, 4),
        ]  # fmt: skip


@pytest.mark.parametrize("mode", [*COLUMNS])
def test_tables_with_keys_of_their_own_are_ignored(mode: Mode) -> None:
    own = {"tgid": 5, "start_ns": 1, "read_calls": 7, "group": 2}
    made = snapshot_of(own, network=network({"tgid": 5, "start_ns": 1, "tcp_send_bytes": 40, "group": 2}))
    rows = [{"tgid": 5, "start_ns": 1, "port": 443, "tcp_send_bytes": 40, "sent_calls": 3}, {"tgid": 8, "port": 1}]
    more = replace(made, tables={"outbound": keyed(*rows, overflow_calls=9), **made.tables})
    assert to_json(more, State(mode=mode)) == to_json(made, State(mode=mode))
    assert render(more, State(mode=mode), 200, 50) == render(made, State(mode=mode), 200, 50)
    (line,) = to_json(more, State(mode=mode))[mode]
    assert (line["group"], line["read_calls"], line["tcp_send_bytes"]) == ("web", 7, 40)


def test_groups_sum_up_their_rows_and_count_each_process_once() -> None:
    made = snapshot_of(
        {"tgid": 1, "start_ns": 1, "exec_id": 1, "read_calls": 1, "group": 2},
        {"tgid": 1, "start_ns": 1, "exec_id": 2, "read_calls": 2, "group": 2},
        {"tgid": 1, "start_ns": 9, "exec_id": 2, "read_calls": 4, "group": 2},
        {"tgid": 2, "start_ns": 1, "exec_id": 1, "read_calls": 8, "group": 2},
        {"tgid": 2, "start_ns": 1, "exec_id": 2, "read_calls": 16, "group": 3},
        network=network(
            {"tgid": 1, "start_ns": 1, "exec_id": 2, SENT[0]: 8, "group": 2}, {"tgid": 77, SENT[0]: 1, "group": 1}
        ),
    )
    found = [
        (line["group"], line["role"], line["processes"], line["read_calls"], line[SENT[0]])
        for line in to_json(made, State(mode="groups"))["groups"]
    ]
    assert found == [("Sql", "item", 1, 16, 0), ("web", "item", 3, 15, 8), ("mail", "item", 1, 0, 1)]


def test_groups_of_several_tables_are_merged_by_name() -> None:
    more = of_processes(process_table(("read_calls",), [{"tgid": 2, "read_calls": 2}]), PROCESS_COLUMNS[2:3], [2])
    made = snapshot_of({"tgid": 3, "group": 3}, {"tgid": 1, "group": 2, "read_calls": 1}, more=more)
    assert {g["group"]: g["read_calls"] for g in to_json(made, State(mode="groups"))["groups"]} == {"web": 3, "Sql": 0}


def test_a_group_named_other_is_distinct_from_rows_without_a_group() -> None:
    harvest = process_table(("read_calls",), [{"tgid": 1, "read_calls": 1}, {"tgid": 2, "read_calls": 2}])
    own = view(harvest, columns=PROCESS_COLUMNS[2:3], groups={"application": [OTHER, None]})
    groups = to_json(replace(snapshot_of(), tables={"process": own}), State(mode="groups"))["groups"]
    assert [(g["group"], g["role"], g["read_calls"]) for g in groups] == [("other", "other", 2), ("other", "item", 1)]


def test_rows_belong_to_the_groups_of_the_chosen_grouping() -> None:
    harvest = process_table(("read_calls",), [{"tgid": 1, "read_calls": 1}, {"tgid": 2, "read_calls": 2}])
    groups = {"application": ["web", "web"], "user": ["root", "www"]}
    made = replace(snapshot_of(), tables={"process": view(harvest, columns=PROCESS_COLUMNS[2:3], groups=groups)})
    found = {
        by: [(g["group"], g["read_calls"]) for g in to_json(made, State(mode="groups", by=by))["groups"]]
        for by in ("application", "user", "container")
    }
    assert found == {"application": [("web", 3)], "user": [("www", 2), ("root", 1)], "container": [("-", 3)]}


def test_columns_and_counters_of_several_tables_are_summed_by_name() -> None:
    more = of_processes(process_table(("read_calls",), [{"tgid": 1, "read_calls": 2}]), PROCESS_COLUMNS[2:3], [2])
    made = snapshot_of({"tgid": 1, "read_calls": 40}, {"tgid": 2, "read_calls": 41}, more=more)
    assert pids(made, State(sort="read")) == [1, 2]
    shown = to_json(made, State())
    assert shown["totals"]["read_calls"] == 83
    assert [line["read_calls"] for line in shown["processes"]] == [42, 41]


@given(
    st.lists(st.tuples(*(st.integers(1, 3) for _ in range(3)), st.integers(0, 3), st.integers(0, 2**40)), max_size=12)
)
def test_merging_sums_rows_by_process_and_group_and_loses_no_call(drawn: list[tuple[int, int, int, int, int]]) -> None:
    made = snapshot_of(
        *(
            {"tgid": tgid, "start_ns": start, "exec_id": exec_id, "group": group, "read_calls": calls, "comm": b"x"}
            for tgid, start, exec_id, group, calls in drawn
        )
    )
    of_processes: dict[tuple[int, int], int] = {}
    of_groups: dict[str, int] = {}
    in_groups: dict[str, set[tuple[int, int]]] = {}
    for tgid, start, _, group, calls in drawn:
        name = GROUPS[group] or OTHER
        of_processes[tgid, start] = of_processes.get((tgid, start), 0) + calls
        of_groups[name] = of_groups.get(name, 0) + calls
        in_groups.setdefault(name, set()).add((tgid, start))
    processes, groups = to_json(made, State())["processes"], to_json(made, State(mode="groups"))["groups"]
    assert {(p["pid"], p["start_ns"]): p["read_calls"] for p in processes} == of_processes
    assert {g["group"]: g["read_calls"] for g in groups} == of_groups
    assert {g["group"]: g["processes"] for g in groups} == {name: len(who) for name, who in in_groups.items()}


@pytest.mark.parametrize(
    ("text", "found"),
    [("NGI", {1}), ("sql", {2, 12}), ("SQL", {2, 12}), ("12", {12, 3}), ("2", {2, 3}), ("é", {4}), ("zz", set()),
     ("99999999999999999999999999", set()), ("", {1, 2, 3, 4, 12})],
)  # fmt: skip
def test_the_filter_matches_part_of_the_command_or_group_or_a_whole_pid(text: str, found: set[int]) -> None:
    made = snapshot_of(
        {"tgid": 1, "comm": b"nginx"}, {"tgid": 2, "group": 3}, {"tgid": 3, "comm": b"job-12"},
        {"tgid": 4, "comm": "café".encode()}, {"tgid": 12, "group": 3},
    )  # fmt: skip
    assert set(pids(made, State(filter=text))) == found
    assert f"of {len(found)}" in render(made, State(filter=text), 80, 24)[3] or not found
    assert ("none" in render(made, State(filter=text), 80, 24)[3]) == (not found)


def test_the_filter_of_groups_matches_their_names() -> None:
    assert [g["group"] for g in to_json(busy_snapshot(), State(mode="groups", filter="WE"))["groups"]] == ["web"]
