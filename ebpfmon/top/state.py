"""What the user has chosen, and what each key changes of it; the columns that there are to choose from. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from typing import Literal

from ebpfmon.config.settings import By

Mode = Literal["processes", "groups"]
FILTER_MAX = 64
"""Characters that a filter may have."""
END = 1 << 30
"""A scroll offset beyond any last line: `view.frame` brings it back to what there is."""


@dataclass(frozen=True, slots=True)
class Column:
    """One column of the table.

    A number is the sum of those counters that are named in `fields` or end with one of `endings`, as a rate in
    `width` columns (digits, then units). A name has neither, and grows up to `widest` columns. `letter` is the key
    that sorts by it. Where there is no room for all, those with the greatest `rank` go first.
    """

    key: str
    letter: str
    header: str
    width: int
    rank: int
    fields: tuple[str, ...] = ()
    endings: tuple[str, ...] = ()
    is_bytes: bool = False
    widest: int = 0

    @property
    def is_rate(self) -> bool:
        """Whether it is a sum of counters."""
        return bool(self.fields or self.endings)

    @property
    def is_name(self) -> bool:
        """Whether it is words: those stand at the left, and sort from a to z at first."""
        return self.widest > 0

    def counters(self, names: Iterable[str]) -> list[str]:
        """Those of these counters that it sums up."""
        return [n for n in names if n in self.fields or n.endswith(self.endings or "\0")]


_ERRORS = ("_errors", "_failed")
RATES = (
    Column("open", "O", "OPEN", 5, 10, ("open_calls",)),
    Column("close", "C", "CLOSE", 5, 12, ("close_calls",)),
    Column("read", "R", "READ", 6, 2, ("read_calls",)),
    Column("rbytes", "B", "RBYTES", 6, 4, ("read_bytes",), is_bytes=True),
    Column("write", "W", "WRITE", 6, 3, ("write_calls",)),
    Column("wbytes", "Y", "WBYTES", 6, 5, ("write_bytes",), is_bytes=True),
    Column("unlink", "D", "UNLINK", 6, 13, ("unlink_calls",)),
    Column("new", "F", "NEW", 4, 11, ("processes_created", "threads_created")),
    Column("err", "E", "ERR", 5, 8, endings=_ERRORS),
    Column("sent", "S", "SENT", 6, 6, ("tcp_send_bytes", "udp_send_bytes"), is_bytes=True),
    Column("recv", "V", "RECV", 6, 7, ("tcp_recv_bytes", "udp_recv_bytes"), is_bytes=True),
)
"""What can be counted, in calls, bytes, tasks or errors per second."""
COLUMNS: dict[Mode, tuple[Column, ...]] = {
    "processes": (
        Column("pid", "P", "PID", 7, 0),
        Column("user", "U", "USER", 8, 14, widest=16),
        Column("group", "G", "GROUP", 10, 9, widest=24),
        Column("command", "N", "COMMAND", 12, 1, widest=16),
        *RATES,
    ),
    "groups": (Column("group", "G", "GROUP", 12, 0, widest=48), Column("count", "P", "PROCS", 5, 1), *RATES),
}
"""All columns by mode, in their order on the screen."""
DEFAULT_SORT = "read"
_NEXT_BY: dict[By, By] = {"app": "process", "process": "user", "user": "cgroup", "cgroup": "app"}


@dataclass(frozen=True, slots=True)
class State:
    """What the user has chosen.

    `sort` is the key of a column; `scroll` counts the lines of the table that are above the screen. `columns` (the keys
    of the columns that what is measured can fill; empty: all) and `page` (lines of the table on the screen) are as the
    last frame had them.
    """

    sort: str = DEFAULT_SORT
    descending: bool = True
    filter: str = ""
    editing: bool = False
    paused: bool = False
    mode: Mode = "processes"
    by: By = "app"
    scroll: int = 0
    help: bool = False
    quit: bool = False
    columns: tuple[str, ...] = ()
    page: int = 10

    @property
    def choice(self) -> tuple[Column, ...]:
        """The columns that can be sorted by."""
        return tuple(c for c in COLUMNS[self.mode] if not self.columns or c.key in self.columns)


def settle(state: State, available: Collection[Column]) -> State:
    """The state where these columns of its mode are available: its sort column is one of them."""
    keys = tuple(c.key for c in available)
    state = replace(state, columns=keys)
    if state.sort in keys:
        return state
    rates = [c for c in available if c.is_rate]
    keys = tuple(c.key for c in rates) or keys
    return _sorted(state, DEFAULT_SORT if DEFAULT_SORT in keys else keys[0])


def press(state: State, key: str) -> State:
    """The state after a key: a character, or one of left, right, up, down, pgup, pgdn, home, end, enter, escape,
    backspace and ctrl-c. Keys that mean nothing change nothing."""
    if key == "ctrl-c":
        return replace(state, quit=True)
    if state.editing:
        return _edit(state, key)
    if state.help:
        return replace(state, help=False, quit=key == "q")
    letters = {c.letter: c.key for c in state.choice}
    if key in letters:
        return _sorted(state, letters[key])
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
            return replace(state, mode="groups" if state.mode == "processes" else "processes", columns=(), scroll=0)
        case "b":
            # a second that has passed cannot be grouped anew
            return replace(state, by=_NEXT_BY[state.by], paused=False, scroll=0)
        case "left" | "<":
            return _beside(state, -1)
        case "right" | ">":
            return _beside(state, 1)
    return replace(state, scroll=_scrolled(state, key))


def _sorted(state: State, key: str) -> State:
    name = any(c.is_name or c.key == "pid" for c in COLUMNS[state.mode] if c.key == key)
    return replace(state, sort=key, descending=not name, scroll=0)


def _beside(state: State, step: int) -> State:
    keys = [c.key for c in state.choice]
    at = keys.index(state.sort) if state.sort in keys else 0
    return _sorted(state, keys[(at + step) % len(keys)])


def _scrolled(state: State, key: str) -> int:
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
