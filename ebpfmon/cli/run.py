"""`ebpfmon run`: run the daemon."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os

from ebpfmon import config
from ebpfmon.cli.common import SUCCESS, Commands, check_settings, core_options, overrides
from ebpfmon.cli.stopping import SignalThread, until_stopped
from ebpfmon.config import Settings
from ebpfmon.daemon import memory
from ebpfmon.daemon import run as daemon
from ebpfmon.daemon.notify import Notifier

_EXAMPLES = """\
examples:
  sudo ebpfmon run                          # until Ctrl-C
  sudo ebpfmon run --json --for 10 | jq .   # JSON, for ten seconds
  sudo ebpfmon run --load-mode return       # also count which calls failed
"""


def add_to(commands: Commands) -> None:
    """Add the command to the parser."""
    run = commands.add_parser(
        "run",
        parents=[core_options()],
        help="run the daemon: count, and send the counts to the sinks",
        description=(
            "Run the daemon: load the enabled probes, and send a snapshot of the counts to every sink each interval, "
            "until Ctrl-C or SIGTERM. If the settings name no sinks, snapshots are written to stdout as text.\n\n"
            "SIGHUP reloads the settings. Options override the settings file."
        ),
        epilog=_EXAMPLES,
    )
    run.add_argument("--for", type=_seconds, dest="for_s", metavar="SECONDS", help="stop after SECONDS")
    run.add_argument("--json", action="store_true", help="write each snapshot to stdout as one line of JSON")
    run.add_argument("--interval", type=int, metavar="SECONDS", help="seconds between snapshots, 1 to 3600")
    run.set_defaults(command=_run)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0
    if not 0 < seconds < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r}: expected a number of seconds above 0")
    return seconds


def _run(args: argparse.Namespace) -> int:
    document, command_line = config.parse(args.config), overrides(args, args.json)
    settings, plugins = check_settings(document, command_line)
    if document.upgrade_hints:
        logging.warning(
            "%s: [groups] has replaced [apps]; `ebpfmon config check` prints the new section", document.source
        )

    def read() -> Settings:
        changed = config.read(args.config, plugins, command_line)
        for key in ("plugins_dir", "disabled_plugins"):
            if getattr(changed.ebpfmon, key) != getattr(settings.ebpfmon, key):
                logging.warning("%s: ebpfmon.%s changed: restart ebpfmon to apply it", document.source, key)
        return changed

    requested = asyncio.Event()

    async def work(stop: asyncio.Event, signals: SignalThread) -> None:
        await daemon.run(
            settings,
            plugins,
            stop,
            reload=daemon.Reload(requested, read),
            notifier=_notifier(),
            others=[signals],
        )

    memory.share_one_heap()
    asyncio.run(until_stopped(work, args.for_s, on_hangup=requested.set))
    return SUCCESS


def _notifier() -> Notifier:
    """Return a notifier for the service manager, which sends nothing if no service manager started this process."""
    pid = str(os.getpid())
    watchdog_usec = os.environ.get("WATCHDOG_USEC", "")
    is_watched = watchdog_usec.isdecimal() and os.environ.get("WATCHDOG_PID", pid) == pid
    return Notifier(os.environ.get("NOTIFY_SOCKET"), int(watchdog_usec) / 1e6 if is_watched else None)
