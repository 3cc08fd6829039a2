"""What several commands share: exit statuses, options, reading the settings, output as JSON."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import msgspec

from ebpfmon import config
from ebpfmon.config import CommandLine, Document, Settings
from ebpfmon.errors import PluginError
from ebpfmon.kernel import attach_methods
from ebpfmon.model import Loader, LoadMode
from ebpfmon.plugins import registry
from ebpfmon.plugins.registry import Registry

DONE, FAILED, WRONG = 0, 1, 2
"""Exit statuses: done; the kernel or a plugin refused; wrong settings or arguments."""


class Commands(Protocol):
    """Where a command adds itself: what `ArgumentParser.add_subparsers` returns."""

    def add_parser(
        self, name: str, *, parents: Sequence[argparse.ArgumentParser] = (), help: str
    ) -> argparse.ArgumentParser:
        """Add a command, and return the parser of its options."""


def settings_options() -> argparse.ArgumentParser:
    """Return the options of every command that reads the settings."""
    options = argparse.ArgumentParser(add_help=False)
    options.add_argument("--config", type=Path, metavar="FILE", help=f"settings (default: {config.DEFAULT_PATH})")
    options.add_argument(
        "--strict", action="store_true", default=None, help="stop if any plugin or probe cannot be used"
    )
    return options


def core_options() -> argparse.ArgumentParser:
    """Return the options of every command that loads programs."""
    options = argparse.ArgumentParser(add_help=False, parents=[settings_options()])
    options.add_argument("--load-mode", choices=[*LoadMode], help="entry: calls and bytes; return: errors too")
    methods = ["auto", *attach_methods.NAMES]
    options.add_argument("--attach", choices=methods, help="attach method (default: the best for each)")
    options.add_argument("--loader", choices=["auto", *Loader], help="libbpf (core), or BCC if the kernel has no BTF")
    return options


def read_settings(given: argparse.Namespace, *, json: bool = False) -> tuple[Settings, Registry]:
    """Return the checked settings and the plugins that they name."""
    return check_settings(config.parse(given.config), command_line(given, json))


def check_settings(document: Document, given: CommandLine) -> tuple[Settings, Registry]:
    """Return the settings of a parsed file, and the plugins that it names."""
    found = _discover(document, given)
    return config.check(document.raw, document.source, found, given), found


def command_line(given: argparse.Namespace, json: bool = False) -> CommandLine:
    """Return the settings that the command line overrides."""
    names = ("interval", "load_mode", "attach", "loader", "strict")
    core: dict[str, Any] = {n: getattr(given, n) for n in names if getattr(given, n, None) is not None}
    return CommandLine(core, json)


def print_json(value: object) -> None:
    """Write a value to stdout as indented JSON."""
    sys.stdout.buffer.write(msgspec.json.format(msgspec.json.encode(value)) + b"\n")


def _discover(document: Document, given: CommandLine) -> Registry:
    core = document.core(given)
    found = registry.discover(options=core.plugins)
    for plugin in found.left_out:
        if core.strict:
            raise PluginError(f"plugin '{plugin.name}' cannot be used, and strict is set: {plugin.error}")
        logging.warning("plugin '%s' is left out: %s", plugin.name, plugin.error)
    for name in core.disabled_plugins:
        if name not in {plugin.name for plugin in found.disabled}:
            logging.warning("%s: ebpfmon.disabled_plugins: there is no plugin '%s'", document.source, name)
    return found
