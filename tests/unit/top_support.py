"""What the tests of `ebpfmon top` share: seconds that are made by hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ebpfmon import Owners, Snapshot, TableHarvest
from ebpfmon.top.view import State, press, to_json
from tests.unit.support import IDENTITY

COUNTERS = (
    "open_calls", "open_errors", "close_calls", "close_errors", "read_calls", "read_errors", "read_bytes",
    "write_calls", "write_errors", "write_bytes", "unlink_calls", "unlink_errors", "processes_created",
    "processes_failed", "threads_created", "threads_failed", "tasks_exited", "tasks_released",
)  # fmt: skip
ROW = np.dtype(IDENTITY + [(name, "u8") for name in COUNTERS])
SENT = ("tcp_send_bytes", "udp_send_bytes", "tcp_recv_bytes")
NETWORK = np.dtype(IDENTITY + [(name, "u8") for name in SENT])
KEYED = np.dtype([*IDENTITY[:3], ("port", "u4"), ("protocol", "u4"), ("tcp_send_bytes", "u8"), ("sent_calls", "u8")])
"""Rows by a key of their own, which begins with the process."""
GROUPS = ("other", "overflow", "web", "Sql")
Row = Mapping[str, Any]


def rows_of(dtype: np.dtype, rows: Sequence[Row]) -> np.ndarray:
    array = np.zeros(len(rows), dtype)
    for n, row in enumerate(rows):
        for name, value in row.items():
            if name != "group":
                array[n][name] = value
    return array


def table_of(array: np.ndarray, overflow: Mapping[str, int] | None = None, overflow_calls: int = 0) -> TableHarvest:
    names = [n for n in array.dtype.names or () if n in (*COUNTERS, *SENT, "sent_calls")]
    lost = {n: (overflow or {}).get(n, 0) for n in names}
    totals = {n: sum(array[n].tolist()) + lost[n] for n in names}
    return TableHarvest(array, totals, lost, overflow_calls, 16384)


def second(
    *rows: Row, elapsed_s: float = 1.0, complete: bool = True, overflow_calls: int = 0, **tables: TableHarvest
) -> Snapshot:
    """A snapshot with these rows in the table `process`; a row's group is its place in GROUPS."""
    own = table_of(rows_of(ROW, rows), {"read_calls": overflow_calls}, overflow_calls)
    owners = {"process": Owners(GROUPS, np.array([row.get("group", 0) for row in rows], np.int64))}
    return Snapshot(
        host="web1.example.org", time_s=1.7e9, elapsed_s=elapsed_s, complete=complete, charts=(),
        tables={"process": own, **tables}, owners=owners,
    )  # fmt: skip


def heading(lines: Sequence[str]) -> list[str]:
    """The words of the line that heads the table."""
    line = next(line for line in lines if "COMMAND" in line or "PROCS" in line)
    return line.replace("[", " ").replace("]", " ").split()


def pids(given: Snapshot, state: State) -> list[int]:
    return [line["pid"] for line in to_json(given, state)["processes"]]


def typed(state: State, *keys: str) -> State:
    for key in keys:
        state = press(state, key)
    return state


def busy(count: int = 60) -> Snapshot:
    """Processes of which each did something else."""
    return second(
        *(
            {"tgid": 7 * n + 1, "start_ns": n, "uid": n % 3, "comm": b"proc%d" % (n % 11), "group": min(n % 5, 3)}
            | {name: (n * step) % 97 for step, name in enumerate(COUNTERS, 3)}
            for n in range(count)
        ),
        network=table_of(rows_of(NETWORK, [{"tgid": 8, "start_ns": 1, "tcp_send_bytes": 5000, "tcp_recv_bytes": 12}])),
    )
