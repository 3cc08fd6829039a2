"""What runs in which machine: data, and nothing else. Each cell is a machine of its own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from tests.vm.fetch import SERIES

ALL = tuple(SERIES)


@dataclass(frozen=True, slots=True)
class Cell:
    """Tests under some kernels, prepared in one way. The tests find its name in $EBPFMON_CELL."""

    name: str
    select: str
    """Which of the tests: pytest's -k."""
    tests: str = "tests/kernel"
    """Where they are."""
    kernels: tuple[str, ...] = ALL
    more: Mapping[str, str] = field(default_factory=dict)
    """What else is selected under one of these kernels: as to start a machine takes as long as a few tests, what needs
    none of its own has a part in another's."""
    arguments: str = ""
    """More of the kernel's command line."""
    prelude: str = ""
    """Shell lines that run before the tests, as root; if one fails, no test runs."""
    expect: tuple[str, ...] = ()
    """The attach methods that all of these kernels have: the tests find them in $EBPFMON_EXPECT. Each probe must have a
    test of each method that it has programs for, in each mode, and it must pass."""
    may_skip: tuple[str, ...] = ()
    """Parts of the reasons for which a test may be skipped; for any other it has failed. An attach method that is
    skipped is shown as refused by the kernel."""
    timeout_s: float = 600

    def selected(self, series: str) -> str:
        """Which of the tests, under one of the kernels."""
        return " or ".join(f"({part})" for part in (self.select, self.more.get(series, "")) if part)


# Emulated, each start of the program takes ten seconds and more. So for what is the same under every kernel the
# machine's own has to do: the command line, the errors, strace's counts, a storm of half a minute, what takes thousands
# of processes.
_OTHERS = (
    "test_daemon or test_check or test_loader or test_cells or test_applications or test_default_groups or test_top"
    " or test_reload or test_plugins or test_workers or test_capabilities or test_network and not exact"
)
_SLOW = "two_thousand or 64_rows or strace or thirty_ticks or leaves_no_kprobe or a_datagram and not auto"
# probes that have tracepoints alone
_PROBES = "(test_oom or test_block_io or test_syscalls)"
_CORE = f"not ({_OTHERS} or {_PROBES} and not tracepoint or {_SLOW})"
_APPLICATIONS = "test_applications and not three_thousand"
# between two namespaces, with a cable that loses what is sent
_NETWORK = "test_network_peers or test_network_connections and not too_many and not twenty_thousand or packets_are_lost"
# taken away with setpriv(1), as root and as another user; given up by the daemon. Before 5.19 reading tables takes some
_CAPABILITIES = "test_cells and capabilities or test_workers and not unknown or test_capabilities"
# before 6.14 kretprobes are events that could outlive their maker
_LEFT = "test_daemon and nothing_stays or leaves_no_kprobe or reset_removes"

# others must be able to enter where the tree and the interpreter are; what it changes is the guest's alone
_OTHERS_MAY_ENTER = """
for path in "$PWD" "$(readlink -f .venv/bin/python)"; do
    while [ "$path" != / ]; do chmod o+x "$path"; path=$(dirname "$path"); done
done
"""

_CELLS_TESTS = "tests/kernel/test_cells.py"

CELLS = (
    Cell(
        "core",
        _CORE,
        more={"5.10": _CAPABILITIES, "6.1": _LEFT, "7.2": f"{_APPLICATIONS} or {_NETWORK}"},
        expect=("trampoline", "kprobe", "tracepoint"),
        may_skip=(
            "kretprobes never run out of instances",
            "nothing is stored for kernel",
            "only root can enter this tree",
        ),
        prelude=_OTHERS_MAY_ENTER,
        timeout_s=1500,
    ),
    Cell(
        "btf_hidden",  # nothing but BCC can load there, with the kernel's headers
        "btf_hidden and not headers and not traffic",
        _CELLS_TESTS,
        more={"5.10": "btf_hidden and traffic", "6.1": "btf_hidden and headers"},
        prelude="mount -t tmpfs tmpfs /sys/kernel/btf",
        timeout_s=900,
    ),
    Cell(
        "lockdown",
        "lockdown",
        _CELLS_TESTS,
        kernels=("6.12", "7.2"),
        arguments="lockdown=confidentiality",
        prelude="cat /sys/kernel/security/lockdown; grep -qF '[confidentiality]' /sys/kernel/security/lockdown",
    ),
)
