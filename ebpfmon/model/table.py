"""The rows that the kernel's tables counted in one interval, and the labels of these rows. Data only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, TypeAlias

if TYPE_CHECKING:  # The command line must limit numpy's threads before numpy is imported.
    import numpy as np
    from numpy.typing import NDArray

Rows: TypeAlias = "NDArray[np.void]"
"""A structured array with one element for each row."""
PROCESS_FIELDS = ("start_ns", "tgid", "exec_id", "cgroup_id", "parent_tgid", "uid", "comm")
"""The first fields of the rows of a per-process table."""


@dataclass(frozen=True, slots=True)
class TableHarvest:
    """What one table counted in an interval.

    `rows` has one row for each key that was active. Its fields have the same names as in C: first the fields of the key
    (`PROCESS_FIELDS` for a per-process table), then the counters (u64). A counter that is an array in C, such as
    `__u64 latency[3]`, becomes the fields `latency_0`, `latency_1` and `latency_2`.

    `totals` has the sum of each counter over all keys. It is exactly the sum of the rows plus `overflow`, which counts
    the events that found no free row. `since_load` has the totals since the probe was loaded.
    """

    rows: Rows
    totals: Mapping[str, int]
    overflow: Mapping[str, int]
    overflow_calls: int
    capacity: int
    since_load: Mapping[str, int] = field(default_factory=dict)

    @property
    def is_by_process(self) -> bool:
        """Whether the keys of the rows are callers, rather than keys that the probe defines."""
        return (self.rows.dtype.names or ())[: len(PROCESS_FIELDS)] == PROCESS_FIELDS

    @property
    def counters(self) -> NDArray[np.int64]:
        """The counters of each row as i64 (rows, counters), in the order of `totals`. This is a view of the rows."""
        width = self.rows.dtype.itemsize // 8
        numbers: NDArray[np.int64] = self.rows.view("i8").reshape(len(self.rows), width)
        return numbers[:, width - len(self.totals) :]


@dataclass(frozen=True, slots=True, kw_only=True)
class Harvest:
    """One interval, as the kernel counted it.

    `swap_ns` is the time it took to swap the buffers and to wait for running programs, and `drain_ns` the time to drain
    the tables. `missed_runs` is how often the kernel skipped a run of a BPF program. `complete` is False if that is not
    0, or if a table could not be read.

    `overlap` is set when new sources replace the former ones. It has what the new sources had counted by then, as
    (table, harvest) pairs. The former sources counted the same events, so counters must not include it; only gauges
    start from it.
    """

    time_s: float
    elapsed_s: float
    tables: Mapping[str, TableHarvest]
    swap_ns: int
    drain_ns: int
    missed_runs: int = 0
    complete: bool = True
    overlap: tuple[tuple[str, TableHarvest], ...] = ()


class LabelSource:
    """The labels of the rows of a keyed table. Subclass it, and return an instance from `setup`.

    `fields` are the integer fields of a row that identify a series; rows that are equal in them are summed. `labels`
    are the names of the labels. A chart has at most `maximum` series; everything else is in the series `other`, whose
    label values are `other`. Backends that join label values leave out empty ones.
    """

    fields: tuple[str, ...]
    labels: tuple[str, ...]
    maximum: int = 100
    other: tuple[str, ...] = ()
    """The label values of the series `other`. By default each is `other`."""

    def included(self, rows: Rows) -> NDArray[np.bool_] | None:
        """Return a mask (rows,) of the rows to count, or None to count all. It runs on the event loop: never block."""

    def values(self, rows: Rows) -> Sequence[tuple[str, ...]]:
        """Return the label values of each row. Equal keys must always get equal values. Must be thread-safe."""
        raise NotImplementedError

    def names(self, rows: Rows) -> Sequence[tuple[str, ...]]:
        """Return display names for the label values of each row. By default they are the values themselves.

        Names may improve over time. This runs on the event loop: never block.
        """
        return self.values(rows)


@dataclass(frozen=True, slots=True)
class RowGroups:
    """The groups, in one grouping, of the rows of a table: row n belongs to the group with the id `ids[n]`.

    `ids` is u64 (rows,). The id OTHER means that a row belongs to no group; `names` has the names of all other ids.
    """

    OTHER: ClassVar[int] = 0

    ids: NDArray[np.uint64]
    names: Mapping[int, str]

    def name(self, row: int) -> str | None:
        """Return the name of a row's group, or None if it belongs to none."""
        return self.names.get(int(self.ids[row]))


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """A number that `top`, the text log and the HTTP rows show for each row of a table.

    It is the sum of the counters in `fields`, as a rate. Columns with the same `id` in several tables become one column
    with the sum of their numbers. `header` is the column's heading in tables, and `name` its label in running text.

    In `top`, the capital `letter` sorts by the column, and `width` is its width in characters. If there is not enough
    room, columns with the greatest `rank` are left out first. A `summary` column is shown only in totals, not for each
    row. A `return_only` column exists only in load mode `return`.
    """

    id: str
    header: str
    fields: tuple[str, ...]
    units: str = "calls/s"
    name: str = ""
    letter: str = ""
    width: int = 6
    rank: int = 10
    summary: bool = False
    return_only: bool = False
    table: str = ""

    @property
    def is_bytes(self) -> bool:
        """Whether the number is displayed in B, kB, MB and so on."""
        return self.units.startswith("bytes")
