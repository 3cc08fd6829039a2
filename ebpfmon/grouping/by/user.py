"""Group processes by user."""

from __future__ import annotations

from collections.abc import Sequence

from ebpfmon.grouping.lookup import Found, Wanted
from ebpfmon.grouping.naming import Identity, LookedUp
from ebpfmon.grouping.registry import Grouping


class ByUser(LookedUp):
    """Name a process by its user; by the user's number if the user database has no name."""

    def __init__(self) -> None:
        super().__init__(lambda who: who.uid)

    def wanted(self, new: Sequence[Identity]) -> Wanted:
        return Wanted(users=self.missing(new))

    def found(self, found: Found) -> None:
        self.keep(found.users)


GROUPING = Grouping(name="user", prefix="users", make=lambda _: ByUser(), position=30)
