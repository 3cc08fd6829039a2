"""Group processes by container, service or session."""

from __future__ import annotations

from collections.abc import Sequence

from ebpfmon.grouping import cgroups
from ebpfmon.grouping.lookup import Found, Wanted
from ebpfmon.grouping.naming import Identity, LookedUp
from ebpfmon.grouping.registry import Grouping


class ByContainer(LookedUp):
    """Name a process by its cgroup, from that cgroup's path. A process whose cgroup is gone belongs to no group."""

    def __init__(self) -> None:
        super().__init__(lambda who: who.cgroup_id)

    def wanted(self, new: Sequence[Identity]) -> Wanted:
        return Wanted(cgroups=self.missing(new))

    def found(self, found: Found) -> None:
        self.keep({cgroup_id: cgroups.name(path) if path else None for cgroup_id, path in found.cgroups.items()})


GROUPING = Grouping(name="container", prefix="containers", make=lambda _: ByContainer(), position=40)
