"""Merge the rows of all per-process tables into lines, one for each process or group. Pure.

There may be many rows, so no Python loop runs over them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
from numpy.typing import NDArray

from ebpfmon.model import Role, RowGroups, Rows, Snapshot, TableView
from ebpfmon.pipeline.aggregate import Aggregator, GroupedRows, key_columns
from ebpfmon.top.columns import Column, rates
from ebpfmon.top.state import State

NO_GROUPING = "-"
"""The group of a process if its table does not have the chosen grouping."""
OTHER = "other"
"""The group of a process that belongs to no group."""
_IDENTITY = np.dtype(
    [("tgid", "u4"), ("start_ns", "u8"), ("exec_id", "u4"), ("parent_tgid", "u4"), ("uid", "u4"), ("comm", "S16")]
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Counters:
    """The counters that columns are made of. A column is the sum of one or more counters.

    `names` has a pair of table and counter for each. `columns` maps the key of a column to the indices of its counters.
    """

    names: tuple[tuple[str, str], ...]
    columns: Mapping[str, list[int]]

    @classmethod
    def declared(cls, tables: Mapping[str, TableView]) -> Self:
        """Return the counters that the columns of these tables are made of."""
        names: dict[tuple[str, str], int] = {}
        columns: dict[str, list[int]] = {}
        for table, view in tables.items():
            for column in view.columns:
                of_column = columns.setdefault(column.id, [])
                of_column += [names.setdefault((table, name), len(names)) for name in column.fields]
        return cls(names=tuple(names), columns=columns)


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """The lines of the table, as arrays.

    `identity` (lines,) has the fields tgid, start_ns, exec_id, parent_tgid, uid and comm. They are 0 in a line for a
    group. Line n belongs to the group `names[group[n]]`, whose role is `roles[group[n]]`, and has `count[n]` processes.
    `amounts`, i64 (lines, counters), has what each counter counted in the interval.
    """

    identity: Rows
    group: NDArray[np.intp]
    count: NDArray[np.int64]
    names: tuple[str, ...]
    roles: tuple[Role, ...]
    counters: Counters
    amounts: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.group)

    def amount(self, *keys: str) -> NDArray[np.int64]:
        """Return the sum of these columns for each line, (lines,)."""
        counters = [counter for key in keys for counter in self.counters.columns[key]]
        total: NDArray[np.int64] = self.amounts[:, counters].sum(axis=1, dtype=np.int64)
        return total

    def take(self, lines: NDArray[np.intp] | slice) -> Self:
        """Return these lines, in this order."""
        return replace(
            self,
            identity=self.identity[lines],
            group=self.group[lines],
            count=self.count[lines],
            amounts=self.amounts[lines],
        )


def by_process(snapshot: Snapshot) -> dict[str, TableView]:
    """Return the tables whose rows are processes, those with the most important columns first.

    Tables with other keys, such as destinations, are left out, because per-process tables include what they count.
    """
    tables = [(name, view) for name, view in snapshot.tables.items() if view.harvest.is_by_process]
    return dict(sorted(tables, key=lambda item: min((column.rank for column in item[1].columns), default=math.inf)))


def rates_of(snapshot: Snapshot) -> tuple[Column, ...]:
    """Return the rates that can be shown for each process."""
    return rates(column for view in by_process(snapshot).values() for column in view.columns)


def listing(snapshot: Snapshot, state: State) -> Listing:
    """Return all lines, in no particular order.

    All rows of a process are merged into one line: those of several tables, and those before and after an execve(2) or
    a change of its user or its name. The line has the identity of a row after the last execve(2).
    """
    rows = _collect_rows(snapshot, state.by)
    key = key_columns(rows.identity, ("tgid", "start_ns"))
    if state.mode == "processes":
        return _summed(rows, Aggregator(2).group(key))
    group_key = np.column_stack((rows.group.astype(np.uint64), key))
    lines = _summed(rows, Aggregator(3).group(group_key))  # one for each process in each group
    groups = Aggregator(1).group(lines.group.astype(np.uint64)[:, np.newaxis])
    processes = groups.sums(lines.count[:, np.newaxis])[:, 0]
    return replace(_summed(lines, groups), identity=np.zeros(len(groups), _IDENTITY), count=processes)


def select(lines: Listing, state: State, users: Mapping[int, str]) -> Listing:
    """Return the lines that match the filter, sorted as the resolved state says.

    Lines that are equal in the sort column are sorted by their calls. `users` maps uids to names.
    """
    if state.filter:
        lines = lines.take(np.flatnonzero(_matches(lines, state.filter)))
    calls = lines.amount(*(column.key for column in state.rates if column.units == "calls/s")).astype(np.uint64)
    key = _sort_key(lines, state.sort_column, users)
    return lines.take(np.lexsort((lines.group, lines.identity["tgid"], ~calls, ~key if state.descending else key)))


def _collect_rows(snapshot: Snapshot, by: str) -> Listing:
    """Return the rows of all per-process tables as lines. The rows after a process's last execve(2) come last."""
    tables = by_process(snapshot)
    counters = Counters.declared(tables)
    size = sum(len(view.harvest.rows) for view in tables.values())
    identity, group = np.zeros(size, _IDENTITY), np.zeros(size, np.intp)
    amounts = np.zeros((size, len(counters.names)), np.int64)
    index_of = {(Role.OTHER, NO_GROUPING): 0, (Role.OTHER, OTHER): 1}
    end = 0
    for table, view in tables.items():
        rows = view.harvest.rows
        part = slice(end, end := end + len(rows))
        for name in _IDENTITY.names or ():
            identity[name][part] = rows[name]
        for n, (of_table, name) in enumerate(counters.names):
            if of_table == table:
                amounts[part, n] = rows[name]
        if by in view.groups:
            group[part] = _group_indices(view.groups[by], index_of)
    lines = Listing(
        identity=identity, group=group, count=np.ones(size, np.int64), names=tuple(name for _, name in index_of),
        roles=tuple(role for role, _ in index_of), counters=counters, amounts=amounts,
    )  # fmt: skip
    return lines.take(np.argsort(identity["exec_id"], kind="stable"))


