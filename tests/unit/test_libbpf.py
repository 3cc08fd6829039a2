"""The binding to libbpf: whose messages are whose, and that no call goes to freed memory."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest

from ebpfmon.errors import ObjectError
from ebpfmon.grouping import execs
from ebpfmon.kernel.bpfobject import BpfObject
from ebpfmon.kernel.libbpf import Libbpf
from ebpfmon.kernel.objects import locate

DROP_ONE = """
import ctypes, gc, sys
from pathlib import Path
from ebpfmon.errors import ObjectError
from ebpfmon.kernel.bpfobject import BpfObject
from ebpfmon.kernel.libbpf import Libbpf

kept, dropped = Libbpf(), Libbpf()
del dropped
gc.collect()
reused = [ctypes.CFUNCTYPE(ctypes.c_int)(lambda: 1) for _ in range(100)]  # takes what the callback's memory was
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


def test_an_instance_hears_libbpf_after_another_was_freed(tmp_path: Path) -> None:
    path = garbage(tmp_path, "garbage.o")
    done = subprocess.run([sys.executable, "-c", DROP_ONE, path], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"cannot open '{path}': elf:")


def test_each_operation_has_its_own_messages_whatever_other_instances_were_told(tmp_path: Path) -> None:
    first, second = Libbpf(), Libbpf()
    a, b = garbage(tmp_path, "a.o"), garbage(tmp_path, "b.o")
    for libbpf, path in [(first, a), (second, b), (first, b), (second, a)]:
        said = complaint(libbpf, path)
        assert said.count(str(path)) == 2  # in our words and in libbpf's
        assert libbpf.take_messages() == ""


def test_each_thread_has_its_own_messages(tmp_path: Path) -> None:
    libbpf, together = Libbpf(), Barrier(4)

    def work(number: int) -> set[str]:
        path = garbage(tmp_path, f"{number}.o")
        said = set()
        for _ in range(50):
            together.wait(30)
            said.add(complaint(libbpf, path).replace(str(path), "PATH"))
        return said

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(work, range(4)))
    assert len(set.union(*found)) == 1
    assert next(iter(found[0])).count("PATH") == 2


def test_messages_that_nobody_asks_for_are_bounded(tmp_path: Path) -> None:
    libbpf, path = Libbpf(), garbage(tmp_path, "garbage.o")
    for _ in range(1100):
        assert not libbpf.lib.bpf_object__open_file(str(path).encode(), None)
    assert libbpf.take_messages().count("\n") == 1000


def test_a_closed_file_is_an_error_and_no_crash() -> None:
    with BpfObject(Libbpf(), locate(execs.PROBE)) as obj:
        assert obj.btf()
        obj.close_file()
        for read in (obj.btf, obj.rodata):
            with pytest.raises(ObjectError, match=r"execs\.bpf\.o': the file was closed"):
                read()
        assert not obj.maps
