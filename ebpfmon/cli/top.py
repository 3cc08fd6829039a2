"""`ebpfmon top`: what processes or groups do, live or once."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import shutil

from ebpfmon.cli.common import DONE, Commands, core_options, print_json, read_settings
from ebpfmon.cli.stopping import until_stopped
from ebpfmon.config.apps import OLD_NAMES
from ebpfmon.errors import SettingsError
from ebpfmon.grouping.registry import DEFAULT, groupings


def add_to(commands: Commands) -> None:
    """Add the command."""
    top = commands.add_parser("top", parents=[core_options()], help="show what each process or group does in a second")
    top.add_argument("--once", action="store_true", help="show one second, and end")
    top.add_argument("--json", action="store_true", help="with --once: as JSON")
    names = ", ".join(groupings())
    top.add_argument(
        "--by", choices=[*groupings(), *OLD_NAMES], metavar="GROUPING",
        help=f"{names} (default: the first in the settings)",
    )  # fmt: skip
    top.add_argument("--groups", action="store_true", help="show groups instead of processes")
    top.add_argument("--sort", default="", metavar="COLUMN", help="sort by this column, such as read, pid or group")
    top.add_argument("--filter", default="", metavar="TEXT", help="show only rows with TEXT as command, group or PID")
    top.add_argument("--lines", type=_count, default=20, metavar="N", help="with --once: N lines at most (default: 20)")
    top.set_defaults(command=_top)


def _count(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: expected a number above 0")
    return int(text)


def _top(given: argparse.Namespace) -> int:
    from ebpfmon.top import session, view  # the daemon does without them
    from ebpfmon.top.state import State

    if given.json and not given.once:
        raise SettingsError("top: --json is for --once; ebpfmon run --json goes on")
    logging.getLogger().setLevel(logging.WARNING if given.once else logging.ERROR)  # a line would spoil the screen
    settings, found = read_settings(given)
    by = given.by or next(iter(settings.groups.by), DEFAULT)
    state = State(
        by=OLD_NAMES.get(by, by),
        mode="groups" if given.groups else "processes",
        sort=session.check_sort(given.sort, found),
        filter=given.filter,
    )
    if not given.once:
        term = os.environ.get("TERM", "")
        asyncio.run(until_stopped(lambda stop: session.live(settings, found, state, term, stop)))
        return DONE
    snapshot = asyncio.run(until_stopped(lambda stop: session.one_second(settings, found, stop)))
    if given.json:
        print_json(view.to_json(snapshot, state, top=given.lines))
    else:
        width = shutil.get_terminal_size().columns
        print("\n".join(view.render(snapshot, state, width, None, top=given.lines)))
    return DONE
