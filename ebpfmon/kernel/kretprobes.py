"""kretprobes with enough room: events of tracefs, which are taken away again whatever happens.

A kretprobe keeps an instance for each call under way, and calls beyond that are not seen. perf's kprobes have ten
instances or two a CPU, which a handful of processes that sleep in read(2) use up; only an event of
TRACEFS/kprobe_events can have more. Such an event outlives its maker, so a small shell waits for our end and
takes away what is left then: on SIGKILL too.
"""

from __future__ import annotations

import errno
import os
import subprocess
from pathlib import Path
from typing import Self

from ebpfmon.errors import AttachError
from ebpfmon.kernel import kprobe_events
from ebpfmon.kernel.libbpf import PERF_TRACEPOINT, Libbpf

MAXACTIVE = 4096
"""Calls of one function that may be under way at once (the most that the kernel allows)."""

# $0: the group, $1: kprobe_events. A line on stdin says that nothing is left: another object of the same process may
# still have events in the group. An event is busy until the kernel has closed its maker's descriptors.
_CLEAN_UP = r"""
trap '' HUP INT TERM
read -r _ && exit 0
for try in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do
    left=$(sed -n "s|^[pr][0-9]*:\($0/[^ ]*\) .*|\1|p" "$1")
    [ -n "$left" ] || exit 0
    for event in $left; do echo "-:$event" >>"$1"; done 2>/dev/null
    sleep 0.1
done
"""


class Kretprobes:
    """The kretprobes of one loaded object. A context manager; closing twice is harmless."""

    def __init__(self, libbpf: Libbpf, tracefs: str, maxactive: int = MAXACTIVE) -> None:
        self._libbpf, self._tracefs, self._maxactive = libbpf, Path(tracefs), maxactive
        self._group = f"ebpfmon_{os.getpid()}"
        self._events: dict[str, int] = {}
        self._cleaner: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def attach(self, function: str, program_fd: int) -> None:
        """Run a program whenever a function returns. Raises AttachError."""
        if not self._cleaner:
            command = ["/bin/sh", "-c", _CLEAN_UP, self._group, str(self._tracefs / "kprobe_events")]
            self._cleaner = subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)
        try:
            name = self._make(function)
            number = int((self._tracefs / "events" / self._group / name / "id").read_text())
            self._events[name] = self._libbpf.open_event(PERF_TRACEPOINT, number)
            self._libbpf.run_at(self._events[name], program_fd)
        except OSError as error:
            raise AttachError(f"make a kretprobe of '{function}': {error.strerror}", errno=error.errno or 0) from error

    def missed(self) -> int:
        """Return how many returns no program saw because all instances were in use."""
        if not self._events:
            return 0
        rows = [line.split() for line in (self._tracefs / "kprobe_profile").read_text().splitlines()]
        return sum(int(missed) for name, _, missed in rows if name in self._events)

    def close(self) -> None:
        """Detach all, and take the events away."""
        while self._events:
            name, fd = self._events.popitem()
            if fd >= 0:
                os.close(fd)
            kprobe_events.write(self._tracefs, f"-:{self._group}/{name}")
        if self._cleaner:
            self._cleaner.communicate(b"\n")
            self._cleaner = None

    def _make(self, function: str) -> str:
        for n in range(100):  # each object of this process may have one of its own
            name = f"{function}_{os.getpid()}_{n}"
            try:
                kprobe_events.write(self._tracefs, f"r{self._maxactive}:{self._group}/{name} {function}")
            except FileExistsError:
                continue
            self._events[name] = -1
            return name
        raise OSError(errno.EEXIST, os.strerror(errno.EEXIST))
