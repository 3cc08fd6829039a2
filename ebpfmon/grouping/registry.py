"""The groupings there are: what processes can be grouped by.

A grouping is one module of the package `ebpfmon.grouping.by` that defines `GROUPING`. Nothing else lists them.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from ebpfmon.grouping import by
from ebpfmon.grouping.groups import Groups
from ebpfmon.grouping.naming import Naming

DEFAULT = "application"
"""The grouping that is used when the settings name none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """What a grouping may build on.

    `execs_since_ns` is the time of the boot clock since which every execve(2) is seen; infinity if none is.
    """

    groups: Groups
    execs_since_ns: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Grouping:
    """One way to put processes into groups.

    `name` is the value in the setting `[groups] by`, and the label of the grouping's charts. The charts themselves are
    called `PREFIX.NAME`. A grouping with `needs_execs` only works well if the core's probe `execs` is loaded, and one
    with `needs_groups` uses the groups file. Groupings are listed by `position`, then by name.
    """

    name: str
    prefix: str
    make: Callable[[Context], Naming]
    needs_execs: bool = False
    needs_groups: bool = False
    position: int = 100


def groupings() -> Mapping[str, Grouping]:
    """Return all groupings by name, in the order in which `top` goes through them."""
    modules = [importlib.import_module(f"{by.__name__}.{found.name}") for found in pkgutil.iter_modules(by.__path__)]
    found: list[Grouping] = sorted((m.GROUPING for m in modules), key=lambda g: (g.position, g.name))
    return {grouping.name: grouping for grouping in found}
