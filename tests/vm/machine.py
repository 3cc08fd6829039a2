"""Boot a kernel in QEMU, with the host's files as its root, and run one command there.

QEMU emulates the machine in software (TCG), which also works if the host is itself a virtual machine. The guest sees
the host's files at the same paths. Its writes stay in its memory, except in one shared directory.
"""

from __future__ import annotations

import os
import platform
import shlex
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from tests.vm.fetch import Kernel
from tests.vm.initramfs import cpio

HERE = Path(__file__).parent
CPUS, MEMORY = 2, "2560M"  # One CPU would hide mistakes in the use of per-CPU tables.
_KERNEL_ARGUMENTS = (
    "console=ttyS0 quiet loglevel=4 panic=-1 "  # A panic reboots at once, and -no-reboot makes QEMU exit.
    "oops=panic softlockup_panic=1 watchdog_thresh=30 "  # A guest that hangs panics too, instead of timing out.
    "mitigations=off nokaslr audit=0 no_timer_check random.trust_cpu=on "  # These would only slow the guest down.
    "clocksource=tsc tsc=reliable "  # The other clock is an emulated device that the CPUs contend for.
    "init_on_alloc=0"  # 5.10 allocates 1 MB for each 4 kB that it reads over 9p; clearing it takes five times as long.
)
_POLL_S = 0.2
RESTARTED = "the guest panicked and was started again"
_QEMU, _BUSYBOX = "qemu-system-x86_64", "/bin/busybox"
# QEMU 7.2, the first that emulates AVX and AVX2, computes them wrongly: numpy's sort returned unsorted arrays.
_CPU = "max,-avx,-avx2,-fma,-f16c"


class MachineError(Exception):
    """Raised if this host cannot run the virtual machines."""


@dataclass(frozen=True, slots=True)
class Job:
    """A command to run in a machine, and how to set the machine up."""

    command: str
    """A command for sh(1). It runs in the current directory of this process."""
    share: Path
    """The host directory that the guest may write to."""
    kernel_arguments: str = ""
    """Arguments to append to the kernel's command line."""
    environment: Mapping[str, str] = field(default_factory=dict)
    timeout_s: float = 600
    count_instructions: bool = False
    """Whether to run one CPU whose clock advances one nanosecond per instruction, so that times are reproducible."""


@dataclass(frozen=True, slots=True)
class Ended:
    """How a job ended."""

    status: int | None
    """The command's exit status, or None if it did not finish."""
    elapsed_s: float
    problem: str = ""
    """Why the command did not finish."""
    panics: int = 0
    """How often the guest panicked."""


def require() -> None:
    """Raise MachineError if this host cannot run the virtual machines."""
    if platform.machine() != "x86_64":
        raise MachineError(f"cannot run Debian's amd64 kernels on this host, which is {platform.machine()}")
    if os.geteuid() != 0:
        raise MachineError("cannot share the host's files with a guest: run as root")
    for program in (_QEMU, _BUSYBOX):
        if not shutil.which(program):
            raise MachineError(f"cannot start a machine: '{program}' is not installed; sudo make vm-test installs it")


def run(kernel: Kernel, job: Job, output: BinaryIO, should_stop: Callable[[], bool] = lambda: False) -> Ended:
    """Run a job in a machine and return how it ended.

    The command's output goes to `output`, and the kernel's messages to the file `console` in the job's share. A guest
    that panics is started once more, because an emulated kernel does that about once in a hundred runs. The job is
    aborted as soon as `should_stop` returns True.
    """
    started = time.monotonic()
    first = _run_once(kernel, job, output, should_stop)
    if not first.panics:
        return first
    (job.share / "console").rename(job.share / "console.panic")
    output.write(f"\nebpfmon: {RESTARTED}\n".encode())
    second = _run_once(kernel, job, output, should_stop)
    return Ended(second.status, time.monotonic() - started, second.problem, 1 + second.panics)


def _run_once(kernel: Kernel, job: Job, output: BinaryIO, should_stop: Callable[[], bool]) -> Ended:
    status, console = job.share / "status", job.share / "console"
    status.unlink(missing_ok=True)
    started = time.monotonic()
    problem = ""
    with tempfile.NamedTemporaryFile(prefix="ebpfmon-vm-") as initrd:
        initrd.write(_initramfs(kernel, job))
        initrd.flush()
        command = _qemu(kernel, job, Path(initrd.name), console)
        output.flush()
        # QEMU closes the guest's port at the end of its input, so it reads from a pipe that stays open.
        machine = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=output)
        try:
            while machine.poll() is None and not problem:
                if time.monotonic() - started > job.timeout_s:
                    problem = f"did not end within {job.timeout_s:.0f} s"
                elif should_stop():
                    problem = "was aborted because no time was left"
                else:
                    time.sleep(_POLL_S)
        finally:
            machine.kill()
            machine.wait()
            assert machine.stdin
            machine.stdin.close()
    elapsed = time.monotonic() - started
    if problem:
        return Ended(None, elapsed, problem)
    if status.exists():
        return Ended(int(status.read_text()), elapsed)
    if console.exists() and "Kernel panic" in console.read_text(errors="replace"):
        return Ended(None, elapsed, "the guest panicked", 1)
    return Ended(None, elapsed, f"the guest ended before its command: see {console}")


def _initramfs(kernel: Kernel, job: Job) -> bytes:
    busybox = Path(_BUSYBOX).read_bytes()
    environment = {"HOME": "/root", "PATH": os.environ["PATH"], "LANG": "C.UTF-8", **job.environment}
    exports = [f"export {name}={shlex.quote(value)}" for name, value in environment.items()]
    command = "\n".join([f"cd {shlex.quote(os.getcwd())}", *exports, job.command, ""])
    files = {
        "init": (HERE / "boot.sh").read_bytes(),
        "busybox": busybox,
        "vm/busybox": busybox,
        "vm/inside.sh": (HERE / "inside.sh").read_bytes(),
        "vm/settings": f"SHARE={shlex.quote(str(job.share.resolve()))}\n".encode(),
        "vm/command": command.encode(),
        **{f"vm/modules/{path.name}": path.read_bytes() for path in sorted((kernel.path / "modules").iterdir())},
    }
    return cpio(files, programs=("init", "busybox", "vm/busybox"))


def _qemu(kernel: Kernel, job: Job, initrd: Path, console: Path) -> list[str | Path]:
    def files(path: Path, tag: str, *more: str) -> list[str]:
        name = str(path.resolve()).replace(",", ",,")
        return ["-virtfs", ",".join(["local", f"path={name}", f"mount_tag={tag}", "security_model=none", *more])]

    speed, cpus = ["-accel", "tcg,thread=multi"], CPUS
    if job.count_instructions:  # sleep=off skips idle time.
        speed, cpus = ["-accel", "tcg,thread=single", "-icount", "shift=0,sleep=off"], 1
    return [
        _QEMU, "-machine", "q35", *speed, "-cpu", _CPU, "-smp", str(cpus), "-m", MEMORY,
        "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
        "-kernel", kernel.path / "vmlinuz", "-initrd", initrd, "-append", f"{_KERNEL_ARGUMENTS} {job.kernel_arguments}",
        "-chardev", f"file,id=console,path={str(console).replace(',', ',,')}", "-serial", "chardev:console",
        "-chardev", "stdio,id=output,signal=off",
        "-device", "virtio-serial-pci", "-device", "virtserialport,chardev=output,nr=1",
        *files(Path("/"), "host", "readonly=on", "multidevs=remap"),
        *files(kernel.path / "root", "kernel", "readonly=on"),
        *files(job.share, "share"),
    ]  # fmt: skip
