"""A second as lines for a terminal, or as a dictionary for programs. Pure: no I/O, and the time is the snapshot's."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ebpfmon.model.everything import Snapshot
from ebpfmon.top.listing import Listing, by_process, chosen, counters, listing
from ebpfmon.top.state import COLUMNS, RATES, Column, State, press, settle
from ebpfmon.top.text import columns as width_of
from ebpfmon.top.text import cut, pad, printable, short

__all__ = ["COLUMNS", "Column", "Frame", "State", "frame", "press", "render", "to_json"]

NO_USERS: Mapping[int, str] = {}
_FULL, _SMALL = 9, 4  # lines below which the totals, then all but the table, make room for it
_KEYS = ("q quit", "h help", "< > sort", "r reverse", "/ filter", "space pause", "g groups", "b by", "arrows scroll")
_RATE = {c.key: c for c in RATES}
_TOTALS = (
    ("calls/s", [_RATE[key] for key in ("open", "close", "read", "write", "unlink")]),
    ("bytes/s", [_RATE[key] for key in ("rbytes", "wbytes", "sent", "recv")]),
    ("tasks/s", [_RATE["new"], Column("exit", "", "EXIT", 4, 0, ("tasks_exited",))]),
    ("err/s", [_RATE["err"]]),
)
_WORDS = {"rbytes": "read", "wbytes": "write", "err": ""}  # where the line's first word says the rest
_HELP = (
    "q, ctrl-c      quit",
    "left, right    sort by the column before or after (also < and >)",
    "capitals       sort by a column:",
    "r              turn the order round",
    "/              show what has these letters in its command or its group, or has",
    "               this PID: enter accepts, escape clears",
    "space, p       pause, go on",
    "g              processes, or groups of them",
    "b              what groups are: by app, process, user, cgroup",
    "up, down, page up, page down, home, end    scroll",
    "h, ?           this help",
    "",
    "Numbers are per second; long ones in thousands (k), millions (M) and so on.",
)


@dataclass(frozen=True, slots=True)
class Frame:
    """What stands on the terminal: `lines`, of which number `heading` heads the table (-1: none does), and the state
    with what depends on that: how far it is scrolled, which columns there are, the length of a page."""

    lines: list[str]
    heading: int
    state: State


def render(
    snapshot: Snapshot,
    state: State,
    width: int,
    height: int | None,
    *,
    errors: bool = True,
    users: Mapping[int, str] = NO_USERS,
    top: int | None = None,
) -> list[str]:
    """The lines of `frame`."""
    return frame(snapshot, state, width, height, errors=errors, users=users, top=top).lines


def frame(
    snapshot: Snapshot,
    state: State,
    width: int,
    height: int | None,
    *,
    errors: bool = True,
    users: Mapping[int, str] = NO_USERS,
    top: int | None = None,
) -> Frame:
    """At most `height` lines of at most `width` columns, printable whatever processes call themselves; amounts are per
    second. `height` None: the first `top` lines of the table, or all of it, and no words about keys. `errors`: whether
    errors were counted (load mode `return`). `users`: what is shown for a uid, by default the number."""
    given, state = state, _settled(snapshot, state, errors)
    given = replace(given, columns=state.columns)  # its sort column may be back in the next interval
    lines = chosen(listing(snapshot, state.mode, errors), state, users)
    head, foot, has_status, has_heading = [_title(snapshot, state, width), *_totals(snapshot, errors, width)], "", 1, 1
    page, scroll = len(lines) if top is None else top, 0
    if height is not None:
        head, has_status, has_heading = head[: _room_above(height)], int(height >= _FULL), int(height > 1)
        foot = _foot(state, width) if height >= _SMALL - 1 or state.editing else ""
        page = max(height - len(head) - has_status - has_heading - bool(foot), 0)
        scroll = min(state.scroll, max(len(lines) - page, 0))
    if height is not None and state.help:
        help_ = _screen([*_help(state, width)], "any key closes this help", width, height)
        return Frame(help_, -1, replace(given, scroll=scroll))
    state = replace(state, scroll=scroll)
    shown, columns = lines.take(slice(scroll, scroll + page)), _fitting(state, width)
    body = [
        *head,
        *[_status(state, len(shown), len(lines))][:has_status],
        *[_heading(columns, state.sort)][:has_heading],
        *_table(shown, columns, snapshot.elapsed_s or 1.0, users),
    ]
    heading = len(head) + has_status if has_heading else -1
    return Frame(_screen(body, foot, width, height), heading, replace(given, scroll=scroll, page=max(page, 1)))


def to_json(snapshot: Snapshot, state: State, *, top: int | None = None, errors: bool = True) -> dict[str, Any]:
    """The interval as the state filters and sorts it, the first `top` lines. All numbers are the interval's amounts,
    not rates; `totals` are over everything, with what found no room (`overflow`), which is in no line."""
    state = _settled(snapshot, state, errors)
    lines = chosen(listing(snapshot, state.mode, errors), state, NO_USERS).take(slice(top))
    tables = by_process(snapshot).values()
    names = counters(tables, errors)
    of_lines: list[dict[str, Any]] = [{"group": lines.names[group]} for group in lines.group.tolist()]
    if state.mode == "groups":
        for line, count in zip(of_lines, lines.count.tolist(), strict=True):
            line["processes"] = count
    else:
        for line, (tgid, start_ns, _, parent, uid, comm) in zip(of_lines, lines.who.tolist(), strict=True):
            line |= {"pid": tgid, "parent": parent, "uid": uid, "command": _text(comm), "start_ns": start_ns}
    for name, amounts in lines.amounts.items():
        for line, amount in zip(of_lines, amounts.tolist(), strict=True):
            line[name] = amount
    return {
        "schema": 1,
        "host": snapshot.host,
        "time": round(snapshot.time_s, 3),
        "elapsed_s": round(snapshot.elapsed_s, 4),
        "complete": snapshot.complete,
        "by": state.by,
        "totals": {n: sum(t.totals.get(n, 0) for t in tables) for n in names},
        "overflow": {n: sum(t.overflow.get(n, 0) for t in tables) for n in names},
        "overflow_calls": sum(t.overflow_calls for t in tables),
        state.mode: of_lines,
    }


def _settled(snapshot: Snapshot, state: State, errors: bool) -> State:
    names = counters(by_process(snapshot).values(), errors)
    return settle(state, [c for c in COLUMNS[state.mode] if not c.is_rate or c.counters(names)])


def _room_above(height: int) -> int:
    """How many lines may say what is no part of the table: a third, where there is room for that."""
    return max(height // 3 - 1, 2) if height >= _FULL else int(height >= _SMALL)


def _screen(body: list[str], foot: str, width: int, height: int | None) -> list[str]:
    """The lines cut to size, with the foot at the bottom."""
    if height is not None:
        body = body[: max(height - bool(foot), 0)]
        if foot and height > 0:
            body += [*[""] * (height - 1 - len(body)), foot]
    return [cut(printable(line), width).rstrip() for line in body]


def _title(snapshot: Snapshot, state: State, width: int) -> str:
    overflow = sum(t.overflow_calls for t in by_process(snapshot).values())
    marks = {"PAUSED": state.paused, "INCOMPLETE": not snapshot.complete, f"OVERFLOW {overflow} calls": overflow > 0}
    said = "".join(f"  {mark}" for mark, holds in marks.items() if holds)
    when = time.localtime(snapshot.time_s)
    now, host, elapsed = time.strftime("%H:%M:%S", when), printable(snapshot.host), f"{snapshot.elapsed_s:.3f} s"
    longest = f"ebpfmon top  {host}  {time.strftime('%Y-%m-%d', when)} {now}  {elapsed}{said}"
    forms = (longest, f"{host}  {now}  {elapsed}{said}", f"{now}  {elapsed}{said}", f"{now}{said}")
    return next((form for form in forms if width_of(form) <= width), said.lstrip() or now)


def _totals(snapshot: Snapshot, errors: bool, width: int) -> list[str]:
    """What everybody together did, several kinds to a line where they fit."""
    tables = by_process(snapshot).values()
    names = counters(tables, errors)
    lines: list[str] = []
    for label, columns in _TOTALS:
        items = []
        for column in columns:
            if fields := column.counters(names):
                rate = sum(t.totals.get(n, 0) for t in tables for n in fields) / (snapshot.elapsed_s or 1.0)
                word = _WORDS.get(column.key, column.header.lower())
                items.append(" ".join(filter(None, (word, _number(rate, column)))))
        if items:
            kind = [*_filled([f"{label}  {items[0]}", *items[1:]], "  ", width)]
            lines = [*_filled([*lines, *kind[:1]], " | ", width), *kind[1:]]
    return lines


def _filled(words: Iterable[str], between: str, width: int) -> Iterator[str]:
    """The words in lines of this width."""
    line = ""
    for word in words:
        if line and width_of(line + between + word) > width:
            yield line
            line = word
        else:
            line = line + between + word if line else word
    if line:
        yield line


def _status(state: State, shown: int, count: int) -> str:
    """Which lines of the table are shown, and why those."""
    lines = (
        f"{state.scroll + 1}-{state.scroll + shown} of {count}" if shown else f"none of {count}" if count else "none"
    )
    matching = f" with '{state.filter}'" if state.filter else ""
    header = next(c.header for c in state.choice if c.key == state.sort)
    order = "descending" if state.descending else "ascending"
    return f"{state.mode} {lines}{matching}, by {header} {order}, grouped by {state.by}"


def _fitting(state: State, width: int) -> list[tuple[Column, int]]:
    """The columns for which there is room, with their widths: what is sorted by, then the first by rank. What is left
    of the room is the names', as far as they can use it."""
    by_rank = sorted(state.choice, key=lambda c: (c.key != state.sort, c.rank))
    widths: dict[str, int] = {}
    for column in by_rank:
        if column.width >= width:
            break
        widths[column.key] = column.width
        width -= column.width + 1
    if not widths:
        return [(by_rank[0], max(width, 0))]
    for column in sorted(by_rank, key=lambda c: c.rank):
        if column.is_name and column.key in widths:
            more = min(width, column.widest - column.width)
            widths[column.key] += more
            width -= more
    return [(c, widths[c.key]) for c in state.choice if c.key in widths]


