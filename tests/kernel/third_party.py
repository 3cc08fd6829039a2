"""What the tests of third-party plugins share: programs with their own names to count, and a daemon to watch."""

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
"""A probe that counts programs that are started; BODY may be anything."""


class Daemon:
    """A daemon that runs, with what it writes to stdout and stderr in files."""

    def __init__(self, process: subprocess.Popen[bytes], where: Path) -> None:
        self.process, self._where = process, where

    def text(self, name: str) -> str:
        """What is in a file by now; nothing if it is not there."""
        path = self._where / name
        return path.read_text(errors="replace") if path.exists() else ""

    def snapshots(self, name: str = "stdout") -> list[dict[str, Any]]:
        """The whole lines of JSON in a file."""
        return [json.loads(line) for line in self.text(name).splitlines(keepends=True) if line.endswith("\n")]

    def until(self, condition: Callable[[], object], what: Callable[[], str] = str) -> None:
        """Wait for something, as long as the daemon runs; `what` says how far it has come."""
        end = time.monotonic() + 100
        while not condition():
            assert self.process.poll() is None, self.text("stderr")
            assert time.monotonic() < end, f"what was waited for did not come: {what()}\n{self.text('stderr')}"
            time.sleep(0.1)

    def stop(self) -> None:
        """As systemd does it."""
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(60) == 0, self.text("stderr")


@contextmanager
def running(command: Sequence[str | Path], where: Path) -> Iterator[Daemon]:
    """A daemon, from its first snapshot of JSON on stdout or in a file of that name."""
    with (where / "stdout").open("wb") as out, (where / "stderr").open("wb") as err:
        process = subprocess.Popen(command, stdout=out, stderr=err, cwd=where)
    try:
        yield Daemon(process, where)
    finally:
        process.kill()
        process.wait()


def programs(where: Path, name: str, times: int) -> None:
    """Run a program of that name so many times."""
    path = where / name
    path.write_text("#!/bin/sh\n:\n")
    path.chmod(0o755)
    for _ in range(times):
        subprocess.run([path], check=True)


def amounts(snapshots: Sequence[dict[str, Any]], chart: str, dimension: str = VALUE, **labels: str) -> list[int]:
    """Return what each snapshot says of a dimension of the series with these labels, where they are there."""
    series = [each for s in snapshots for c in s["charts"] if c["id"] == chart for each in c["series"]]
    shown = [d for each in series if labels.items() <= each["labels"].items() for d in each["dimensions"]]
    return [d["delta"] for d in shown if d["id"] == dimension]


def shut(folder: Path) -> Path:
    """Nobody else may write there any more, whatever the umask is."""
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o755)
    return folder
