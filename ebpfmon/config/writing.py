"""Write settings as TOML."""

from __future__ import annotations

import msgspec
import tomli_w

from ebpfmon.config.settings import Settings
from ebpfmon.text import escaped_toml


def to_toml(settings: Settings) -> str:
    """Return all settings, defaults included, as the text of a settings file."""
    return escaped_toml(tomli_w.dumps(msgspec.to_builtins(settings)))
