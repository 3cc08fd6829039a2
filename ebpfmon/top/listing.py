"""Merge the rows of all tables by process into lines: one for each process, or one for each group. Pure.

There may be many rows, so nothing loops over them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
from numpy.typing import NDArray

from ebpfmon.model import Role, RowGroups, Rows, Snapshot, TableView
from ebpfmon.pipeline.aggregate import Aggregator, Groups, key_columns
from ebpfmon.top.columns import Column, rates
from ebpfmon.top.state import State

NOBODY = "-"
"""What stands for the group of a process if nothing is grouped by the chosen grouping."""
OTHER = "other"
"""What stands for the group of a process that belongs to none."""
_WHO = np.dtype(
    [("tgid", "u4"), ("start_ns", "u8"), ("exec_id", "u4"), ("parent_tgid", "u4"), ("uid", "u4"), ("comm", "S16")]
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Counters:
    """The counters that declared columns name, each of one table.

    `names` has (table, counter); `columns` says which of them each column sums, by the column's key.
    """

    names: tuple[tuple[str, str], ...]
    columns: Mapping[str, list[int]]

    @classmethod
    def declared(cls, tables: Mapping[str, TableView]) -> Self:
        """Return the counters that the columns of these tables name."""
        names: dict[tuple[str, str], int] = {}
        columns: dict[str, list[int]] = {}
        for table, view in tables.items():
            for column in view.columns:
                of_column = columns.setdefault(column.id, [])
                of_column += [names.setdefault((table, name), len(names)) for name in column.fields]
        return cls(names=tuple(names), columns=columns)


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """Lines, as arrays.

    `who` (lines,) has the fields tgid, start_ns, exec_id, parent_tgid, uid and comm, zeros where a line is a group.
    Line n belongs to the group `names[group[n]]`, whose role is `roles[group[n]]`, and stands for `count[n]`
    processes. `amounts`, i64 (lines, counters), are the interval's.
    """

    who: Rows
    group: NDArray[np.intp]
    count: NDArray[np.int64]
    names: tuple[str, ...]
    roles: tuple[Role, ...]
    counters: Counters
    amounts: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.group)

    def amount(self, *keys: str) -> NDArray[np.int64]:
        """Return the sum of these columns by line, (lines,)."""
        counters = [counter for key in keys for counter in self.counters.columns[key]]
        total: NDArray[np.int64] = self.amounts[:, counters].sum(axis=1, dtype=np.int64)
        return total

    def take(self, lines: NDArray[np.intp] | slice) -> Self:
        """Return these lines, in this order."""
        return replace(
            self, who=self.who[lines], group=self.group[lines], count=self.count[lines], amounts=self.amounts[lines]
        )


def by_process(snapshot: Snapshot) -> dict[str, TableView]:
    """Return the tables whose rows are processes, those with the most important columns first.

    They count everything that tables with other keys count as well.
    """
    found = [(name, view) for name, view in snapshot.tables.items() if view.harvest.is_by_process]
    return dict(sorted(found, key=lambda item: min((column.rank for column in item[1].columns), default=math.inf)))


def rates_of(snapshot: Snapshot) -> tuple[Column, ...]:
    """Return the rates that can be shown of each process."""
    return rates(column for view in by_process(snapshot).values() for column in view.columns)


def listing(snapshot: Snapshot, state: State) -> Listing:
    """Return all lines, in no particular order.

    The rows of one process are one line, also those of several tables and those before and after an execve(2); the
    last one says how the process is called.
    """
    rows = _gather(snapshot, state.by)
    key = key_columns(rows.who, ("tgid", "start_ns"))
    if state.mode == "processes":
        return _summed(rows, Aggregator(2).group(key))
    of_group = np.column_stack((rows.group.astype(np.uint64), key))
    lines = _summed(rows, Aggregator(3).group(of_group))  # one for each process in each group
    groups = Aggregator(1).group(lines.group.astype(np.uint64)[:, np.newaxis])
    processes = groups.sums(lines.count[:, np.newaxis])[:, 0]
    return replace(_summed(lines, groups), who=np.zeros(len(groups), _WHO), count=processes)


def chosen(lines: Listing, state: State, users: Mapping[int, str]) -> Listing:
    """Return the lines that the filter lets through, as the resolved state sorts them.

    Lines that are equal in the sort column are sorted by their calls. `users` is what is shown for a uid.
    """
    if state.filter:
        lines = lines.take(np.flatnonzero(_matches(lines, state.filter)))
    calls = lines.amount(*(column.key for column in state.rates if column.units == "calls/s")).astype(np.uint64)
    key = _sort_key(lines, state.sort_column, users)
    return lines.take(np.lexsort((lines.group, lines.who["tgid"], ~calls, ~key if state.descending else key)))


def _gather(snapshot: Snapshot, by: str) -> Listing:
    """Return the rows of all tables by process as lines, the last execve(2) of each process last."""
    tables = by_process(snapshot)
    counters = Counters.declared(tables)
    size = sum(len(view.harvest.rows) for view in tables.values())
    who, group = np.zeros(size, _WHO), np.zeros(size, np.intp)
    amounts = np.zeros((size, len(counters.names)), np.int64)
    places = {(Role.OTHER, NOBODY): 0}
    end = 0
    for table, view in tables.items():
        rows = view.harvest.rows
        part = slice(end, end := end + len(rows))
        for name in _WHO.names or ():
            who[name][part] = rows[name]
        for n, (of_table, name) in enumerate(counters.names):
            if of_table == table:
                amounts[part, n] = rows[name]
        if by in view.groups:
            group[part] = _places(view.groups[by], places)
    lines = Listing(
        who=who, group=group, count=np.ones(size, np.int64), names=tuple(name for _, name in places),
        roles=tuple(role for role, _ in places), counters=counters, amounts=amounts,
    )  # fmt: skip
    return lines.take(np.argsort(who["exec_id"], kind="stable"))


def _places(groups: RowGroups, places: dict[tuple[Role, str], int]) -> NDArray[np.intp]:
    """Return the place of each row's group, (rows,), among all groups by role and name; new groups are added there."""
    ids, of_rows = np.unique(groups.ids, return_inverse=True)
    found = np.empty(len(ids), np.intp)
    for n, id_ in enumerate(ids.tolist()):
        group = (Role.OTHER, OTHER) if id_ == RowGroups.OTHER else (Role.ITEM, groups.names[id_])
        found[n] = places.setdefault(group, len(places))
    return found[of_rows]