def _heading(columns: Sequence[tuple[Column, int]], sort: str) -> str:
    """The columns' headers over their columns, that of the sort column in brackets, which may stand between columns."""
    line = ""
    for column, width in columns:
        if column.key != sort:
            header = pad(column.header, width, right=not column.is_name)
            line += f"{header} "
        elif column.is_name:
            header = pad(f"[{column.header}]", width)
            line += f"{header} "
        else:
            start = len(line) + width - len(column.header) - 1
            line = f"{line:{max(start, 0)}}"[: max(start, 0)] + f"[{column.header}]"
    return line


def _table(
    lines: Listing, columns: Collection[tuple[Column, int]], elapsed_s: float, users: Mapping[int, str]
) -> Iterator[str]:
    words: dict[str, Callable[[], Iterable[object]]] = {
        "pid": lambda: lines.who["tgid"].tolist(),
        "user": lambda: (users.get(uid, uid) for uid in lines.who["uid"].tolist()),
        "group": lambda: (lines.names[group] for group in lines.group.tolist()),
        "command": lambda: map(_text, lines.who["comm"].tolist()),
        "count": lambda: lines.count.tolist(),
    }
    cells: list[list[str]] = []
    for column, width in columns:
        if column.is_rate:
            shown = [_number(amount / elapsed_s, column) for amount in lines.amount(column).tolist()]
        else:
            shown = [printable(str(word)) for word in words[column.key]()]
        cells.append([pad(word, width, right=not column.is_name) for word in shown])
    yield from map(" ".join, zip(*cells, strict=True))


def _number(rate: float, column: Column) -> str:
    return pad(short(rate, column.width, 3 if column.is_bytes else column.width), column.width, right=True)


def _foot(state: State, width: int) -> str:
    if state.editing:
        # the end is what is being typed
        room = max(width - len("filter: _"), 1)
        return f"filter: {state.filter[-room:]}_"
    return next(_filled(_KEYS, "  ", width))


def _help(state: State, width: int) -> Iterator[str]:
    for line in _HELP:
        yield line
        if line.startswith("capitals"):
            indent = " " * 15
            for letters in _filled((f"{c.letter} {c.header}" for c in state.choice), ", ", max(width - len(indent), 8)):
                yield indent + letters


def _text(comm: bytes) -> str:
    return comm.decode(errors="replace")
