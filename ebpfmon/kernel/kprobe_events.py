"""List, create and remove kprobes in tracefs. Each is a line of the file `kprobe_events`.

Such a kprobe outlives the process that created it. A kprobe that was left behind costs little, but it keeps its
function probed, which can prevent live patching.
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
    """A line of `kprobe_events`: a kprobe and its function."""

    group: str
    event: str
    target: str

    def __str__(self) -> str:
        return f"{self.group}/{self.event} ({self.target})"

    @property
    def owner(self) -> int | None:
        """The pid of the ebpfmon that created the entry, None if another program did."""
        own = _OWN.fullmatch(self.group)
        return int(own[1]) if own else None


def entries(tracefs: str | os.PathLike[str]) -> list[Entry]:
    """Return the entries of all programs; none if the kernel has no kprobes. Raises KernelError if not permitted."""
    path = Path(tracefs, _FILE)
    try:
        text = path.read_text()
    except FileNotFoundError:
        return []
    except OSError as error:
        raise KernelError(f"cannot read '{path}': {error.strerror}{_remedy(error)}") from error
    return [Entry(**found.groupdict()) for line in text.splitlines() if (found := _LINE.match(line))]


def has_known_creator(entry: Entry) -> bool:
    """Return whether ebpfmon or an old Netdata collector created the entry. Never remove entries of others."""
    return entry.owner is not None or "_netdata_" in entry.event


def in_use(entry: Entry, root: Path = Path("/")) -> bool:
    """Return whether the entry belongs to another ebpfmon that is still running. `root` is the directory with /proc."""
    owner = entry.owner
    return owner not in (None, os.getpid()) and (root / f"proc/{owner}").exists()


def write(tracefs: str | os.PathLike[str], command: str) -> None:
    """Write a command to `kprobe_events`. Raises OSError.

    `p:GROUP/EVENT FUNCTION` creates a kprobe, `r:GROUP/EVENT FUNCTION` a kretprobe, and `-:GROUP/EVENT` removes either.
    """
    # open() does not work: O_TRUNC would remove all entries, and mode "a" seeks, which this file refuses.
    kprobes = os.open(Path(tracefs, _FILE), os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
    try:
        os.write(kprobes, f"{command}\n".encode())
    finally:
        os.close(kprobes)


def remove(tracefs: str | os.PathLike[str], entry: Entry) -> None:
    """Remove an entry, if it still exists. Raises KernelError, for example if it is in use."""
    try:
        write(tracefs, f"-:{entry.group}/{entry.event}")
    except OSError as error:
        if error.errno != errno.ENOENT:
            reason = "it is in use" if error.errno == errno.EBUSY else f"{error.strerror}{_remedy(error)}"
            path = Path(tracefs, _FILE)
            raise KernelError(f"cannot remove '{entry.group}/{entry.event}' from '{path}': {reason}") from error


def _remedy(error: OSError) -> str:
    return "; run as root (sudo)" if error.errno == errno.EACCES else ""
