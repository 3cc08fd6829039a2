"""Render one interval as lines for a terminal, or as JSON data. Pure: the time is the snapshot's."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ebpfmon.model import Role, Snapshot
from ebpfmon.text import unique_names
from ebpfmon.top.columns import Column
from ebpfmon.top.listing import Counters, Listing, by_process, listing, rates_of, select
from ebpfmon.top.state import State, resolve
from ebpfmon.top.text import cut, display_width, drawable, format_rate, pad

SCHEMA = 2
"""The version of the format of `to_json`."""
NO_USERS: Mapping[int, str] = {}
_FULL = 9  # lines: from this height on there is room for the totals and the status
_SMALL = 4  # lines: from this height on there is room for the title
_KEYS = ("q quit", "h help", "< > sort", "r reverse", "/ filter", "space pause", "g groups", "b by", "arrows scroll")
_HELP = (
    "q, ctrl-c      quit",
    "left, right    sort by the previous or the next column (also < and >)",
    "capitals       sort by a column:",
    "r              reverse the order",
    "/              filter by text in the command or group, or by PID:",
    "               enter accepts, escape clears",
    "space, p       pause or continue",
    "g              switch between processes and groups",
    "b              group by:",
    "up, down, page up, page down, home, end    scroll",
    "h, ?           this help",
    "",
    "Numbers are per second, in thousands (k), millions (M) and so on.",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """The content of the terminal.

    `heading` is the index of the line with the headings of the table, or -1 if there is none. `state` has the values
    that depend on the frame: the scroll offset, the columns and groupings, and the length of a page.
    """

    lines: list[str]
    heading: int
    state: State


def render(
    snapshot: Snapshot,
    state: State,
    width: int,
    height: int | None,
    *,
    users: Mapping[int, str] = NO_USERS,
    top: int | None = None,
) -> list[str]:
    """Return the lines of `frame`."""
    return frame(snapshot, state, width, height, users=users, top=top).lines


def frame(
    snapshot: Snapshot,
    state: State,
    width: int,
    height: int | None,
    *,
    users: Mapping[int, str] = NO_USERS,
    top: int | None = None,
) -> Frame:
    """Return at most `height` lines of at most `width` columns. They are safe to draw, whatever names processes have.

    Amounts are shown per second. If `height` is None, the table has its first `top` lines, or all, and the keys are not
    shown. `users` maps uids to names; uids without a name are shown as numbers.
    """
    given, state = state, _resolved(snapshot, state)
    # Keep the user's sort column even if this interval does not have it, because a later one may.
    given = replace(given, rates=state.rates, groupings=state.groupings)
    lines = select(listing(snapshot, state), state, users)
    head, foot = [_title(snapshot, state, width), *_totals(snapshot, state, width)], ""
    has_status = has_heading = True
    page, scroll = len(lines) if top is None else top, 0
    if height is not None:
        head, has_status, has_heading = head[: _room_above(height)], height >= _FULL, height > 1
        foot = _foot(state, width) if height >= _SMALL - 1 or state.editing else ""
        page = max(height - len(head) - has_status - has_heading - bool(foot), 0)
        scroll = min(state.scroll, max(len(lines) - page, 0))
    if height is not None and state.help:
        help_ = _screen([*_help(state, width)], "any key closes this help", width, height)
        return Frame(lines=help_, heading=-1, state=replace(given, scroll=scroll))
    state = replace(state, scroll=scroll)
    shown, columns = lines.take(slice(scroll, scroll + page)), _fitting(state, width)
    body = [
        *head,
        *([_status(state, len(shown), len(lines))] if has_status else []),
        *([_heading(columns, state.sort)] if has_heading else []),
        *_table(shown, columns, snapshot.elapsed_s or 1.0, users),
    ]
    return Frame(
        lines=_screen(body, foot, width, height),
        heading=len(head) + has_status if has_heading else -1,
        state=replace(given, scroll=scroll, page=max(page, 1)),
    )


def to_json(snapshot: Snapshot, state: State, *, top: int | None = None) -> dict[str, Any]:
    """Return the interval as JSON data: the first `top` lines, filtered and sorted as the state says.

    Each line has the counters that the columns are made of, by their names in C. All numbers are amounts of the
    interval, not rates. `totals` include everything. `overflow` is the part for which the tables had no room; it is in
    no line.
    """
    state = _resolved(snapshot, state)
    lines = select(listing(snapshot, state), state, NO_USERS).take(slice(top))
    tables, counters = by_process(snapshot), lines.counters
    json_lines: list[dict[str, Any]] = [
        {"group": lines.names[group], "role": lines.roles[group].value} for group in lines.group.tolist()
    ]
    if state.mode == "groups":
        for line, count in zip(json_lines, lines.count.tolist(), strict=True):
            line["processes"] = count
    else:
        for line, (tgid, start_ns, _, parent, uid, comm) in zip(json_lines, lines.identity.tolist(), strict=True):
            line |= {"pid": tgid, "parent": parent, "uid": uid, "command": _text(comm), "start_ns": start_ns}
    for line, amounts in zip(json_lines, lines.amounts.tolist(), strict=True):
        line |= _by_name(counters, amounts)
    return {
        "schema": SCHEMA,
        "host": snapshot.host,
        "time": round(snapshot.time_s, 3),
        "elapsed_s": round(snapshot.elapsed_s, 4),
        "complete": snapshot.complete,
        "by": state.by,
        "totals": _by_name(counters, [tables[table].harvest.totals[name] for table, name in counters.names]),
        "overflow": _by_name(counters, [tables[table].harvest.overflow[name] for table, name in counters.names]),
        "overflow_calls": _overflow_calls(snapshot),
        state.mode: json_lines,
    }


def _by_name(counters: Counters, amounts: Iterable[int]) -> dict[str, int]:
    """Return amounts by the name of the counter. Counters of several tables with the same name are summed."""
    by_name: dict[str, int] = {}
    for (_, name), amount in zip(counters.names, amounts, strict=True):
        by_name[name] = by_name.get(name, 0) + amount
    return by_name


def _resolved(snapshot: Snapshot, state: State) -> State:
    groupings = dict.fromkeys(name for view in by_process(snapshot).values() for name in view.groups)
    return resolve(state, rates_of(snapshot), groupings)


def _overflow_calls(snapshot: Snapshot) -> int:
    return sum(view.harvest.overflow_calls for view in by_process(snapshot).values())


def _room_above(height: int) -> int:
    """Return how many lines may be above the table: a third, unless the terminal is too small."""
    return max(height // 3 - 1, 2) if height >= _FULL else int(height >= _SMALL)


def _screen(body: list[str], foot: str, width: int, height: int | None) -> list[str]:
    """Return the lines, cut to the size of the screen, with the foot at the bottom."""
    if height is not None:
        body = body[: max(height - bool(foot), 0)]
        if foot and height > 0:
            body += [*[""] * (height - 1 - len(body)), foot]
    return [cut(drawable(line), width).rstrip() for line in body]


def _title(snapshot: Snapshot, state: State, width: int) -> str:
    overflow = _overflow_calls(snapshot)
    marks = {"PAUSED": state.paused, "INCOMPLETE": not snapshot.complete, f"OVERFLOW {overflow} calls": overflow > 0}
    shown = "".join(f"  {mark}" for mark, is_set in marks.items() if is_set)
    when = time.localtime(snapshot.time_s)
    now, host, elapsed = time.strftime("%H:%M:%S", when), drawable(snapshot.host), f"{snapshot.elapsed_s:.3f} s"
    longest = f"ebpfmon top  {host}  {time.strftime('%Y-%m-%d', when)} {now}  {elapsed}{shown}"
    variants = (longest, f"{host}  {now}  {elapsed}{shown}", f"{now}  {elapsed}{shown}", f"{now}{shown}")
    return next((variant for variant in variants if display_width(variant) <= width), shown.lstrip() or now)


def _totals(snapshot: Snapshot, state: State, width: int) -> list[str]:
    """Return the totals of all processes by units, with the numbers of several units on a line if they fit."""
    totals = dict.fromkeys((column.key for column in state.rates), 0)
    for view in by_process(snapshot).values():
        for declared in view.columns:
            totals[declared.id] += sum(view.harvest.totals[name] for name in declared.fields)
    by_units: dict[str, list[str]] = {}
    for column in state.rates:
        number = _number(totals[column.key] / (snapshot.elapsed_s or 1.0), column)
        units, word = column.units_and_word
        by_units.setdefault(units, []).append(f"{word} {number}" if word else number)
    lines: list[str] = []
    for units, items in by_units.items():
        units_lines = [*_wrapped([f"{units}  {items[0]}", *items[1:]], "  ", width)]
        lines = [*_wrapped([*lines, *units_lines[:1]], " | ", width), *units_lines[1:]]
    return lines


def _wrapped(words: Iterable[str], between: str, width: int) -> Iterator[str]:
    """Yield the words in lines of this width."""
    line = ""
    for word in words:
        if line and display_width(line + between + word) > width:
            yield line
            line = word
        else:
            line = line + between + word if line else word
    if line:
        yield line


def _status(state: State, shown: int, count: int) -> str:
    """Return the line that says which lines of the table are shown, and in which order."""
    lines = (
        f"{state.scroll + 1}-{state.scroll + shown} of {count}" if shown else f"none of {count}" if count else "none"
    )
    matching = f" with '{state.filter}'" if state.filter else ""
    order = "descending" if state.descending else "ascending"
    return f"{state.mode} {lines}{matching}, by {state.sort_column.header} {order}, grouped by {state.by}"


def _fitting(state: State, width: int) -> list[tuple[Column, int]]:
    """Return the columns that fit, with their widths: the sort column, then the columns with the lowest ranks.

    Columns with names get the remaining room, up to their greatest width.
    """
    by_rank = sorted(state.columns, key=lambda c: (c.key != state.sort, c.rank))
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
    return [(c, widths[c.key]) for c in state.columns if c.key in widths]


def _heading(columns: Sequence[tuple[Column, int]], sort: str) -> str:
    """Return the line of headers. The brackets around the sort column may be in the gaps between columns."""
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
    drawn = [drawable(name) for name in lines.names]
    groups = unique_names(drawn, drawn, [role is not Role.ITEM for role in lines.roles])
    words: dict[str, Callable[[], Iterable[object]]] = {
        "pid": lambda: lines.identity["tgid"].tolist(),
        "user": lambda: (users.get(uid, uid) for uid in lines.identity["uid"].tolist()),
        "group": lambda: (groups[group] for group in lines.group.tolist()),
        "command": lambda: map(_text, lines.identity["comm"].tolist()),
        "count": lambda: lines.count.tolist(),
    }
    cells: list[list[str]] = []
    for column, width in columns:
        if column.is_rate:
            shown = [_number(amount / elapsed_s, column) for amount in lines.amount(column.key).tolist()]
        else:
            shown = [drawable(str(word)) for word in words[column.key]()]
        cells.append([pad(word, width, right=not column.is_name) for word in shown])
    yield from map(" ".join, zip(*cells, strict=True))


def _number(rate: float, column: Column) -> str:
    return pad(format_rate(rate, column.width, 3 if column.is_bytes else column.width), column.width, right=True)


def _foot(state: State, width: int) -> str:
    if state.editing:
        # Show the end of the filter, where the user types.
        room = max(width - len("filter: _"), 1)
        return f"filter: {state.filter[-room:]}_"
    return next(_wrapped(_KEYS, "  ", width))


def _help(state: State, width: int) -> Iterator[str]:
    letters = [f"{column.letter} {column.header}" for column in state.columns if column.letter]
    for line in _HELP:
        yield line
        if words := {"capitals": letters, "b": list(state.groupings)}.get(line.partition(" ")[0]):
            indent = " " * 15
            for part in _wrapped(words, ", ", max(width - len(indent), 8)):
                yield indent + part


def _text(comm: bytes) -> str:
    return comm.decode(errors="replace")
