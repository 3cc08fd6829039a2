"""`ebpfmon reset`: remove kprobes that a dead process left in the kernel."""

from __future__ import annotations

import argparse

from ebpfmon.cli.common import DONE, FAILED, Commands
from ebpfmon.cli.messages import complain
from ebpfmon.errors import KernelError
from ebpfmon.kernel import features, kprobe_events


def add_to(commands: Commands) -> None:
    """Add the command."""
    reset = commands.add_parser("reset", help="remove kprobes that ebpfmon or an old Netdata left in the kernel")
    reset.add_argument("--dry-run", action="store_true", help="only show them")
    reset.set_defaults(command=_reset)


def _reset(given: argparse.Namespace) -> int:
    found = features.detect()
    if found.kprobes and not found.tracefs:
        raise KernelError("look for kprobes: tracefs is not mounted: mount -t tracefs tracefs /sys/kernel/tracing")
    ours = [e for e in kprobe_events.entries(found.tracefs) if kprobe_events.is_ours(e)] if found.tracefs else []
    left = [e for e in ours if not kprobe_events.in_use(e)]
    for entry in ours:
        print(f"left behind: {entry}" if entry in left else f"in use by ebpfmon {entry.owner}: {entry}")
    if not left:
        print("nothing was left" if found.kprobes else "this kernel has no kprobes, so nothing can be left")
    if given.dry_run or not found.tracefs:
        return DONE
    status = DONE
    for entry in left:
        try:
            kprobe_events.remove(found.tracefs, entry)
        except KernelError as error:
            complain(error)
            status = FAILED
        else:
            print(f"removed {entry}")
    return status
