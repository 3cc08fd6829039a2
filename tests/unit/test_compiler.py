"""The source for BCC needs no preprocessing except for what the loader defines."""

from __future__ import annotations

import os
import re
import time
from pathlib import Path

import pytest

from ebpfmon.kernel import bcc
from ebpfmon.kernel.bpfobject import BpfObject
from ebpfmon.kernel.compiler import compile_all
from ebpfmon.kernel.libbpf import Libbpf

ROOT = Path(__file__).parents[2]
OBJECTS = ROOT / "plugins/ebpfmon_process/objects"
# Defined only for libbpf. For BCC, the kernel headers define them.
KERNEL_MACROS = {
    "SOCK_STREAM",
    "SOCK_DGRAM",
    "TASK_COMM_LEN",
    "AF_INET",
    "AF_INET6",
    "IPPROTO_TCP",
    "IPPROTO_UDP",
    "MSG_PEEK",
    "MSG_ERRQUEUE",
}
LIBBPF_SECTIONS = ("fexit/", "fentry/", "tp/")


def macros_of(*paths: Path) -> set[str]:
    """Return the names of the macros that these files define."""
    return {name for path in paths for name in re.findall(r"^#define (\w+)", path.read_text(), re.M)}


@pytest.fixture(params=["x86_64", "aarch64"])
def source(request: pytest.FixtureRequest) -> str:
    machine: str = request.param
    return (OBJECTS / machine / "process.bcc.c").read_text()


def test_the_bcc_source_has_no_directives_except_includes_of_kernel_headers(source: str) -> None:
    directives = [line for line in source.splitlines() if line.lstrip().startswith("#")]
    wanted = re.findall(r"#pragma ebpfmon include (<.*>)", (ROOT / "bpf/kernel_types.h").read_text())
    assert directives == [f"#include {name}" for name in wanted]
    assert len(wanted) > 3


def test_the_bcc_source_has_no_macros(source: str) -> None:
    macros = macros_of(*(ROOT / "bpf").glob("*.[ch]"))
    assert {"READ_FIELD", "BPF_PROG", "BPF_KPROBE", "TABLE_NAME", "UNTRUSTED"} <= macros
    assert set(re.findall(r"\w+", source)) & macros <= KERNEL_MACROS


def test_the_loader_defines_all_names_that_the_bcc_source_leaves_open(source: str) -> None:
    # Read this machine's object; the names are the same for both architectures.
    with BpfObject(Libbpf(), OBJECTS / "x86_64" / "process.bpf.o") as obj:
        maps, settings = bcc._maps_of(obj), bcc._settings_of(obj)
        programs = {name: obj.section(name) for name in obj.programs}
    named = {bcc.name_in_source(name) for name in maps} | {"ebpfmon_self_check"}
    # Only the loader uses the inner maps, and BCC has no per-CPU cache.
    used = named - {"process_rows_0", "process_rows_1", "process_cache"}
    assert set(re.findall(r"\bMAP_(\w+)", source)) == used
    words = set(re.findall(r"\w+", source))
    # The source lacks the settings of the headers that this probe does not use.
    assert settings.keys() - {"cfg_may_read", "cfg_cache", "cfg_may_cast"} <= words
    functions = set(re.findall(r"(?<!inline )\bint (\w+)\(", source))
    del programs["io_uring_complete_tp_btf"]  # Not every kernel's headers have the types of io_uring.
    assert functions - {"ebpfmon_self_check"} == {p for p, s in programs.items() if not s.startswith(LIBBPF_SECTIONS)}
    assert "ebpfmon_self_check" in functions


@pytest.mark.parametrize("path", sorted(ROOT.glob("plugins/*/*.bpf.c")), ids=lambda p: p.parent.name)
@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_a_source_in_a_package_is_compiled_there_and_its_bcc_source_has_no_macros(path: Path, machine: str) -> None:
    stem = path.name.removesuffix(".bpf.c")
    made = path.parent / "objects" / machine
    assert (made / f"{stem}.bpf.o").stat().st_size > 1000
    for_bcc = (made / f"{stem}.bcc.c").read_text()
    macros = macros_of(*(ROOT / "bpf").glob("*.[ch]"), *path.parent.glob("*.[ch]"))
    assert set(re.findall(r"\w+", for_bcc)) & macros <= KERNEL_MACROS
    assert "SEC(" not in for_bcc
    assert "__uint" not in for_bcc


def test_a_source_is_compiled_again_when_it_or_a_header_changes(tmp_path: Path) -> None:
    for name in ("bpf/execs.bpf.c", "plugins/ebpfmon_two/two.bpf.c"):
        (tmp_path / name).parent.mkdir(parents=True)
        text = '#include "own.h"\n' if "two" in name else ""
        (tmp_path / name).write_text(f"{text}int x;\n")
    (tmp_path / "plugins/ebpfmon_two/own.h").write_text("\n")
    made = {str(path.relative_to(tmp_path)) for path in compile_all(tmp_path)}
    assert made == {
        f"{package}/objects/{machine}/{stem}.bpf.o"
        for package, stem in (("ebpfmon/grouping", "execs"), ("plugins/ebpfmon_two", "two"))
        for machine in ("x86_64", "aarch64")
    }  # fmt: skip
    assert compile_all(tmp_path) == []
    later = time.time() + 5
    os.utime(tmp_path / "plugins/ebpfmon_two/own.h", (later, later))
    assert {path.name for path in compile_all(tmp_path)} == {"two.bpf.o"}
