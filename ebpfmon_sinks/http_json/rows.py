"""The rows of a snapshot's tables, as far as somebody wants to see them: processes and connections. Pure, and
vectorised up to the rows that are shown: there may be many."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv6Address
from typing import Any

import numpy as np

from ebpfmon import Snapshot, TableHarvest
from ebpfmon_sinks.http_json.query import QueryError, shown

SUMS = ("calls", "bytes")
"""What rows can be sorted by besides counters: the sum of all whose names end so."""
_WHO = np.dtype(
    [
        ("tgid", "u4"), ("start_ns", "u8"), ("exec_id", "u4"), ("parent_tgid", "u4"), ("uid", "u4"),
        ("cgroup_id", "u8"), ("comm", "S16"),
    ]
)  # fmt: skip
_CONNECTION = {"tgid", "start_ns", "exec_id", "port", "protocol"}
_PROTOCOLS = {6: "TCP", 17: "UDP"}


@dataclass(frozen=True, slots=True)
class Processes:
    """Arrays of one length, by tgid and start_ns. Row n is of the group `groups[group[n]]` (of nobody's, if that is
    None); `amounts` are the interval's counters (u64) by name."""

    who: np.ndarray
    group: np.ndarray
    groups: tuple[str | None, ...]
    amounts: Mapping[str, np.ndarray]


def processes(snapshot: Snapshot) -> Processes:
    """The rows of all tables by process. Those of one process are one: of several tables, and those before and after an
    execve(2), of which the last says how the process is called, and whose it is."""
    tables = {stem: t for stem, t in snapshot.tables.items() if t.is_by_process}
    size = sum(len(t.rows) for t in tables.values())
    who, group = np.zeros(size, _WHO), np.zeros(size, np.int64)
    amounts = {name: np.zeros(size, np.uint64) for t in tables.values() for name in t.totals}
    groups: dict[str | None, int] = {None: 0}
    end = 0
    for stem, table in tables.items():
        part = slice(end, end := end + len(table.rows))
        for name in _WHO.names or ():
            who[name][part] = table.rows[name]
        for name in table.totals:
            amounts[name][part] = table.rows[name]
        if owners := snapshot.owners.get(stem):
            used, of_rows = np.unique(owners.of_rows, return_inverse=True)
            numbers = [groups.setdefault(owners.groups[n], len(groups)) for n in used.tolist()]
            group[part] = np.array(numbers, np.int64)[of_rows]
    order = np.lexsort((who["exec_id"], who["start_ns"], who["tgid"]))
    who = who[order]
    first = np.ones(size, bool)
    first[1:] = (who["tgid"][1:] != who["tgid"][:-1]) | (who["start_ns"][1:] != who["start_ns"][:-1])
    starts = np.flatnonzero(first)
    lasts = np.append(starts[1:], size)[: len(starts)] - 1
    sums = {name: np.add.reduceat(of_rows[order], starts) for name, of_rows in amounts.items()}
    return Processes(who[lasts], group[order][lasts], tuple(groups), sums)


def processes_to_json(snapshot: Snapshot, sort: str, top: int, app: str) -> dict[str, Any]:
    """The processes that did most, of one application if `app` is not empty. Raises QueryError."""
    found = processes(snapshot)
    key = _sum(found.amounts, sort, len(found.who))
    if app:
        mine = np.flatnonzero(found.group == (found.groups.index(app) if app in found.groups else -1))
    else:
        mine = np.arange(len(found.who))
    busiest = mine[np.lexsort((found.who["tgid"][mine], ~key[mine]))[:top]]
    amounts = _amounts({name: a[busiest] for name, a in found.amounts.items()}, len(busiest), snapshot.elapsed_s)
    names = _WHO.names or ()
    lines = zip(found.who[busiest].tolist(), found.group[busiest].tolist(), amounts, strict=True)
    return _head(snapshot) | {
        "found": len(mine),
        "overflow_calls": sum(t.overflow_calls for t in snapshot.tables.values() if t.is_by_process),
        "processes": [
            {**_named(dict(zip(names, who, strict=True))), "app": found.groups[group], **amount}
            for who, group, amount in lines
        ],
    }


