"""`ebpfmon plugins`: list the plugins."""

from __future__ import annotations

import argparse

from ebpfmon import config
from ebpfmon.cli.common import FAILURE, SUCCESS, Commands, overrides, print_json, print_lines, settings_options
from ebpfmon.plugins import registry


def add_to(commands: Commands) -> None:
    """Add the command to the parser."""
    plugins = commands.add_parser(
        "plugins",
        parents=[settings_options()],
        help="list the plugins and their state",
        description=(
            "List the installed plugins: their state, where they come from, and which probes and sinks they add. The "
            "exit status is 1 if a plugin cannot be used; its line says why."
        ),
    )
    plugins.add_argument("--json", action="store_true", help="print the list as JSON")
    plugins.set_defaults(command=_plugins)


def _plugins(args: argparse.Namespace) -> int:
    discovered = registry.discover(options=config.parse(args.config).core(overrides(args)).plugins)
    if args.json:
        print_json(discovered.plugins)
    else:
        print_lines(registry.render(discovered.plugins))
    return FAILURE if discovered.left_out else SUCCESS
