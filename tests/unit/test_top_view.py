"""`ebpfmon top`: the lines on the terminal, and the JSON."""

from __future__ import annotations

import json
from dataclasses import replace

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ebpfmon import Column
from ebpfmon.testing import process_table
from ebpfmon.testing import view as view_of
from ebpfmon.top import view
from ebpfmon.top.columns import Mode
from ebpfmon.top.state import State, press
from ebpfmon.top.text import cut, display_width, format_rate
from ebpfmon.top.view import render, to_json
from tests.unit.top_support import (
    COLUMNS,
    COUNTERS,
    PROCESS_COLUMNS,
    RATES,
    busy_snapshot,
    heading,
    network,
    of_processes,
    pids,
    snapshot_of,
)

KEYS = ("left", "right", "up", "down", "pgup", "pgdn", "home", "end", "enter", "escape", "backspace", "ctrl-c")


def test_the_totals_are_rates_of_the_whole_system() -> None:
    made = snapshot_of(
        {"tgid": 1, "read_calls": 41, "open_errors": 3, "threads_failed": 1}, elapsed_s=0.5, overflow_calls=9
    )
    lines = [" ".join(line.split()) for line in render(made, State(), 80, 24)]
    assert lines[1] == "calls/s open - close - read 100 write - unlink -"
    assert lines[2] == "bytes/s read - write - | tasks/s new - exit - | err/s 8"


def test_counters_that_are_not_measured_have_no_total_and_no_column() -> None:
    made = snapshot_of({"tgid": 1, "open_errors": 3})
    without = "\n".join(render(snapshot_of({"tgid": 1, "open_errors": 3}, errors=False), State(), 200, 24))
    assert "err" not in without.lower()
    assert not {"SENT", "RECV"} & set(heading(render(made, State(), 200, 24)))
    assert {"SENT", "RECV"} < set(heading(render(busy_snapshot(), State(), 200, 24)))
    assert any("sent   5.0k  recv     12" in line for line in render(busy_snapshot(), State(), 200, 24))
    only_sent = replace(made, tables={"network": network({"tgid": 8}, counters=["tcp_send_bytes", "udp_send_bytes"])})
    assert "SENT" in " ".join(render(only_sent, State(), 80, 24))
    assert "RECV" not in " ".join(render(only_sent, State(), 80, 24))


def test_the_order_of_the_probes_does_not_change_the_frame() -> None:
    made = busy_snapshot()
    turned = replace(made, tables=dict(reversed([*made.tables.items()])))
    assert [*turned.tables] == ["network", "process"]
    assert render(turned, State(), 200, 24) == render(made, State(), 200, 24)


def test_columns_of_any_probe_are_shown_as_declared() -> None:
    columns = (
        Column(id="faults", header="FAULTS", fields=("major", "minor"), units="faults/s", letter="A", rank=3),
        Column(id="oom", header="OOM", fields=("oom",), units="kills/s", name="by OOM", width=2, rank=1),
        Column(id="all", header="ALL", fields=("minor",), units="faults/s", name="minor", summary=True),
    )
    rows = [{"tgid": 1, "major": 2, "minor": 5}, {"tgid": 2, "oom": 1, "minor": 8}]
    own = view_of(process_table(("major", "minor", "oom"), rows), columns=columns)
    made = replace(snapshot_of(), tables={"memory": own})
    lines = render(made, State(sort="faults"), 80, 24)
    assert " ".join(lines[1].split()) == "faults/s 15 minor 13 | kills/s by OOM 1"
    assert heading(lines) == ["PID", "USER", "GROUP", "COMMAND", "FAULTS", "OOM"]
    assert [line.split()[3:] for line in lines[4:6]] == [["8", "1"], ["7", "-"]]
    assert "[OOM]" in "".join(render(made, State(), 80, 24))  # the most important rate
    assert "A FAULTS" in "".join(render(made, State(help=True), 80, 24))


@pytest.mark.parametrize(
    ("width", "height", "shown"),
    [
        (80, 24, "PID GROUP COMMAND READ RBYTES WRITE WBYTES SENT RECV ERR"),
        (40, 10, "PID COMMAND READ WRITE"),
        (200, 50, "PID USER GROUP COMMAND OPEN CLOSE READ RBYTES WRITE WBYTES UNLINK NEW ERR SENT RECV"),
    ],
)
def test_the_most_important_columns_that_fit_are_shown(width: int, height: int, shown: str) -> None:
    lines = render(busy_snapshot(), State(), width, height)
    assert len(lines) == height
    assert max(map(len, lines)) <= width
    assert set(heading(lines)) == set(shown.split())
    assert "q quit" in lines[-1]


