"""The identity of a process, and the interface of namings, which find the group of each process. No I/O.

`Naming.request` returns which facts a naming needs beyond the kernel's rows. The caller looks them up
(`ebpfmon.grouping.lookup`) and passes them to `Naming.receive`. Until then a group is provisional.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from ebpfmon.grouping.lookup import LookupRequest, LookupResult
from ebpfmon.grouping.recent import Recent

REMEMBERED = 4096
"""How many processes, users or cgroups a naming remembers. Each takes about 500 bytes."""


class Identity(NamedTuple):
    """The key of a per-process row: a process, and what it was when it made the calls (`struct caller` in C)."""

    start_ns: int
    tgid: int
    exec_id: int
    cgroup_id: int
    parent_tgid: int
    uid: int
    comm: bytes

    @property
    def key(self) -> tuple[int, int, int]:
        """The process, and which of its successive programs this is."""
        return self[:3]


class Naming(Protocol):
    """Finds the name of each process's group. It keeps state, so each pipeline needs one of its own."""

    def learn(self, execs: NDArray[np.void]) -> None:
        """Take the rows of the table `execs`: the programs that were started in the interval."""

    def request(self, new: Sequence[Identity]) -> LookupRequest:
        """Return the facts needed to name these processes, which are in the order of their start."""

    def receive(self, result: LookupResult) -> bool:
        """Take facts that were looked up. Return whether a name that was final has changed."""

    def name(self, process: Identity) -> tuple[str | None, bool]:
        """Return the name of the process's group, and whether it is final.

        The name is None if the process belongs to no group. If the name is not final, the caller should ask again in
        the next interval.
        """

    @property
    def known(self) -> Container[int]:
        """The tgids of processes whose ancestors need not be looked up."""


class Intersection:
    """A container of the elements that all of its parts contain. Without parts it contains everything."""

    def __init__(self, parts: Iterable[Container[int]] = ()) -> None:
        self._parts = tuple(parts)

    def __contains__(self, item: object) -> bool:
        return all(item in part for part in self._parts)


class RowNaming:
    """A naming that needs no facts beyond the kernel's rows."""

    known: Container[int] = Intersection()

    def learn(self, execs: NDArray[np.void]) -> None:
        pass

    def request(self, new: Sequence[Identity]) -> LookupRequest:
        return LookupRequest()

    def receive(self, result: LookupResult) -> bool:
        return False


class LookupNaming(RowNaming):
    """A naming by a number in the row, such as the uid. The name of each number is looked up once."""

    def __init__(self, number: Callable[[Identity], int]) -> None:
        self._number = number
        # Each name is in a tuple, because None means "looked up, but no group".
        self._names: Recent[int, tuple[str | None]] = Recent(REMEMBERED)

    def missing(self, new: Iterable[Identity]) -> tuple[int, ...]:
        """Return the numbers of these processes that have not been looked up yet."""
        return tuple(dict.fromkeys(n for n in map(self._number, new) if n not in self._names))

    def keep(self, names: Mapping[int, str | None]) -> None:
        """Remember names that were looked up."""
        for number, name in names.items():
            self._names[number] = (name,)

    def name(self, process: Identity) -> tuple[str | None, bool]:
        name = self._names.get(self._number(process))
        return (name[0], True) if name else (None, False)


def decode(raw: bytes) -> str:
    """Decode a name or a command line from the kernel. Invalid UTF-8 is replaced, and trailing NULs are removed."""
    return raw.decode("utf-8", "replace").rstrip("\0")
