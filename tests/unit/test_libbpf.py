"""The binding to libbpf keeps messages apart and never calls into freed memory."""

from __future__ import annotations

import errno
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest

from ebpfmon.errors import LoadError, ObjectError
from ebpfmon.grouping import execs
from ebpfmon.kernel.bpfobject import BpfObject, raise_load_error
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
        assert message.count(str(path)) == 2  # once in our message, once in libbpf's
        assert libbpf.take_messages() == ""


def test_each_thread_has_its_own_messages(tmp_path: Path) -> None:
    libbpf, together = Libbpf(), Barrier(4)

    def work(number: int) -> set[str]:
        path = garbage(tmp_path, f"{number}.o")
        messages = set()
        for _ in range(50):
            together.wait(30)
            messages.add(complaint(libbpf, path).replace(str(path), "PATH"))
        return messages

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(work, range(4)))
    assert len(set.union(*found)) == 1
    assert next(iter(found[0])).count("PATH") == 2


def test_the_number_of_kept_messages_is_bounded(tmp_path: Path) -> None:
    libbpf, path = Libbpf(), garbage(tmp_path, "garbage.o")
    for _ in range(1100):
        assert not libbpf.lib.bpf_object__open_file(str(path).encode(), None)
    assert libbpf.take_messages().count("\n") == 1000


def test_reading_a_closed_file_is_an_error() -> None:
    with BpfObject(Libbpf(), locate(execs.PROBE)) as obj:
        assert obj.btf()
        obj.close_file()
        for read in (obj.btf, obj.rodata):
            with pytest.raises(ObjectError, match=r"execs\.bpf\.o': the file was closed"):
                read()
        assert not obj.maps


def test_a_function_that_libbpf_may_not_search_for_in_modules_names_the_capability() -> None:
    said = "libbpf: extern (func ksym) 'bpf_rdonly_cast': not found in kernel or module BTFs\n"
    with pytest.raises(LoadError, match=r"BTFs; before Linux 6\.2, this libbpf also needs CAP_SYS_ADMIN to search"):
        raise_load_error(Path("x.bpf.o"), None, errno.ESRCH, said)
