"""The keys of `ebpfmon top`."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ebpfmon import Column
from ebpfmon.top import view
from ebpfmon.top.columns import Mode, rates
from ebpfmon.top.state import State, press
from ebpfmon.top.view import render
from tests.unit.top_support import COLUMNS, GROUPINGS, busy_snapshot, snapshot_of, typed


def test_arrows_and_capitals_choose_among_the_existing_columns() -> None:
    state = view.frame(snapshot_of({"tgid": 1}), State(), 80, 24).state
    keys = [c.key for c in COLUMNS["processes"] if c.key not in ("sent", "recv")]
    walked = [state := press(state, "right") for _ in keys]
    start = keys.index("read") + 1
    assert [s.sort for s in walked] == keys[start:] + keys[:start]
    assert press(State(sort="pid", rates=state.rates), "<").sort == "err"
    for column in COLUMNS["processes"]:
        pressed = press(State(sort="wbytes", rates=state.rates), column.letter)
        assert pressed.sort == (column.key if column.key in keys else "wbytes")
        assert pressed.descending == (column.is_rate)


@pytest.mark.parametrize("mode", [*COLUMNS])
def test_every_column_has_a_unique_letter_that_the_help_shows(mode: Mode) -> None:
    letters = [c.letter for c in COLUMNS[mode]]
    assert len(set(letters)) == len(letters)
    assert not set(letters) & set("rpgbhq/? <>")
    help_text = " ".join(render(busy_snapshot(), State(help=True, mode=mode), 80, 40))
    assert all(f"{c.letter} {c.header}" in help_text for c in COLUMNS[mode])
    assert len(render(busy_snapshot(), State(help=True, mode=mode), 80, 24)) == 24


def test_any_key_closes_the_help_except_q_which_quits() -> None:
    for key in "h?":
        assert press(State(), key).help
    for key in ("h", "x", "down", "escape"):
        assert press(State(help=True), key) == State()
    assert press(State(help=True), "q").quit


def test_keys_do_what_the_last_line_says() -> None:
    assert press(State(), "q").quit
    assert press(State(editing=True), "ctrl-c").quit
    assert not press(State(), "r").descending
    assert press(press(State(), "r"), "r") == State()
    for key in (" ", "p"):
        assert press(State(), key).paused
        assert press(press(State(), key), key) == State()
    assert press(State(), "g").mode == "groups"
    assert press(press(State(), "g"), "g").mode == "processes"
    assert typed(State(), "g", "P").sort == "count"  # groups have other columns
    for nothing in ("x", "\x00", "enter", "backspace", "%"):
        assert press(State(), nothing) == State()


def test_b_cycles_through_all_existing_groupings() -> None:
    for by, paused in (("application", False), ("user", True)):
        state = view.frame(busy_snapshot(), State(by=by, paused=paused), 80, 24).state
        found = [(state := press(state, "b")).by for _ in GROUPINGS]
        start = GROUPINGS.index(by) + 1
        assert found == [*GROUPINGS[start:], *GROUPINGS[:start]]
        assert state.paused == paused
    assert press(State(by="user"), "b").by == "user"  # before the first interval no groupings are known
    assert "application, process, user, container" in "".join(render(busy_snapshot(), State(help=True), 80, 24))


def test_a_letter_used_twice_belongs_to_the_first_column_only() -> None:
    columns = [Column(id=f"c{n}", header=f"C{n}", fields=("x",), letter=letter) for n, letter in enumerate("XXPY")]
    assert [column.letter for column in rates(columns)] == ["X", "", "", "Y"]
    state = State(rates=rates(columns))
    assert [press(state, letter).sort for letter in "XPY"] == ["c0", "pid", "c3"]


def test_letters_edit_the_filter_until_it_is_accepted_or_cleared() -> None:
    editing = typed(State(scroll=7), "/", "q", "é", "x", "backspace", " ", "left", "\x07")
    assert (editing.filter, editing.editing, editing.quit, editing.scroll) == ("qé ", True, False, 0)
    assert render(busy_snapshot(), editing, 80, 24)[-1] == "filter: qé _"
    assert typed(editing, "enter") == replace(editing, editing=False)
    assert typed(editing, "escape").filter == typed(editing, "enter", "escape").filter == ""
    assert not typed(editing, "escape").editing
    assert len(typed(editing, *"y" * 1000).filter) == 64
    assert render(busy_snapshot(), typed(editing, *"y" * 1000), 20, 2)[-1] == "filter: " + "y" * 11 + "_"