def test_80_columns_include_open_and_the_network_if_errors_are_not_counted() -> None:
    shown = heading(render(busy_snapshot(errors=False), State(), 80, 24))
    assert set(shown) == {"PID", "GROUP", "COMMAND", "OPEN", "READ", "RBYTES", "WRITE", "WBYTES", "SENT", "RECV"}


def test_80_columns_include_new_and_errors_without_a_network() -> None:
    lines = render(snapshot_of({"tgid": 4194304, "comm": b"kworker/u256:12", "read_calls": 7}), State(), 80, 24)
    assert heading(lines) == ["PID", "GROUP", "COMMAND", "OPEN", "READ", "RBYTES", "WRITE", "WBYTES", "NEW", "ERR"]
    assert lines[4].startswith("    PID GROUP")
    assert lines[5].split() == ["4194304", "other", "kworker/u256:12", "-", "7", "-", "-", "-", "-", "-"]


@pytest.mark.parametrize("mode", [*COLUMNS])
def test_headers_and_numbers_of_a_column_end_at_the_same_place(mode: Mode) -> None:
    for column in COLUMNS[mode]:
        lines = render(busy_snapshot(), State(mode=mode, sort=column.key), 200, 50)
        head = next(line for line in lines if f"[{column.header}]" in line)
        other = next(c for c in COLUMNS[mode] if c.is_rate and c is not column)
        for of in {column, other} & {*RATES}:
            end = head.index(of.header) + len(of.header)
            row = lines[lines.index(head) + 3]
            assert row[end - 1] != " "
            assert row[end : end + 1] in ("", " ")


def test_users_are_sorted_as_they_are_shown() -> None:
    made, users = snapshot_of(*({"tgid": n, "uid": n} for n in (1, 2, 3, 10))), {2: "zoe", 3: "Adam"}
    lines = render(made, State(sort="user", descending=False), 200, None, users=users)[-4:]
    assert [line.split()[:2] for line in lines] == [["3", "Adam"], ["2", "zoe"], ["1", "1"], ["10", "10"]]


HOSTILE = [
    b"\x1b[2J\x1b[H", b"a\nb\rc\td", b"\xc2\x9b31m", b"\xff\xfe", b"\xe2\x80\xae", "日本語".encode(),
    "e\u0301".encode(), "\U0001f600".encode() * 4, "\u200b\u2028".encode(), "❤️".encode(),
]  # fmt: skip


@given(st.binary(max_size=16) | st.sampled_from(HOSTILE), st.text(max_size=20), st.integers(1, 120))
def test_any_name_is_printable_and_fits_the_terminal(comm: bytes, group: str, width: int) -> None:
    made = snapshot_of({"tgid": 1234567, "comm": comm, "read_calls": 5})
    own = view_of(made.tables["process"].harvest, columns=PROCESS_COLUMNS, groups={"application": [group]})
    made = replace(made, host=group, tables={"process": own})
    for mode in COLUMNS:
        lines = render(made, State(mode=mode, filter=""), width, 24)
        assert all(line.isprintable() for line in lines)
        assert max(map(display_width, lines)) <= width
        assert len(lines) == 24


def test_wide_characters_take_two_columns_and_zero_width_ones_are_replaced() -> None:
    made = snapshot_of(
        {"tgid": 1, "comm": "日本".encode()}, {"tgid": 2, "comm": b"ab"}, {"tgid": 3, "comm": "e\u0301".encode()},
        {"tgid": 4, "comm": b"\x1b[31m"},
    )  # fmt: skip
    lines = render(made, State(sort="pid", descending=False), 80, None)[-4:]
    assert [line.split()[2] for line in lines] == ["日本", "ab", "e?", "?[31m"]
    assert len({display_width(line) for line in lines}) == 1


def test_text_longer_than_its_column_is_cut_and_marked() -> None:
    assert cut("postgresql", 10) == "postgresql"
    assert cut("postgresql-15", 10) == "postgresq+"
    assert cut("日本語日本語", 6) == "日本+"
    assert cut("日本語", 1) == "+"
    assert cut("x", 0) == ""


