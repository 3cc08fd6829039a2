"""`ebpfmon check`: what this kernel allows."""

from __future__ import annotations

import argparse

from ebpfmon.cli.common import Commands, core_options, print_json, read_settings


def add_to(commands: Commands) -> None:
    """Add the command."""
    check = commands.add_parser("check", parents=[core_options()], help="say what this kernel allows, and what is used")
    check.add_argument("--json", action="store_true", help="as JSON")
    check.set_defaults(command=_check)


def _check(given: argparse.Namespace) -> int:
    from ebpfmon.check import report  # the daemon does without it

    verdict = report.check(*read_settings(given))
    if given.json:
        print_json(verdict)
    else:
        print("\n".join(report.render(verdict)))
    return verdict.status
