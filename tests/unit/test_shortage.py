"""What is short is named, with the way to raise its limit."""

from __future__ import annotations

import errno
import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ebpfmon import shortage
from ebpfmon.cli import main as cli
from ebpfmon.errors import KernelError
from ebpfmon.kernel.libbpf import Libbpf, check
from ebpfmon.kernel.symbols import open_symbols

FEW_FILES = (
    "Too many open files; this process may open only 96 files: allow 256 (ulimit -n 256; in a systemd unit: "
    "LimitNOFILE=256)"
)
ALL_FILES = (
    "Too many open files in system; all processes together have reached the machine's limit: raise it with sysctl "
    "fs.file-max"
)
MEMORY = (
    "Cannot allocate memory; free some memory, or raise the limit of its cgroup (memory.max; in a systemd unit: "
    "MemoryMax=)"
)
THREADS = "raise the limit of its cgroup (pids.max; in a systemd unit: TasksMax=) or ulimit -u"


@pytest.fixture
def few_files() -> Iterator[None]:
    """Allow this process 96 open files."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (96, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def failure(code: int, path: str | None = None) -> OSError:
    return OSError(code, os.strerror(code), path) if path else OSError(code, os.strerror(code))


@pytest.mark.usefixtures("few_files")
@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (failure(errno.EMFILE), FEW_FILES),
        (failure(errno.EMFILE, "/proc/self/statm"), f"'/proc/self/statm': {FEW_FILES}"),
        (failure(errno.ENFILE), ALL_FILES),
        (failure(errno.ENOMEM), MEMORY),
        (MemoryError(), MEMORY),
        (failure(errno.ENOSPC, "/tmp/x"), "'/tmp/x': No space left on device; free some space there"),
        (RuntimeError("can't start new thread"), f"cannot start a thread; {THREADS}"),
        (ExceptionGroup("g", [ValueError("x"), ExceptionGroup("h", [failure(errno.ENFILE)])]), ALL_FILES),
        (OSError("libx.so.1: cannot open shared object file: Too many open files"),
         f"libx.so.1: cannot open shared object file: {FEW_FILES}"),
        (ImportError("liby.so: failed to map segment from shared object"),
         f"liby.so: failed to map segment from shared object{MEMORY.removeprefix('Cannot allocate memory')}"),
        (failure(errno.ENOENT, "/x"), ""),
        (failure(errno.EAGAIN), ""),
        (OSError("libx.so.1: cannot open shared object file: No such file or directory"), ""),
        (RuntimeError("x"), ""),
        (ValueError("Too many open files"), ""),
        (KeyboardInterrupt(), ""),
        (BaseExceptionGroup("g", [KeyboardInterrupt()]), ""),
    ],
    ids=str,
)  # fmt: skip
def test_the_reason_names_what_is_short_and_how_to_raise_its_limit(error: BaseException, reason: str) -> None:
    assert shortage.reason(error) == reason


def test_a_process_cannot_be_started_for_lack_of_processes_or_of_memory() -> None:
    assert shortage.no_process(errno.EAGAIN) == f"; {THREADS}"
    assert shortage.no_process(errno.ENOMEM) == MEMORY.removeprefix("Cannot allocate memory")
    assert shortage.no_process(errno.ENOENT) == ""


def in_child(code: str) -> str:
    """Run code in a process of its own, whose limits it may change, and return what it prints."""
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", f"import os, resource, threading\nfrom ebpfmon import shortage\n{code}"],
        cwd=root, capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    return done.stdout.strip()


def test_python_still_says_in_the_same_words_that_it_cannot_start_a_thread() -> None:
    said = in_child(
        "resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))\n"
        "if not os.geteuid(): os.setresuid(65534, 65534, 65534)\n"  # The limit does not apply to root.
        "try: threading.Thread(target=print).start()\n"
        "except RuntimeError as error: print(shortage.reason(error))"
    )
    assert said == f"cannot start a thread; {THREADS}"


def test_the_soft_limit_of_open_files_is_raised_to_the_hard_one() -> None:
    said = in_child(
        "resource.setrlimit(resource.RLIMIT_NOFILE, (64, 128))\nshortage.raise_descriptor_limit()\n"
        "print(resource.getrlimit(resource.RLIMIT_NOFILE))"
    )
    assert said == "(128, 128)"


def test_free_descriptors_are_those_that_can_still_be_opened() -> None:
    said = in_child(
        "resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))\n"
        "said = shortage.free_descriptors()\nopened = 0\n"
        "try:\n while True: os.dup(0); opened += 1\n"
        "except OSError: print(said - opened, shortage.free_descriptors())"
    )
    assert said == "0 0"


def test_capabilities_are_known_without_descriptors_and_are_those_that_proc_shows() -> None:
    said = in_child(
        "from pathlib import Path\nfrom ebpfmon.kernel import capabilities, features\n"
        "status = Path('/proc/thread-self/status')\n"
        "shown = capabilities.read(status, 'CapPrm'), capabilities.read(status, 'CapEff')\n"
        "before = features.detect().capabilities\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (0, 0))\n"
        "print((capabilities.held(), capabilities.effective()) == shown, features.detect().capabilities == before)"
    )
    assert said == "True True"


def test_if_proc_cannot_be_read_all_descriptors_count_as_free(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: str) -> list[str]:
        raise failure(errno.ENOENT)

    monkeypatch.setattr(os, "listdir", fail)
    assert shortage.free_descriptors() == resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def test_an_address_space_that_is_too_small_is_named() -> None:
    said = in_child(
        "resource.setrlimit(resource.RLIMIT_AS, (300 << 20, 300 << 20))\n"
        "try: bytearray(400 << 20)\nexcept MemoryError as error: print(shortage.reason(error))"
    )
    assert said == (
        "Cannot allocate memory; this process may have only 300 MB of address space: raise ulimit -v (LimitAS=)"
    )


@pytest.mark.parametrize(
    "error", [failure(errno.EMFILE), ExceptionGroup("g", [failure(errno.EMFILE, "/x")]), MemoryError()], ids=str
)
def test_a_command_that_runs_out_of_something_ends_with_1_and_one_line(
    error: Exception, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(_: object) -> int:
        raise error

    monkeypatch.setattr(shortage, "raise_descriptor_limit", lambda: None)
    monkeypatch.setattr("ebpfmon.cli.plugins._plugins", fail)
    assert cli.main(["plugins"]) == 1
    assert capsys.readouterr().err == f"ebpfmon: {shortage.reason(error)}\n"


@pytest.mark.usefixtures("few_files")
def test_errors_of_the_kernel_say_what_is_short() -> None:
    with pytest.raises(KernelError) as caught:
        check(-errno.EMFILE, "fill map 'm'")
    assert str(caught.value) == f"cannot fill map 'm': {FEW_FILES}"


@pytest.mark.parametrize("code", [errno.EMFILE, errno.ENOMEM])
def test_a_kernel_whose_types_cannot_be_read_for_a_shortage_is_not_taken_for_one_without_types(
    code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: Path) -> bytes:
        raise failure(code)

    monkeypatch.setattr(Path, "read_bytes", fail)
    with pytest.raises(KernelError, match=r"cannot read the kernel's BTF: .*; "):
        open_symbols(Libbpf(), Path("/x"))


@pytest.mark.parametrize(("error", "expected"), [(errno.EMFILE, 0), (errno.ENOENT, 7), (errno.EACCES, 7)])
def test_only_a_lack_of_descriptors_means_that_none_is_free(
    monkeypatch: pytest.MonkeyPatch, error: int, expected: int
) -> None:
    def fails(_: str) -> list[str]:
        raise OSError(error, os.strerror(error))

    monkeypatch.setattr(os, "listdir", fails)
    monkeypatch.setattr(resource, "getrlimit", lambda _: (7, 7))
    assert shortage.free_descriptors() == expected


def test_a_package_that_is_missing_is_an_error_of_one_line_with_the_remedy() -> None:
    script = "import sys; sys.modules['msgspec'] = None; from ebpfmon.cli.main import main; sys.exit(main(['check']))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        f"ebpfmon: the Python package of 'msgspec' is missing; install ebpfmon again, or: {sys.executable} -m pip "
        "install msgspec\n"
    )
