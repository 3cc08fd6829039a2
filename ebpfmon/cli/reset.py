"""`ebpfmon reset`: remove kprobes that a dead process left in the kernel."""

from __future__ import annotations

import argparse

from ebpfmon.cli.common import FAILURE, SUCCESS, Commands, print_lines
from ebpfmon.cli.messages import print_error
from ebpfmon.errors import KernelError
from ebpfmon.kernel import features, kprobe_events


def add_to(commands: Commands) -> None:
    """Add the command to the parser."""
    reset = commands.add_parser(
        "reset",
        help="remove kprobes that a killed ebpfmon or an old Netdata left in the kernel",
        description=(
            "List the kprobes of ebpfmon and of old Netdata versions in tracefs, and remove those that were left "
            "behind when their process ended. Kprobes of other programs, and of a running ebpfmon, are not touched.\n\n"
            "The exit status is 1 if a kprobe could not be removed."
        ),
    )
    reset.add_argument("--dry-run", action="store_true", help="list the kprobes, and remove nothing")
    reset.set_defaults(command=_reset)


def _reset(args: argparse.Namespace) -> int:
    kernel = features.detect()
    if kernel.kprobes and not kernel.tracefs:
        raise KernelError(
            "cannot look for kprobes: tracefs is not mounted; run mount -t tracefs tracefs /sys/kernel/tracing"
        )
    found = kprobe_events.entries(kernel.tracefs) if kernel.tracefs else []
    entries = [entry for entry in found if kprobe_events.has_known_creator(entry)]
    left_behind = [entry for entry in entries if not kprobe_events.in_use(entry)]
    print_lines(
        f"left behind: {entry}" if entry in left_behind else f"in use by ebpfmon {entry.owner}: {entry}"
        for entry in entries
    )
    if not left_behind:
        print("no kprobes were left behind" if kernel.kprobes else "this kernel has no kprobes: nothing to remove")
    if args.dry_run or not kernel.tracefs:
        return SUCCESS
    status = SUCCESS
    for entry in left_behind:
        try:
            kprobe_events.remove(kernel.tracefs, entry)
        except KernelError as error:
            print_error(error)
            status = FAILURE
        else:
            print_lines([f"removed {entry}"])
    return status
