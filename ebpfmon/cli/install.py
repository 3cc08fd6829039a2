"""`ebpfmon install`: set up systemd, Netdata, or what a plugin's package offers."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import sysconfig
from pathlib import Path

from ebpfmon.cli.common import DONE, Commands
from ebpfmon.errors import SettingsError


def add_to(commands: Commands) -> None:
    """Add the command."""
    install = commands.add_parser("install", help="let systemd run ebpfmon, or Netdata show what it sees")
    install.add_argument("what", metavar="PROGRAM", help="systemd, netdata, or one that another package offers")
    install.add_argument("--dry-run", action="store_true", help="only say what would be done")
    install.add_argument("--prefix", type=Path, default=Path("/"), metavar="DIR", help="write below DIR (default: /)")
    install.add_argument("--directory", type=Path, metavar="DIR", help="netdata: where it has its plugins")
    install.set_defaults(command=_install)


def _install(given: argparse.Namespace) -> int:
    from ebpfmon.install import systemd as install  # the daemon does without it

    if given.what != "systemd":
        install.installer(given.what)(given.prefix, given.directory, dry_run=given.dry_run)
        return DONE
    if given.directory:
        raise SettingsError("install systemd: it needs no --directory")
    called = shutil.which(sys.argv[0]) or ""
    if os.path.basename(called) != "ebpfmon":  # python -m ebpfmon
        called = os.path.join(sysconfig.get_path("scripts"), "ebpfmon")
    print("\n".join(install.install_systemd(given.prefix, os.path.abspath(called), given.dry_run)))
    return DONE
