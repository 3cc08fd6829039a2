"""The command line. Each command is a module beside this one.

Exit status: 0 done; 1 the kernel or a plugin refused; 2 wrong settings or arguments. `check` has its own: 0 every
event can be seen, 1 some cannot, 2 none can. `reset` ends with 1 if something could not be removed.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

# numpy's linear algebra starts a thread for each CPU, with its memory; nothing here uses it
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

from ebpfmon import __version__
from ebpfmon.cli import bpf, check, config, install, messages, plugin, plugins, reset, run, top
from ebpfmon.cli.common import DONE, FAILED, WRONG
from ebpfmon.errors import EbpfmonError, SettingsError

COMMANDS = (run, check, top, reset, config, install, plugins, plugin, bpf)
"""In the order of the help."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return the exit status."""
    try:
        status = _main(arguments)
        sys.stdout.flush()  # here, so that a reader who has gone raises BrokenPipeError inside the try
    except EbpfmonError as error:
        messages.complain(error)
        return WRONG if isinstance(error, SettingsError) else FAILED
    except BrokenPipeError:  # `ebpfmon check | head -1`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return DONE
    return status


def _main(arguments: Sequence[str] | None) -> int:
    try:
        given = _parser().parse_args(arguments)
    except SystemExit as end:  # --help, --version, wrong arguments
        return int(end.code or 0)
    messages.set_up()
    status: int = given.command(given)
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="ebpfmon", description="Watches with eBPF what processes do in the kernel, every second."
    )
    parser.add_argument("--version", action="version", version=f"ebpfmon {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for command in COMMANDS:
        command.add_to(commands)
    return parser


if __name__ == "__main__":
    sys.exit(main())
