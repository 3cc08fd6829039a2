"""`ebpfmon install`: set up ebpfmon for systemd, Netdata, or a program that another package supports."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import sysconfig
from pathlib import Path

from ebpfmon.cli.common import SUCCESS, Commands, print_lines
from ebpfmon.errors import SettingsError

_EXAMPLES = """\
examples:
  sudo ebpfmon install systemd   # the unit ebpfmon.service, and a settings file
  sudo ebpfmon install netdata   # the relay that Netdata runs
"""


def add_to(commands: Commands) -> None:
    """Add the command to the parser."""
    install = commands.add_parser(
        "install",
        help="install a systemd unit, or the relay that Netdata runs",
        description=(
            "Install what another program needs to work with ebpfmon. An existing settings file is never changed."
        ),
        epilog=_EXAMPLES,
    )
    install.add_argument(
        "target", metavar="PROGRAM", help="systemd, netdata, or a program that another package adds support for"
    )
    install.add_argument("--dry-run", action="store_true", help="show what would be written, and write nothing")
    install.add_argument("--prefix", type=Path, default=Path("/"), metavar="DIR", help="write below DIR (default: /)")
    install.add_argument(
        "--directory",
        type=Path,
        metavar="DIR",
        help="netdata: the directory of Netdata's plugins (default: where Netdata's packages install it)",
    )
    install.set_defaults(command=_install)


def _install(args: argparse.Namespace) -> int:
    from ebpfmon.install import systemd  # the daemon does not need it

    if args.target != "systemd":
        systemd.installer(args.target)(args.prefix, args.directory, dry_run=args.dry_run)
        return SUCCESS
    if args.directory:
        raise SettingsError("install systemd: --directory is only for netdata")
    executable = shutil.which(sys.argv[0]) or ""
    if os.path.basename(executable) != "ebpfmon":  # started as `python -m ebpfmon`
        executable = os.path.join(sysconfig.get_path("scripts"), "ebpfmon")
    print_lines(systemd.install_systemd(args.prefix, os.path.abspath(executable), args.dry_run))
    return SUCCESS
