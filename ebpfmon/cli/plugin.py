"""`ebpfmon plugin new`: create a plugin."""

from __future__ import annotations

import argparse
from pathlib import Path

from ebpfmon.cli.common import SUCCESS, Commands, add_actions, print_lines

_EXAMPLES = """\
examples:
  ebpfmon plugin new probe naps
  ebpfmon plugin new sink carrier_pigeon
"""


def add_to(commands: Commands) -> None:
    """Add the command to the parser."""
    actions = add_actions(
        commands, "plugin", help="create a plugin", description="Create a plugin. (To list plugins: ebpfmon plugins.)"
    )
    new = actions.add_parser(
        "new",
        help="create a package for a new probe or sink",
        description="Create a Python package for a new probe or sink, with example code, settings, README and tests.",
        epilog=_EXAMPLES,
    )
    new.add_argument("kind", choices=["probe", "sink"], help="what the plugin adds to ebpfmon")
    new.add_argument(
        "name", metavar="NAME",
        help="name in settings and messages: at most 20 lower-case letters, digits and _, beginning with a letter",
    )  # fmt: skip
    new.add_argument(
        "directory", metavar="DIRECTORY", nargs="?", type=Path, help="where to create it (default: ebpfmon_NAME)"
    )
    new.set_defaults(command=_new)


def _new(args: argparse.Namespace) -> int:
    from ebpfmon.plugins import scaffold  # the daemon does not need it

    print_lines(scaffold.new(args.kind, args.name, args.directory or Path(f"ebpfmon_{args.name}")))
    return SUCCESS
