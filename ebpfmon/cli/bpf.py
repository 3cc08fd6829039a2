"""`ebpfmon bpf build`: compile BPF programs."""

from __future__ import annotations

import argparse
from pathlib import Path

from ebpfmon.cli.common import DONE, Commands


def add_to(commands: Commands) -> None:
    """Add the command."""
    actions = commands.add_parser("bpf", help="compile BPF programs").add_subparsers(required=True, metavar="ACTION")
    build = actions.add_parser("build", help="for x86-64, aarch64 and BCC, with ebpfmon's BPF headers")
    build.add_argument("sources", metavar="FILE", nargs="+", type=Path, help="NAME.bpf.c")
    build.add_argument("-o", "--output", metavar="DIR", type=Path, help="default: objects, beside each FILE")
    build.set_defaults(command=_build)


def _build(given: argparse.Namespace) -> int:
    from ebpfmon.plugins import build  # the daemon does without it

    for path in build.build(given.sources, given.output):
        print(path)
    return DONE
