"""Read the section `[apps]`, which `[groups]` has replaced, and say what to write instead."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

import msgspec

from ebpfmon.config.convert import typed
from ebpfmon.errors import SettingsError
from ebpfmon.grouping.registry import groupings

OLD_NAMES = {"app": "application", "cgroup": "container"}
"""The groupings that had another name, by that name."""


class _Apps(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    enabled: bool = True
    by: Literal["app", "process", "user", "cgroup"] = "app"
    groups: str = ""
    maximum: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 200


def translate(raw: Mapping[str, Any], source: str) -> dict[str, Any]:
    """Return the section `[groups]` that means the same as the `[apps]` of this file. Raises SettingsError."""
    if "groups" in raw:
        raise SettingsError(f"{source}: apps: [groups] has replaced [apps]: remove [apps]")
    apps = typed(raw["apps"], _Apps, source, "apps")
    groups: dict[str, Any] = {}
    if not apps.enabled:
        groups["by"] = []
    elif "by" in raw["apps"]:
        groups["by"] = [OLD_NAMES.get(apps.by, apps.by)]
    if apps.groups:
        groups["file"] = apps.groups
    if "maximum" in raw["apps"]:
        groups["maximum"] = apps.maximum
    return groups


def upgrade_hints(raw: Mapping[str, Any], source: str) -> Iterator[str]:
    """Yield the lines that say what to write instead of `[apps]`; none if the file has no such section."""
    if "apps" not in raw:
        return
    import tomli_w  # only needed here

    groups = translate(raw, source)
    yield "[groups] has replaced [apps]; write instead:"
    yield ""
    yield from tomli_w.dumps({"groups": groups}).splitlines()
    for name in groups.get("by", ()):
        prefix = groupings()[name].prefix
        if prefix != "apps":
            yield ""
            yield f"The charts by {name} are now called {prefix}.*, not apps.*, also in the charts of a sink."
