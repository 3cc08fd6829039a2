"""The kprobes of tracefs, made by writing to `kprobe_events`. Such an entry outlives its maker.

One that was left costs little, but names a function as probed for ever, and can keep a kernel from being patched
live.
"""

from __future__ import annotations

import errno
import os
import re
from dataclasses import dataclass
from pathlib import Path

from ebpfmon.errors import KernelError

_FILE = "kprobe_events"
_LINE = re.compile(r"[pr]\d*:(?P<group>[^/\s]+)/(?P<event>\S+)\s+(?P<target>\S+)")  # p:GROUP/EVENT TARGET ARGUMENTS
_OWN = re.compile(r"ebpfmon_(\d+)")


@dataclass(frozen=True, slots=True)
class Entry:
    """A line of `kprobe_events`: an event, and the function that it probes."""

    group: str
    event: str
    target: str

    def __str__(self) -> str:
        return f"{self.group}/{self.event} ({self.target})"

    @property
    def owner(self) -> int | None:
        """The pid of the ebpfmon that made it; None if it is of somebody else."""
        own = _OWN.fullmatch(self.group)
        return int(own[1]) if own else None


def entries(tracefs: str | os.PathLike[str]) -> list[Entry]:
    """All entries, whoever made them; none where the kernel has no kprobes. Raises KernelError if not allowed to."""
    path = Path(tracefs, _FILE)
    try:
        text = path.read_text()
    except FileNotFoundError:
        return []
    except OSError as error:
        raise KernelError(f"read '{path}': {error.strerror}{_remedy(error)}") from error
    return [Entry(**found.groupdict()) for line in text.splitlines() if (found := _LINE.match(line))]


def ours(entry: Entry) -> bool:
    """Whether it is ebpfmon's, or one that an old Netdata collector left: only those are ours to remove."""
    return entry.owner is not None or "_netdata_" in entry.event


def in_use(entry: Entry, root: Path = Path("/")) -> bool:
    """Whether the ebpfmon that made it is alive, and another than this process; `root` is where /proc is."""
    owner = entry.owner
    return owner not in (None, os.getpid()) and (root / f"proc/{owner}").exists()


def write(tracefs: str | os.PathLike[str], command: str) -> None:
    """Make (`p:` or `r:GROUP/EVENT TARGET`) or remove (`-:GROUP/EVENT`) one. Raises OSError."""
    # as O_TRUNC removes all, and Python's "a" seeks: EINVAL
    kprobes = os.open(Path(tracefs, _FILE), os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
    try:
        os.write(kprobes, f"{command}\n".encode())
    finally:
        os.close(kprobes)


def remove(tracefs: str | os.PathLike[str], entry: Entry) -> None:
    """Remove one; that it is gone already is no error. Raises KernelError, as when somebody still uses it."""
    try:
        write(tracefs, f"-:{entry.group}/{entry.event}")
    except OSError as error:
        if error.errno != errno.ENOENT:
            why = "in use" if error.errno == errno.EBUSY else f"{error.strerror}{_remedy(error)}"
            path = Path(tracefs, _FILE)
            raise KernelError(f"remove '{entry.group}/{entry.event}' from '{path}': {why}") from error


def _remedy(error: OSError) -> str:
    return ": run as root (sudo)" if error.errno == errno.EACCES else ""
