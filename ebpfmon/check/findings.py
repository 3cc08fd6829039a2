"""Describe the facts about a machine, with a remedy for whatever is missing."""

from __future__ import annotations

import errno
from collections.abc import Collection, Iterator

import msgspec

from ebpfmon.kernel.features import Features
from ebpfmon.kernel.host import Host
from ebpfmon.kernel.views import Problem

_CAPABILITIES = {
    "CAP_BPF": "it allows loading BPF programs and creating maps (so does CAP_SYS_ADMIN)",
    "CAP_PERFMON": "it allows attaching programs that read kernel memory (so does CAP_SYS_ADMIN)",
    "CAP_SYS_ADMIN": "before Linux 5.8 it is needed in place of CAP_BPF and CAP_PERFMON",
}
_LOCKDOWN = {
    "none": "none",
    "integrity": "integrity: forbids only bpf_probe_write_user, which ebpfmon does not use",
    "confidentiality": "confidentiality: forbids bpf_probe_read_kernel, kprobes, tracefs and kernel perf events",
}
_PREEMPTIBLE = {
    True: ": the kernel can preempt its own code",
    False: ": the kernel does not preempt its own code",
    None: "",
}
_UNKNOWN = "unknown"
_UNPRIVILEGED: dict[int | None, str] = {
    0: "0: any user may load some types of programs",
    1: "1: loading programs requires CAP_BPF; this cannot be changed until the next boot",
    2: "2: loading programs requires CAP_BPF; root can change this",
}
_JIT: dict[int | None, str] = {0: "0: off", 1: "1: on", 2: "2: on, and logs each program to the kernel log"}
_JIT_COSTS: dict[int | None, str] = {
    0: "events cost more and trampolines are not available",
    2: "this value is for debugging and is slow",
}
_SELINUX = "map_create map_read map_write prog_load prog_run"


class Finding(msgspec.Struct, frozen=True):
    """One fact about the machine: its subject and what was found.

    Each line of `advice` is something that is missing, its effect, or a remedy.
    """

    about: str
    says: str
    advice: tuple[str, ...] = ()


def describe(kernel: Features, host: Host, libbpf: str | None, refusals: Collection[int]) -> Iterator[Finding]:
    """Yield all findings.

    `libbpf` is the version of the library, None if it cannot be used. `refusals` are the errnos with which the kernel
    refused to load probes; they decide which remedies apply.
    """
    yield Finding("kernel", f"{kernel.release} ({kernel.machine}), {kernel.version}")
    yield _btf(kernel)
    yield _config(host)
    yield _mount("tracefs", kernel.tracefs, "/sys/kernel/tracing", "ebpfmon reset needs it to list kprobes")
    yield _mount("debugfs", kernel.debugfs, "/sys/kernel/debug", "it shows the preemption mode of the kernel")
    yield Finding("kprobes", "available" if kernel.kprobes else "not in this kernel (CONFIG_KPROBE_EVENTS)")
    yield Finding("preemption", (kernel.preemption or _UNKNOWN) + _PREEMPTIBLE[kernel.preemptible])
    yield _lockdown(kernel, host)
    yield _capabilities(kernel)
    yield _view(
        "processes", host.views.processes or host.views.hidden, "/proc shows those that the kernel's PIDs refer to"
    )
    yield _view("users", host.views.users, "the user database is that of the kernel's uids, as far as can be seen")
    yield _view("cgroups", host.views.cgroups, "all cgroups of version 2 are visible")
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
    remedy = "use a kernel built with CONFIG_DEBUG_INFO_BTF; without BTF, ebpfmon needs BCC and kernel headers (below)"
    return Finding("BTF", "none", (remedy,))


