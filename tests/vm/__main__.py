"""Run the kernel tests, or a single command, under other kernels: `python -m tests.vm matrix`, `run` or `fetch`."""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from tests.vm import fetch, machine, matrix
from tests.vm.configurations import CONFIGURATIONS


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.vm")
    actions = parser.add_subparsers(dest="action", required=True)
    tests = actions.add_parser("matrix", help="run the kernel tests under every kernel")
    tests.add_argument(
        "--kernel", action="append", default=[], choices=fetch.SERIES, help="run only this kernel (may be repeated)"
    )
    tests.add_argument(
        "--configuration",
        action="append",
        default=[],
        choices=[c.name for c in CONFIGURATIONS],
        help="run only this configuration (may be repeated)",
    )
    tests.add_argument("--minutes", type=float, default=40, help="fail tests that have not ended by then (default: 40)")
    one = actions.add_parser("run", help="run a command under one kernel, such as: run 6.1 -- 'uname -r'")
    one.add_argument("kernel", choices=fetch.SERIES)
    one.add_argument("--append", default="", help="arguments to append to the kernel's command line")
    one.add_argument("--share", type=Path, help="host directory that the guest may write to")
    one.add_argument("--timeout", type=float, default=600, help="time limit in seconds (default: 600)")
    one.add_argument("--console", action="store_true", help="print the kernel's console at the end")
    one.add_argument("command", nargs="+", help="command for sh(1)")
    actions.add_parser("fetch", help="download the kernels")
    arguments = parser.parse_args()
    try:
        machine.require()
        if arguments.action == "matrix":
            return matrix.main(arguments.kernel, arguments.configuration, arguments.minutes)
        if arguments.action == "run":
            return run(arguments)
        for series in fetch.SERIES:
            kernel = fetch.fetch(series)
            print(f"{series}: {kernel.release} in {kernel.path}")
    except (machine.MachineError, fetch.MissingKernelError) as error:
        print(f"ebpfmon: {error}", file=sys.stderr)
        return 1
    return 0


def run(arguments: argparse.Namespace) -> int:
    kernel = fetch.fetch(arguments.kernel)
    with tempfile.TemporaryDirectory(prefix="ebpfmon-vm-") as scratch:
        share = arguments.share or Path(scratch)
        command = " ".join(arguments.command)
        job = machine.Job(command, share, arguments.append, timeout_s=arguments.timeout)
        ended = machine.run(kernel, job, sys.stdout.buffer)
        if arguments.console or ended.problem:
            sys.stderr.write((share / "console").read_text(errors="replace"))
    print(
        f"ebpfmon: {kernel.release}: {ended.elapsed_s:.1f} s, {ended.problem or f'exit status {ended.status}'}",
        file=sys.stderr,
    )
    return 125 if ended.status is None else ended.status


if __name__ == "__main__":
    sys.exit(main())
