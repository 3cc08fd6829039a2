"""What the running kernel allows, as far as looking tells; the rest is found out by trying (`attach`)."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from ebpfmon.errors import KernelError

_CAPABILITIES = {12: "CAP_NET_ADMIN", 21: "CAP_SYS_ADMIN", 24: "CAP_SYS_RESOURCE", 38: "CAP_PERFMON", 39: "CAP_BPF"}


@dataclass(frozen=True, slots=True)
class Features:
    """Each is True, False, or None where it could not be told."""

    release: str
    machine: str
    root: bool
    capabilities: tuple[str, ...]
    btf: bool
    kprobes: bool
    jit: bool | None
    lockdown: str | None
    """none, integrity or confidentiality."""


def look(root: Path = Path("/")) -> Features:
    """Look at the running kernel; `root` is where /proc and /sys are."""
    effective = _effective_capabilities(root)
    lockdown = _read(root / "sys/kernel/security/lockdown")
    jit = _read(root / "proc/sys/net/core/bpf_jit_enable")
    uname = os.uname()
    return Features(
        release=uname.release,
        machine=uname.machine,
        root=os.geteuid() == 0,
        capabilities=tuple(name for bit, name in _CAPABILITIES.items() if effective >> bit & 1),
        btf=(root / "sys/kernel/btf/vmlinux").exists(),
        kprobes=(root / "sys/bus/event_source/devices/kprobe/type").exists(),
        jit=None if jit is None else jit != "0",
        lockdown=None if lockdown is None else lockdown.partition("[")[2].partition("]")[0] or None,
    )


def require_permission(features: Features) -> None:
    """Raises KernelError, in one line with the remedy, where no program could be loaded at all."""
    held = set(features.capabilities)
    if "CAP_SYS_ADMIN" not in held and not {"CAP_BPF", "CAP_PERFMON"} <= held:
        raise KernelError(
            "load eBPF programs: not permitted: run as root (sudo), or with CAP_BPF and CAP_PERFMON"
            if not features.root
            else "load eBPF programs: not permitted: this root lacks CAP_SYS_ADMIN (or CAP_BPF and CAP_PERFMON); "
            "in a container, allow them (--cap-add BPF --cap-add PERFMON)"
        )
    if not features.btf:
        raise KernelError(
            f"load eBPF programs: kernel {features.release} has no /sys/kernel/btf/vmlinux: "
            "use a kernel built with CONFIG_DEBUG_INFO_BTF"
        )
    if features.lockdown == "confidentiality":
        raise KernelError(
            "load eBPF programs: kernel lockdown is 'confidentiality': boot with lockdown=integrity or without"
        )


def _effective_capabilities(root: Path) -> int:
    status = _read(root / "proc/self/status") or ""
    line = next((line for line in status.splitlines() if line.startswith("CapEff:")), "CapEff: 0")
    return int(line.split()[1], 16)


def _read(path: Path) -> str | None:
    try:
        return path.read_text().strip()
    except OSError:
        return None
