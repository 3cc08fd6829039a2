"""What `ebpfmon check` says about each fact, and the remedy for what is missing."""

from __future__ import annotations

import errno
from collections.abc import Collection
from dataclasses import replace
from typing import Any

import msgspec
import pytest

from ebpfmon.check.findings import Finding, describe
from ebpfmon.kernel.features import Features
from ebpfmon.kernel.host import Bcc, Config, Host
from ebpfmon.kernel.kconfig import EFFECTS, paths
from ebpfmon.kernel.views import Problem, Views

KERNEL = Features(
    release="9.9", machine="x86_64", root=True, capabilities=("CAP_SYS_ADMIN", "CAP_PERFMON", "CAP_BPF"), btf=True,
    kprobes=True, jit=1, lockdown="none", preemption="voluntary", tracefs="/sys/kernel/tracing",
    debugfs="/sys/kernel/debug", version="#1 SMP",
)  # fmt: skip
HOST = Host(
    config=Config("/proc/config.gz", paths("9.9")), securityfs="/sys/kernel/security", memlock_bytes=64 << 10,
    unprivileged_bpf_disabled=2, selinux=None, selinux_domain=None,
    bcc=Bcc("/usr/lib/python3/dist-packages", "0.26.0"), headers="/lib/modules/9.9/build",
)  # fmt: skip


def findings(
    kernel: Features = KERNEL, host: Host = HOST, libbpf: str | None = "1.1", refusals: Collection[int] = ()
) -> dict[str, Finding]:
    found = list(describe(kernel, host, libbpf, refusals))
    assert len({finding.about for finding in found}) == len(found)
    return {finding.about: finding for finding in found}


def of_host(**changes: Any) -> dict[str, Finding]:
    return findings(host=msgspec.structs.replace(HOST, **changes))


def test_a_machine_that_lacks_nothing_gets_no_advice() -> None:
    assert {about: (f.says, f.advice) for about, f in findings().items()} == {
        "kernel": ("9.9 (x86_64), #1 SMP", ()),
        "BTF": ("/sys/kernel/btf/vmlinux", ()),
        "kernel config": ("/proc/config.gz: all options that ebpfmon uses are set", ()),
        "tracefs": ("/sys/kernel/tracing", ()),
        "debugfs": ("/sys/kernel/debug", ()),
        "kprobes": ("available", ()),
        "preemption": ("voluntary: the kernel does not preempt its own code", ()),
        "lockdown": ("none", ()),
        "capabilities": ("CAP_SYS_ADMIN, CAP_PERFMON, CAP_BPF", ()),
        "processes": ("/proc shows those that the kernel's PIDs refer to", ()),
        "users": ("the user database is that of the kernel's uids, as far as can be seen", ()),
        "cgroups": ("all cgroups of version 2 are visible", ()),
        "memlock": ("64 kB; only kernels before 5.11 count BPF maps against it", ()),
        "unprivileged BPF": ("2: loading programs requires CAP_BPF; root can change this", ()),
        "JIT": ("1: on", ()),
        "SELinux": ("not in use", ()),
        "libbpf": ("1.1", ()),
        "bcc": ("0.26.0, in /usr/lib/python3/dist-packages", ()),
        "kernel headers": ("/lib/modules/9.9/build", ()),
    }


def test_options_that_are_not_set_are_listed_together_by_their_effect() -> None:
    missing = ("KPROBES", "FPROBE", "KPROBE_EVENTS")
    config = Config("/boot/config-9.9", paths("9.9"), {option: EFFECTS[option] for option in missing})
    assert of_host(config=config)["kernel config"] == Finding(
        "kernel config",
        "/boot/config-9.9: some options that ebpfmon uses are not set",
        ("without CONFIG_KPROBES, CONFIG_KPROBE_EVENTS: no kprobes", f"without CONFIG_FPROBE: {EFFECTS['FPROBE']}"),
    )


def test_a_kernel_config_that_is_not_found_is_reported_with_the_paths() -> None:
    found = of_host(config=Config(None, paths("9.9")))["kernel config"]
    assert found.says == (
        "not found in /proc/config.gz, /boot/config-9.9, /lib/modules/9.9/config, /lib/modules/9.9/build/.config"
    )
    assert found.advice[0].startswith("modprobe configs")


