"""List the busiest processes and connections: rows of a snapshot's tables, with the columns that probes declare.

Pure. A snapshot may have many rows, so nothing loops over those that are not listed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ebpfmon import PROCESS_FIELDS, Aggregator, Column, Snapshot, TableView, printable
from ebpfmon_sinks.http_json.answers import (
    ColumnJson,
    ConnectionJson,
    ConnectionsJson,
    ProcessesJson,
    ProcessJson,
)
from ebpfmon_sinks.http_json.query import QueryError, shown

SUMS = ("calls", "bytes")
"""What rows can be sorted by besides columns: the sum of all columns in these units."""
_PROCESS_KEY = PROCESS_FIELDS[:3]
"""How a key begins that has the process in it."""


@dataclass(frozen=True, slots=True)
class _Rows:
    """The rows of several tables, one table after the other.

    Table n has the rows from `starts[n]` to `starts[n + 1]`. `amounts` are i64 (rows,) by the id of the column.
    """

    views: tuple[TableView, ...]
    names: tuple[str, ...]
    starts: NDArray[np.intp]
    columns: Mapping[str, Column]
    amounts: Mapping[str, NDArray[np.int64]]

    @classmethod
    def of(cls, tables: Mapping[str, TableView]) -> _Rows:
        """Read the columns of the tables. Those of one id are one column."""
        views = tuple(tables.values())
        starts = np.cumsum([0, *(len(view.harvest.rows) for view in views)])
        columns = {c.id: c for view in views for c in view.columns if not c.summary}
        amounts = {id_: np.zeros(starts[-1], np.int64) for id_ in columns}
        for view, start in zip(views, starts.tolist(), strict=False):
            rows = view.harvest.rows
            for column in view.columns:
                for field in set(column.fields) & view.harvest.totals.keys() if column.id in columns else ():
                    amounts[column.id][start : start + len(rows)] += rows[field].astype(np.int64)
        return cls(views, tuple(tables), starts, columns, amounts)

    def __len__(self) -> int:
        return int(self.starts[-1])

    def field(self, name: str) -> NDArray[Any]:
        """Return a field that the rows of all tables have, (rows,)."""
        parts = [view.harvest.rows[name] for view in self.views]
        return np.concatenate(parts) if parts else np.zeros(0, np.uint64)

    def in_group(self, grouping: str, group: str) -> NDArray[np.bool_]:
        """Return which rows belong to a group, (rows,)."""
        found = np.zeros(len(self), bool)
        for view, start in zip(self.views, self.starts.tolist(), strict=False):
            if groups := view.groups.get(grouping):
                ids = [id_ for id_, name in groups.names.items() if name == group]
                found[start : start + len(groups.ids)] = np.isin(groups.ids, np.array(ids, np.uint64))
        return found

    def place(self, row: int) -> tuple[int, int]:
        """Return the number of a row's table, and that of the row in it."""
        table = int(np.searchsorted(self.starts, row, side="right")) - 1
        return table, row - int(self.starts[table])

    def sort_key(self, amounts: Mapping[str, NDArray[np.int64]], sort: str, size: int) -> NDArray[np.int64]:
        """Return the number that rows with these amounts are sorted by, (size,). Raises QueryError."""
        if sort in SUMS:
            summed = [amounts[id_] for id_, column in self.columns.items() if column.units == f"{sort}/s"]
            return np.sum(summed, axis=0, dtype=np.int64) if summed else np.zeros(size, np.int64)
        if sort not in self.columns:
            raise QueryError(f"sort: no column '{shown(sort)}': expected one of {', '.join((*SUMS, *self.columns))}")
        return amounts[sort]


@dataclass(frozen=True, slots=True)
class _Processes:
    """All processes of a snapshot. `last` is the row, (processes,), of the program that each executed last; `amounts`
    are i64 (processes,) by column."""

    rows: _Rows
    last: NDArray[np.intp]
    amounts: Mapping[str, NDArray[np.int64]]


def processes_to_json(snapshot: Snapshot, sort: str, top: int, group: str, by: str) -> ProcessesJson:
    """Return the processes that did most, those of one group if `group` is not empty. Raises QueryError."""
    found = _processes(snapshot)
    rows = found.rows
    key = rows.sort_key(found.amounts, sort, len(found.last))
    candidates = np.arange(len(found.last))
    grouping = _grouping(snapshot, by)
    if group:
        candidates = np.flatnonzero(rows.in_group(grouping, group)[found.last])
    tgids = rows.field("tgid")[found.last] if len(rows) else np.zeros(0, np.uint32)
    busiest = candidates[np.lexsort((tgids[candidates], -key[candidates]))[:top]]
    amounts = _amounts({id_: a[busiest] for id_, a in found.amounts.items()}, snapshot.elapsed_s)
    return ProcessesJson(
        **_head(snapshot, rows, len(candidates)),
        processes=[
            ProcessJson(**_identity(rows, n), groups=_groups(rows, n), **amount)
            for n, amount in zip(found.last[busiest].tolist(), amounts, strict=True)
        ],
    )


