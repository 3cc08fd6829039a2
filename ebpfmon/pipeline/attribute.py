"""Find the groups of each row's process. No I/O: the caller does the lookups.

`Attribution.prepare` returns which facts must be looked up, and `Attribution.assign` takes the answers.
"""

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

_MAX_IDENTITIES = 16384
"""The number of processes whose groups are remembered, unless a table holds more. Each takes about 200 bytes."""
_MAX_COMBINATIONS = 1 << 15
"""The number of combinations of groups, one of each grouping, that are remembered."""
_HASH_BITS = (1 << 64) - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Pending:
    """Rows whose groups are not all known yet.

    `combinations` has the combination of each row by table, i64 (rows,); it is -1 while it is unknown. `identities` has
    the identity of the process of each row by table. `new` are the unknown processes, in the order of their start, and
    `request` is what to look up for them.
    """

    combinations: Mapping[str, NDArray[np.int64]]
    identities: Mapping[str, list[bytes]]
    new: Mapping[bytes, Identity]
    request: LookupRequest


@dataclass(frozen=True, slots=True, kw_only=True)
class Attributed:
    """The groups of the rows of all per-process tables.

    A combination is one group of each grouping. `combinations` has the combination of each row by table, i64 (rows,).
    `groups` has the group ids of each combination, u64 (combinations, groupings); RowGroups.OTHER means no group.
    `names` has the names of the groups by id.
    """

    groupings: tuple[str, ...]
    combinations: Mapping[str, NDArray[np.int64]]
    groups: NDArray[np.uint64]
    names: Mapping[int, str]

    def row_groups(self, table: str) -> dict[str, RowGroups]:
        """Return the groups of the rows of one table, by grouping."""
        combinations = self.combinations[table]
        return {
            grouping: RowGroups(self.groups[combinations, n], self.names) for n, grouping in enumerate(self.groupings)
        }


class Attribution:
    """Assigns groups to rows: from memory for known processes, and from the namings for new ones."""

    def __init__(self, namings: Mapping[str, Naming]) -> None:
        """Start with no known processes. `namings` has one naming for each grouping, by name."""
        self._namings = dict(namings)
        self.waiting = 0
        """The number of processes with a provisional group in the last interval."""
        self.forgotten = 0
        """The number of processes forgotten since the start, because there were too many, or because the name of a
        group has changed. They are named again."""
        self._known: Recent[bytes, int] = Recent(_MAX_IDENTITIES)
        self._combinations: dict[tuple[int, ...], int] = {}
        self._groups: list[tuple[int, ...]] = []
        self._groups_array = np.zeros((0, len(self._namings)), np.uint64)  # `_groups` as an array.
        self._names: dict[int, str] = {}
        self._has_changed = False  # Whether a name that is remembered has changed.

    @property
    def known(self) -> Container[int]:
        """The tgids of processes whose ancestors need not be looked up."""
        return Intersection(naming.known for naming in self._namings.values())

    def prepare(self, tables: Mapping[str, TableHarvest]) -> Pending:
        """Return the rows with the groups that are known, and what to look up for the others. Call `assign` next."""
        if execs.TABLE in tables:
            for naming in self._namings.values():
                naming.learn(tables[execs.TABLE].rows)
        if self._has_changed or len(self._groups) >= _MAX_COMBINATIONS:
            self._forget()
        combinations, identities = {}, {}
        new: dict[bytes, Identity] = {}
        for name, table in tables.items():
            if name == execs.TABLE or not table.is_by_process:
                continue
            self._known.bound = max(self._known.bound, table.capacity)
            raw = identities[name] = _identities(table.rows)
            known = np.fromiter(map(self._known.young.get, raw, repeat(-1)), np.int64, len(raw))
            combinations[name] = known
            unknown = np.flatnonzero(known < 0)
            if not len(unknown):
                continue
            fields = table.rows[list(Identity._fields)][unknown].tolist()
            for row, identity in zip(unknown.tolist(), fields, strict=True):
                combination = self._known.get(raw[row])
                if combination is None:
                    new[raw[row]] = Identity._make(identity)
                else:
                    known[row] = combination
        new = dict(sorted(new.items(), key=lambda item: item[1].key))
        request = LookupRequest()
        for naming in self._namings.values():
            request |= naming.request(tuple(new.values()))
        return Pending(combinations=combinations, identities=identities, new=new, request=request)

    def assign(self, pending: Pending, result: LookupResult) -> Attributed:
        """Return the groups of the rows, using the facts that were found in time."""
        for naming in self._namings.values():
            self._has_changed |= naming.receive(result)
        named: dict[bytes, int] = {}
        self.waiting = 0
        for raw, identity in pending.new.items():
            names = [naming.name(identity) for naming in self._namings.values()]
            combination = named[raw] = self._combination([name for name, _ in names])
            if all(final for _, final in names):
                forgotten_before = self._known.forgotten
                self._known[raw] = combination
                self.forgotten += self._known.forgotten - forgotten_before
            else:
                self.waiting += 1
        for name, combinations in pending.combinations.items():
            raw_of_row = pending.identities[name]
            for row in np.flatnonzero(combinations < 0).tolist():
                combinations[row] = named[raw_of_row[row]]
        if len(self._groups) != len(self._groups_array):
            self._groups_array = np.array(self._groups, np.uint64).reshape(len(self._groups), len(self._namings))
        return Attributed(
            groupings=tuple(self._namings),
            combinations=pending.combinations,
            groups=self._groups_array,
            names=self._names,
        )

    def _combination(self, names: list[str | None]) -> int:
        ids = tuple(self._id(name) for name in names)
        combination = self._combinations.get(ids)
        if combination is None:
            combination = self._combinations[ids] = len(self._groups)
            self._groups.append(ids)
        return combination

    def _id(self, name: str | None) -> int:
        """Return the id of the group with this name.

        The id is a hash of the name, so it stays the same even if the group is forgotten and comes back. It is Python's
        own hash, which is randomized, so outsiders cannot make names collide.
        """
        if name is None:
            return RowGroups.OTHER
        id_ = hash(name) & _HASH_BITS or 1
        self._names[id_] = name
        return id_

    def _forget(self) -> None:
        """Forget all processes. They are named again when they become active."""
        self.forgotten += len(self._known)
        self._known, self._has_changed = Recent(self._known.bound), False
        self._combinations, self._groups, self._names = {}, [], {}
        self._groups_array = self._groups_array[:0]


def _identities(rows: Rows) -> list[bytes]:
    """Return the identity fields of each row as bytes. If any of them changes, the process is named again."""
    size = sum(rows.dtype[name].itemsize for name in Identity._fields)
    raw = rows.view(np.uint8).reshape(len(rows), rows.dtype.itemsize)[:, :size]
    identities: list[bytes] = np.ascontiguousarray(raw).view(f"V{size}").ravel().tolist()
    return identities