@pytest.mark.parametrize(
    ("rate", "width", "digits", "shown"),
    [(0, 6, 6, "-"), (0.01, 6, 6, "0.1"), (0.5, 6, 6, "0.5"), (2.998, 6, 6, "3"), (9.96, 6, 6, "10"),
     (999_999, 6, 6, "999999"), (999_999.6, 6, 6, "1.0M"), (12345, 4, 4, "12k"), (99_999, 5, 5, "99999"),
     (100_000, 5, 5, "100k"), (999, 6, 3, "999"), (999.6, 6, 3, "1.0k"), (1500, 6, 3, "1.5k"), (2**64, 6, 3, "18.4E")],
)  # fmt: skip
def test_rates_are_short(rate: float, width: int, digits: int, shown: str) -> None:
    assert format_rate(rate, width, digits) == shown


@given(st.floats(0, 1e23), st.sampled_from([4, 5, 6]), st.booleans())
def test_a_rate_fits_its_column_and_is_right_to_five_percent(rate: float, width: int, is_bytes: bool) -> None:
    shown = format_rate(rate, width, 3 if is_bytes else width)
    assert len(shown) <= width
    if rate < 0.1:
        assert shown == ("0.1" if rate else "-")
        return
    unit = " kMGTPEZY".find(shown[-1])
    value = float(shown.rstrip("kMGTPEZY")) * 1000 ** max(unit, 0)
    assert value == pytest.approx(rate, rel=0.06, abs=0.051)