def _summed(lines: Listing, groups: Groups) -> Listing:
    """Return one line for each group of lines: their sum, called as the last of them, for one process."""
    last = lines.take(groups.last)
    return replace(last, amounts=groups.sums(lines.amounts))


def _matches(lines: Listing, text: str) -> NDArray[np.bool_]:
    """Return which lines have the text in their command or group, or are the process of that PID."""
    text = text.lower()
    of_names = np.array([text in name.lower() for name in lines.names], bool)
    commands = np.char.lower(lines.who["comm"])  # bytes: only ASCII letters become lower case
    matches: NDArray[np.bool_] = of_names[lines.group] | (np.char.find(commands, text.encode(errors="replace")) >= 0)
    if text.isascii() and text.isdigit():
        matches |= lines.who["tgid"].astype(np.uint64) == min(int(text), 1 << 63)
    return matches


def _sort_key(lines: Listing, column: Column, users: Mapping[int, str]) -> NDArray[np.uint64]:
    """Return a number for each line, (lines,), by which the column sorts."""
    if column.is_rate:
        return lines.amount(column.key).astype(np.uint64)
    match column.key:
        case "pid":
            key = lines.who["tgid"]
        case "count":
            key = lines.count
        case "user":
            uids, of_lines = np.unique(lines.who["uid"], return_inverse=True)
            key = _ranks([(uid not in users, users.get(uid, "").lower(), uid) for uid in uids.tolist()])[of_lines]
        case "command":
            key = np.unique(np.char.lower(lines.who["comm"]), return_inverse=True)[1]
        case _:
            key = _ranks([(name.lower(), name) for name in lines.names])[lines.group]
    found: NDArray[np.uint64] = key.astype(np.uint64)
    return found


def _ranks(words: Sequence[tuple[bool, str, int]] | Sequence[tuple[str, str]]) -> NDArray[np.int64]:
    """Return the place of each of these when all are in order, (words,)."""
    ranks = np.empty(len(words), np.int64)
    ranks[sorted(range(len(words)), key=words.__getitem__)] = np.arange(len(words))
    return ranks
