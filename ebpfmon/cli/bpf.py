"""`ebpfmon bpf build`: compile BPF programs."""

from __future__ import annotations

import argparse
from pathlib import Path

from ebpfmon.cli.common import SUCCESS, Commands, add_actions, print_lines

_EXAMPLES = """\
examples:
  ebpfmon bpf build ebpfmon_naps/naps.bpf.c
"""


def add_to(commands: Commands) -> None:
    """Add the command to the parser."""
    actions = add_actions(commands, "bpf", help="compile BPF programs", description="Compile the BPF part of a probe.")
    build = actions.add_parser(
        "build",
        help="compile NAME.bpf.c for x86-64, aarch64 and BCC",
        description=(
            "Compile each NAME.bpf.c for x86-64 and aarch64, and write NAME.bcc.c, the source that BCC compiles on "
            "kernels without BTF.\n\nebpfmon's BPF headers are on the include path. Needs clang."
        ),
        epilog=_EXAMPLES,
    )
    build.add_argument("sources", metavar="FILE", nargs="+", type=Path, help="a C source called NAME.bpf.c")
    build.add_argument(
        "-o", "--output", metavar="DIR", type=Path, help="write to DIR (default: the directory 'objects' beside FILE)"
    )
    build.set_defaults(command=_build)


def _build(args: argparse.Namespace) -> int:
    from ebpfmon.plugins import build  # the daemon does not need it

    print_lines(map(str, build.build(args.sources, args.output)))
    return SUCCESS