def _config(host: Host) -> Finding:
    about, config = "kernel config", host.config
    if config.path is None:
        says = f"not found in {', '.join(config.looked_at)}"
        return Finding(
            about, says, ("modprobe configs  # creates /proc/config.gz if the kernel has CONFIG_IKCONFIG=m",)
        )
    costs: dict[str, list[str]] = {}
    for option, cost in config.missing.items():
        costs.setdefault(cost, []).append(f"CONFIG_{option}")
    advice = tuple(f"without {', '.join(options)}: {cost}" for cost, options in costs.items())
    return Finding(
        about,
        f"{config.path}: "
        + ("some options" if advice else "all options")
        + " that ebpfmon uses are "
        + ("not set" if advice else "set"),
        advice,
    )


def _mount(kind: str, path: str | None, usual: str, purpose: str) -> Finding:
    if path:
        return Finding(kind, path)
    return Finding(kind, f"not mounted; {purpose}", (f"mount -t {kind} {kind} {usual}",))


def _lockdown(kernel: Features, host: Host) -> Finding:
    if kernel.lockdown is None and not host.securityfs:
        mount = "mount -t securityfs securityfs /sys/kernel/security"
        return Finding("lockdown", f"{_UNKNOWN}: securityfs is not mounted", (mount,))
    advice = ("boot with lockdown=integrity, or without lockdown",) if kernel.lockdown == "confidentiality" else ()
    return Finding("lockdown", _LOCKDOWN.get(kernel.lockdown or "", "not in this kernel"), advice)


def _capabilities(kernel: Features) -> Finding:
    advice = [f"{name} is missing: {use}" for name, use in _CAPABILITIES.items() if name not in kernel.capabilities]
    return Finding("capabilities", ", ".join(kernel.capabilities) or "none that loading programs needs", tuple(advice))


def _view(about: str, problem: Problem | None, says: str) -> Finding:
    return (
        Finding(about, f"{problem.what}, so {problem.effect}", (problem.remedy,)) if problem else Finding(about, says)
    )


def _memlock(host: Host, refusals: Collection[int]) -> Finding:
    limit = host.memlock_bytes
    says = "unlimited" if limit is None else f"{limit // 1024} kB; only kernels before 5.11 count BPF maps against it"
    refused = limit is not None and errno.EPERM in refusals
    remedy = "before Linux 5.11: ulimit -l unlimited; in a systemd unit: LimitMEMLOCK=infinity"
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
    own = host.selinux_domain or "an unknown type"
    says = f"{host.selinux}; this process runs as {own}; services usually run as {usual}"
    denied = (
        f"if the audit log has 'denied {{ map_create }} ... {domain} ... tclass=bpf', allow it:",
        "ausearch -m AVC -ts recent | grep tclass=bpf | audit2allow -M ebpfmon",
        "semodule -i ebpfmon.pp",
        "repeat this until nothing is denied, because each denial hides the next; or write ebpfmon.te at once:",
        "module ebpfmon 1.0;",
        f"require {{ type {domain}; class bpf {{ {_SELINUX} }}; }}",
        f"allow {domain} self:bpf {{ {_SELINUX} }};",
        "then run:",
        "checkmodule -M -m -o ebpfmon.mod ebpfmon.te",
        "semodule_package -o ebpfmon.pp -m ebpfmon.mod",
        "semodule -i ebpfmon.pp",
    )
    return Finding("SELinux", says, denied if host.selinux == "enforcing" and errno.EACCES in refusals else ())


def _bcc(kernel: Features, host: Host) -> Finding:
    if host.bcc:
        return Finding("bcc", f"{host.bcc.version or 'unknown version'}, in {host.bcc.path}")
    advice = (
        ()
        if kernel.btf
        else ("apt install python3-bpfcc (Fedora: python3-bcc); 'bcc' on PyPI is an unrelated package",)
    )
    return Finding("bcc", "not found" + ("; needed only on kernels without BTF" if kernel.btf else ""), advice)


def _headers(kernel: Features, host: Host) -> Finding:
    if host.headers:
        return Finding("kernel headers", host.headers)
    release = kernel.release
    advice = () if kernel.btf else (f"apt install linux-headers-{release} (Fedora: kernel-devel-{release})",)
    return Finding("kernel headers", "not found" + ("; needed only by BCC" if kernel.btf else ""), advice)
