"""`ebpfmon check`: report what this kernel supports."""

from __future__ import annotations

import argparse

from ebpfmon.cli.common import Commands, core_options, print_json, print_lines, read_settings

_STATUS = """\
exit status:
  0  every event can be attached
  1  some events cannot be attached
  2  no event can be attached, or no probe is enabled
"""


def add_to(commands: Commands) -> None:
    """Add the command to the parser."""
    check = commands.add_parser(
        "check",
        parents=[core_options()],
        help="report what this kernel supports and how each event is attached",
        description=(
            "Report what this kernel supports, what to do about what is missing, and how each event of the enabled "
            "probes is attached.\n\nLoads and attaches the probes for a moment. Without root it reports what it can, "
            "and which capabilities are missing."
        ),
        epilog=_STATUS,
    )
    check.add_argument("--json", action="store_true", help="print the report as JSON")
    check.set_defaults(command=_check)


def _check(args: argparse.Namespace) -> int:
    from ebpfmon.check import report  # the daemon does not need it

    verdict = report.check(*read_settings(args))
    if args.json:
        print_json(verdict)
    else:
        print_lines(report.render(verdict))
    return verdict.status
