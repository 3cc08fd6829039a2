"""What the kernel allows, as it is read below a root that the test makes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from ebpfmon.errors import KernelError
from ebpfmon.kernel.features import Features, look, require_permission

FULL = Features(
    release="6.1", machine="x86_64", root=True, capabilities=("CAP_SYS_ADMIN",), btf=True, kprobes=True, jit=True,
    lockdown="none",
)  # fmt: skip


def make(root: Path, **files: str) -> Path:
    """Files by path, `__` for the slash."""
    for name, text in files.items():
        path = root / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def test_of_a_root_with_nothing_in_it_nothing_is_claimed(tmp_path: Path) -> None:
    found = look(tmp_path)
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
    assert look(make(tmp_path, proc__self__status=status)).capabilities == expected


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
    assert look(make(tmp_path, sys__kernel__security__lockdown=text)).lockdown == expected


@pytest.mark.parametrize(("text", "expected"), [("0\n", False), ("1\n", True), ("2\n", True)])
def test_the_jit_is_off_or_on(tmp_path: Path, text: str, expected: bool) -> None:
    assert look(make(tmp_path, proc__sys__net__core__bpf_jit_enable=text)).jit is expected


def test_btf_and_kprobes_are_there_if_their_files_are(tmp_path: Path) -> None:
    found = look(make(tmp_path, sys__kernel__btf__vmlinux="", sys__bus__event_source__devices__kprobe__type="8"))
    assert (found.btf, found.kprobes) == (True, True)


@pytest.mark.parametrize(
    "held", [("CAP_SYS_ADMIN",), ("CAP_BPF", "CAP_PERFMON"), ("CAP_PERFMON", "CAP_NET_ADMIN", "CAP_BPF")]
)
def test_what_suffices_is_enough(held: tuple[str, ...]) -> None:
    for lockdown in (None, "none", "integrity"):
        require_permission(replace(FULL, capabilities=held, root=False, lockdown=lockdown))


@pytest.mark.parametrize(
    ("features", "said"),
    [
        (replace(FULL, root=False, capabilities=()), "run as root"),
        (replace(FULL, root=False, capabilities=("CAP_BPF",)), "CAP_BPF and CAP_PERFMON"),
        (replace(FULL, root=False, capabilities=("CAP_PERFMON", "CAP_NET_ADMIN")), "CAP_BPF and CAP_PERFMON"),
        (replace(FULL, capabilities=()), "--cap-add BPF"),
        (replace(FULL, btf=False), "CONFIG_DEBUG_INFO_BTF"),
        (replace(FULL, lockdown="confidentiality"), "lockdown=integrity"),
    ],
)
def test_what_is_missing_is_said_in_one_line_with_the_remedy(features: Features, said: str) -> None:
    with pytest.raises(KernelError, match=said) as caught:
        require_permission(features)
    assert str(caught.value).startswith("load eBPF programs: ")
    assert "\n" not in str(caught.value)
