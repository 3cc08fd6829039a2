"""`ebpfmon plugin new`: start a plugin."""

from __future__ import annotations

import argparse
from pathlib import Path

from ebpfmon.cli.common import DONE, Commands


def add_to(commands: Commands) -> None:
    """Add the command."""
    actions = commands.add_parser("plugin", help="write a plugin").add_subparsers(required=True, metavar="ACTION")
    new = actions.add_parser("new", help="create a package that builds, tests and runs at once")
    new.add_argument("what", choices=["probe", "sink"], help="what the plugin adds")
    new.add_argument("name", metavar="NAME", help="its name in settings and messages: lower case, digits and _")
    new.add_argument("directory", metavar="DIRECTORY", nargs="?", type=Path, help="default: ebpfmon_NAME")
    new.set_defaults(command=_new)


def _new(given: argparse.Namespace) -> int:
    from ebpfmon.plugins import scaffold  # the daemon does without it

    print("\n".join(scaffold.new(given.what, given.name, given.directory or Path(f"ebpfmon_{given.name}"))))
    return DONE