def _group_indices(groups: RowGroups, index_of: dict[tuple[Role, str], int]) -> NDArray[np.intp]:
    """Return the index of each row's group, (rows,). New groups are added to `index_of`, by role and name."""
    ids, of_rows = np.unique(groups.ids, return_inverse=True)
    indices = np.empty(len(ids), np.intp)
    for n, id_ in enumerate(ids.tolist()):
        group = (Role.OTHER, OTHER) if id_ == RowGroups.OTHER else (Role.ITEM, groups.names[id_])
        indices[n] = index_of.setdefault(group, len(index_of))
    return indices[of_rows]


def _summed(lines: Listing, groups: GroupedRows) -> Listing:
    """Return one line for each group of lines: their sum, with the identity of the last line."""
    last = lines.take(groups.last)
    return replace(last, amounts=groups.sums(lines.amounts))


def _matches(lines: Listing, text: str) -> NDArray[np.bool_]:
    """Return which lines match a filter: the command or group contains the text, or the text is the PID."""
    text = text.lower()
    in_names = np.array([text in name.lower() for name in lines.names], bool)
    commands = np.char.lower(lines.identity["comm"])  # bytes, so only ASCII letters become lower case
    matches: NDArray[np.bool_] = in_names[lines.group] | (np.char.find(commands, text.encode(errors="replace")) >= 0)
    if text.isascii() and text.isdigit():
        matches |= lines.identity["tgid"].astype(np.uint64) == min(int(text), 1 << 63)
    return matches


def _sort_key(lines: Listing, column: Column, users: Mapping[int, str]) -> NDArray[np.uint64]:
    """Return a number for each line, (lines,), in the order of the column."""
    if column.is_rate:
        return lines.amount(column.key).astype(np.uint64)
    match column.key:
        case "pid":
            key = lines.identity["tgid"]
        case "count":
            key = lines.count
        case "user":
            uids, of_lines = np.unique(lines.identity["uid"], return_inverse=True)
            key = _ranks([(uid not in users, users.get(uid, "").lower(), uid) for uid in uids.tolist()])[of_lines]
        case "command":
            key = np.unique(np.char.lower(lines.identity["comm"]), return_inverse=True)[1]
        case _:
            key = _ranks([(name.lower(), name) for name in lines.names])[lines.group]
    unsigned: NDArray[np.uint64] = key.astype(np.uint64)
    return unsigned


def _ranks(words: Sequence[tuple[bool, str, int]] | Sequence[tuple[str, str]]) -> NDArray[np.int64]:
    """Return the rank of each element in sorted order, (words,)."""
    ranks = np.empty(len(words), np.int64)
    ranks[sorted(range(len(words)), key=words.__getitem__)] = np.arange(len(words))
    return ranks
