"""List the busiest processes and connections of a snapshot, with the columns that probes declare. Pure.

A snapshot may have many rows, so no Python loop runs over rows that are not listed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ebpfmon import PROCESS_FIELDS, Aggregator, Column, Snapshot, TableView, printable
from ebpfmon_sinks.http_json.query import QueryError, excerpt
from ebpfmon_sinks.http_json.responses import (
    ColumnJson,
    ConnectionJson,
    ConnectionsJson,
    ProcessesJson,
    ProcessJson,
)

SUMS = ("calls", "bytes")
"""Other sort keys than columns: the sum of all columns in calls/s or bytes/s."""
_PROCESS_KEY = PROCESS_FIELDS[:3]
"""The first fields of a key that includes the process."""


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
        """Read the columns of the tables. Columns with the same id are merged."""
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
        belongs = np.zeros(len(self), bool)
        for view, start in zip(self.views, self.starts.tolist(), strict=False):
            if groups := view.groups.get(grouping):
                ids = [id_ for id_, name in groups.names.items() if name == group]
                belongs[start : start + len(groups.ids)] = np.isin(groups.ids, np.array(ids, np.uint64))
        return belongs

    def place(self, row: int) -> tuple[int, int]:
        """Return the index of a row's table, and the index of the row within that table."""
        table = int(np.searchsorted(self.starts, row, side="right")) - 1
        return table, row - int(self.starts[table])

    def sort_key(self, amounts: Mapping[str, NDArray[np.int64]], sort: str, size: int) -> NDArray[np.int64]:
        """Return the sort key of each row, (size,), from the amounts of the rows. Raises QueryError."""
        if sort in SUMS:
            summed = [amounts[id_] for id_, column in self.columns.items() if column.units == f"{sort}/s"]
            return np.sum(summed, axis=0, dtype=np.int64) if summed else np.zeros(size, np.int64)
        if sort not in self.columns:
            raise QueryError(f"sort: no column '{excerpt(sort)}': expected one of {', '.join((*SUMS, *self.columns))}")
        return amounts[sort]


@dataclass(frozen=True, slots=True)
class _Processes:
    """All processes of a snapshot.

    `last` (processes,) is the row of the program that each process executed last. `amounts` are i64 (processes,), by
    column.
    """

    rows: _Rows
    last: NDArray[np.intp]
    amounts: Mapping[str, NDArray[np.int64]]


def processes_to_json(snapshot: Snapshot, sort: str, top: int, group: str, by: str) -> ProcessesJson:
    """Return the busiest processes, or those of one group if `group` is not empty. Raises QueryError."""
    processes = _processes(snapshot)
    rows = processes.rows
    key = rows.sort_key(processes.amounts, sort, len(processes.last))
    candidates = np.arange(len(processes.last))
    grouping = _grouping(snapshot, by)
    if group:
        candidates = np.flatnonzero(rows.in_group(grouping, group)[processes.last])
    tgids = rows.field("tgid")[processes.last] if len(rows) else np.zeros(0, np.uint32)
    busiest = candidates[np.lexsort((tgids[candidates], -key[candidates]))[:top]]
    amounts = _amounts({id_: a[busiest] for id_, a in processes.amounts.items()}, len(busiest), snapshot.elapsed_s)
    return ProcessesJson(
        **_head(snapshot, rows, len(candidates)),
        processes=[
            ProcessJson(**_identity(rows, n), groups=_groups(rows, n), **amount)
            for n, amount in zip(processes.last[busiest].tolist(), amounts, strict=True)
        ],
    )


