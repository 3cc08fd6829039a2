"""Helpers for the tests of `ebpfmon top`: intervals made by hand, with the columns of the built-in probes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ebpfmon import Column, Snapshot, TableHarvest, TableView
from ebpfmon.testing import keyed_table, process_table, view
from ebpfmon.top.columns import IDENTITY_COLUMNS, Mode
from ebpfmon.top.columns import Column as TopColumn
from ebpfmon.top.columns import rates as rates_of
from ebpfmon.top.state import State, press
from ebpfmon.top.view import to_json
from ebpfmon_network_viewer.charts import COLUMNS as NETWORK_COLUMNS
from ebpfmon_process.charts import COLUMNS as PROCESS_COLUMNS

__all__ = [
    "COLUMNS", "COUNTERS", "GROUPINGS", "GROUPS", "PROCESS_COLUMNS", "RATES", "SENT", "busy_snapshot", "fields_of",
    "heading", "keyed", "network", "of_processes", "pids", "snapshot_of", "typed",
]  # fmt: skip
COUNTERS = (
    "open_calls", "open_errors", "close_calls", "close_errors", "read_calls", "read_errors", "read_bytes",
    "write_calls", "write_errors", "write_bytes", "unlink_calls", "unlink_errors", "copy_errors",
    "uring_errors", "processes_created", "processes_failed", "threads_created", "threads_failed", "tasks_exited",
)  # fmt: skip
SENT = ("tcp_send_bytes", "udp_send_bytes", "tcp_recv_bytes", "udp_recv_bytes")
NETWORK_COLUMNS = tuple(column for column in NETWORK_COLUMNS if {*column.fields} <= {*SENT})
RATES = tuple(column for column in rates_of((*PROCESS_COLUMNS, *NETWORK_COLUMNS)) if not column.summary)
COLUMNS: dict[Mode, tuple[TopColumn, ...]] = {mode: (*who, *RATES) for mode, who in IDENTITY_COLUMNS.items()}
"""All columns if both probes are loaded."""
GROUPS = (None, "mail", "web", "Sql")
"""The groups of rows. None: the row belongs to no group."""
GROUPINGS = ("application", "process", "user", "container")
Row = Mapping[str, Any]


def fields_of(key: str) -> tuple[str, ...]:
    """Return the counters that a column sums."""
    return next(column.fields for column in (*PROCESS_COLUMNS, *NETWORK_COLUMNS) if column.id == key)


def counted(columns: Sequence[Column], errors: bool) -> tuple[Column, ...]:
    """Return the columns of load mode `return` if `errors`, otherwise those of load mode `entry`."""
    return tuple(column for column in columns if errors or not column.return_only)


def of_processes(harvest: TableHarvest, columns: Sequence[Column], groups: Sequence[int]) -> TableView:
    """Return a per-process table. `groups` are the indices of the rows' groups in GROUPS, for every grouping."""
    names = [GROUPS[n] for n in groups]
    return view(harvest, columns=columns, groups=dict.fromkeys(GROUPINGS, names))


def network(*rows: Row, grouped: bool = True, counters: Sequence[str] = SENT) -> TableView:
    """Return the table of the network viewer with these rows."""
    columns = [column for column in NETWORK_COLUMNS if {*column.fields} <= {*counters}]
    harvest = process_table(counters, [_plain(row) for row in rows])
    return of_processes(harvest, columns, _groups(rows)) if grouped else view(harvest, columns=columns)


def keyed(*rows: Row, overflow_calls: int = 0) -> TableView:
    """Return a table whose keys begin with the process, with its own columns."""
    key = [("start_ns", "u8"), ("tgid", "u4"), ("port", "u4"), ("protocol", "u4"), ("pad", "u4")]
    harvest = keyed_table(key, ("tcp_send_bytes", "sent_calls"), rows, overflow_calls=overflow_calls)
    return view(harvest, columns=[Column(id="sent", header="SENT", fields=("tcp_send_bytes",), units="bytes/s")])


def snapshot_of(
    *rows: Row,
    elapsed_s: float = 1.0,
    complete: bool = True,
    overflow_calls: int = 0,
    errors: bool = True,
    host: str = "web1.example.org",
    **tables: TableView,
) -> Snapshot:
    """Return an interval with these rows in the table `process`.

    A row's group is an index in GROUPS. `overflow_calls` are reads. Without `errors` the load mode is `entry`.
    """
    counters = ("read_calls", *(name for name in COUNTERS if name != "read_calls"))
    harvest = process_table(counters, [_plain(row) for row in rows], overflow_calls=overflow_calls)
    own = of_processes(harvest, counted(PROCESS_COLUMNS, errors), _groups(rows))
    return Snapshot(
        host=host, time_s=1.7e9, elapsed_s=elapsed_s, complete=complete, charts=(), tables={"process": own, **tables}
    )


def heading(lines: Sequence[str]) -> list[str]:
    """Return the headings of the table."""
    line = next(line for line in lines if "COMMAND" in line or "PROCS" in line)
    return line.replace("[", " ").replace("]", " ").split()


def pids(given: Snapshot, state: State) -> list[int]:
    return [line["pid"] for line in to_json(given, state)["processes"]]


def typed(state: State, *keys: str) -> State:
    for key in keys:
        state = press(state, key)
    return state


def busy_snapshot(count: int = 60, errors: bool = True) -> Snapshot:
    """Return an interval in which every process has different amounts."""
    return snapshot_of(
        *(
            {"tgid": 7 * n + 1, "start_ns": n, "uid": n % 3, "comm": b"proc%d" % (n % 11), "group": min(n % 5, 3)}
            | {name: (n * step) % 97 for step, name in enumerate(COUNTERS, 3)}
            for n in range(count)
        ),
        errors=errors,
        network=network({"tgid": 8, "start_ns": 1, "tcp_send_bytes": 5000, "tcp_recv_bytes": 12}, grouped=False),
    )


def _plain(row: Row) -> Row:
    return {name: value for name, value in row.items() if name != "group"}


def _groups(rows: Sequence[Row]) -> list[int]:
    return [row.get("group", 0) for row in rows]
