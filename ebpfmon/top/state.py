"""The state of the screen, and how each key changes it. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from ebpfmon.grouping.registry import DEFAULT_GROUPING
from ebpfmon.top.columns import IDENTITY_COLUMNS, Column, Mode

FILTER_MAX = 64
"""The greatest number of characters in a filter."""
END = 1 << 30
"""A scroll offset beyond the last line of any table. `view.frame` limits it to the last page."""


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """What the user has chosen, and what the last frame offers to choose from.

    `sort` is the key of a column. If it is empty or unknown, the most important rate is used. `by` is a grouping.
    `scroll` is the number of lines of the table above the screen. The last frame sets `rates` (the columns that probes
    declare), `groupings`, and `page` (the number of lines of the table on the screen).
    """

    sort: str = ""
    descending: bool = True
    filter: str = ""
    editing: bool = False
    paused: bool = False
    mode: Mode = "processes"
    by: str = DEFAULT_GROUPING
    scroll: int = 0
    help: bool = False
    quit: bool = False
    rates: tuple[Column, ...] = ()
    groupings: tuple[str, ...] = ()
    page: int = 10

    @property
    def columns(self) -> tuple[Column, ...]:
        """The columns that can be sorted by, in their order on the screen."""
        return (*IDENTITY_COLUMNS[self.mode], *(column for column in self.rates if not column.summary))

    @property
    def sort_column(self) -> Column:
        """The column to sort by. The state must be resolved."""
        return next(column for column in self.columns if column.key == self.sort)


def resolve(state: State, rates: Iterable[Column], groupings: Iterable[str]) -> State:
    """Return the state with these rates and groupings, and with a sort column that exists."""
    state = replace(state, rates=tuple(rates), groupings=tuple(groupings))
    if any(column.key == state.sort for column in state.columns):
        return state
    default = _default_sort(state)
    return _sort_by(state, default) if state.sort else replace(state, sort=default.key)


def press(state: State, key: str) -> State:
    """Return the state after a key was pressed. Keys without a meaning change nothing.

    A key is a character, or one of left, right, up, down, pgup, pgdn, home, end, enter, escape, backspace and ctrl-c.
    """
    if key == "ctrl-c":
        return replace(state, quit=True)
    if state.editing:
        return _edit(state, key)
    if state.help:
        return replace(state, help=False, quit=key == "q")
    for column in state.columns:
        if key == column.letter:
            return _sort_by(state, column)
    match key:
        case "q":
            return replace(state, quit=True)
        case "h" | "?":
            return replace(state, help=True)
        case "/":
            return replace(state, editing=True)
        case "escape":
            return replace(state, filter="", scroll=0)
        case " " | "p":
            return replace(state, paused=not state.paused)
        case "r":
            return replace(state, descending=not state.descending, scroll=0)
        case "g":
            return replace(state, mode="groups" if state.mode == "processes" else "processes", scroll=0)
        case "b":
            return replace(state, by=_next(state.groupings, state.by), scroll=0)
        case "left" | "<":
            return _sort_by_adjacent(state, -1)
        case "right" | ">":
            return _sort_by_adjacent(state, 1)
    return replace(state, scroll=_scroll_offset(state, key))


def _default_sort(state: State) -> Column:
    columns = [column for column in state.columns if column.is_rate] or state.columns
    return min(columns, key=lambda column: column.rank)


def _sort_by(state: State, column: Column) -> State:
    return replace(state, sort=column.key, descending=not (column.is_name or column.key == "pid"), scroll=0)


def _sort_by_adjacent(state: State, step: int) -> State:
    state = resolve(state, state.rates, state.groupings)
    columns = state.columns
    return _sort_by(state, columns[(columns.index(state.sort_column) + step) % len(columns)])


def _next(words: tuple[str, ...], word: str) -> str:
    if word not in words:
        return words[0] if words else word
    return words[(words.index(word) + 1) % len(words)]


def _scroll_offset(state: State, key: str) -> int:
    steps = {"up": -1, "down": 1, "pgup": -state.page, "pgdn": state.page, "home": -END, "end": END}
    return min(max(state.scroll + steps.get(key, 0), 0), END)


def _edit(state: State, key: str) -> State:
    match key:
        case "enter":
            return replace(state, editing=False)
        case "escape":
            return replace(state, editing=False, filter="", scroll=0)
        case "backspace":
            return replace(state, filter=state.filter[:-1], scroll=0)
    if len(key) == 1 and key.isprintable() and len(state.filter) < FILTER_MAX:
        return replace(state, filter=state.filter + key, scroll=0)
    return state
