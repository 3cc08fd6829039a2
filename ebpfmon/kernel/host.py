"""Detect the facts about this machine that `ebpfmon check` reports in addition to the kernel's features."""

from __future__ import annotations

import os
import re
import resource
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec

from ebpfmon.kernel import features, kconfig, views
from ebpfmon.kernel.views import Views


class Config(msgspec.Struct, frozen=True):
    """The file with the kernel's configuration, and the effect of each option that is not set."""

    path: str | None
    looked_at: tuple[str, ...]
    missing: dict[str, str] = {}


class Bcc(msgspec.Struct, frozen=True):
    """The directory that BCC's Python module can be imported from, and its version."""

    path: str
    version: str | None


class Host(msgspec.Struct, frozen=True):
    """The facts about a machine. A field is None if the machine has no such thing."""

    config: Config
    securityfs: str | None
    memlock_bytes: int | None
    """RLIMIT_MEMLOCK, None if it is unlimited."""
    unprivileged_bpf_disabled: int | None
    selinux: str | None
    """The SELinux mode: permissive or enforcing."""
    selinux_domain: str | None
    """The SELinux domain of this process."""
    bcc: Bcc | None
    headers: str | None
    """The path of the kernel's headers, which BCC needs."""
    views: Views = Views()
    """Which of the machine's processes, users and cgroups this process cannot see."""


def detect(release: str, root: Path = Path("/"), path: Sequence[str] | None = None) -> Host:
    """Return the facts about this machine.

    `root` is the directory with /proc, /sys and /usr. `path` replaces `sys.path`.
    """
    soft, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    enforce = features.number(root / "sys/fs/selinux/enforce")
    context = features.read(root / "proc/self/attr/current") or "" if enforce is not None else ""
    return Host(
        config=_config(release, root),
        securityfs=features.mounted(root / "proc", "securityfs", "/sys/kernel/security"),
        memlock_bytes=None if soft == resource.RLIM_INFINITY else soft,
        unprivileged_bpf_disabled=features.number(root / "proc/sys/kernel/unprivileged_bpf_disabled"),
        selinux=None if enforce is None else ("permissive", "enforcing")[min(enforce, 1)],
        selinux_domain=context.split(":")[2] if context.count(":") > 1 else None,  # USER:ROLE:DOMAIN:LEVEL
        bcc=_bcc(root, [p for p in sys.path if p] if path is None else path),
        views=views.detect(root),
        headers=next((p for p in header_paths(release) if os.path.exists(root / p[1:])), None),
    )


def header_paths(release: str) -> tuple[str, ...]:
    """Return the paths where BCC looks for the headers of a kernel."""
    return f"/lib/modules/{release}/build", "/sys/kernel/kheaders.tar.xz"


def _config(release: str, root: Path) -> Config:
    looked_at, config = kconfig.paths(release), kconfig.read(release, root)
    if config is None:
        return Config(None, looked_at)
    return Config(config.path, looked_at, {o: effect for o, effect in kconfig.EFFECTS.items() if not config.has(o)})


def _bcc(root: Path, path: Sequence[str]) -> Bcc | None:
    """Find BCC's Python module by its files.

    This Python may be unable to import it, because only the distribution's own Python can. The file libbcc.py tells it
    from the unrelated package `bcc` of PyPI.
    """
    others = sorted((root / "usr/lib").glob("python3*/site-packages"))
    directories = (*path, "/usr/lib/python3/dist-packages", *(f"/{p.relative_to(root)}" for p in others))
    for directory in directories:
        module = root / directory.lstrip("/") / "bcc"
        if os.path.isfile(module / "libbcc.py"):
            version = re.search(r"__version__ = ['\"]([^'\"]+)", features.read(module / "version.py") or "")
            return Bcc(directory, version and version[1])
    return None
