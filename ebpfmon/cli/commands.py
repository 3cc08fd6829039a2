"""Parse the command line and run a command. Each command is a module in this package.

Exit status: 0 success; 1 the kernel or a plugin failed; 2 wrong settings or arguments. `check` has statuses of its
own: 0 every event can be attached, 1 some cannot, 2 none can. `reset` returns 1 if a kprobe could not be removed.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from ebpfmon import __version__
from ebpfmon.cli import bpf, check, config, install, messages, plugin, plugins, reset, run, top
from ebpfmon.cli.common import FAILURE, SUCCESS, USAGE_ERROR, Parser, open_verifier_log
from ebpfmon.cli.stdio import ReaderGoneError
from ebpfmon.errors import EbpfmonError, SettingsError

COMMANDS = (run, top, check, config, install, reset, plugins, plugin, bpf)
"""The commands, in the order of the help."""

_EPILOG = """\
getting started:
  sudo ebpfmon check    # what this kernel supports
  sudo ebpfmon top      # what processes are doing now

Run 'ebpfmon COMMAND --help' for the options of a command.

exit status:
  0  success
  1  the kernel or a plugin failed
  2  wrong settings or arguments
"""


def execute(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return the exit status. Errors are printed."""
    try:
        status = _execute(arguments)
        sys.stdout.flush()  # here, so that errors are printed
    except ReaderGoneError:
        return SUCCESS
    except EbpfmonError as error:
        messages.print_error(error)
        return USAGE_ERROR if isinstance(error, SettingsError) else FAILURE
    return status


def _execute(arguments: Sequence[str] | None) -> int:
    try:
        args = parser().parse_args(arguments)
    except SystemExit as end:  # --help, --version, wrong arguments
        return int(end.code or 0)
    messages.configure_logging()
    if path := getattr(args, "verifier_log", None):
        open_verifier_log(path)
    status: int = args.command(args)
    return status


def parser() -> Parser:
    """Return the parser of the whole command line."""
    top_level = Parser(
        prog="ebpfmon",
        description=(
            "Count with eBPF what each process does in the Linux kernel: files opened, bytes read and written, network "
            "traffic, processes started. Send the counts every second to Netdata, Prometheus, StatsD, JSON or logs."
        ),
        epilog=_EPILOG,
    )
    top_level.add_argument(
        "--version", action="version", version=f"ebpfmon {__version__}", help="show the version and exit"
    )
    commands = top_level.add_subparsers(required=True, metavar="COMMAND", title="commands")
    for command in COMMANDS:
        command.add_to(commands)
    return top_level
