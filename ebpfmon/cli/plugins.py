"""`ebpfmon plugins`: list the plugins."""

from __future__ import annotations

import argparse

from ebpfmon import config
from ebpfmon.cli.common import DONE, FAILED, Commands, command_line, print_json, settings_options
from ebpfmon.plugins import registry


def add_to(commands: Commands) -> None:
    """Add the command."""
    plugins = commands.add_parser("plugins", parents=[settings_options()], help="list the plugins and their state")
    plugins.add_argument("--json", action="store_true", help="as JSON")
    plugins.set_defaults(command=_plugins)


def _plugins(given: argparse.Namespace) -> int:
    found = registry.discover(options=config.parse(given.config).core(command_line(given)).plugins)
    if given.json:
        print_json(found.plugins)
    else:
        print("\n".join(registry.render(found.plugins)))
    return FAILED if found.left_out else DONE
