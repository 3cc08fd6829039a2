"""Attach empty programs to the hooks that ebpfmon uses on this machine.

They show how much of a cost is the kernel's own, for running any program at these hooks.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from benchmarks import ladder
from benchmarks.result import OUT, ROOT
from ebpfmon.kernel import attach, compiler, features
from ebpfmon.kernel.bpfobject import BpfObject
from ebpfmon.kernel.libbpf import Libbpf


@contextmanager
def attached(libbpf: Libbpf) -> Iterator[int]:
    """Attach an empty program for each that ebpfmon attaches with its default settings, and yield their number.

    Raises KernelError.
    """
    sections = _sections(libbpf)
    source = OUT / "bpf" / "empty_programs.bpf.c"
    source.parent.mkdir(parents=True, exist_ok=True)
    programs = [f'SEC("{section}") int empty_{n}(void *ctx) {{ return 0; }}' for n, section in enumerate(sections)]
    source.write_text("\n".join(['#include "ebpfmon.bpf.h"', *programs, 'char LICENSE[] SEC("license") = "GPL";', ""]))
    machine = features.detect().machine
    compiled = source.with_name(machine) / "empty_programs.bpf.o"
    compiler.compile_object(source, compiled, machine, ROOT / "bpf")
    with BpfObject(libbpf, compiled, ladder.kretprobes(libbpf)) as obj:
        obj.load(obj.programs)
        for name in obj.programs:
            obj.attach(name)
        yield len(sections)


def _sections(libbpf: Libbpf) -> list[str]:
    """Return the sections of the programs that ebpfmon attaches, one for each program."""
    sections = []
    for probe, options in ladder.default_probes():
        with attach.load(probe, libbpf, features.detect(), options) as loaded:
            attached_names = {name for choice in loaded.choices if choice.chosen for name in choice.chosen.programs}
            path = loaded.object.path
        with BpfObject(libbpf, path) as opened:
            sections += [opened.section(name) for name in sorted(attached_names)]
    return sections