def connections_to_json(snapshot: Snapshot, sort: str, top: int) -> ConnectionsJson:
    """Return the busiest connections: rows of tables whose keys are a process and more. Raises QueryError."""
    rows = _Rows.of({name: view for name, view in snapshot.tables.items() if _is_by_process_and_more(view)})
    busiest = np.argsort(-rows.sort_key(rows.amounts, sort, len(rows)), kind="stable")[:top].tolist()
    amounts = _amounts({id_: a[busiest] for id_, a in rows.amounts.items()}, snapshot.elapsed_s)
    known = _names(_processes(snapshot), {_process(rows, n) for n in busiest})
    unknown: dict[str, Any] = {"comm": None, "groups": {}}
    found = []
    for n, amount in zip(busiest, amounts, strict=True):
        table, row = rows.place(n)
        view = rows.views[table]
        of_row = view.harvest.rows[row : row + 1]
        assert view.labels
        (values,) = view.labels.values(of_row)
        found.append(
            ConnectionJson(
                table=rows.names[table], tgid=int(of_row["tgid"][0]), start_ns=int(of_row["start_ns"][0]),
                exec_id=int(of_row["exec_id"][0]),
                **known.get(_process(rows, n), unknown), labels=dict(zip(view.labels.labels, values, strict=True)),
                **amount,
            )
        )  # fmt: skip
    return ConnectionsJson(**_head(snapshot, rows, len(rows)), connections=found)


def _processes(snapshot: Snapshot) -> _Processes:
    """Sum the rows of each process: those of several tables, and those before and after an execve(2)."""
    rows = _Rows.of({name: view for name, view in snapshot.tables.items() if view.harvest.is_by_process})
    if not len(rows):
        return _Processes(rows, np.zeros(0, np.intp), rows.amounts)
    order = np.argsort(rows.field("exec_id"), kind="stable")  # the last row of a group is then of its last program
    keys = np.stack([rows.field("tgid").astype(np.uint64), rows.field("start_ns")], axis=1)[order]
    groups = Aggregator(2).group(keys)
    amounts = {id_: groups.sums(a[order, np.newaxis])[:, 0] for id_, a in rows.amounts.items()}
    return _Processes(rows, order[groups.last], amounts)


def _is_by_process_and_more(view: TableView) -> bool:
    fields = view.harvest.rows.dtype.names or ()
    return bool(view.labels) and {*fields} >= {*_PROCESS_KEY}


def _grouping(snapshot: Snapshot, by: str) -> str:
    """Return the grouping of that name, the first one if it is empty. Raises QueryError."""
    groupings = list(dict.fromkeys(name for view in snapshot.tables.values() for name in view.groups))
    if by and by not in groupings:
        expected = f"expected one of {', '.join(groupings)}" if groupings else "groups are turned off"
        raise QueryError(f"by: no grouping '{shown(by)}': {expected}")
    return by or next(iter(groupings), "")


def _head(snapshot: Snapshot, rows: _Rows, found: int) -> dict[str, Any]:
    """Return what every list of rows has."""
    return {
        "host": snapshot.host,
        "time": round(snapshot.time_s, 3),
        "elapsed_s": round(snapshot.elapsed_s, 4),
        "complete": snapshot.complete,
        "found": found,
        "overflow_calls": sum(view.harvest.overflow_calls for view in rows.views),
        "columns": [ColumnJson(id=c.id, name=c.name or c.id, units=c.units) for c in rows.columns.values()],
    }


def _amounts(amounts: Mapping[str, NDArray[np.int64]], elapsed_s: float) -> Iterator[dict[str, Any]]:
    """Yield what each row did, and the rates. What it did not do is left out, because that is most."""
    for numbers in zip(*(a.tolist() for a in amounts.values()), strict=True):
        did = {id_: number for id_, number in zip(amounts, numbers, strict=True) if number}
        yield {"amounts": did, "rates": {id_: round(number / elapsed_s, 2) for id_, number in did.items()}}


def _identity(rows: _Rows, n: int) -> dict[str, Any]:
    """Return the fields of a row that say which process it is."""
    table, row = rows.place(n)
    of_row = rows.views[table].harvest.rows[row]
    identity = {name: of_row[name].item() for name in PROCESS_FIELDS}
    return {**identity, "comm": printable(identity["comm"].decode(errors="replace"))}


def _groups(rows: _Rows, n: int) -> dict[str, str | None]:
    table, row = rows.place(n)
    return {grouping: groups.name(row) for grouping, groups in rows.views[table].groups.items()}


def _process(rows: _Rows, n: int) -> tuple[int, int]:
    """Return tgid and start_ns of a row's process."""
    table, row = rows.place(n)
    of_row = rows.views[table].harvest.rows[row]
    return int(of_row["tgid"]), int(of_row["start_ns"])


def _names(found: _Processes, wanted: Iterable[tuple[int, int]]) -> dict[tuple[int, int], dict[str, Any]]:
    """Return command and groups of those processes that are in a table by process, by tgid and start_ns."""
    rows, wanted = found.rows, set(wanted)
    if not len(rows):
        return {}
    tgids = np.array([tgid for tgid, _ in wanted], np.uint32)
    candidates = found.last[np.isin(rows.field("tgid")[found.last], tgids)].tolist()
    return {
        process: {"comm": _identity(rows, n)["comm"], "groups": _groups(rows, n)}
        for n in candidates
        if (process := _process(rows, n)) in wanted
    }
