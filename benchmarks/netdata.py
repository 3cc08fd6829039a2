"""Build the BPF programs that Netdata's eBPF collector attaches to vfs_read(), and attach them for comparison."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks import ladder
from benchmarks.ladder import Step
from benchmarks.result import OUT
from ebpfmon.kernel.bpfobject import BpfObject
from ebpfmon.kernel.libbpf import Libbpf

REPOSITORY, VERSION = "https://github.com/netdata/ebpf-co-re", "v1.7.0.1"
_CHECKOUT = OUT / "ebpf-co-re"
_OBJECT = OUT / "bpf" / f"netdata-vfs-{VERSION}.bpf.o"
# Netdata's plugin attaches both programs of a function, even in its mode `entry`.
_PROGRAMS = {
    "fexit": ("netdata_vfs_read_fentry", "netdata_vfs_read_fexit"),
    "kretprobe": ("netdata_vfs_read_kprobe", "netdata_vfs_read_kretprobe"),
}
# The values of Netdata's setting `collect pid`. The first is its default.
_COLLECT_PID = {"real parent": 0, "all": 2}
_APPS_ENABLED, _APPS_LEVEL = 0, 1  # The elements of the map vfs_ctrl.


def build() -> str:
    """Download and compile the source. Return the reason if that fails, otherwise an empty string."""
    if _OBJECT.exists():
        return ""
    includes = (_CHECKOUT / "includes", _CHECKOUT / "kernel-collector" / "includes", "/usr/include/bpf")
    flags = ("-g", "-O2", "-target", "bpf", "-D__TARGET_ARCH_x86", *(f"-I{path}" for path in includes))
    commands: tuple[tuple[str | Path, ...], ...] = (
        ("git", "clone", "--quiet", "--depth", "1", "--branch", VERSION, REPOSITORY, _CHECKOUT),
        # The other submodule is libbpf, and the system's libbpf will do.
        ("git", "-C", _CHECKOUT, "submodule", "--quiet", "update", "--init", "--depth", "1", "kernel-collector"),
        ("clang", *flags, "-c", _CHECKOUT / "src" / "vfs.bpf.c", "-o", _OBJECT),
    )
    shutil.rmtree(_CHECKOUT, ignore_errors=True)
    _OBJECT.parent.mkdir(parents=True, exist_ok=True)
    for command in commands:
        try:
            done = subprocess.run(command, capture_output=True, text=True)
        except FileNotFoundError:
            return f"{command[0]} is not installed"
        if done.returncode:
            return f"{command[0]}: {(done.stderr.strip().splitlines() or ['no error message'])[-1]}"
    return ""


def steps(libbpf: Libbpf) -> Iterator[Step]:
    """Yield a step for each attach method and each value of `collect pid`, if the programs have been built."""
    if not _OBJECT.exists():
        return
    for hook, programs in _PROGRAMS.items():
        for setting, level in _COLLECT_PID.items():
            yield Step(hook, name(setting), lambda p=programs, n=level: _attached(libbpf, p, n))  # type: ignore[misc]


def name(collect_pid: str = "real parent") -> str:
    """Return the name of a step."""
    return f"Netdata {VERSION}, collect pid = {collect_pid}"


@contextmanager
def _attached(libbpf: Libbpf, programs: tuple[str, ...], level: int) -> Iterator[None]:
    """Attach both programs of a function, with Netdata's apps integration enabled."""
    with BpfObject(libbpf, _OBJECT, ladder.kretprobes(libbpf)) as obj:
        obj.load(programs)
        elements = {_APPS_ENABLED: 1, _APPS_LEVEL: level}
        obj.fill("vfs_ctrl", {k.to_bytes(4, sys.byteorder): v.to_bytes(8, sys.byteorder) for k, v in elements.items()})
        for program in programs:
            obj.attach(program)
        yield
