"""The settings: their types, and reading them from TOML."""

from ebpfmon.config.reading import DEFAULT_PATH, Document, check, parse, read
from ebpfmon.config.settings import CommandLine, Core, GroupSettings, Settings

__all__ = ["DEFAULT_PATH", "CommandLine", "Core", "Document", "GroupSettings", "Settings", "check", "parse", "read"]
