"""Describe what was found on a machine, and the remedy for what is missing."""

from __future__ import annotations

import errno
from collections.abc import Collection, Iterator

import msgspec

from ebpfmon.kernel.features import Features
from ebpfmon.kernel.host import Host

_CAPABILITIES = {
    "CAP_BPF": "allows loading programs and creating tables (CAP_SYS_ADMIN does, too)",
    "CAP_PERFMON": "allows attaching programs that read the kernel's memory (CAP_SYS_ADMIN does, too)",
    "CAP_SYS_ADMIN": "replaces these two on kernels that do not have them",
}
_LOCKDOWN = {
    "none": "none",
    "integrity": "integrity: only forbids bpf_probe_write_user, which ebpfmon does not use",
    "confidentiality": "confidentiality: forbids bpf_probe_read_kernel, kprobes, tracefs and the kernel's perf events",
}
_PREEMPTIBLE = {True: ": the kernel preempts itself", False: ": the kernel does not preempt itself", None: ""}
_UNKNOWN = "could not tell"
_UNPRIVILEGED: dict[int | None, str] = {
    0: "0: all users may load some kinds of programs",
    1: "1: loading programs takes CAP_BPF, until the next boot",
    2: "2: loading programs takes CAP_BPF, until root changes this",
}
_JIT: dict[int | None, str] = {0: "0: off", 1: "1: on", 2: "2: on, and prints each program to the kernel's log"}
_JIT_COSTS: dict[int | None, str] = {
    0: "each event costs more, and there are no trampolines",
    2: "this is for debugging, and slow",
}
_SELINUX = "map_create map_read map_write prog_load prog_run"


class Finding(msgspec.Struct, frozen=True):
    """One fact about the machine. Each line of `advice` says what is missing, what that costs, or the remedy."""

    about: str
    says: str
    advice: tuple[str, ...] = ()


def describe(kernel: Features, host: Host, libbpf: str | None, refusals: Collection[int]) -> Iterator[Finding]:
    """Yield all findings. `libbpf` is its version, `refusals` are the errnos of probes that failed to load."""
    yield Finding("kernel", f"{kernel.release} ({kernel.machine}), {kernel.version}")
    yield _btf(kernel)
    yield _config(host)
    yield _mount("tracefs", kernel.tracefs, "/sys/kernel/tracing", "lists the kprobes that exist (ebpfmon reset)")
    yield _mount("debugfs", kernel.debugfs, "/sys/kernel/debug", "says how the kernel preempts itself")
    yield Finding("kprobes", "yes" if kernel.kprobes else "not in this kernel")
    yield Finding("preemption", (kernel.preemption or _UNKNOWN) + _PREEMPTIBLE[kernel.preemptible])
    yield _lockdown(kernel, host)
    yield _capabilities(kernel)
    yield _memlock(host, refusals)
    yield Finding("unprivileged BPF", _UNPRIVILEGED.get(host.unprivileged_bpf_disabled, _UNKNOWN))
    yield _jit(kernel)
    yield _selinux(host, refusals)
    yield Finding("libbpf", libbpf or "not found, or too old")
    yield _bcc(kernel, host)
    yield _headers(kernel, host)


def _btf(kernel: Features) -> Finding:
    if kernel.btf:
        return Finding("BTF", "/sys/kernel/btf/vmlinux")
    return Finding("BTF", "none", ("use a kernel with CONFIG_DEBUG_INFO_BTF; without it programs need BCC (below)",))


def _config(host: Host) -> Finding:
    about, config = "kernel config", host.config
    if config.path is None:
        says = f"no config found, looked at {', '.join(config.looked_at)}"
        return Finding(about, says, ("modprobe configs  # creates /proc/config.gz, if the kernel can",))
    costs: dict[str, list[str]] = {}
    for option, cost in config.missing.items():
        costs.setdefault(cost, []).append(f"CONFIG_{option}")
    advice = tuple(f"without {', '.join(options)}: {cost}" for cost, options in costs.items())
    return Finding(
        about,
        f"{config.path}: " + ("some options are not set" if advice else "all options that ebpfmon uses are set"),
        advice,
    )