def connections_to_json(snapshot: Snapshot, sort: str, top: int) -> ConnectionsJson:
    """Return the busiest connections: rows of tables whose key has more than the process. Raises QueryError."""
    rows = _Rows.of({name: view for name, view in snapshot.tables.items() if _is_by_process_and_more(view)})
    busiest = np.argsort(-rows.sort_key(rows.amounts, sort, len(rows)), kind="stable")[:top].tolist()
    amounts = _amounts({id_: a[busiest] for id_, a in rows.amounts.items()}, len(busiest), snapshot.elapsed_s)
    known = _names(_processes(snapshot), {_process(rows, n) for n in busiest})
    unknown: dict[str, Any] = {"comm": None, "groups": {}}
    connections = []
    for n, amount in zip(busiest, amounts, strict=True):
        table, row = rows.place(n)
        view = rows.views[table]
        row_array = view.harvest.rows[row : row + 1]
        assert view.labels
        (values,) = view.labels.values(row_array)
        connections.append(
            ConnectionJson(
                table=rows.names[table], tgid=int(row_array["tgid"][0]), start_ns=int(row_array["start_ns"][0]),
                exec_id=int(row_array["exec_id"][0]),
                **known.get(_process(rows, n), unknown), labels=dict(zip(view.labels.labels, values, strict=True)),
                **amount,
            )
        )  # fmt: skip
    return ConnectionsJson(**_head(snapshot, rows, len(rows)), connections=connections)


def _processes(snapshot: Snapshot) -> _Processes:
    """Return all processes, each with the sum of its rows.

    A process has rows in several tables, and rows before and after an execve(2) or a change of its user, its cgroup or
    its name.
    """
    rows = _Rows.of({name: view for name, view in snapshot.tables.items() if view.harvest.is_by_process})
    if not len(rows):
        return _Processes(rows, np.zeros(0, np.intp), rows.amounts)
    # In this order, the last row of each process is that of its last program.
    order = np.argsort(rows.field("exec_id"), kind="stable")
    keys = np.stack([rows.field("tgid").astype(np.uint64), rows.field("start_ns")], axis=1)[order]
    groups = Aggregator(2).group(keys)
    amounts = {id_: groups.sums(a[order, np.newaxis])[:, 0] for id_, a in rows.amounts.items()}
    return _Processes(rows, order[groups.last], amounts)


def _is_by_process_and_more(view: TableView) -> bool:
    fields = view.harvest.rows.dtype.names or ()
    return bool(view.labels) and {*fields} >= {*_PROCESS_KEY}


def _grouping(snapshot: Snapshot, by: str) -> str:
    """Return the grouping of this name, or the first one if `by` is empty. Raises QueryError."""
    groupings = list(dict.fromkeys(name for view in snapshot.tables.values() for name in view.groups))
    if by and by not in groupings:
        expected = f"expected one of {', '.join(groupings)}" if groupings else "groups are turned off"
        raise QueryError(f"by: no grouping '{excerpt(by)}': {expected}")
    return by or next(iter(groupings), "")


def _head(snapshot: Snapshot, rows: _Rows, found: int) -> dict[str, Any]:
    """Return the fields of every list of rows."""
    return {
        "host": snapshot.host,
        "time": round(snapshot.time_s, 3),
        "elapsed_s": round(snapshot.elapsed_s, 4),
        "complete": snapshot.complete,
        "found": found,
        "overflow_calls": sum(view.harvest.overflow_calls for view in rows.views),
        "columns": [ColumnJson(id=c.id, name=c.name or c.id, units=c.units) for c in rows.columns.values()],
    }


def _amounts(amounts: Mapping[str, NDArray[np.int64]], size: int, elapsed_s: float) -> Iterator[dict[str, Any]]:
    """Yield the amounts and the rates of each of `size` rows, without zeros, because most are zero."""
    columns = [a.tolist() for a in amounts.values()]
    for numbers in zip(*columns, strict=True) if columns else [()] * size:
        nonzero = {id_: number for id_, number in zip(amounts, numbers, strict=True) if number}
        yield {"amounts": nonzero, "rates": {id_: round(number / elapsed_s, 2) for id_, number in nonzero.items()}}


def _identity(rows: _Rows, n: int) -> dict[str, Any]:
    """Return the fields of a row that identify the process."""
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


def _names(processes: _Processes, keys: Iterable[tuple[int, int]]) -> dict[tuple[int, int], dict[str, Any]]:
    """Return the command and groups of processes by tgid and start_ns, for those that have a row by process."""
    rows, keys = processes.rows, set(keys)
    if not len(rows):
        return {}
    tgids = np.array([tgid for tgid, _ in keys], np.uint32)
    candidates = processes.last[np.isin(rows.field("tgid")[processes.last], tgids)].tolist()
    return {
        process: {"comm": _identity(rows, n)["comm"], "groups": _groups(rows, n)}
        for n in candidates
        if (process := _process(rows, n)) in keys
    }
