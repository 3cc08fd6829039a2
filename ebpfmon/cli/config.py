"""`ebpfmon config`: show the settings, or check them."""

from __future__ import annotations

import argparse

from ebpfmon import config
from ebpfmon.cli.common import DONE, Commands, check_settings, command_line, read_settings, settings_options


def add_to(commands: Commands) -> None:
    """Add the command."""
    actions = commands.add_parser("config", help="look at the settings").add_subparsers(required=True, metavar="ACTION")
    show = actions.add_parser("show", parents=[settings_options()], help="print all settings, with the defaults")
    show.set_defaults(command=_show)
    check = actions.add_parser("check", parents=[settings_options()], help="say whether the settings are right")
    check.set_defaults(command=_check)


def _show(given: argparse.Namespace) -> int:
    from ebpfmon.config.writing import to_toml  # the daemon does without it

    print(to_toml(read_settings(given)[0]), end="")
    return DONE


def _check(given: argparse.Namespace) -> int:
    document = config.parse(given.config)
    check_settings(document, command_line(given))
    print(f"{document.source}: right" if document.exists else f"{document.source}: not there, the defaults hold")
    for line in document.advice:
        print(line)
    return DONE
