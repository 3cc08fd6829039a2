"""Attach kretprobes with a high limit of concurrent calls, through tracefs.

A kretprobe needs an instance for each call of its function that has not returned, and misses calls if it has none
left. A kretprobe of perf_event_open(2) has ten instances or two per CPU, so a few processes that sleep in read(2) use
them up. Only an event in TRACEFS/kprobe_events can have more. Such an event outlives the process that created it.
Therefore a small shell script waits for the end of this process, even by SIGKILL, and then removes leftover events.
"""

from __future__ import annotations

import errno
import os
import subprocess
from io import FileIO
from pathlib import Path
from typing import Self

from ebpfmon import shortage
from ebpfmon.errors import AttachError, KernelError
from ebpfmon.kernel import kprobe_events
from ebpfmon.kernel.libbpf import PERF_TRACEPOINT, Libbpf

MAXACTIVE = 4096
"""The limit of concurrent calls of one function. The kernel allows no more."""

# $0 is the group, $1 the path of kprobe_events. If the script reads a line, there is nothing to remove, and other
# objects of this process may still use the group. At end of file this process has ended. The script retries, because an
# event is busy until the kernel has closed the descriptors of the process.
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
        self._profile: FileIO | None = None  # kept open: each tick reads it, even if descriptors are short by then

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def attach(self, function: str, program_fd: int) -> None:
        """Attach a program to the return of a function.

        Raises AttachError, or KernelError if no process can be started.
        """
        if not self._cleaner:
            command = ["/bin/sh", "-c", _CLEAN_UP, self._group, str(self._tracefs / "kprobe_events")]
            try:
                self._cleaner = subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)
            except OSError as error:
                code = error.errno or 0
                raise KernelError(
                    f"cannot attach a kretprobe to '{function}': cannot start /bin/sh: {os.strerror(code)}"
                    + shortage.no_process(code)
                ) from error
        try:
            self._profile = self._profile or FileIO(self._tracefs / "kprobe_profile")
            name = self._create(function)
            number = int((self._tracefs / "events" / self._group / name / "id").read_text())
            self._events[name] = self._libbpf.open_perf_event(PERF_TRACEPOINT, number)
            self._libbpf.attach_to_event(self._events[name], program_fd)
        except OSError as error:
            code = error.errno or 0
            raise AttachError(
                f"cannot attach a kretprobe to '{function}': {os.strerror(code)}{shortage.remedy(code)}", errno=code
            ) from error

    def missed(self) -> int:
        """Return how many calls were missed because all instances were in use."""
        if not self._profile:
            return 0
        self._profile.seek(0)
        rows = [line.split() for line in self._profile.readall().decode().splitlines()]
        return sum(int(missed) for name, _, missed in rows if name in self._events)

    def close(self) -> None:
        """Detach all programs and remove the events."""
        while self._events:
            name, fd = self._events.popitem()
            if fd >= 0:
                os.close(fd)
            kprobe_events.write(self._tracefs, f"-:{self._group}/{name}")
        if self._profile:
            self._profile.close()
            self._profile = None
        if self._cleaner:
            self._cleaner.communicate(b"\n")
            self._cleaner = None

    def _create(self, function: str) -> str:
        for n in range(100):  # Other objects of this process may have kretprobes at the same function.
            name = f"{function}_{os.getpid()}_{n}"
            try:
                kprobe_events.write(self._tracefs, f"r{self._maxactive}:{self._group}/{name} {function}")
            except FileExistsError:
                continue
            self._events[name] = -1
            return name
        raise OSError(errno.EEXIST, os.strerror(errno.EEXIST))
