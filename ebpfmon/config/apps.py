"""Read the outdated section `[apps]`, which `[groups]` has replaced, and print its replacement."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

import msgspec

from ebpfmon.config.convert import typed
from ebpfmon.errors import SettingsError
from ebpfmon.grouping.registry import groupings

OLD_NAMES = {"app": "application", "cgroup": "container"}
"""Maps the old name of a grouping to its present name."""


class _Apps(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    enabled: bool = True
    by: Literal["app", "process", "user", "cgroup"] = "app"
    groups: str = ""
    maximum: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 200


def translate(raw: Mapping[str, Any], source: str) -> dict[str, Any]:
    """Return the section `[groups]` that replaces the section `[apps]` of a file. Raises SettingsError."""
    if "groups" in raw:
        raise SettingsError(f"{source}: apps: [groups] has replaced [apps]; remove [apps]")
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
    """Yield lines that show how to replace `[apps]`. Yields nothing if the file has no such section."""
    if "apps" not in raw:
        return
    import tomli_w  # the daemon does not need it

    groups = translate(raw, source)
    yield "[groups] has replaced [apps]. Replace [apps] with:"
    yield ""
    yield from tomli_w.dumps({"groups": groups}).splitlines()
    for name in groups.get("by", ()):
        prefix = groupings()[name].prefix
        if prefix != "apps":
            yield ""
            yield (
                f"Charts by {name} are now called {prefix}.* instead of apps.*: "
                "update the setting charts of your sinks."
            )
