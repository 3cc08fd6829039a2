"""Which tests run under which kernels, as data. Each configuration runs in a virtual machine of its own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from tests.vm.fetch import SERIES

ALL = tuple(SERIES)


@dataclass(frozen=True, slots=True)
class Configuration:
    """A selection of tests, the kernels to run them under, and how to prepare the machine.

    The tests can read its name from $EBPFMON_CONFIGURATION.
    """

    name: str
    select: str
    """The tests to run, as an expression for pytest's `-k`."""
    tests: str = "tests/kernel"
    """The file or directory that has them."""
    kernels: tuple[str, ...] = ALL
    also_select: Mapping[str, str] = field(default_factory=dict)
    """More tests to run under one of these kernels, by kernel series, as expressions for `-k`.

    Starting a machine takes as long as a few tests, so tests that need no machine of their own share one.
    """
    leave_out: Mapping[str, str] = field(default_factory=dict)
    """Tests not to run under one of these kernels, by kernel series, as expressions for `-k`."""
    kernel_arguments: str = ""
    """Arguments to append to the kernel's command line."""
    prelude: str = ""
    """Shell commands to run as root before the tests. If one fails, no test runs."""
    expect: tuple[str, ...] = ()
    """The attach methods that all of these kernels support.

    For each of them that a probe has programs for, in each load mode, a test must run and pass.
    """
    may_skip: tuple[str, ...] = ()
    """Substrings of acceptable skip reasons. A test that is skipped for any other reason counts as failed.

    The table shows a skipped attach method as refused by the kernel.
    """
    may_lack: tuple[str, ...] = ()
    """Substrings of acceptable reasons to skip a test of something that a kernel lacks, whatever the attach method."""
    timeout_s: float = 600

    def selected(self, series: str) -> str:
        """Return the `-k` expression for one of the kernels."""
        selected = " or ".join(f"({part})" for part in (self.select, self.also_select.get(series, "")) if part)
        left_out = self.leave_out.get(series)
        return f"({selected}) and not ({left_out})" if left_out else selected


# In an emulated machine every start of ebpfmon takes ten seconds or more. Tests of things that do not depend on the
# kernel therefore run only under the host's: the command line, error messages, what may fail around the daemon,
# comparisons with strace, storms of half a minute, random work, and tests with thousands of processes.
_KERNEL_INDEPENDENT = (
    "test_daemon or test_check or test_loader or test_restricted or test_applications or test_default_groups"
    " or test_top or test_reload or test_plugins or test_workers or test_capabilities or test_network and not exact"
    " or test_append or test_clock or test_descriptors or test_ending or test_hung or test_late or test_private"
    " or test_shortage"
)
_SLOW = (
    "two_thousand or 64_rows or strace or thirty_ticks or leaves_no_kprobe or a_datagram and not auto"
    " or exact_sockets and auto or random_work or test_callers and 10-"
)
# Before Linux 7 ebpfmon itself chooses the methods that these tests also force. Since then it avoids trampolines.
_AUTO = "auto and (test_process_exact or test_network_exact or test_callers) and not a_datagram"
# Probes whose programs are all tracepoints. The kernels of the guests can also make and remove disks.
_PROBES = "(test_oom or test_block_io or test_syscalls)"
_CORE = f"not ({_KERNEL_INDEPENDENT} or {_PROBES} and not (tracepoint or zone or removed_disk) or {_SLOW})"
_APPLICATIONS = "test_applications and (add_up or millisecond)"
# Traffic between two network namespaces, over a link that can drop packets.
_NETWORK = (
    "test_network_peers or test_network_connections and not too_many and not twenty_thousand"
    " or packets_are_lost and not client"
)
# Capabilities that setpriv(1) takes away, or that the daemon drops. Before Linux 5.19 reading tables needs some.
_CAPABILITIES = "test_restricted and capabilities or test_workers and not unknown or test_capabilities"
# If a program names a function or struct that the kernel lacks, libbpf 1.1 needs CAP_SYS_ADMIN. 6.1 lacks some.
_LOADS_UNPRIVILEGED = "bpf_and_perfmon_suffice"
# These tests take long, and 6.12 has nothing that neither 6.1 nor 7.2 has.
_SAME_AS_NEIGHBOURS = "test_callers or exact_sockets or many_threads or test_swap or test_io_uring or stacked_file"
# Before Linux 6.14 kretprobes are created in tracefs, where they could outlive the daemon.
_LEFTOVERS = "test_daemon and nothing_stays or leaves_no_kprobe or reset_removes"

# Let other users reach the source tree and the interpreter. The guest's file system is an overlay, so the host's files
# keep their modes.
_GRANT_ACCESS = """
for path in "$PWD" "$(readlink -f .venv/bin/python)"; do
    while [ "$path" != / ]; do chmod o+x "$path"; path=$(dirname "$path"); done
done
"""

_RESTRICTED = "tests/kernel/test_restricted_kernels.py"

CONFIGURATIONS = (
    Configuration(
        "core",
        _CORE,
        also_select={
            "5.10": _CAPABILITIES,
            "6.1": f"{_LEFTOVERS} or {_LOADS_UNPRIVILEGED}",
            "7.2": f"{_APPLICATIONS} or {_NETWORK}",
        },
        leave_out={"5.10": _AUTO, "6.1": _AUTO, "6.12": f"{_AUTO} or {_SAME_AS_NEIGHBOURS}"},
        expect=("trampoline", "kprobe", "tracepoint"),
        may_skip=(
            "kretprobes never run out of instances",
            "nothing is stored for kernel",
            "only root can enter this tree",
        ),
        may_lack=(
            "io_uring_complete of this kernel does not have the request",  # in 5.10
            "this kernel does not have it",  # MPTCP in 5.10, UDP-Lite in 7.2
        ),
        prelude=_GRANT_ACCESS,
        timeout_s=1500,
    ),
    Configuration(
        "btf_hidden",  # Only BCC, with the kernel's headers, can load programs there.
        "btf_hidden and not headers and not traffic",
        _RESTRICTED,
        kernels=("5.10", "6.1", "7.2"),
        also_select={"5.10": "btf_hidden and traffic", "6.1": "btf_hidden and headers"},
        prelude="mount -t tmpfs tmpfs /sys/kernel/btf",
        timeout_s=900,
    ),
    Configuration(
        "lockdown",
        "lockdown",
        _RESTRICTED,
        kernels=("6.12", "7.2"),
        kernel_arguments="lockdown=confidentiality",
        prelude="cat /sys/kernel/security/lockdown; grep -qF '[confidentiality]' /sys/kernel/security/lockdown",
    ),
)
