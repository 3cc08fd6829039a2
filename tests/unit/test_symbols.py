"""Symbols from kallsyms and BTF that the test provides."""

from __future__ import annotations

from pathlib import Path

import pytest

from ebpfmon import Probe
from ebpfmon.kernel.bpfobject import BpfObject
from ebpfmon.kernel.btf import Btf
from ebpfmon.kernel.libbpf import Libbpf
from ebpfmon.kernel.objects import locate
from ebpfmon.kernel.symbols import KERNEL_BTF, BtfSymbols, Kallsyms, open_symbols

KALLSYMS = """\
0000000000000000 A fixed_percpu_data
ffffffff81000000 T _stext
ffffffff812a0000 T vfs_read
ffffffff812a0100 t do_sys_openat2
ffffffff812a0200 t close_fd.isra.0
ffffffff812a0300 D file_systems
ffffffff812a0400 T __traceiter_sys_exit
ffffffff82a00000 d __tracepoint_task_newtask
ffffffff82a00100 D __tracepoint_sys_exit
ffffffff82a00200 r __tpstrtab_sched_process_exit
ffffffffc0000000 t ext4_read\t[ext4]
ffffffffc0000100 t bpf_prog_6deef7357e7b4530\t[bpf]
"""


@pytest.fixture
def kallsyms(tmp_path: Path) -> Kallsyms:
    path = tmp_path / "kallsyms"
    path.write_text(KALLSYMS)
    return Kallsyms(path)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("vfs_read", True),
        ("do_sys_openat2", True),
        ("vfs", False),
        ("close_fd", False),
        ("file_systems", False),
        ("__tracepoint_task_newtask", False),
        ("ext4_read", False),
        ("sys_exit", False),
    ],
)
def test_a_function_is_a_text_symbol_of_the_kernel_itself(kallsyms: Kallsyms, name: str, expected: bool) -> None:
    assert kallsyms.has_function(name) is expected


@pytest.mark.parametrize(
    ("name", "expected"),
    [("sys_exit", True), ("task_newtask", True), ("sched_process_exit", False), ("sys_", False), ("vfs_read", False)],
)
def test_a_tracepoint_is_found_by_its_function_or_its_variable(kallsyms: Kallsyms, name: str, expected: bool) -> None:
    assert kallsyms.has_tracepoint(name) is expected


def test_kallsyms_has_no_arguments_and_no_structs(kallsyms: Kallsyms) -> None:
    with kallsyms:
        assert kallsyms.arguments("vfs_read") is None
        assert kallsyms.function_id("vfs_read") == 0
        assert not kallsyms.has_struct("tracepoint_ext")
        assert not kallsyms.has_struct("tracepoint_ext", "faultable")


def test_the_running_kernels_kallsyms_can_be_read() -> None:
    found = Kallsyms()
    assert found.has_function("vfs_read")
    assert found.has_tracepoint("sys_exit")


def test_btf_has_functions_arguments_structs_and_members() -> None:
    libbpf = Libbpf()
    with BpfObject(libbpf, locate(Probe(name="p", package="ebpfmon_process", object="process", charts=()))) as obj:
        symbols = BtfSymbols(Btf(obj.btf(), libbpf))
        program = "vfs_read_fexit"
        assert symbols.has_function(program)
        assert symbols.function_id(program) > 0
        assert symbols.function_id("process_cache") == 0
        assert not symbols.has_function("process_cache")
        assert (symbols.arguments(program), symbols.arguments("no_such")) == (1, None)
        assert not symbols.has_tracepoint("sys_exit")
        assert [symbols.has_struct("process_cache", m) for m in ("", "caller", "counters", "tgid")] == [
            True,
            True,
            True,
            False,
        ]
        assert not symbols.has_struct("no_such")
        assert not symbols.has_struct("no_such", "caller")


@pytest.mark.skipif(not KERNEL_BTF.exists(), reason="this kernel has no BTF: the matrix's guests have")
def test_the_running_kernels_btf_can_be_read() -> None:
    with open_symbols(Libbpf()) as symbols:
        assert isinstance(symbols, BtfSymbols)
        assert symbols.arguments("vfs_read") == 4
        assert symbols.has_tracepoint("sys_exit")
        assert symbols.tracepoint_arguments("sys_exit") == 2
        assert symbols.has_struct("task_struct", "tgid")
        assert not symbols.has_struct("task_struct", "no_such")


@pytest.mark.parametrize("content", [None, b"", b"no BTF at all, for sure"])
def test_kallsyms_is_used_if_libbpf_cannot_read_the_btf(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "vmlinux"
    if content is not None:
        path.write_bytes(content)
    assert isinstance(open_symbols(Libbpf(), path), Kallsyms)
