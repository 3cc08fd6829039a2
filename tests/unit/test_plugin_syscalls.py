"""System calls have the names in this machine's kernel headers."""

from __future__ import annotations

import re
import sysconfig
from pathlib import Path

import numpy as np
import pytest

from ebpfmon_syscalls.calls import Calls, Errors, SyscallsSettings, setup

HEADERS = Path("/usr/include") / (sysconfig.get_config_var("MULTIARCH") or "") / "asm"
ROW = np.dtype([("number", "u4"), ("compat", "u4"), ("error", "u4"), ("unused", "u4"), ("failures", "u8")])


@pytest.mark.parametrize(("header", "compat", "known"), [("unistd_64.h", 0, 300), ("unistd_32.h", 1, 380)])
def test_names_match_the_headers(header: str, compat: int, known: int) -> None:
    if not (HEADERS / header).exists():
        pytest.skip(f"no {header}, which only x86-64 has")
    in_header = {int(n): name for name, n in re.findall(r"#define __NR_(\w+) (\d+)", (HEADERS / header).read_text())}
    calls, suffix = Calls(1, "x86_64"), " (32-bit)" if compat else ""
    named = {n: calls.name(n, compat) for n in in_header}
    # The table leaves out calls that Linux no longer has.
    assert len([n for n, name in named.items() if not name.startswith("number")]) >= known
    assert {n: name for n, name in named.items() if not name.startswith("number")} == {
        n: f"{in_header[n]}{suffix}" for n, name in named.items() if not name.startswith("number")
    }


@pytest.mark.parametrize(
    ("machine", "number", "compat", "name"),
    [
        ("x86_64", 257, 0, "openat"), ("x86_64", 295, 1, "openat (32-bit)"),
        ("x86_64", 1 << 30 | 257, 0, "openat (x32)"),
        ("aarch64", 56, 0, "openat"), ("aarch64", 322, 1, "openat (32-bit)"), ("x86_64", 99999, 0, "number 99999"),
        ("x86_64", 99999, 1, "number 99999 (32-bit)"), ("riscv64", 56, 0, "number 56"),
    ],
)  # fmt: skip
def test_a_call_has_its_name_or_its_number(machine: str, number: int, compat: int, name: str) -> None:
    assert Calls(1, machine).name(number, compat) == name


def test_an_error_has_its_name_or_its_number() -> None:
    rows = np.array([(257, 0, 2, 0, 1), (0, 0, 512, 0, 1), (0, 0, 4000, 0, 1)], ROW)
    errors = Errors(3, "x86_64")
    assert errors.labels == ("syscall", "error")
    assert errors.values(rows) == [("openat", "ENOENT"), ("read", "ERESTARTSYS"), ("read", "error 4000")]


def test_no_chart_has_more_dimensions_than_the_maximum() -> None:
    labels = setup(SyscallsSettings(maximum_dimensions=260)).labels
    assert (labels["syscalls"].maximum, labels["syscall_errors"].maximum) == (10, 260)