def connections_to_json(snapshot: Snapshot, sort: str, top: int) -> dict[str, Any]:
    """The busiest of who talks to whom: the rows of all tables whose keys have a process, a port and a protocol.
    Raises QueryError."""
    tables = {stem: t for stem, t in snapshot.tables.items() if {*(t.rows.dtype.names or ())} >= _CONNECTION}
    names = {name: None for t in tables.values() for name in t.totals}
    sizes = [len(t.rows) for t in tables.values()]
    amounts = {name: np.zeros(sum(sizes), np.uint64) for name in names}
    starts = np.cumsum([0, *sizes])
    for table, start, size in zip(tables.values(), starts.tolist(), sizes, strict=False):
        for name in table.totals:
            amounts[name][start : start + size] = table.rows[name]
    key = _sum(amounts, sort, sum(sizes))
    busiest = np.argsort(~key, kind="stable")[:top]
    of_table = np.searchsorted(starts, busiest, side="right") - 1
    each = _amounts({name: a[busiest] for name, a in amounts.items()}, len(busiest), snapshot.elapsed_s)
    stems, found = [*tables], []
    for number, n, amount in zip(busiest.tolist(), of_table.tolist(), each, strict=True):
        found.append({**_ends(tables[stems[n]], number - int(starts[n])), "direction": stems[n], **amount})
    owners = _owners(snapshot, [line["tgid"] for line in found])
    nobody = {"comm": None, "app": None}
    return _head(snapshot) | {
        "found": sum(sizes),
        "overflow_calls": sum(t.overflow_calls for t in tables.values()),
        "connections": [{**owners.get((line["tgid"], line["start_ns"]), nobody), **line} for line in found],
    }


def _head(snapshot: Snapshot) -> dict[str, Any]:
    return {
        "schema": 1,
        "host": snapshot.host,
        "time": round(snapshot.time_s, 3),
        "elapsed_s": round(snapshot.elapsed_s, 4),
        "complete": snapshot.complete,
    }


def _sum(amounts: Mapping[str, np.ndarray], sort: str, size: int) -> np.ndarray:
    """By what rows are sorted (u64). Raises QueryError."""
    if sort not in amounts and sort not in SUMS:
        raise QueryError(f"sort: no counter '{shown(sort)}': expected one of {', '.join((*SUMS, *amounts))}")
    total = np.zeros(size, np.uint64)
    for name, of_rows in amounts.items():
        if name == sort or (sort in SUMS and name.endswith(f"_{sort}")):
            total += of_rows
    return total


def _amounts(amounts: Mapping[str, np.ndarray], size: int, elapsed_s: float) -> Iterator[dict[str, Any]]:
    """What each row did, and at which rate. What it did not do is left out: that is most."""
    columns = [of_rows.tolist() for of_rows in amounts.values()]
    for n in range(size):
        did = {name: column[n] for name, column in zip(amounts, columns, strict=True) if column[n]}
        yield {"amounts": did, "rates": {name: round(amount / elapsed_s, 2) for name, amount in did.items()}}


def _named(who: dict[str, Any]) -> dict[str, Any]:
    return {**who, "comm": who["comm"].decode(errors="replace")}


def _ends(table: TableHarvest, number: int) -> dict[str, Any]:
    """Who a connection is between: a process and a port, of another machine if there is an address."""
    row = table.rows[number]
    ends = {name: int(row[name]) for name in ("tgid", "start_ns", "exec_id", "port", "protocol")}
    fields = table.rows.dtype.names or ()
    address = None
    if "address_high" in fields and "address_low" in fields:
        address = _address(int(row["address_high"]), int(row["address_low"]))
    protocol = _PROTOCOLS.get(ends["protocol"], str(ends["protocol"]))
    return {**ends, "protocol": protocol, "address": address}


def _address(high: int, low: int) -> str:
    """Out of its halves, whose bytes are as in a packet."""
    address = IPv6Address(high.to_bytes(8, "little") + low.to_bytes(8, "little"))
    return str(address.ipv4_mapped or address)


def _owners(snapshot: Snapshot, tgids: Sequence[int]) -> dict[tuple[int, int], dict[str, str | None]]:
    """Command and group of these processes, by tgid and start_ns, where a table by process has them."""
    found = processes(snapshot)
    numbers = np.flatnonzero(np.isin(found.who["tgid"], np.array(tgids, np.uint32)))
    return {
        (int(found.who["tgid"][n]), int(found.who["start_ns"][n])): {
            "comm": bytes(found.who["comm"][n]).decode(errors="replace"),
            "app": found.groups[int(found.group[n])],
        }
        for n in numbers.tolist()
    }
