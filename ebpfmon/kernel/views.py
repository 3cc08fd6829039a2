"""Find out whether this process sees what the kernel's numbers refer to.

BPF programs see the kernel's own numbers: PIDs of the initial PID namespace, uids of the initial user namespace,
cgroups of the whole tree, and times since boot. In a container, the same number may refer to something else, or to
nothing.
"""

from __future__ import annotations

import re
from pathlib import Path

import msgspec

from ebpfmon.kernel import capabilities, features

# The inodes of the initial namespaces, which are the same on every kernel (include/uapi/linux/nsfs.h, proc_ns.h).
_INITIAL = {"user": 0xEFFFFFFD, "pid": 0xEFFFFFFC, "time": 0xEFFFFFFA}
_ROOT_CGROUP = 1
"""The inode of the root cgroup, which is the same on every kernel (fs/kernfs/dir.c)."""
_FLAGS, _PF_KTHREAD = 6, 0x00200000
"""The position of the flags in /proc/PID/stat after the comm, counted from 0, and that of the kernel's threads."""
_HIDDEN = re.compile(r"(?:^|,)(hidepid=(?!0|off)\w+)")


class Problem(msgspec.Struct, frozen=True):
    """What this process sees instead, the effect of that, and the remedy."""

    what: str
    effect: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.what}, so {self.effect}; {self.remedy}"


class Views(msgspec.Struct, frozen=True):
    """What this process cannot see, or sees only a part of. A field is None if nothing is known to be wrong."""

    processes: Problem | None = None
    """If this is set, the numbers in /proc must not be used, because they refer to other processes."""
    hidden: Problem | None = None
    """Why some processes are not in /proc."""
    users: Problem | None = None
    cgroups: Problem | None = None


def detect(root: Path = Path("/")) -> Views:
    """Return what this process does not see. `root` is the directory with /proc, /sys and /etc."""
    proc = root / "proc"
    return Views(
        processes=_processes(proc), hidden=_hidden(proc), users=_users(root, proc), cgroups=_cgroups(root, proc)
    )


def _processes(proc: Path) -> Problem | None:
    what, remedy = _other_numbers(proc)
    effect = "processes that are older than ebpfmon are known by their names alone"
    return Problem(what, effect, remedy) if what else None


def _other_numbers(proc: Path) -> tuple[str, str]:
    """Return why the numbers in /proc are not the kernel's, and the remedy. Both are empty if they are."""
    pid_namespace = _inode(proc / "self/ns/pid")
    if not (proc / "self/stat").exists():
        return "/proc is not mounted, or for another PID namespace", "mount -t proc proc /proc"
    # Without an inode the kernel has no PID namespaces. /proc may belong to the initial one even if this process does
    # not: it then shows the kernel's threads.
    if pid_namespace not in (_INITIAL["pid"], None) and not _is_kernel_thread(proc / "2/stat"):
        return "/proc belongs to a PID namespace other than the host's", "use the host's (--pid=host)"
    if _inode(proc / "self/ns/time") != _INITIAL["time"] and _boot_time_is_shifted(proc):
        return "a time namespace shifts the start of each process", "use the host's"
    return "", ""


def _hidden(proc: Path) -> Problem | None:
    option = _hiding_option(proc)
    if not option or "sys_ptrace" in _held(proc):
        return None
    effect = "most processes that are older than ebpfmon are known by their names alone"
    return Problem(f"/proc is mounted with {option}", effect, "grant CAP_SYS_PTRACE, or mount /proc without hidepid")


def _users(root: Path, proc: Path) -> Problem | None:
    effect = "users may have the wrong names"
    if _inode(proc / "self/ns/user") not in (_INITIAL["user"], None):
        return Problem("uids here are those of a user namespace", effect, "use the host's (--userns=host)")
    # A mount namespace of its own is harmless, and usual for services, as long as the user database is the host's.
    own, host = _identity(root / "etc/passwd"), _identity(proc / "1/root/etc/passwd")
    if own and host and own != host:
        remedy = "use the host's (--volume /etc/passwd:/etc/passwd:ro)"
        return Problem("/etc/passwd is not that of process 1", effect, remedy)
    return None


def _cgroups(root: Path, proc: Path) -> Problem | None:
    mount = features.mounted(proc, "cgroup2", "/sys/fs/cgroup")
    if mount is None:
        effect = "containers and services have no groups"
        return Problem("cgroup version 2 is not mounted", effect, "mount -t cgroup2 cgroup2 /sys/fs/cgroup")
    if _inode(root / mount.lstrip("/")) not in (_ROOT_CGROUP, None):
        effect = "containers and services outside it have no groups"
        return Problem(
            f"{mount} shows a part of the cgroups", effect, "use the host's cgroup namespace (--cgroupns=host)"
        )
    return None


def _inode(path: Path) -> int | None:
    identity = _identity(path)
    return identity[1] if identity else None


def _identity(path: Path) -> tuple[int, int] | None:
    """Return the device and the inode of a file, None if it does not exist or must not be read."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _is_kernel_thread(stat: Path) -> bool:
    fields = (features.read(stat) or "").rpartition(")")[2].split()
    return len(fields) > _FLAGS and bool(int(fields[_FLAGS]) & _PF_KTHREAD)


def _hiding_option(proc: Path) -> str:
    """Return the option of /proc that hides processes of other users, empty if there is none."""
    lines = (line.split(" ") for line in (features.read(proc / "self/mounts") or "").split("\n"))
    options = [fields[3] for fields in lines if len(fields) > 3 and fields[1:3] == ["/proc", "proc"]]
    hidden = _HIDDEN.search(options[-1]) if options else None  # the last one is on top of the others
    return hidden[1] if hidden else ""


def _held(proc: Path) -> frozenset[str]:
    try:
        return capabilities.read(proc / "thread-self/status", "CapEff")
    except OSError:
        return frozenset()


def _boot_time_is_shifted(proc: Path) -> bool:
    offsets = features.read(proc / "self/timens_offsets") or ""
    return any(line.split()[:1] == ["boottime"] and line.split()[1:] != ["0", "0"] for line in offsets.splitlines())