def test_only_the_visible_rows_are_converted_to_text(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [{"tgid": n, "read_calls": n, "comm": b"p%d" % n} for n in range(10_000)]
    own = of_processes(process_table(("read_calls",), rows), PROCESS_COLUMNS[2:3], [2] * len(rows))
    made = replace(snapshot_of(), tables={"process": own})
    words: list[bytes] = []

    def text(comm: bytes) -> str:
        words.append(comm)
        return "x"

    monkeypatch.setattr(view, "_text", text)
    lines = render(made, State(scroll=3000), 80, 24)
    assert words == [b"p%d" % n for n in range(6999, 6999 - len(words), -1)]
    assert 10 < len(words) < 24
    assert f"processes 3001-{3000 + len(words)} of 10000" in lines[2]


@pytest.mark.parametrize("state", [State(), State(mode="groups"), State(filter="1"), State(sort="err")])
def test_an_empty_list_says_none(state: State) -> None:
    for made in (snapshot_of(), replace(snapshot_of(), tables={})):
        lines = render(made, state, 80, 24)
        assert f"{state.mode} none" in "".join(lines)
        assert to_json(made, state)[state.mode] == []


def test_the_sort_column_survives_an_interval_without_its_table() -> None:
    gone = replace(snapshot_of(), tables={})
    state = view.frame(gone, State(sort="write"), 80, 24).state
    assert "[WRITE]" in "".join(render(snapshot_of(), state, 80, 24))


def test_the_sort_column_is_shown_however_narrow_the_terminal_is() -> None:
    for mode, of_mode in COLUMNS.items():
        for column in of_mode:
            for width in (12, 40, 80):
                assert f"[{column.header}" in "".join(
                    render(busy_snapshot(), State(mode=mode, sort=column.key), width, 24)
                )


@pytest.mark.parametrize("width", [40, 80])
def test_the_first_line_shows_problems_even_on_a_narrow_terminal(width: int) -> None:
    made = snapshot_of({"tgid": 1}, complete=False, overflow_calls=12)
    first_line = render(made, State(paused=True), width, 24)[0]
    assert first_line.endswith("PAUSED  INCOMPLETE  OVERFLOW 12 calls")
    clean = render(snapshot_of({"tgid": 1}), State(), width, 24)[0]
    assert not {"PAUSED", "INCOMPLETE", "OVERFLOW"} & set(clean.split())
    assert clean.startswith("ebpfmon top  web1.example.org  20" if width == 80 else "web1.example.org")
    assert clean.endswith("1.000 s")


def test_scrolling_stops_at_the_first_and_the_last_line() -> None:
    made = busy_snapshot(60)
    state = view.frame(made, State(sort="pid", descending=False), 80, 24).state
    page = state.page

    def first_and_last(*keys: str) -> tuple[int, int]:
        now = state
        for key in keys:
            now = view.frame(made, press(now, key), 80, 24).state
        lines = render(made, now, 80, 24)[-page - 1 : -1]
        assert f"{now.scroll + 1}-{now.scroll + page} of 60" in "".join(render(made, now, 80, 24))
        return int(lines[0].split()[0]) // 7 + 1, int(lines[-1].split()[0]) // 7 + 1

    assert 10 < page < 20
    assert first_and_last() == (1, page)
    assert first_and_last("up") == (1, page)
    assert first_and_last("down", "down", "up") == (2, page + 1)
    assert first_and_last("pgdn") == (page + 1, 2 * page)
    assert first_and_last("pgdn", "pgup", "pgup") == (1, page)
    assert first_and_last("end") == first_and_last("end", "down", "pgdn") == (61 - page, 60)
    assert first_and_last("end", "up") == (60 - page, 59)
    assert first_and_last("end", "home") == (1, page)
    assert first_and_last("end", "r") == (60, 61 - page)


def test_without_a_height_all_rows_are_shown_and_no_help_about_keys() -> None:
    lines = render(busy_snapshot(60), State(scroll=5), 80, None)
    table = lines[next(n for n, line in enumerate(lines) if "[READ]" in line) + 1 :]
    assert [int(line.split()[0]) for line in table] == pids(busy_snapshot(60), State())
    shorter = render(busy_snapshot(60), State(), 80, None, top=7)
    assert shorter[-7:] == table[:7]
    assert "1-7 of 60" in "".join(shorter)


@example(["end", "h"], 0, 0, False)
@given(
    st.lists(st.sampled_from(KEYS) | st.characters() | st.sampled_from("/hgbpr<>GPRNq "), max_size=25),
    st.integers(-1, 130),
    st.integers(-1, 40),
    st.booleans(),
)
def test_any_keys_and_any_size_draw_only_within_the_terminal(
    keys: list[str], width: int, height: int, frames: bool
) -> None:
    made, state = busy_snapshot(30), State()
    for key in keys:
        state = press(state, key)
        if frames:
            state = view.frame(made, state, width, height).state
    drawn = view.frame(made, state, width, height)
    assert len(drawn.lines) <= max(height, 0)
    assert all(display_width(line) <= max(width, 0) and line.isprintable() for line in drawn.lines)
    assert -1 <= drawn.heading < max(height, 1)
    assert drawn.state.scroll <= 30


def test_json_has_exact_amounts_that_add_up() -> None:
    made = snapshot_of(
        {"tgid": 1, "start_ns": 2**60 + 1, "read_bytes": 2**60 + 1, "read_calls": 3, "comm": b"a\x1b\xff", "uid": 7},
        {"tgid": 2, "read_calls": 2}, elapsed_s=0.5, overflow_calls=9, complete=False,
    )  # fmt: skip
    shown = json.loads(msgspec.json.encode(to_json(made, State(by="user"))))
    assert [shown[k] for k in ("schema", "host", "time", "elapsed_s", "complete", "by", "overflow_calls")] == [
        2, "web1.example.org", 1.7e9, 0.5, False, "user", 9,
    ]  # fmt: skip
    assert set(shown["totals"]) == set(shown["overflow"]) == set(COUNTERS)
    for name, total in shown["totals"].items():
        assert total == sum(p[name] for p in shown["processes"]) + shown["overflow"][name]
    assert shown["totals"]["read_bytes"] == 2**60 + 1
    first = shown["processes"][0]
    assert {k: v for k, v in first.items() if k not in COUNTERS} == {
        "group": "other", "role": "other", "pid": 1, "parent": 0, "uid": 7, "command": "a\x1b\ufffd",
        "start_ns": 2**60 + 1,
    }  # fmt: skip


def test_json_omits_errors_that_are_not_counted_and_respects_top() -> None:
    shown = to_json(busy_snapshot(errors=False), State(), top=3)
    assert [p["pid"] for p in shown["processes"]] == pids(busy_snapshot(), State())[:3]
    named = {*shown["totals"], *shown["overflow"], *shown["processes"][0]}
    assert "read_calls" in named
    assert not [n for n in named if n.endswith(("_errors", "_failed"))]
    assert to_json(busy_snapshot(), State(), top=0)["processes"] == []
    assert len(to_json(busy_snapshot(), State(), top=1000)["processes"]) == 60
