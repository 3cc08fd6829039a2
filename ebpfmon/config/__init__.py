"""The settings: their types, and reading them from TOML."""

from ebpfmon.config.checks import check, check_machine
from ebpfmon.config.reading import DEFAULT_PATH, Document, parse, probe_settings, read, validate
from ebpfmon.config.settings import CommandLine, Core, GroupSettings, Settings

__all__ = [
    "DEFAULT_PATH",
    "CommandLine",
    "Core",
    "Document",
    "GroupSettings",
    "Settings",
    "check",
    "check_machine",
    "parse",
    "probe_settings",
    "read",
    "validate",
]
