"""`ebpfmon top`: show what processes or groups are doing, live or once."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import shutil

from ebpfmon.cli.common import INTERRUPTED, SUCCESS, Commands, core_options, print_json, print_lines, read_settings
from ebpfmon.cli.stopping import until_stopped
from ebpfmon.config.apps import OLD_NAMES
from ebpfmon.errors import SettingsError
from ebpfmon.grouping.registry import DEFAULT_GROUPING, groupings

_EXAMPLES = """\
examples:
  sudo ebpfmon top
  sudo ebpfmon top --groups --by user --sort write
  sudo ebpfmon top --once --json --filter nginx
"""


def add_to(commands: Commands) -> None:
    """Add the command to the parser."""
    top = commands.add_parser(
        "top",
        parents=[core_options()],
        help="show what each process or group is doing, live",
        description=(
            "Show what each process or group is doing, updated every interval. Press h for the keys.\n\n"
            "It loads its own probes, so it does not need the daemon."
        ),
        epilog=_EXAMPLES,
    )
    top.add_argument("--once", action="store_true", help="print one interval, then exit")
    top.add_argument("--json", action="store_true", help="with --once: print JSON")
    top.add_argument("--groups", action="store_true", help="show groups instead of processes")
    top.add_argument(
        "--by", type=_grouping, metavar="GROUPING",
        help=f"group processes by {', '.join(groupings())} (default: the first grouping in the settings)",
    )  # fmt: skip
    top.add_argument("--sort", default="", metavar="COLUMN", help="sort by this column, such as read, pid or group")
    top.add_argument(
        "--filter",
        default="",
        metavar="TEXT",
        help="show only lines with TEXT in the command or group, or as the PID; with --groups: in the group",
    )
    top.add_argument("--lines", type=_count, default=20, metavar="N", help="with --once: at most N lines (default: 20)")
    top.set_defaults(command=_top)


def _grouping(text: str) -> str:
    """Return the name of a grouping, for its present or its old name."""
    name = OLD_NAMES.get(text, text)
    if name not in groupings():
        raise argparse.ArgumentTypeError(f"{text!r}: expected one of {', '.join(groupings())}")
    return name


def _count(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: expected a number above 0")
    return int(text)


def _top(args: argparse.Namespace) -> int:
    from ebpfmon.top import session, view  # the daemon does not need them
    from ebpfmon.top.state import State

    if args.json and not args.once:
        raise SettingsError("top: --json needs --once; for JSON every interval, use ebpfmon run --json")
    # A message would overwrite part of the screen.
    logging.getLogger().setLevel(logging.WARNING if args.once else logging.ERROR)
    settings, plugins = read_settings(args)
    state = State(
        by=args.by or next(iter(settings.groups.by), DEFAULT_GROUPING),
        mode="groups" if args.groups else "processes",
        sort=session.check_sort(args.sort, settings, plugins),
        filter=args.filter,
    )
    if not args.once:
        term = os.environ.get("TERM", "")
        asyncio.run(until_stopped(lambda stop, signals: session.live(settings, plugins, state, term, stop, [signals])))
        return SUCCESS
    snapshot = asyncio.run(
        until_stopped(lambda stop, signals: session.one_interval(settings, plugins, stop, [signals]))
    )
    if snapshot is None:
        return INTERRUPTED
    if args.json:
        print_json(view.to_json(snapshot, state, top=args.lines))
    else:
        width = shutil.get_terminal_size().columns
        print_lines(view.render(snapshot, state, width, None, top=args.lines))
    return SUCCESS
