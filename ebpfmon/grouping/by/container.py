"""Group processes by container, service or session."""

from __future__ import annotations

from collections.abc import Sequence

from ebpfmon.grouping import cgroups
from ebpfmon.grouping.lookup import LookupRequest, LookupResult
from ebpfmon.grouping.naming import Identity, LookupNaming
from ebpfmon.grouping.registry import Grouping


class ByContainer(LookupNaming):
    """Names a process by the path of its cgroup. A process whose cgroup no longer exists belongs to no group."""

    def __init__(self) -> None:
        super().__init__(lambda process: process.cgroup_id)

    def request(self, new: Sequence[Identity]) -> LookupRequest:
        return LookupRequest(cgroups=self.missing(new))

    def receive(self, result: LookupResult) -> bool:
        self.keep(
            {cgroup_id: cgroups.display_name(path) if path else None for cgroup_id, path in result.cgroups.items()}
        )
        return False


GROUPING = Grouping(name="container", prefix="containers", make=lambda _: ByContainer(), position=40)
