"""The command line: arguments, environment and exit statuses live here alone.

Exit status: 0 done; 1 the kernel or a plugin refused; 2 wrong settings or arguments. `check` has its own: 0 every
event can be seen, 1 some cannot, 2 none can.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

# numpy's linear algebra starts a thread for each CPU, with its memory; nothing here uses it
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import msgspec

from ebpfmon import __version__, config, daemon, registry
from ebpfmon.errors import EbpfmonError, SettingsError
from ebpfmon.model import LoadMode, Strategy

DONE, FAILED, WRONG = 0, 1, 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit status."""
    try:
        status = _main(arguments)
        sys.stdout.flush()  # here, where a reader that has gone is no failure
    except SettingsError as error:
        return _complain(error, WRONG)
    except EbpfmonError as error:
        return _complain(error, FAILED)
    except BrokenPipeError:  # `ebpfmon check | head -1`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return DONE
    return status


def _main(arguments: Sequence[str] | None) -> int:
    try:
        given = _parser().parse_args(arguments)
    except SystemExit as end:  # --help, --version, wrong arguments
        return int(end.code or 0)
    logging.basicConfig(level=logging.INFO, format="ebpfmon: %(message)s", stream=sys.stderr)
    status: int = given.command(given)
    return status


def _complain(error: EbpfmonError, status: int) -> int:
    print(f"ebpfmon: {error}", file=sys.stderr)
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="ebpfmon", description="Watches with eBPF what processes do in the kernel, every second."
    )
    parser.add_argument("--version", action="version", version=f"ebpfmon {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    settings = argparse.ArgumentParser(add_help=False)
    settings.add_argument("--config", type=Path, metavar="FILE", help=f"settings (default: {config.DEFAULT_PATH})")
    core = argparse.ArgumentParser(add_help=False, parents=[settings])
    core.add_argument("--load-mode", choices=[*LoadMode], help="entry: calls and bytes; return: errors too")
    core.add_argument("--attach", choices=["auto", *Strategy], help="how events are seen (default: the best way)")

    run = commands.add_parser("run", parents=[core], help="watch, until stopped")
    run.add_argument("--for", type=_seconds, dest="for_s", metavar="SECONDS", help="stop after that long")
    run.add_argument("--json", action="store_true", help="write each snapshot as a line of JSON on stdout")
    run.add_argument("--interval", type=int, metavar="SECONDS", help="seconds between snapshots (default: 1)")
    run.set_defaults(command=_run)

    check = commands.add_parser("check", parents=[core], help="say what this kernel allows, and what is taken of it")
    check.add_argument("--json", action="store_true", help="as JSON")
    check.set_defaults(command=_check)

    of_config = commands.add_parser("config", help="look at the settings")
    actions = of_config.add_subparsers(required=True, metavar="ACTION")
    actions.add_parser("show", parents=[settings], help="all settings, with the defaults").set_defaults(
        command=_config_show
    )
    actions.add_parser("check", parents=[settings], help="whether they are right").set_defaults(command=_config_check)

    commands.add_parser("plugins", help="the plugins, their probes and sinks").set_defaults(command=_plugins)
    return parser


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0
    if not 0 < seconds < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r}: expected a number of seconds above 0")
    return seconds


def _settings(given: argparse.Namespace, found: registry.Registry, *, json: bool = False) -> config.Settings:
    names = ("interval", "load_mode", "attach")
    core: dict[str, Any] = {n: getattr(given, n) for n in names if getattr(given, n, None) is not None}
    return config.read(given.config, found, config.CommandLine(core, json))


def _discover() -> registry.Registry:
    found = registry.discover()
    for plugin in found.plugins:
        if plugin.error:
            logging.warning("plugin '%s' is left out: %s", plugin.name, plugin.error)
    return found


def _run(given: argparse.Namespace) -> int:
    found = _discover()
    settings = _settings(given, found, json=given.json)
    return asyncio.run(_until_stopped(settings, found, given.for_s))


async def _until_stopped(settings: config.Settings, found: registry.Registry, for_s: float | None) -> int:
    stop, loop = asyncio.Event(), asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    timer = loop.call_later(for_s, stop.set) if for_s else None
    try:
        await daemon.run(settings, found, stop)
    except BaseExceptionGroup as group:  # not except*: what it raises, Python 3.11.2 wraps again
        ours, others = group.split(EbpfmonError)
        if others or not ours:
            raise
        raise _first(ours) from None
    finally:
        if timer:
            timer.cancel()
    return DONE


def _first(group: BaseExceptionGroup[EbpfmonError]) -> EbpfmonError:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    assert isinstance(error, EbpfmonError)
    return error


def _check(given: argparse.Namespace) -> int:
    from ebpfmon import report  # the daemon need not keep it in memory

    found = _discover()
    verdict = report.check(_settings(given, found), found)
    if given.json:
        sys.stdout.buffer.write(msgspec.json.format(msgspec.json.encode(verdict)) + b"\n")
    else:
        print("\n".join(report.render(verdict)))
    return verdict.status


def _config_show(given: argparse.Namespace) -> int:
    print("\n".join(config.to_toml(_settings(given, _discover()))))
    return DONE


def _config_check(given: argparse.Namespace) -> int:
    _settings(given, _discover())
    path = given.config or config.DEFAULT_PATH
    print(f"{path}: right" if path.exists() else f"{path}: not there, the defaults hold")
    return DONE


def _plugins(given: argparse.Namespace) -> int:
    plugins = registry.discover().plugins
    for plugin in plugins:
        brings = [f"probe {p}" for p in plugin.probes] + [f"sink {s}" for s in plugin.sinks]
        state = f"left out: {plugin.error}" if plugin.error else ", ".join(brings)
        print(f"{plugin.name:16} {plugin.distribution} {plugin.version:8} {state}")
    return FAILED if any(p.error for p in plugins) else DONE


if __name__ == "__main__":
    sys.exit(main())
