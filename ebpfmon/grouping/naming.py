"""What every grouping has in common: the identity of a process, and how a grouping names its group.

Nothing here does I/O. A naming says with `wanted()` which facts it needs beyond the kernel's rows. The caller looks
them up (`ebpfmon.grouping.lookup`) and hands them over with `found()`. Until then a name is provisional.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from ebpfmon.grouping.lookup import LookupRequest, LookupResult
from ebpfmon.grouping.recent import Recent

REMEMBERED = 4096
"""How many processes, users or cgroups a naming remembers. Each takes some 500 bytes."""


class Identity(NamedTuple):
    """What a row says about its process (`struct process_key` and `struct process_identity` of the BPF headers)."""

    start_ns: int
    tgid: int
    exec_id: int
    cgroup_id: int
    parent_tgid: int
    uid: int
    comm: bytes

    @property
    def key(self) -> tuple[int, int, int]:
        """The process, and which of the programs it has run."""
        return self[:3]


class Naming(Protocol):
    """Names the group of each process. Has state: one object serves one daemon."""

    def learn(self, execs: NDArray[np.void]) -> None:
        """Take in the rows of the table `execs`: the programs that were started in the interval."""

    def request(self, new: Sequence[Identity]) -> LookupRequest:
        """Return the facts needed to name these processes, which are in the order of their start."""

    def receive(self, result: LookupResult) -> None:
        """Take in facts that were looked up."""

    def name(self, who: Identity) -> tuple[str | None, bool]:
        """Return the name of the process's group, and whether it is final.

        The name is None for a process that belongs to no group. If the name is not final, ask again in the next
        interval.
        """

    @property
    def known(self) -> Container[int]:
        """The tgids of the processes whose ancestors need not be looked up."""


class Intersection:
    """Holds what all of its parts hold; without parts it holds everything."""

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

    def receive(self, result: LookupResult) -> None:
        pass


class LookupNaming(RowNaming):
    """A naming by a number in the row, such as the uid, whose name is looked up once."""

    def __init__(self, number: Callable[[Identity], int]) -> None:
        self._number = number
        self._names: Recent[int, tuple[str | None]] = Recent(REMEMBERED)  # in a tuple: None is an answer as well

    def missing(self, new: Iterable[Identity]) -> tuple[int, ...]:
        """Return the numbers of these processes that have not been looked up."""
        return tuple(dict.fromkeys(n for n in map(self._number, new) if n not in self._names))

    def keep(self, names: Mapping[int, str | None]) -> None:
        """Remember names that were looked up."""
        for number, name in names.items():
            self._names[number] = (name,)

    def name(self, who: Identity) -> tuple[str | None, bool]:
        name = self._names.get(self._number(who))
        return (name[0], True) if name else (None, False)


def text(raw: bytes) -> str:
    """Decode a name or a command line of the kernel's: any bytes, with NULs between arguments."""
    return raw.decode("utf-8", "replace").rstrip("\0")
