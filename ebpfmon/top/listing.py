"""The rows of all tables by process as lines: one for each process, or one for each group. Pure, and vectorised: rows
are many."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Self

import numpy as np

from ebpfmon.model.everything import Owners, Snapshot, TableHarvest
from ebpfmon.top.state import Column, Mode, State

NOBODY = "-"
"""The group of what has no owner."""
_WHO = np.dtype(
    [("tgid", "u4"), ("start_ns", "u8"), ("exec_id", "u4"), ("parent_tgid", "u4"), ("uid", "u4"), ("comm", "S16")]
)


@dataclass(frozen=True, slots=True)
class Listing:
    """Lines, as arrays of one length. `who` has the fields tgid, start_ns, exec_id, parent_tgid, uid and comm (zeros
    where a line is a group); line n belongs to `names[group[n]]` and stands for `count[n]` processes; `amounts` are
    the interval's counters (u64) by name."""

    who: np.ndarray
    group: np.ndarray
    count: np.ndarray
    names: tuple[str, ...]
    amounts: Mapping[str, np.ndarray]

    def __len__(self) -> int:
        return len(self.group)

    def amount(self, column: Column) -> np.ndarray:
        """What a column of rates shows of each line, as the interval's amount (u64)."""
        return self.total(column.counters(self.amounts))

    def total(self, names: Collection[str]) -> np.ndarray:
        """The sum of these counters by line (u64)."""
        total = np.zeros(len(self), np.uint64)
        for name in names:
            total += self.amounts[name]
        return total

    def take(self, lines: np.ndarray | slice) -> Self:
        """These lines, in this order."""
        amounts = {n: a[lines] for n, a in self.amounts.items()}
        return replace(self, who=self.who[lines], group=self.group[lines], count=self.count[lines], amounts=amounts)


def by_process(snapshot: Snapshot) -> dict[str, TableHarvest]:
    """The tables whose rows are of processes. What others count by keys of their own, these count as well."""
    return {stem: table for stem, table in snapshot.tables.items() if table.is_by_process}


def counters(tables: Collection[TableHarvest], errors: bool) -> list[str]:
    """The names of all that was counted; without `errors`, what failed is left out."""
    names = dict.fromkeys(n for t in tables for n in t.totals)
    return [n for n in names if errors or not n.endswith(("_errors", "_failed"))]


def listing(snapshot: Snapshot, mode: Mode, errors: bool) -> Listing:
    """All lines, in no order that matters. Rows of one process are one line: those of several tables, and those before
    and after an execve(2), of which the last says how the process is called."""
    rows = _gather(snapshot, errors)
    who = rows.who
    rows = rows.take(np.lexsort((who["exec_id"], who["start_ns"], who["tgid"])))
    first = _changes(rows.who["tgid"]) | _changes(rows.who["start_ns"])
    starts = np.flatnonzero(first)
    if mode == "processes":
        return _summed(replace(rows, count=first.astype(np.int64)), starts)
    process = np.cumsum(first) - 1
    order = np.lexsort((process, rows.group))
    rows, first = rows.take(order), _changes(rows.group[order])
    count = first | _changes(process[order])
    return _summed(replace(rows, who=np.zeros(len(rows), _WHO), count=count.astype(np.int64)), np.flatnonzero(first))


def chosen(lines: Listing, state: State, users: Mapping[int, str]) -> Listing:
    """The lines that the filter lets through, as the state sorts them; where that makes no difference, those with most
    calls come first. `users`: what is shown for a uid."""
    if state.filter:
        lines = lines.take(np.flatnonzero(_matches(lines, state.filter)))
    calls = lines.total([n for n in lines.amounts if n.endswith("_calls")])
    key = _sort_key(lines, state, users)
    return lines.take(np.lexsort((lines.group, lines.who["tgid"], ~calls, ~key if state.descending else key)))


def _gather(snapshot: Snapshot, errors: bool) -> Listing:
    """The rows of all tables by process, one after the other."""
    tables = by_process(snapshot)
    size = sum(len(t.rows) for t in tables.values())
    who, group = np.zeros(size, _WHO), np.zeros(size, np.int64)
    amounts = {n: np.zeros(size, np.uint64) for n in counters(tables.values(), errors)}
    wanted = {n: who[n] for n in _WHO.names or ()} | amounts
    names, end = {NOBODY: 0}, 0
    for stem, table in tables.items():
        part = slice(end, end + len(table.rows))
        end = part.stop
        for name in wanted.keys() & {*(table.rows.dtype.names or ())}:
            wanted[name][part] = table.rows[name]
        if stem in snapshot.owners:
            group[part] = _groups(snapshot.owners[stem], names)
    return Listing(who, group, np.ones(size, np.int64), tuple(names), amounts)


def _groups(owners: Owners, names: dict[str, int]) -> np.ndarray:
    """The group of each row, by its place in `names`, which grows."""
    used, of_rows = np.unique(owners.of_rows, return_inverse=True)
    ids = [names.setdefault(owners.groups[group], len(names)) for group in used.tolist()]
    return np.array(ids, np.int64)[of_rows]


def _changes(values: np.ndarray) -> np.ndarray:
    """Where something else begins."""
    changes = np.ones(len(values), bool)
    changes[1:] = values[1:] != values[:-1]
    return changes


def _lasts(starts: np.ndarray, size: int) -> np.ndarray:
    return np.append(starts[1:], size)[: len(starts)] - 1


def _summed(rows: Listing, starts: np.ndarray) -> Listing:
    """The rows from each start to the next as one line, which is called as the last of them."""
    lasts = _lasts(starts, len(rows))
    amounts = {n: np.add.reduceat(a, starts) for n, a in rows.amounts.items()}
    return Listing(rows.who[lasts], rows.group[lasts], np.add.reduceat(rows.count, starts), rows.names, amounts)


def _matches(lines: Listing, text: str) -> np.ndarray:
    """Which lines have the text in their command or group, or are the process of that PID."""
    text = text.lower()
    of_names = np.array([text in name.lower() for name in lines.names], bool)
    commands = np.char.lower(lines.who["comm"])  # bytes: of ASCII letters alone
    matches: np.ndarray = of_names[lines.group] | (np.char.find(commands, text.encode(errors="replace")) >= 0)
    if text.isascii() and text.isdigit():
        matches |= lines.who["tgid"].astype(np.uint64) == min(int(text), 1 << 63)
    return matches


def _sort_key(lines: Listing, state: State, users: Mapping[int, str]) -> np.ndarray:
    """A number (u64) for each line, by which the sort column sorts."""
    column = next((c for c in state.choice if c.key == state.sort), None)
    if column and column.is_rate:
        return lines.amount(column)
    match state.sort:
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
    return key.astype(np.uint64)


def _ranks(words: list[tuple[bool, str, int]] | list[tuple[str, str]]) -> np.ndarray:
    """The place of each when all are in order."""
    ranks = np.empty(len(words), np.int64)
    ranks[sorted(range(len(words)), key=words.__getitem__)] = np.arange(len(words))
    return ranks