@pytest.mark.parametrize(
    ("changes", "about", "says", "advice"),
    [
        ({"btf": False}, "BTF", "none", "CONFIG_DEBUG_INFO_BTF"),
        ({"tracefs": None}, "tracefs", "not mounted", "mount -t tracefs tracefs /sys/kernel/tracing"),
        ({"debugfs": None}, "debugfs", "not mounted", "mount -t debugfs debugfs /sys/kernel/debug"),
        ({"kprobes": False}, "kprobes", "not in this kernel (CONFIG_KPROBE_EVENTS)", None),
        ({"preemption": "lazy"}, "preemption", "lazy: the kernel can preempt its own code", None),
        ({"preemption": None}, "preemption", "unknown", None),
        ({"lockdown": None}, "lockdown", "not in this kernel", None),
        ({"lockdown": "integrity"}, "lockdown", "forbids only bpf_probe_write_user, which ebpfmon does not use", None),
        ({"lockdown": "confidentiality"}, "lockdown", "bpf_probe_read_kernel, kprobes, tracefs and kernel perf events",
         "lockdown=integrity"),
        ({"capabilities": ()}, "capabilities", "none that loading programs needs",
         "CAP_BPF is missing: it allows loading BPF programs"),
        ({"capabilities": ("CAP_BPF", "CAP_PERFMON")}, "capabilities", "CAP_BPF, CAP_PERFMON",
         "CAP_SYS_ADMIN is missing: before Linux 5.8"),
        ({"jit": 0}, "JIT", "0: off", "trampolines are not available: sysctl net.core.bpf_jit_enable=1"),
        ({"jit": 2}, "JIT", "2: on, and logs", "for debugging and is slow: sysctl net.core.bpf_jit_enable=1"),
        ({"jit": None}, "JIT", "unknown", None),
    ],
)  # fmt: skip
def test_a_feature_that_the_kernel_lacks_is_reported_with_its_remedy(
    changes: dict[str, Any], about: str, says: str, advice: str | None
) -> None:
    found = findings(replace(KERNEL, **changes))[about]
    assert says in found.says
    assert (advice in found.advice[0]) if advice else not found.advice


def test_lockdown_is_unknown_without_securityfs() -> None:
    found = findings(replace(KERNEL, lockdown=None), msgspec.structs.replace(HOST, securityfs=None))["lockdown"]
    assert found.says == "unknown: securityfs is not mounted"
    assert found.advice == ("mount -t securityfs securityfs /sys/kernel/security",)


@pytest.mark.parametrize(("value", "text"), [(0, "0: any user"), (1, "until the next boot"), (None, "unknown")])
def test_each_value_of_unprivileged_bpf_disabled_is_explained(value: int | None, text: str) -> None:
    assert text in of_host(unprivileged_bpf_disabled=value)["unprivileged BPF"].says


def test_raising_memlock_is_advised_only_if_a_load_was_not_permitted() -> None:
    assert findings(refusals=[errno.EPERM])["memlock"].advice == (
        "before Linux 5.11: ulimit -l unlimited; in a systemd unit: LimitMEMLOCK=infinity",
    )
    unlimited = msgspec.structs.replace(HOST, memlock_bytes=None)
    assert findings(host=unlimited, refusals=[errno.EPERM])["memlock"] == Finding("memlock", "unlimited")


@pytest.mark.parametrize("domain", ["unconfined_service_t", "ebpfmon_t"])
def test_a_load_that_selinux_denies_is_advised_with_the_policy_that_allows_it(domain: str) -> None:
    enforcing = msgspec.structs.replace(HOST, selinux="enforcing", selinux_domain=domain)
    assert findings(host=enforcing)["SELinux"] == Finding(
        "SELinux", f"enforcing; this process runs as {domain}; services usually run as unconfined_service_t"
    )
    advice = findings(host=enforcing, refusals=[errno.EACCES])["SELinux"].advice
    assert f"allow {domain} self:bpf {{ map_create map_read map_write prog_load prog_run }};" in advice
    assert any("denied { map_create }" in line and "tclass=bpf" in line for line in advice)
    assert any("ausearch" in line and "audit2allow -M ebpfmon" in line for line in advice)
    assert "semodule -i ebpfmon.pp" in advice
    permissive = msgspec.structs.replace(enforcing, selinux="permissive")
    assert not findings(host=permissive, refusals=[errno.EACCES])["SELinux"].advice


def test_bcc_and_headers_are_advised_only_without_btf() -> None:
    bare = msgspec.structs.replace(HOST, bcc=None, headers=None)
    with_btf, without = findings(host=bare), findings(replace(KERNEL, btf=False), bare)
    assert [with_btf[about].advice for about in ("bcc", "kernel headers")] == [(), ()]
    assert without["bcc"].advice[0].startswith("apt install python3-bpfcc")
    assert without["kernel headers"].advice[0].startswith("apt install linux-headers-9.9")


def test_a_missing_libbpf_is_reported() -> None:
    assert findings(libbpf=None)["libbpf"].says == "not found, or too old"


@pytest.mark.parametrize(
    ("view", "about"),
    [("processes", "processes"), ("hidden", "processes"), ("users", "users"), ("cgroups", "cgroups")],
)
def test_what_this_process_does_not_see_is_reported_with_its_effect_and_remedy(view: str, about: str) -> None:
    found = of_host(views=Views(**{view: Problem("something is hidden", "names are wrong", "show it")}))
    assert found[about] == Finding(about, "something is hidden, so names are wrong", ("show it",))
    assert sum(bool(finding.advice) for finding in found.values()) == 1
