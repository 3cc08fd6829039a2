"""The binding to libbpf keeps messages apart and never calls into freed memory."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest

from ebpfmon.errors import ObjectError
from ebpfmon.grouping import execs
from ebpfmon.kernel.bpfobject import BpfObject, with_cast
from ebpfmon.kernel.btf import Btf
from ebpfmon.kernel.compiler import TARGETS
from ebpfmon.kernel.libbpf import Libbpf
from ebpfmon.kernel.objects import locate

ROOT = Path(__file__).resolve().parents[2]
DROP_ONE = """
import ctypes, gc, sys
from pathlib import Path
from ebpfmon.errors import ObjectError
from ebpfmon.kernel.bpfobject import BpfObject
from ebpfmon.kernel.libbpf import Libbpf

kept, dropped = Libbpf(), Libbpf()
del dropped
gc.collect()
reused = [ctypes.CFUNCTYPE(ctypes.c_int)(lambda: 1) for _ in range(100)]  # reuses the memory of a freed callback
try:
    BpfObject(kept, Path(sys.argv[1]))
except ObjectError as error:
    print(error)
"""


def garbage(folder: Path, name: str) -> Path:
    path = folder / name
    path.write_bytes(b"no ELF " * 99)
    return path


def complaint(libbpf: Libbpf, path: Path) -> str:
    with pytest.raises(ObjectError) as caught:
        BpfObject(libbpf, path)
    return str(caught.value)


def test_messages_arrive_after_another_instance_was_freed(tmp_path: Path) -> None:
    path = garbage(tmp_path, "garbage.o")
    done = subprocess.run([sys.executable, "-c", DROP_ONE, path], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"cannot open '{path}': elf:")


def test_each_operation_gets_only_its_own_messages(tmp_path: Path) -> None:
    first, second = Libbpf(), Libbpf()
    a, b = garbage(tmp_path, "a.o"), garbage(tmp_path, "b.o")
    for libbpf, path in [(first, a), (second, b), (first, b), (second, a)]:
        message = complaint(libbpf, path)
        assert message.startswith(f"cannot open '{path}': elf: '{path.stem}' is not")
        assert libbpf.take_messages() == ""


def test_each_thread_has_its_own_messages(tmp_path: Path) -> None:
    libbpf, together = Libbpf(), Barrier(4)

    def work(number: int) -> set[str]:
        path = garbage(tmp_path, f"{number}.o")
        messages = set()
        for _ in range(50):
            together.wait(30)
            messages.add(complaint(libbpf, path).replace(str(path), "PATH").replace(f"'{number}'", "'NAME'"))
        return messages

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(work, range(4)))
    assert len(set.union(*found)) == 1
    assert next(iter(found[0])).startswith("cannot open 'PATH': elf: 'NAME' is not")


def test_the_number_of_kept_messages_is_bounded(tmp_path: Path) -> None:
    libbpf, path = Libbpf(), garbage(tmp_path, "garbage.o")
    data = path.read_bytes()
    for _ in range(1100):
        assert not libbpf.lib.bpf_object__open_mem(data, len(data), None)
    assert libbpf.take_messages().count("\n") == 1000


def test_reading_a_closed_file_is_an_error() -> None:
    with BpfObject(Libbpf(), locate(execs.PROBE)) as obj:
        assert obj.btf()
        obj.close_file()
        for read in (obj.btf, obj.rodata):
            with pytest.raises(ObjectError, match=r"execs\.bpf\.o': the file was closed"):
                read()
        assert not obj.maps


@pytest.mark.parametrize("machine", TARGETS)
def test_libbpf_need_not_search_modules_for_functions(machine: str) -> None:
    """To find that the kernel has no such function, libbpf 1.1 searches its modules, which takes CAP_SYS_ADMIN."""
    paths = [*ROOT.glob(f"plugins/*/objects/{machine}/*.bpf.o"), *ROOT.glob(f"ebpfmon/*/objects/{machine}/*.bpf.o")]
    assert len(paths) >= 6
    for path in paths:
        with BpfObject(Libbpf(), path) as obj:
            assert Btf(obj.btf()).variables(".ksyms") == {}, path


@pytest.mark.parametrize(("type_id", "instruction"), [(0, "bf10000000000000"), (0x1234, "8520000034120000")])
def test_the_loader_replaces_the_call_of_the_cast(type_id: int, instruction: str) -> None:
    """As clang writes a move from r1 to r0, and a call of a kernel function by its type."""
    data, call = locate(execs.PROBE).read_bytes(), bytes.fromhex("8500000001f0b97e")
    replaced = with_cast(data, type_id)
    assert data.count(call) > 0
    assert (replaced.count(call), replaced) == (0, data.replace(call, bytes.fromhex(instruction)))
