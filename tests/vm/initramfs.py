"""Build the initramfs that a guest boots from: busybox, kernel modules and the scripts to run."""

from __future__ import annotations

import lzma
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

MODULES = ("virtio_pci", "virtio_console", "9p", "9pnet_virtio", "overlay", "veth", "sch_netem", "loop",
           "null_blk", "zonefs")  # fmt: skip
"""The modules for access to the host's files, and those that the network and disk tests need."""
_DIRECTORY, _FILE, _PROGRAM = 0o040755, 0o100644, 0o100755


def cpio(files: Mapping[str, bytes], programs: Iterable[str] = ()) -> bytes:
    """Return a cpio archive of the files and their parent directories, in the kernel's "newc" format."""
    directories = {str(parent) for name in files for parent in Path(name).parents} - {"."}
    entries = [(name, _DIRECTORY, b"") for name in sorted(directories)]
    entries += [(name, _PROGRAM if name in set(programs) else _FILE, data) for name, data in files.items()]
    out = bytearray()
    for inode, (name, mode, data) in enumerate([*entries, ("TRAILER!!!", 0, b"")], 1):
        # The fields are: inode, mode, uid, gid, links, mtime, size, four device numbers, length of the name, checksum.
        fields = (inode, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name) + 1, 0)
        out += b"070701" + b"".join(b"%08X" % field for field in fields) + name.encode() + b"\0"
        out += b"\0" * (-len(out) % 4) + data
        out += b"\0" * (-len(out) % 4)
    return bytes(out)


def read_module(path: Path) -> bytes:
    """Return a kernel module uncompressed, for insmod. Debian compresses modules from 6.12 on."""
    data = path.read_bytes()
    return lzma.decompress(data) if path.suffix == ".xz" else data


def dependencies(module: bytes) -> list[str]:
    """Return the modules that a module depends on, from its own `depends=` field.

    The packages contain no modules.dep: it is made when they are installed.
    """
    found = re.search(rb"(?:^|\0)depends=([^\0]+)\0", module)
    return found[1].decode().split(",") if found else []


def in_order(names: Iterable[str], modules: Mapping[str, Path]) -> dict[str, bytes]:
    """Return the contents of the named modules and their dependencies by name, in the order to load them.

    A name without a file in `modules` is skipped, because it is built into the kernel.
    """
    found: dict[str, bytes] = {}
    for name in names:
        path = modules.get(name.replace("-", "_"))
        if path and name not in found:
            data = read_module(path)
            found |= {**in_order((n for n in dependencies(data) if n not in found), modules), name: data}
    return found
