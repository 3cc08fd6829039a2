"""Rows to owners: which group each row's process belongs to. Pure: what must be looked up is said, not done."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import repeat

import numpy as np

from ebpfmon.grouping import execs
from ebpfmon.grouping.lookup import Found, Wanted
from ebpfmon.grouping.naming import OTHER, Identity, Naming
from ebpfmon.grouping.recent import Recent
from ebpfmon.model.everything import Owners, TableHarvest

OVERFLOW = "overflow"
"""The group of what found no row."""
_NAMES = 4096  # groups known at once
_IDENTITIES = 16384  # processes whose group is known; some 200 bytes each


@dataclass(frozen=True, slots=True)
class Pending:
    """Rows on their way to their owners: of each table the group of each row, -1 where it is not known yet, and what
    identifies its process; who is not known, in the order of their start; what should be looked up for them."""

    groups: Mapping[str, np.ndarray]
    identities: Mapping[str, list[bytes]]
    new: Mapping[bytes, Identity]
    wanted: Wanted


class Attribution:
    """Knows the groups of processes that were seen before, and asks the `naming` that is chosen for the others."""

    def __init__(self, namings: Mapping[str, Naming], by: str) -> None:
        """`namings`: all that may be chosen, by the name of what they group by."""
        self._namings, self._by = namings, by
        self.names: list[str] = [OTHER, OVERFLOW]
        """The groups by id. The id of one that was forgotten is another's later."""
        self.waiting = 0
        """How many processes had a provisional name in the last interval."""
        self._ids = {OTHER: Owners.OTHER, OVERFLOW: Owners.OVERFLOW}
        self._free: list[int] = []
        self._known: Recent[bytes, int] = Recent(_IDENTITIES)

    @property
    def naming(self) -> Naming:
        """The one that is chosen."""
        return self._namings[self._by]

    @property
    def by(self) -> str:
        """What is grouped by; setting it groups all processes anew."""
        return self._by

    @by.setter
    def by(self, by: str) -> None:
        if by != self._by:
            self._by = by
            self._known = Recent(self._known.bound)

    @property
    def forgotten(self) -> int:
        """How many processes were forgotten since the start, as too many others came; they are looked at again."""
        return self._known.forgotten

    @property
    def full(self) -> bool:
        """Whether there is no room for another group: see `forget`."""
        return len(self.names) >= _NAMES and not self._free

    def look(self, tables: Mapping[str, TableHarvest]) -> Pending:
        """Who is new in this interval? Then comes `own`."""
        if execs.TABLE in tables:
            for naming in self._namings.values():
                naming.learn(tables[execs.TABLE].rows)
        groups, identities = {}, {}
        new: dict[bytes, Identity] = {}
        for stem, table in tables.items():
            if stem == execs.TABLE or not table.is_by_process:
                continue
            self._known.bound = max(self._known.bound, table.capacity)
            raw = identities[stem] = _identities(table.rows)
            ids = groups[stem] = np.fromiter(map(self._known.young.get, raw, repeat(-1)), np.int64, len(raw))
            unknown = np.flatnonzero(ids < 0)
            if not len(unknown):
                continue
            who = table.rows[list(Identity._fields)][unknown].tolist()
            for row, identity in zip(unknown.tolist(), who, strict=True):
                known = self._known.get(raw[row])
                if known is None:
                    new[raw[row]] = Identity._make(identity)
                else:
                    ids[row] = known
        new = dict(sorted(new.items(), key=lambda item: item[1].key))
        return Pending(groups, identities, new, self.naming.wanted(tuple(new.values())))

    def own(self, pending: Pending, found: Found) -> dict[str, Owners]:
        """Whose the rows are, by table."""
        self.naming.found(found)
        named: dict[bytes, int] = {}
        self.waiting = 0
        for raw, identity in pending.new.items():
            name, final = self.naming.name(identity)
            group = named[raw] = self._id(name)
            if final:
                self._known[raw] = group
            else:
                self.waiting += 1
        for stem, ids in pending.groups.items():
            raw_of_row = pending.identities[stem]
            for row in np.flatnonzero(ids < 0).tolist():
                ids[row] = named[raw_of_row[row]]
        names = tuple(self.names)
        return {stem: Owners(names, ids) for stem, ids in pending.groups.items()}

    def forget(self, ids: frozenset[int]) -> None:
        """Make room: these groups are no longer known, nor are their processes, which are named again when they act."""
        self._known.drop(ids)
        for group in ids:
            del self._ids[self.names[group]]
            self._free.append(group)

    def _id(self, name: str) -> int:
        group = self._ids.get(name)
        if group is None:
            if self.full:
                return Owners.OTHER
            if self._free:
                group = self._free.pop()
                self.names[group] = name
            else:
                group = len(self.names)
                self.names.append(name)
            self._ids[name] = group
        return group


def _identities(rows: np.ndarray) -> list[bytes]:
    """All that the rows say of their processes: when any of it changes, the process is looked at again."""
    size = sum(rows.dtype[name].itemsize for name in Identity._fields)
    raw = rows.view(np.uint8).reshape(len(rows), rows.dtype.itemsize)[:, :size]
    identities: list[bytes] = np.ascontiguousarray(raw).view(f"V{size}").ravel().tolist()
    return identities
