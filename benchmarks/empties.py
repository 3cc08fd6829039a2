"""Empty programs at the very hooks where ebpfmon counts here: what looking takes, before anything is done."""

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
    """As many programs as ebpfmon attaches with its default settings, all of them empty. Raises KernelError."""
    sections = _sections(libbpf)
    source = OUT / "bpf" / "empties.bpf.c"
    source.parent.mkdir(parents=True, exist_ok=True)
    programs = [f'SEC("{section}") int empty_{n}(void *ctx) {{ return 0; }}' for n, section in enumerate(sections)]
    source.write_text("\n".join(['#include "ebpfmon.bpf.h"', *programs, 'char LICENSE[] SEC("license") = "GPL";', ""]))
    machine = features.detect().machine
    compiled = source.with_name(machine) / "empties.bpf.o"
    compiler.compile_object(source, compiled, machine, ROOT / "bpf")
    with BpfObject(libbpf, compiled, ladder.kretprobes(libbpf)) as obj:
        obj.load(obj.programs)
        for name in obj.programs:
            obj.attach(name)
        yield len(sections)


def _sections(libbpf: Libbpf) -> list[str]:
    """Where its programs are attached, one by one."""
    sections = []
    for probe, options in ladder.by_default():
        with attach.load(probe, libbpf, features.detect(), options) as loaded:
            taken = {name for choice in loaded.choices if choice.chosen for name in choice.chosen.programs}
            path = loaded.object.path
        with BpfObject(libbpf, path) as opened:
            sections += [opened.section(name) for name in sorted(taken)]
    return sections
