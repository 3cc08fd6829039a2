"""Detection of kernel features, with /proc and /sys in a temporary directory."""

from __future__ import annotations

import gzip
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from ebpfmon.errors import KernelError
from ebpfmon.kernel import kconfig
from ebpfmon.kernel.features import Features, detect, require_permission

FULL = Features(
    release="6.1", machine="x86_64", root=True, capabilities=("CAP_SYS_ADMIN",), btf=True, kprobes=True, jit=1,
    lockdown="none",
)  # fmt: skip


def make(root: Path, **files: str) -> Path:
    """Write files below a root. In their names, `__` stands for a slash."""
    for name, text in files.items():
        path = root / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, errors="surrogateescape")
    return root


@pytest.fixture
def uname(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Return a function that sets the output of `uname -v`, for a kernel 9.9."""

    def set_version(version: str) -> None:
        monkeypatch.setattr(os, "uname", lambda: os.uname_result(("Linux", "host", "9.9", f"#1 SMP {version}", "mips")))

    return set_version


def test_an_empty_root_has_no_features(tmp_path: Path) -> None:
    found = detect(tmp_path)
    assert (found.capabilities, found.btf, found.kprobes, found.jit, found.lockdown) == ((), False, False, None, None)


@pytest.mark.parametrize(
    ("effective", "expected"),
    [
        ("0000000000000000", ()),
        ("0000008000000000", ("CAP_BPF",)),
        ("000000c000000000", ("CAP_PERFMON", "CAP_BPF")),
        ("0000000001201000", ("CAP_NET_ADMIN", "CAP_SYS_ADMIN", "CAP_SYS_RESOURCE")),
        ("0000003f00000ffe", ()),
    ],
)
def test_the_effective_capabilities_are_read(tmp_path: Path, effective: str, expected: tuple[str, ...]) -> None:
    status = f"Name:\tx\nCapPrm:\t000001ffffffffff\nCapEff:\t{effective}\nCapBnd:\t000001ffffffffff\n"
    assert detect(make(tmp_path, proc__self__status=status)).capabilities == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[none] integrity confidentiality\n", "none"),
        ("none [integrity] confidentiality\n", "integrity"),
        ("none integrity [confidentiality]\n", "confidentiality"),
        ("\n", None),
    ],
)
def test_the_lockdown_is_the_word_in_brackets(tmp_path: Path, text: str, expected: str | None) -> None:
    assert detect(make(tmp_path, sys__kernel__security__lockdown=text)).lockdown == expected


@pytest.mark.parametrize(("text", "expected"), [("0\n", 0), ("1\n", 1), ("2\n", 2), ("", None)])
def test_the_jit_is_a_number(tmp_path: Path, text: str, expected: int | None) -> None:
    assert detect(make(tmp_path, proc__sys__net__core__bpf_jit_enable=text)).jit == expected


def test_btf_and_kprobes_are_detected_by_their_files(tmp_path: Path) -> None:
    found = detect(make(tmp_path, sys__kernel__btf__vmlinux="", sys__bus__event_source__devices__kprobe__type="8"))
    assert (found.btf, found.kprobes) == (True, True)


MOUNTED = "debugfs /sys/kernel/debug debugfs rw 0 0\n"


@pytest.mark.parametrize("text", ["none voluntary full (lazy)\n", "(lazy) full\n"])
def test_the_preemption_is_the_word_in_parentheses_in_debugfs(
    tmp_path: Path, uname: Callable[[str], None], text: str
) -> None:
    uname("PREEMPT_DYNAMIC Mon Nov 23")
    make(tmp_path, sys__kernel__debug__sched__preempt=text, proc__cmdline="preempt=full")
    assert detect(tmp_path).preemption == "full"  # debugfs is not mounted
    assert detect(make(tmp_path, proc__self__mounts=MOUNTED)).preemption == "lazy"


@pytest.mark.parametrize(
    ("version", "cmdline", "config", "expected", "preemptible"),
    [
        ("PREEMPT_DYNAMIC Mon", "quiet preempt=none", "CONFIG_PREEMPT=y", "none", False),
        ("PREEMPT_DYNAMIC Mon", "preempt=none preempt=lazy", "", "lazy", True),
        ("PREEMPT_DYNAMIC Mon", "preempt=perhaps apreempt=none", "CONFIG_PREEMPT=y", "full", True),
        ("PREEMPT_DYNAMIC Mon", "", "CONFIG_PREEMPT_NONE=y", "none", False),
        ("PREEMPT_DYNAMIC Mon", "", "# CONFIG_PREEMPT is not set\nCONFIG_PREEMPT_VOLUNTARY=y", "voluntary", False),
        ("PREEMPT_DYNAMIC Mon", "", "CONFIG_PREEMPT_LAZY=y", "lazy", True),
        ("PREEMPT_DYNAMIC Mon", "", "", None, None),
        ("PREEMPT_RT Mon", "preempt=none", "CONFIG_PREEMPT_NONE=y", "rt", True),
        ("PREEMPT RT Mon", "", "", "rt", True),
        ("PREEMPT_DYNAMIC Mon", "", "CONFIG_PREEMPT_LAZY=y\nCONFIG_PREEMPT_RT=y", "rt", True),
        ("Mon", "", "CONFIG_PREEMPT=y\nCONFIG_PREEMPT_RT=y", "rt", True),
        ("PREEMPT_LAZY Mon", "", "", "lazy", True),
        ("PREEMPT Mon", "preempt=none", "CONFIG_PREEMPT_NONE=y", "full", True),
        ("Debian 9.9-1 (PREEMPTED)", "", "", "voluntary", False),
        ("Mon", "", "CONFIG_PREEMPT_VOLUNTARY=y", "voluntary", False),
        ("Mon", "preempt=full", "CONFIG_PREEMPT_NONE=y", "none", False),
    ],
)
def test_without_debugfs_the_preemption_is_found_in_uname_command_line_or_config(
    tmp_path: Path,
    uname: Callable[[str], None],
    version: str,
    cmdline: str,
    config: str,
    expected: str | None,
    preemptible: bool | None,
) -> None:
    uname(version)
    make(tmp_path, proc__cmdline=cmdline, **{"boot__config-9.9": config})
    found = detect(tmp_path)
    assert (found.preemption, found.preemptible) == (expected, preemptible)


@pytest.mark.parametrize(
    ("mounts", "tracefs", "debugfs"),
    [
        ("", None, None),
        ("tracefs /sys/kernel/tracing tracefs rw 0 0\n", "/sys/kernel/tracing", None),
        (MOUNTED + "t /sys/kernel/debug/tracing tracefs rw 0 0\n", "/sys/kernel/debug/tracing", "/sys/kernel/debug"),
        ("t /else tracefs rw 0 0\nt /sys/kernel/tracing tracefs rw 0 0\n", "/sys/kernel/tracing", None),
        ("t /some\\040where tracefs rw 0 0\nd /d debugfs rw 0 0\n", "/some where", "/d"),
        ("t /a\\011b\\134040 tracefs rw 0 0\nd /a\u2003b\x85c debugfs rw 0 0\n", "/a\tb\\040", "/a\u2003b\x85c"),
        ("/dev/sda /tracefs ext4 rw 0 0\n", None, None),
        ("/dev/sdb /caf\udce9 ext4 rw 0 0\nd /caf\udce9\\040s debugfs rw 0 0\n", None, "/caf\udce9 s"),
    ],
)
def test_the_mount_points_of_tracefs_and_debugfs_are_found(
    tmp_path: Path, mounts: str, tracefs: str | None, debugfs: str | None
) -> None:
    found = detect(make(tmp_path, proc__self__mounts=mounts))
    assert (found.tracefs, found.debugfs) == (tracefs, debugfs)


def test_tracefs_is_found_in_debugfs_where_it_is_mounted_on_first_access(tmp_path: Path) -> None:
    make(tmp_path, proc__self__mounts=MOUNTED, sys__kernel__debug__tracing__README="tracing mini-HOWTO")
    assert detect(tmp_path).tracefs == "/sys/kernel/debug/tracing"


@pytest.mark.parametrize("place", kconfig.paths("9.9"))
def test_the_config_is_read_from_each_of_its_paths(tmp_path: Path, place: str) -> None:
    assert kconfig.read("9.9", tmp_path) is None
    text = b'#\n# Linux\n#\nCONFIG_BPF=y\n# CONFIG_KPROBES is not set\nCONFIG_A="b=c"\nCONFIG_M=m\n'
    path = tmp_path / place[1:]
    path.parent.mkdir(parents=True)
    path.write_bytes(gzip.compress(text) if place.endswith(".gz") else text)
    config = kconfig.read("9.9", tmp_path)
    assert config == kconfig.Kconfig(place, {"BPF": "y", "A": '"b=c"', "M": "m"})
    assert [config.has(option) for option in ("BPF", "M", "A", "KPROBES")] == [True, True, False, False]


@pytest.mark.parametrize("broken", [b"", b"no gzip", gzip.compress(b"CONFIG_BPF=y\n")[:-9], gzip.compress(b"")])
def test_a_config_that_cannot_be_read_is_skipped(tmp_path: Path, broken: bytes) -> None:
    make(tmp_path, **{"proc__config.gz": "", "boot__config-9.9": "CONFIG_NET=y\n"})
    (tmp_path / "proc/config.gz").write_bytes(broken)
    assert kconfig.read("9.9", tmp_path) == kconfig.Kconfig("/boot/config-9.9", {"NET": "y"})


@pytest.mark.parametrize(
    "held", [("CAP_SYS_ADMIN",), ("CAP_BPF", "CAP_PERFMON"), ("CAP_PERFMON", "CAP_NET_ADMIN", "CAP_BPF")]
)
def test_sufficient_capabilities_are_accepted(held: tuple[str, ...]) -> None:
    require_permission(replace(FULL, capabilities=held, root=False, btf=False, lockdown="confidentiality"))


@pytest.mark.parametrize(
    ("features", "remedy"),
    [
        (replace(FULL, root=False, capabilities=()), "run as root"),
        (replace(FULL, root=False, capabilities=("CAP_BPF",)), "CAP_BPF and CAP_PERFMON"),
        (replace(FULL, root=False, capabilities=("CAP_PERFMON", "CAP_NET_ADMIN")), "CAP_BPF and CAP_PERFMON"),
        (replace(FULL, capabilities=()), "--cap-add BPF"),
    ],
)
def test_missing_capabilities_are_reported_in_one_line_with_the_remedy(features: Features, remedy: str) -> None:
    with pytest.raises(KernelError, match=remedy) as caught:
        require_permission(features)
    assert str(caught.value).startswith("cannot load BPF programs: ")
    assert "\n" not in str(caught.value)


def test_a_kernel_with_the_file_realtime_is_a_real_time_kernel(tmp_path: Path, uname: Callable[[str], None]) -> None:
    uname("PREEMPT Mon")
    assert detect(make(tmp_path, sys__kernel__realtime="0")).preemption == "full"
    assert detect(make(tmp_path, sys__kernel__realtime="1")).preemption == "rt"
