"""Group processes by program name, which is the kernel's comm."""

from __future__ import annotations

from ebpfmon.grouping.naming import Identity, RowNaming, decode
from ebpfmon.grouping.registry import Grouping

_KTHREADD = 2  # The tgid of the parent of all kernel threads.


class ByProcess(RowNaming):
    """Names a process by its comm. Kernel threads such as `kworker/0:1` share the part before the slash."""

    def name(self, process: Identity) -> tuple[str | None, bool]:
        comm = decode(process.comm)
        if process.parent_tgid == _KTHREADD:
            comm = comm.partition("/")[0]
        return comm or None, True


GROUPING = Grouping(name="process", prefix="processes", make=lambda _: ByProcess(), position=20)
