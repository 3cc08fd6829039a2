"""Shared by the tests of third-party plugins: programs to count, and a daemon that counts them."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ebpfmon import VALUE

SOURCE = """// SPDX-License-Identifier: GPL-2.0-only
#include "ebpfmon.bpf.h"
struct NAME_counters {
	__u64 started;
};
#define TABLE NAME
#define TABLE_SIZE 1024
#include "process_table.bpf.h"

static __always_inline int on_exec(void)
{
	struct NAME_counters *counters;

	BODY
	counters = NAME_find();
	if (counters)
		count(&counters->started, 1);
	return 0;
}

SEC("tp_btf/sched_process_exec")
int BPF_PROG(sched_process_exec_tp_btf)
{
	return on_exec();
}

SEC("tp/sched/sched_process_exec")
int sched_process_exec_tp(void *ctx)
{
	return on_exec();
}

char LICENSE[] SEC("license") = "GPL";
"""
"""The C code of a probe that counts started programs. BODY is replaced by code of the test."""


class Daemon:
    """A running daemon whose stdout and stderr go to files."""

    def __init__(self, process: subprocess.Popen[bytes], where: Path) -> None:
        self.process, self._where = process, where

    def text(self, name: str) -> str:
        """Return the present content of a file, or an empty text if there is none."""
        path = self._where / name
        return path.read_text(errors="replace") if path.exists() else ""

    def snapshots(self, name: str = "stdout") -> list[dict[str, Any]]:
        """Return the complete lines of JSON in a file."""
        return [json.loads(line) for line in self.text(name).splitlines(keepends=True) if line.endswith("\n")]

    def until(self, condition: Callable[[], object], what: Callable[[], str] = str) -> None:
        """Wait for a condition while the daemon runs. `what` describes the progress if it is never met."""
        end = time.monotonic() + 100
        while not condition():
            assert self.process.poll() is None, self.text("stderr")
            assert time.monotonic() < end, f"timed out: {what()}\n{self.text('stderr')}"
            time.sleep(0.1)

    def stop(self) -> None:
        """Stop the daemon as systemd does."""
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(60) == 0, self.text("stderr")


@contextmanager
def running(command: Sequence[str | Path], where: Path) -> Iterator[Daemon]:
    """Run a daemon, and kill it at the end."""
    with (where / "stdout").open("wb") as out, (where / "stderr").open("wb") as err:
        process = subprocess.Popen(command, stdout=out, stderr=err, cwd=where)
    try:
        yield Daemon(process, where)
    finally:
        process.kill()
        process.wait()


def run_programs(where: Path, name: str, times: int) -> None:
    """Run a program of this name `times` times."""
    path = where / name
    path.write_text("#!/bin/sh\n:\n")
    path.chmod(0o755)
    for _ in range(times):
        subprocess.run([path], check=True)


def amounts(snapshots: Sequence[dict[str, Any]], chart: str, dimension: str = VALUE, **labels: str) -> list[int]:
    """Return the deltas of a dimension of the series with these labels, one for each snapshot that has it."""
    series = [each for s in snapshots for c in s["charts"] if c["id"] == chart for each in c["series"]]
    shown = [d for each in series if labels.items() <= each["labels"].items() for d in each["dimensions"]]
    return [d["delta"] for d in shown if d["id"] == dimension]


def make_private(folder: Path) -> Path:
    """Make a folder writable only for its owner, whatever the umask is."""
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o755)
    return folder
