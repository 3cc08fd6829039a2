"""`ebpfmon run`: the daemon."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import signal

from ebpfmon import config
from ebpfmon.cli.common import DONE, Commands, check_settings, command_line, core_options
from ebpfmon.cli.stopping import until_stopped
from ebpfmon.config import Settings
from ebpfmon.daemon import run as daemon
from ebpfmon.daemon.notify import Notifier


def add_to(commands: Commands) -> None:
    """Add the command."""
    run = commands.add_parser("run", parents=[core_options()], help="watch, until stopped")
    run.add_argument("--for", type=_seconds, dest="for_s", metavar="SECONDS", help="stop after that long")
    run.add_argument("--json", action="store_true", help="write each snapshot as a line of JSON on stdout")
    run.add_argument("--interval", type=int, metavar="SECONDS", help="seconds between snapshots (default: 1)")
    run.set_defaults(command=_run)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0
    if not 0 < seconds < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r}: expected a number of seconds above 0")
    return seconds


def _run(given: argparse.Namespace) -> int:
    document, overrides = config.parse(given.config), command_line(given, given.json)
    settings, found = check_settings(document, overrides)
    if document.advice:
        logging.warning("%s: [groups] has replaced [apps]: see `ebpfmon config check`", document.source)

    def read() -> Settings:
        changed = config.read(given.config, found, overrides)
        if changed.ebpfmon.plugins != settings.ebpfmon.plugins:
            logging.warning("the plugins stay as they are until ebpfmon is started again")
        return changed

    async def work(stop: asyncio.Event) -> None:
        asked = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, asked.set)
        await daemon.run(settings, found, stop, reload=daemon.Reload(asked, read), notifier=_notifier())

    asyncio.run(until_stopped(work, given.for_s))
    return DONE


def _notifier() -> Notifier:
    """Return a notifier for the service manager that started this process, if one did."""
    watched = os.environ.get("WATCHDOG_USEC", "")
    ours = os.environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
    watchdog_s = int(watched) / 1e6 if watched.isdecimal() and ours else None
    return Notifier(os.environ.get("NOTIFY_SOCKET"), watchdog_s)
