"""Write settings as TOML."""

from __future__ import annotations

import msgspec
import tomli_w

from ebpfmon.config.settings import Settings


def to_toml(settings: Settings) -> str:
    """Return all settings, defaults included, as the text of a settings file."""
    return tomli_w.dumps(msgspec.to_builtins(settings))