def _mount(kind: str, at: str | None, usual: str, what_for: str) -> Finding:
    if at:
        return Finding(kind, at)
    return Finding(kind, f"not mounted; it {what_for}", (f"mount -t {kind} {kind} {usual}",))


def _lockdown(kernel: Features, host: Host) -> Finding:
    if kernel.lockdown is None and not host.securityfs:
        mount = "mount -t securityfs securityfs /sys/kernel/security"
        return Finding("lockdown", f"{_UNKNOWN}: securityfs is not mounted", (mount,))
    advice = ("boot with lockdown=integrity, or without lockdown",) if kernel.lockdown == "confidentiality" else ()
    return Finding("lockdown", _LOCKDOWN.get(kernel.lockdown or "", "not in this kernel"), advice)


def _capabilities(kernel: Features) -> Finding:
    advice = [
        f"{name} is missing: it {what}" for name, what in _CAPABILITIES.items() if name not in kernel.capabilities
    ]
    return Finding("capabilities", ", ".join(kernel.capabilities) or "none that ebpfmon uses", tuple(advice))


def _memlock(host: Host, refusals: Collection[int]) -> Finding:
    limit = host.memlock_bytes
    says = "unlimited" if limit is None else f"{limit // 1024} kB: only kernels before 5.11 count tables against it"
    refused = limit is not None and errno.EPERM in refusals
    remedy = "on such a kernel: ulimit -l unlimited; in a systemd unit, LimitMEMLOCK=infinity"
    return Finding("memlock", says, (remedy,) if refused else ())


def _jit(kernel: Features) -> Finding:
    cost = _JIT_COSTS.get(kernel.jit)
    advice = (f"{cost}: sysctl net.core.bpf_jit_enable=1",) if cost else ()
    return Finding("JIT", _JIT.get(kernel.jit, _UNKNOWN), advice)


def _selinux(host: Host, refusals: Collection[int]) -> Finding:
    if host.selinux is None:
        return Finding("SELinux", "not in use")
    usual = "unconfined_service_t"
    domain = host.selinux_domain or usual
    says = (
        f"{host.selinux}; this process runs as {host.selinux_domain or 'an unknown type'}, services usually as {usual}"
    )
    denied = (
        f"if the audit log has: denied {{ map_create }} ... {domain} ... tclass=bpf, then allow it:",
        "ausearch -m AVC -ts recent | grep tclass=bpf | audit2allow -M ebpfmon",
        "semodule -i ebpfmon.pp",
        "repeat this, because each denial hides the next one; or allow all of it at once with ebpfmon.te:",
        "module ebpfmon 1.0;",
        f"require {{ type {domain}; class bpf {{ {_SELINUX} }}; }}",
        f"allow {domain} self:bpf {{ {_SELINUX} }};",
        "and then:",
        "checkmodule -M -m -o ebpfmon.mod ebpfmon.te",
        "semodule_package -o ebpfmon.pp -m ebpfmon.mod",
        "semodule -i ebpfmon.pp",
    )
    return Finding("SELinux", says, denied if host.selinux == "enforcing" and errno.EACCES in refusals else ())


def _bcc(kernel: Features, host: Host) -> Finding:
    if host.bcc:
        return Finding("bcc", f"{host.bcc.version or 'some version'}, in {host.bcc.path}")
    advice = (
        ()
        if kernel.btf
        else ("apt install python3-bpfcc (Fedora: python3-bcc); not bcc from PyPI, which is another package",)
    )
    return Finding("bcc", "not found" + ("; only needed on kernels without BTF" if kernel.btf else ""), advice)


def _headers(kernel: Features, host: Host) -> Finding:
    if host.headers:
        return Finding("kernel headers", host.headers)
    release = kernel.release
    advice = () if kernel.btf else (f"apt install linux-headers-{release} (Fedora: kernel-devel-{release})",)
    return Finding("kernel headers", "not found" + ("; only needed by BCC" if kernel.btf else ""), advice)
