"""What the compiler leaves for BCC: a source that needs no preprocessing but for what the loader defines."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from ebpfmon.kernel import bcc
from ebpfmon.kernel.bpfobject import BpfObject
from ebpfmon.kernel.libbpf import Libbpf

ROOT = Path(__file__).parents[2]
OBJECTS = ROOT / "plugins/ebpfmon_process/objects"
# defined for libbpf's loader alone: in BCC's source they are the kernel headers' own
OF_THE_KERNEL = {"TASK_COMM_LEN"}
FOR_BTF = ("fexit/", "fentry/", "tp/")


@pytest.fixture(params=["x86_64", "aarch64"])
def source(request: pytest.FixtureRequest) -> str:
    machine: str = request.param
    return (OBJECTS / machine / "process.bcc.c").read_text()


def test_the_source_for_bcc_has_no_directive_but_the_includes_of_the_kernels_headers(source: str) -> None:
    directives = [line for line in source.splitlines() if line.lstrip().startswith("#")]
    wanted = re.findall(r"#pragma ebpfmon include (<.*>)", (ROOT / "bpf/kernel_types.h").read_text())
    assert directives == [f"#include {name}" for name in wanted]
    assert len(wanted) > 3


def test_the_source_for_bcc_has_no_macro_left(source: str) -> None:
    kit = "".join(path.read_text() for path in sorted((ROOT / "bpf").glob("*.[ch]")))
    macros = set(re.findall(r"^#define (\w+)", kit, re.M))
    assert {"MAP", "SEC", "KNOB", "READ", "LOAD", "ADD", "PROCESS_TABLE"} <= macros
    assert set(re.findall(r"\w+", source)) & macros <= OF_THE_KERNEL


def test_what_the_source_for_bcc_leaves_open_is_what_the_loader_defines(source: str) -> None:
    # of this machine's object: names are the same in both
    with BpfObject(Libbpf(), OBJECTS / "x86_64" / "process.bpf.o") as obj:
        maps, knobs = bcc._maps_of(obj), bcc._knobs_of(obj)
        programs = {name: obj.section(name) for name in obj.programs}
    used = {*maps, "ebpfmon_self_check"} - {"process_rows_0", "process_rows_1"}  # the loader's own business
    assert set(re.findall(r"\bMAP_(\w+)", source)) == used
    words = set(re.findall(r"\w+", source))
    # a knob of the kit that this probe has no use for is not in its source
    assert {k for k in knobs if "raw_syscalls" not in k} - {"cfg_may_read"} <= words
    functions = set(re.findall(r"(?<!inline )\bint (\w+)\(", source))
    assert functions - {"ebpfmon_self_check"} == {p for p, s in programs.items() if not s.startswith(FOR_BTF)}
    assert "ebpfmon_self_check" in functions
