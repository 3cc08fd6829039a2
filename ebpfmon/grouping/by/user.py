"""Group processes by user."""

from __future__ import annotations

from collections.abc import Sequence

from ebpfmon.grouping.lookup import LookupRequest, LookupResult
from ebpfmon.grouping.naming import Identity, LookupNaming
from ebpfmon.grouping.registry import Grouping


class ByUser(LookupNaming):
    """Names a process by its user name, or by its uid if the user database has no name."""

    def __init__(self) -> None:
        super().__init__(lambda process: process.uid)

    def request(self, new: Sequence[Identity]) -> LookupRequest:
        return LookupRequest(users=self.missing(new))

    def receive(self, result: LookupResult) -> None:
        self.keep(result.users)


GROUPING = Grouping(name="user", prefix="users", make=lambda _: ByUser(), position=30)
