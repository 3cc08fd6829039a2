"""Group processes by program: by the name that the kernel has for them."""

from __future__ import annotations

from ebpfmon.grouping.naming import Identity, RowNaming, text
from ebpfmon.grouping.registry import Grouping

_KTHREADD = 2  # the parent of all kernel threads


class ByProcess(RowNaming):
    """Name a process by its comm. The dozens of kernel threads like `kworker/0:1` share the part before the slash."""

    def name(self, who: Identity) -> tuple[str | None, bool]:
        comm = text(who.comm)
        if who.parent_tgid == _KTHREADD:
            comm = comm.partition("/")[0]
        return comm or None, True


GROUPING = Grouping(name="process", prefix="processes", make=lambda _: ByProcess(), position=20)
