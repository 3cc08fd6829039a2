"""Say which groups the processes behind rows belong to. Pure: what must be looked up is said, not done."""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import dataclass
from itertools import repeat

import numpy as np
from numpy.typing import NDArray

from ebpfmon.grouping import execs
from ebpfmon.grouping.lookup import LookupRequest, LookupResult
from ebpfmon.grouping.naming import Identity, Intersection, Naming
from ebpfmon.grouping.recent import Recent
from ebpfmon.model import RowGroups, Rows, TableHarvest

_IDENTITIES = 16384  # processes whose groups are known; some 200 bytes each
_COMBINATIONS = 1 << 15  # sets of groups, one of each grouping, that are known at once
_HASH_BITS = (1 << 64) - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Pending:
    """Rows whose groups are being found.

    `combinations` has of each table the combination of each row, -1 where it is not known yet, i64 (rows,);
    `identities` what identifies the process of each row. `new` are the processes that are not known, in the order of
    their start, and `request` is what should be looked up for them.
    """

    combinations: Mapping[str, NDArray[np.int64]]
    identities: Mapping[str, list[bytes]]
    new: Mapping[bytes, Identity]
    request: LookupRequest


@dataclass(frozen=True, slots=True, kw_only=True)
class Attributed:
    """Which groups the rows of all tables by process belong to.

    A combination is one group of each grouping. `combinations` has that of each row by table, i64 (rows,); `groups` the
    ids of the groups of each combination, u64 (combinations, groupings), RowGroups.OTHER where a process belongs to
    none; `names` the names of the groups by id.
    """

    groupings: tuple[str, ...]
    combinations: Mapping[str, NDArray[np.int64]]
    groups: NDArray[np.uint64]
    names: Mapping[int, str]

    def of_rows(self, table: str) -> dict[str, RowGroups]:
        """Return the groups of the rows of one table, by grouping."""
        combinations = self.combinations[table]
        return {
            grouping: RowGroups(self.groups[combinations, n], self.names) for n, grouping in enumerate(self.groupings)
        }


class Attribution:
    """Remember the groups of processes that were seen before, and ask the namings for those of others."""

    def __init__(self, namings: Mapping[str, Naming]) -> None:
        """`namings`: by grouping."""
        self._namings = dict(namings)
        self.waiting = 0
        """How many processes had a provisional group in the last interval."""
        self.forgotten = 0
        """How many processes were forgotten since the start, because too many others came; they are looked at again."""
        self._known: Recent[bytes, int] = Recent(_IDENTITIES)
        self._combinations: dict[tuple[int, ...], int] = {}
        self._groups: list[tuple[int, ...]] = []
        self._array = np.zeros((0, len(self._namings)), np.uint64)  # of `_groups`
        self._names: dict[int, str] = {}

    @property
    def known(self) -> Container[int]:
        """The processes whose ancestors need not be looked up."""
        return Intersection(naming.known for naming in self._namings.values())

    def prepare(self, tables: Mapping[str, TableHarvest]) -> Pending:
        """Find the processes that are new in this interval. Then comes `assign`."""
        if execs.TABLE in tables:
            for naming in self._namings.values():
                naming.learn(tables[execs.TABLE].rows)
        if len(self._groups) >= _COMBINATIONS:
            self._forget()
        combinations, identities = {}, {}
        new: dict[bytes, Identity] = {}
        for stem, table in tables.items():
            if stem == execs.TABLE or not table.is_by_process:
                continue
            self._known.bound = max(self._known.bound, table.capacity)
            raw = identities[stem] = _identities(table.rows)
            found = combinations[stem] = np.fromiter(map(self._known.young.get, raw, repeat(-1)), np.int64, len(raw))
            unknown = np.flatnonzero(found < 0)
            if not len(unknown):
                continue
            who = table.rows[list(Identity._fields)][unknown].tolist()
            for row, identity in zip(unknown.tolist(), who, strict=True):
                known = self._known.get(raw[row])
                if known is None:
                    new[raw[row]] = Identity._make(identity)
                else:
                    found[row] = known
        new = dict(sorted(new.items(), key=lambda item: item[1].key))
        request = LookupRequest()
        for naming in self._namings.values():
            request |= naming.request(tuple(new.values()))
        return Pending(combinations=combinations, identities=identities, new=new, request=request)

    def assign(self, pending: Pending, found: LookupResult) -> Attributed:
        """Say which groups the rows belong to, with the answers that came in time."""
        for naming in self._namings.values():
            naming.receive(found)
        named: dict[bytes, int] = {}
        self.waiting = 0
        for raw, identity in pending.new.items():
            names = [naming.name(identity) for naming in self._namings.values()]
            combination = named[raw] = self._combination([name for name, _ in names])
            if all(final for _, final in names):
                before = self._known.forgotten
                self._known[raw] = combination
                self.forgotten += self._known.forgotten - before
            else:
                self.waiting += 1
        for stem, combinations in pending.combinations.items():
            raw_of_row = pending.identities[stem]
            for row in np.flatnonzero(combinations < 0).tolist():
                combinations[row] = named[raw_of_row[row]]
        if len(self._groups) != len(self._array):
            self._array = np.array(self._groups, np.uint64).reshape(len(self._groups), len(self._namings))
        return Attributed(
            groupings=tuple(self._namings), combinations=pending.combinations, groups=self._array, names=self._names
        )

    def _combination(self, names: list[str | None]) -> int:
        ids = tuple(self._id(name) for name in names)
        combination = self._combinations.get(ids)
        if combination is None:
            combination = self._combinations[ids] = len(self._groups)
            self._groups.append(ids)
        return combination

    def _id(self, name: str | None) -> int:
        """Return the id of a group. A hash, so that it is always the same, also if the group was forgotten: Python's
        own, which nobody outside can make collide."""
        if name is None:
            return RowGroups.OTHER
        id_ = hash(name) & _HASH_BITS or 1
        self._names[id_] = name
        return id_

    def _forget(self) -> None:
        """Make room: all processes are looked at again when they act."""
        self.forgotten += len(self._known)
        self._known = Recent(self._known.bound)
        self._combinations, self._groups, self._names = {}, [], {}
        self._array = self._array[:0]


def _identities(rows: Rows) -> list[bytes]:
    """Return all that the rows say of their processes: when any of it changes, the process is looked at again."""
    size = sum(rows.dtype[name].itemsize for name in Identity._fields)
    raw = rows.view(np.uint8).reshape(len(rows), rows.dtype.itemsize)[:, :size]
    identities: list[bytes] = np.ascontiguousarray(raw).view(f"V{size}").ravel().tolist()
    return identities
