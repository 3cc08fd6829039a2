"""Boots a kernel in QEMU, with the host's files as its root, and runs one command there.

Emulated in software (TCG): that works everywhere, also where the host is a virtual machine itself.
The guest sees the host's files at the same paths. What it writes stays in its memory, but for one shared directory.
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
CPUS, MEMORY = 2, "2560M"  # two, as one CPU shows no mistake with per-CPU tables
_KERNEL_ARGUMENTS = (
    "console=ttyS0 quiet loglevel=4 panic=-1 "  # at a panic the machine ends, and so does QEMU ...
    "oops=panic softlockup_panic=1 watchdog_thresh=30 "  # ... as it does where it would hang until its time is over
    "mitigations=off nokaslr audit=0 no_timer_check random.trust_cpu=on "  # what would only make it slower
    "clocksource=tsc tsc=reliable "  # the other clock is a device, of which all CPUs wait for each other
    "init_on_alloc=0"  # 5.10 takes 1 MB for each 4 kB that it reads over 9p: cleared, that is five times slower
)
_POLL_S = 0.2
AGAIN = "the guest panicked, and was started once more"
_QEMU, _BUSYBOX = "qemu-system-x86_64", "/bin/busybox"
# the AVX and AVX2 of QEMU 7.2, its first, compute wrongly: what numpy sorted with them was not sorted
_CPU = "max,-avx,-avx2,-fma,-f16c"


class MachineError(Exception):
    """This host cannot run machines."""


@dataclass(frozen=True, slots=True)
class Job:
    """What to run in a machine."""

    command: str
    """For sh(1), in the directory that this process is in."""
    share: Path
    """The directory that the guest may write to."""
    arguments: str = ""
    """More of the kernel's command line."""
    environment: Mapping[str, str] = field(default_factory=dict)
    timeout_s: float = 600
    counted: bool = False
    """One CPU, whose nanoseconds are instructions: what takes time in the guest takes as many in every run."""


@dataclass(frozen=True, slots=True)
class Ended:
    """How it ended."""

    status: int | None
    """The command's exit status; None if there is none."""
    elapsed_s: float
    trouble: str = ""
    """Why there is none."""
    panics: int = 0
    """How often the guest panicked."""


def require() -> None:
    """Raises MachineError where no machine can be run."""
    if platform.machine() != "x86_64":
        raise MachineError(f"run Debian's amd64 kernels: this machine is {platform.machine()}, and so are its programs")
    if os.geteuid() != 0:
        raise MachineError("show the host's files to a guest: needs root")
    for program in (_QEMU, _BUSYBOX):
        if not shutil.which(program):
            raise MachineError(f"start a machine: no '{program}': run sudo make vm-test, which installs it")


def run(kernel: Kernel, job: Job, output: BinaryIO, enough: Callable[[], bool] = lambda: False) -> Ended:
    """Run it; what it prints goes to `output`, the kernel's own messages to `console` in the share.

    A guest that panics is started once more: emulated, a kernel does that about once in a hundred runs.
    It is given up as soon as `enough` says so.
    """
    started = time.monotonic()
    first = _run_once(kernel, job, output, enough)
    if not first.panics:
        return first
    (job.share / "console").rename(job.share / "console.panic")
    output.write(f"\nebpfmon: {AGAIN}\n".encode())
    second = _run_once(kernel, job, output, enough)
    return Ended(second.status, time.monotonic() - started, second.trouble, 1 + second.panics)


def _run_once(kernel: Kernel, job: Job, output: BinaryIO, enough: Callable[[], bool]) -> Ended:
    status, console = job.share / "status", job.share / "console"
    status.unlink(missing_ok=True)
    started = time.monotonic()
    trouble = ""
    with tempfile.NamedTemporaryFile(prefix="ebpfmon-vm-") as initrd:
        initrd.write(_initramfs(kernel, job))
        initrd.flush()
        command = _qemu(kernel, job, Path(initrd.name), console)
        output.flush()
        # at the end of its input QEMU would close the guest's port: a pipe that is not written to has none
        machine = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=output)
        try:
            while machine.poll() is None and not trouble:
                if time.monotonic() - started > job.timeout_s:
                    trouble = f"did not end within {job.timeout_s:.0f} s"
                elif enough():
                    trouble = "was given up, as no time was left"
                else:
                    time.sleep(_POLL_S)
        finally:
            machine.kill()
            machine.wait()
            assert machine.stdin
            machine.stdin.close()
    elapsed = time.monotonic() - started
    if trouble:
        return Ended(None, elapsed, trouble)
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
    if job.counted:  # idle time is skipped
        speed, cpus = ["-accel", "tcg,thread=single", "-icount", "shift=0,sleep=off"], 1
    return [
        _QEMU, "-machine", "q35", *speed, "-cpu", _CPU, "-smp", str(cpus), "-m", MEMORY,
        "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
        "-kernel", kernel.path / "vmlinuz", "-initrd", initrd, "-append", f"{_KERNEL_ARGUMENTS} {job.arguments}",
        "-chardev", f"file,id=console,path={str(console).replace(',', ',,')}", "-serial", "chardev:console",
        "-chardev", "stdio,id=output,signal=off",
        "-device", "virtio-serial-pci", "-device", "virtserialport,chardev=output,nr=1",
        *files(Path("/"), "host", "readonly=on", "multidevs=remap"),
        *files(kernel.path / "root", "kernel", "readonly=on"),
        *files(job.share, "share"),
    ]  # fmt: skip
