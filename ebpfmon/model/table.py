"""What the kernel's tables gave in one interval, and what their rows are called. Data only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, TypeAlias

if TYPE_CHECKING:  # see series.py
    import numpy as np
    from numpy.typing import NDArray

Rows: TypeAlias = "NDArray[np.void]"
"""A structured array, one element for each row."""
PROCESS_FIELDS = ("start_ns", "tgid", "exec_id", "cgroup_id", "parent_tgid", "uid", "comm")
"""How the rows of a table by process begin."""


@dataclass(frozen=True, slots=True)
class TableHarvest:
    """What one table counted in an interval.

    `rows` has one row for each key that did something, its fields named as in C: the key's first (of a table by process
    `PROCESS_FIELDS`), then the counters, u64. `totals` has the same counters over all keys; to the call, it is the sum
    of the rows plus `overflow`. A counter that is an array in C, `__u64 latency[3]`, is as many fields: `latency_0`,
    `latency_1`, `latency_2`. `since_load` is what the totals have come to since the probe was loaded.
    """

    rows: Rows
    totals: Mapping[str, int]
    overflow: Mapping[str, int]
    overflow_calls: int
    capacity: int
    since_load: Mapping[str, int] = field(default_factory=dict)

    @property
    def is_by_process(self) -> bool:
        """Whether its rows are processes, and not keys of the probe's own."""
        return (self.rows.dtype.names or ())[: len(PROCESS_FIELDS)] == PROCESS_FIELDS

    @property
    def counters(self) -> NDArray[np.int64]:
        """The counters of each row, i64 (rows, counters), in the order of `totals`: a view of the rows."""
        width = self.rows.dtype.itemsize // 8
        numbers: NDArray[np.int64] = self.rows.view("i8").reshape(len(self.rows), width)
        return numbers[:, width - len(self.totals) :]


@dataclass(frozen=True, slots=True, kw_only=True)
class Harvest:
    """One interval as the kernel counted it. `missed_runs` is how often it did not run a program where it should have;
    `complete` is false if that is not 0, or if a table could not be read. `overlap` is what sources that take over had
    counted until then: of it gauges alone are made."""

    time_s: float
    elapsed_s: float
    tables: Mapping[str, TableHarvest]
    swap_ns: int
    drain_ns: int
    missed_runs: int = 0
    complete: bool = True
    overlap: tuple[tuple[str, TableHarvest], ...] = ()


class LabelSource:
    """Say what the rows of a table with keys of its own are called: subclass it, and return it from `setup`.

    `fields` are the row's fields (integers) that tell series apart; rows with equal values in them are summed. `labels`
    are the names of the labels. `maximum` is how many series a chart has at most; the rest is in the series `other`,
    whose label values are `other`: an empty value is left out where values are joined.
    """

    fields: tuple[str, ...]
    labels: tuple[str, ...]
    maximum: int = 100
    other: tuple[str, ...] = ()
    """If it is empty, each is `other`."""

    def wanted(self, rows: Rows) -> NDArray[np.bool_] | None:
        """Return which of the rows count at all, or None if all do. Called on the event loop: never waits."""

    def values(self, rows: Rows) -> Sequence[tuple[str, ...]]:
        """Return the label values of each of these rows. Equal keys have equal values, always. Must be thread-safe."""
        raise NotImplementedError

    def names(self, rows: Rows) -> Sequence[tuple[str, ...]]:
        """Return the label values of each row as people read them, by default the values themselves. A name may become
        better with time. Called on the event loop: never waits."""
        return self.values(rows)


@dataclass(frozen=True, slots=True)
class RowGroups:
    """Which group of one grouping the rows of a table belong to: row n belongs to the group of id `ids[n]`.

    `ids` is u64 (rows,). The group of id OTHER is everything that belongs to no group; `names` has all others.
    """

    OTHER: ClassVar[int] = 0

    ids: NDArray[np.uint64]
    names: Mapping[int, str]

    def name(self, row: int) -> str | None:
        """Return the name of the group of a row, None if it belongs to none."""
        return self.names.get(int(self.ids[row]))


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """A number that is shown of each row of a table: by `top`, the text log and the HTTP rows.

    It is the sum of the counters `fields`, as a rate. Columns of the same `id` in several tables are one column, and
    their numbers add up. `header` heads it in tables, `name` stands before it in running text. `letter` is the capital
    that sorts by it in `top`, where it takes `width` characters; where room is short, columns of the greatest `rank` go
    first. A `summary` column is shown in totals alone, not for each row; a
    `return_only` column exists in load mode `return` alone.
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
        """Whether it is shown in B, kB, MB."""
        return self.units.startswith("bytes")
