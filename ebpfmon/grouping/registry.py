"""Find the groupings: the ways to put processes into groups.

A grouping is a module of the package `ebpfmon.grouping.by` that defines `GROUPING`. There is no other list of them.
"""

from __future__ import annotations

import functools
import importlib
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from ebpfmon.grouping import by
from ebpfmon.grouping.groups import Groups
from ebpfmon.grouping.naming import Naming

DEFAULT_GROUPING = "application"
"""The default of the setting `[groups] by`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """What a grouping gets to create its naming.

    `execs_since_ns` is the time (CLOCK_BOOTTIME) since which every execve(2) is seen, or infinity if none is seen.
    """

    groups: Groups
    execs_since_ns: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Grouping:
    """One way to put processes into groups.

    `name` is the value in the setting `[groups] by` and the label of the grouping's charts. `prefix` begins the ids of
    these charts, as in `apps.vfs_read_call`. `make` creates the naming. With `uses_execs`, the probe `execs` is loaded
    if the kernel allows it. With `uses_groups_file`, the groups file is read. Groupings are sorted by `position`, then
    by name.
    """

    name: str
    prefix: str
    make: Callable[[Context], Naming]
    uses_execs: bool = False
    uses_groups_file: bool = False
    position: int = 100


@functools.cache  # The daemon may become a user who cannot read the package.
def groupings() -> Mapping[str, Grouping]:
    """Return all groupings by name, in the order in which `top` cycles through them."""
    modules = [importlib.import_module(f"{by.__name__}.{module.name}") for module in pkgutil.iter_modules(by.__path__)]
    ordered: list[Grouping] = sorted((m.GROUPING for m in modules), key=lambda g: (g.position, g.name))
    return {grouping.name: grouping for grouping in ordered}
