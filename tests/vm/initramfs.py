"""The archive that a kernel starts from: busybox, the modules that reach the host's files, and what to run there."""

from __future__ import annotations

import lzma
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

MODULES = ("virtio_pci", "virtio_console", "9p", "9pnet_virtio", "overlay", "veth", "sch_netem", "loop")
"""What reaches the host's files, and what tests of the network and of disks need."""
_DIRECTORY, _FILE, _PROGRAM = 0o040755, 0o100644, 0o100755


def cpio(files: Mapping[str, bytes], programs: Iterable[str] = ()) -> bytes:
    """An archive of files and the directories that they are in, in the kernel's format ("newc")."""
    directories = {str(parent) for name in files for parent in Path(name).parents} - {"."}
    entries = [(name, _DIRECTORY, b"") for name in sorted(directories)]
    entries += [(name, _PROGRAM if name in set(programs) else _FILE, data) for name, data in files.items()]
    out = bytearray()
    for inode, (name, mode, data) in enumerate([*entries, ("TRAILER!!!", 0, b"")], 1):
        # inode, mode, uid, gid, links, mtime, size, four device numbers, length of the name, checksum
        fields = (inode, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name) + 1, 0)
        out += b"070701" + b"".join(b"%08X" % field for field in fields) + name.encode() + b"\0"
        out += b"\0" * (-len(out) % 4) + data
        out += b"\0" * (-len(out) % 4)
    return bytes(out)


def read_module(path: Path) -> bytes:
    """A kernel module as insmod takes it: Debian compresses them from 6.12 on."""
    data = path.read_bytes()
    return lzma.decompress(data) if path.suffix == ".xz" else data


def needs(module: bytes) -> list[str]:
    """The modules that a module says it needs. (modules.dep is not in the packages: their installation makes it.)"""
    found = re.search(rb"(?:^|\0)depends=([^\0]+)\0", module)
    return found[1].decode().split(",") if found else []


def in_order(wanted: Iterable[str], modules: Mapping[str, Path]) -> dict[str, bytes]:
    """What of `wanted`, and of what that needs, is a file among `modules`, in the order in which it can be loaded.

    What is no file is built into the kernel.
    """
    found: dict[str, bytes] = {}
    for name in wanted:
        path = modules.get(name.replace("-", "_"))
        if path and name not in found:
            data = read_module(path)
            found |= {**in_order((n for n in needs(data) if n not in found), modules), name: data}
    return found
