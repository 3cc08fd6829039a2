"""What runs in which machine: data, and nothing else. Each cell is a machine of its own."""

from __future__ import annotations

from dataclasses import dataclass

from tests.vm.fetch import SERIES

ALL = tuple(SERIES)


@dataclass(frozen=True, slots=True)
class Cell:
    """Tests under some kernels, prepared in one way. The tests find its name in $EBPFMON_CELL."""

    name: str
    tests: tuple[str, ...]
    """pytest's arguments."""
    kernels: tuple[str, ...] = ALL
    arguments: str = ""
    """More of the kernel's command line."""
    prelude: str = ""
    """Shell lines that run before the tests, as root; if one fails, no test runs."""
    expect: tuple[str, ...] = ()
    """The strategies that every one of these kernels has: the tests find them in $EBPFMON_EXPECT. Of each probe there
    must be a test of each of them in each mode, and it must pass."""
    may_skip: tuple[str, ...] = ()
    """Parts of the reasons for which a test may be skipped; for any other it has failed. A strategy that is skipped is
    shown as refused by the kernel."""
    timeout_s: float = 600


_CELLS_TESTS = "tests/kernel/test_cells.py"
# Emulated, each start of the program takes ten seconds and more. So for what is the same under every kernel the
# machine's own has to do: the command line, the errors, strace's counts, a storm of half a minute.
_OTHERS = (
    "test_daemon or test_check or test_loader or test_cells or test_applications or test_default_groups or test_top"
    " or test_reload or test_workers and not each_thread or test_network and not exact"
)
_CORE = f"not ({_OTHERS} or strace or thirty_ticks or a_datagram and not auto)"
_PEERS = "test_network_peers or test_network_connections and not too_many and not twenty_thousand or packets_are_lost"
_LEFT = "test_daemon and nothing_stays or test_check and reset"
_HIDE_BTF = "mount -t tmpfs tmpfs /sys/kernel/btf"

# others must be able to enter where the tree and the interpreter are; what it changes is the guest's alone
_OTHERS_MAY_ENTER = """
for path in "$PWD" "$(readlink -f .venv/bin/python)"; do
    while [ "$path" != / ]; do chmod o+x "$path"; path=$(dirname "$path"); done
done
"""

CELLS = (
    Cell(
        "core",
        ("tests/kernel", "-k", _CORE),
        expect=("trampoline", "kprobe", "tracepoint"),
        may_skip=("kretprobes never run out of instances", "nothing is stored for kernel"),
        timeout_s=900,
    ),
    Cell(
        "applications",
        ("tests/kernel/test_applications.py", "-k", "not three_thousand"),
        kernels=("5.10", "7.2"),
    ),
    Cell(
        "network",  # between two namespaces, with a cable that loses what is sent
        ("tests/kernel", "-k", _PEERS),
        kernels=("5.10", "7.2"),
    ),
    Cell(
        "btf_hidden",  # nothing but BCC can load there, with the kernel's headers
        (_CELLS_TESTS, "-k", "btf_hidden and not headers and not traffic"),
        prelude=_HIDE_BTF,
    ),
    Cell(
        "network_btf_hidden",
        (_CELLS_TESTS, "-k", "btf_hidden and traffic"),
        kernels=("5.10", "7.2"),
        prelude=_HIDE_BTF,
    ),
    Cell("headers", (_CELLS_TESTS, "-k", "headers"), kernels=("6.1",), prelude=_HIDE_BTF),
    Cell("leftovers", ("tests/kernel", "-k", _LEFT), kernels=("6.1",)),
    Cell(
        "lockdown",
        (_CELLS_TESTS, "-k", "lockdown"),
        kernels=("6.12", "7.2"),
        arguments="lockdown=confidentiality",
        prelude="cat /sys/kernel/security/lockdown; grep -qF '[confidentiality]' /sys/kernel/security/lockdown",
    ),
    Cell(
        "capabilities",  # the tests take them away with setpriv(1), as root and as another user
        ("tests/kernel", "-k", "test_cells and capabilities or test_workers and another_user"),
        kernels=("5.10", "7.2"),
        may_skip=("only root can enter this tree",),
        # before 5.11 tables are charged to the limit of locked memory, and only CAP_SYS_RESOURCE may raise it
        prelude=f"ulimit -l unlimited\n{_OTHERS_MAY_ENTER}",
    ),
)
